//! The envelope of everything on Bus Out: CloudEvents 1.0.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;

/// A topic on Bus Out: dot-separated words of letters, digits, `_` and `-`, at most 255 bytes.
///
/// The agent's own topics are `agent.out.<agent>.{status,result,heartbeat,metric,log,trace}`; the names need no
/// escaping on NATS or in a URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(std::sync::Arc<str>);

impl Topic {
    /// Checks the text and takes it.
    pub fn new(text: impl AsRef<str>) -> Result<Self, String> {
        let text = text.as_ref();
        let word = |word: &str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if text.len() > 255 || !text.split('.').all(word) {
            let cut: String = text.chars().take(80).collect();
            return Err(format!(
                "{cut:?} is not a topic: use words of letters, digits, '_' and '-', joined by '.'"
            ));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern, with `*` for one word and a last `>` for one or more, covers this topic (as on NATS).
    #[must_use]
    pub fn matches(&self, pattern: &str) -> bool {
        let mut words = self.0.split('.');
        let mut wanted = pattern.split('.');
        loop {
            match (wanted.next(), words.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(want), Some(word)) if want == word => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text)
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

/// A CloudEvents 1.0 event: its context attributes and its data. Buses choose binary or structured mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `id`: with `source` unique; the same on a repeat.
    pub id: String,
    /// `source`: `/agents/<agent>`.
    pub source: String,
    /// `type`: for example `agent.object.phase_changed`.
    pub event_type: String,
    /// `subject`: the object's name, where it is about one.
    pub subject: Option<String>,
    /// `time`.
    pub time: Timestamp,
    /// `datacontenttype`.
    pub content_type: &'static str,
    /// `traceparent` of the distributed tracing extension.
    pub traceparent: Option<String>,
    /// The data, in `content_type`.
    pub data: Bytes,
}

impl Envelope {
    /// `application/json`.
    pub const JSON: &'static str = "application/json";
    /// `application/x-protobuf`, for OTLP.
    pub const PROTOBUF: &'static str = "application/x-protobuf";

    /// The event in structured mode: one JSON object, with `data` as JSON or as `data_base64`.
    #[must_use]
    pub fn to_structured(&self, base64: impl Fn(&[u8]) -> String) -> Vec<u8> {
        #[derive(Serialize)]
        struct Structured<'a> {
            specversion: &'static str,
            id: &'a str,
            source: &'a str,
            #[serde(rename = "type")]
            event_type: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            subject: Option<&'a str>,
            time: Timestamp,
            datacontenttype: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            traceparent: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a serde_json::value::RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            data_base64: Option<String>,
        }
        let json = (self.content_type == Self::JSON)
            .then(|| serde_json::from_slice::<&serde_json::value::RawValue>(&self.data).ok())
            .flatten();
        let structured = Structured {
            specversion: "1.0",
            id: &self.id,
            source: &self.source,
            event_type: &self.event_type,
            subject: self.subject.as_deref(),
            time: self.time,
            datacontenttype: self.content_type,
            traceparent: self.traceparent.as_deref(),
            data: json,
            data_base64: json.is_none().then(|| base64(&self.data)),
        };
        serde_json::to_vec(&structured).expect("strings, numbers and checked JSON always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_patterns() {
        let topic = Topic::new("agent.out.a1.metric.web").unwrap();
        for (pattern, matches) in [
            ("agent.out.a1.metric.web", true),
            ("agent.out.*.metric.*", true),
            ("agent.out.>", true),
            (">", true),
            ("agent.out.a1.metric.web.>", false),
            ("agent.out.a1", false),
            ("agent.*", false),
        ] {
            assert_eq!(topic.matches(pattern), matches, "{pattern}");
        }
        for bad in ["", ".", "a..b", "a b", "a.*", "ä", "a/../b", &"x".repeat(256)] {
            assert!(Topic::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn structured_mode_keeps_json_and_encodes_the_rest() {
        let mut envelope = Envelope {
            id: "1".into(),
            source: "/agents/a1".into(),
            event_type: "agent.heartbeat".into(),
            subject: None,
            time: Timestamp::EPOCH,
            content_type: Envelope::JSON,
            traceparent: None,
            data: Bytes::from_static(b"{\"objects\":3}"),
        };
        let text =
            |envelope: &Envelope| String::from_utf8(envelope.to_structured(|_| "BASE64".into())).unwrap();
        insta::assert_snapshot!(text(&envelope), @r#"{"specversion":"1.0","id":"1","source":"/agents/a1","type":"agent.heartbeat","time":"1970-01-01T00:00:00.000000Z","datacontenttype":"application/json","data":{"objects":3}}"#);
        envelope.content_type = Envelope::PROTOBUF;
        assert!(text(&envelope).contains(r#""data_base64":"BASE64""#));
    }
}
