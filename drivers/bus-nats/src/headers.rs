//! Headers: requests, replies, and CloudEvents in binary mode.

use std::collections::BTreeMap;
use std::fmt::Write;

use agent_api_bus_in::Incoming;
use agent_api_bus_out::Message;
use agent_api_model::{Envelope, Timestamp, Topic};
use async_nats::HeaderMap;
use bytes::Bytes;

/// The object, percent-encoded.
pub(crate) const OBJECT: &str = "agent-object";
/// The request's id.
pub(crate) const ID: &str = "agent-request-id";
/// The idempotency key.
pub(crate) const KEY: &str = "agent-idempotency-key";
/// When the request is of no use any more.
pub(crate) const DEADLINE: &str = "agent-deadline";
/// Until when the caller waits for the answer.
pub(crate) const EXPIRES: &str = "agent-expires";
/// The labels that an agent must have to take a request for any of them.
pub(crate) const LABELS: &str = "agent-labels";
/// W3C trace context.
pub(crate) const TRACE: &str = "traceparent";
/// What an answer is: one of [`answers`].
pub(crate) const ANSWER: &str = "agent-answer";
/// The answering agent.
pub(crate) const AGENT: &str = "agent-id";
/// The code of the error in an answer.
pub(crate) const CODE: &str = "agent-code";
/// The number of a piece of an answer, from 0.
pub(crate) const PIECE: &str = "agent-piece";
/// On the last piece of an answer.
pub(crate) const LAST: &str = "agent-last";
/// The first subject for replies of the call that a caller steers, where it is not that of the message itself.
pub(crate) const STREAM: &str = "agent-stream";
/// The number of a message of Bus Out among all of its agent.
pub(crate) const NUMBER: &str = "agent-number";
/// The number of a message among those of its topic.
pub(crate) const COUNT: &str = "agent-count";
/// The media type of an answer's text.
pub(crate) const CONTENT_TYPE: &str = "content-type";

/// The event that says that an object is gone: it is kept shorter than others, so that the last value of each object
/// does not stay for ever.
const DELETED: &str = "agent.object.deleted";
/// How long, as streams with `allow_msg_ttl` understand it.
const GONE_TTL: &str = "1h";

/// What an answer is.
pub(crate) mod answers {
    pub(crate) const ONE: &str = "one";
    pub(crate) const TEXT: &str = "text";
    pub(crate) const STREAM: &str = "stream";
    /// The agent is stopping and did not handle the request to its end.
    pub(crate) const STOPPING: &str = "stopping";
    /// Another agent may take it: this one has not the labels asked for.
    pub(crate) const DECLINED: &str = "declined";
    /// Nothing yet; the agent is still there.
    pub(crate) const ALIVE: &str = "alive";
}

/// The text of a header.
pub(crate) fn get<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    headers?.get(name).map(|value| value.as_str())
}

/// Percent-encodes what CloudEvents wants encoded: space, quotes, `%`, controls and what is not ASCII.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The text again; what is not well encoded stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

/// The headers of a request; `expires` is until when its caller waits, where it does.
pub(crate) fn of_request(request: &Incoming, expires: Option<Timestamp>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: Option<&str>| {
        if let Some(value) = value {
            headers.insert(name, encode(value));
        }
    };
    set(OBJECT, request.object.as_deref());
    set(ID, request.id.as_deref());
    set(KEY, request.idempotency_key.as_deref());
    set(DEADLINE, request.deadline.as_deref());
    set(TRACE, request.traceparent.as_deref());
    set(EXPIRES, expires.map(|at| at.to_string()).as_deref());
    headers
}

/// Labels as text: `key=value,key=value`.
pub(crate) fn of_labels(labels: &BTreeMap<String, String>) -> String {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

/// The labels of such a text.
pub(crate) fn labels(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A CloudEvent in binary mode; its id is the id that streams keep once.
pub(crate) fn of_message(message: &Message, number: u64, count: u64) -> HeaderMap {
    let envelope = &message.envelope;
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", encode(&envelope.id));
    headers.insert("ce-source", encode(&envelope.source));
    headers.insert("ce-type", encode(&envelope.event_type));
    headers.insert("ce-time", envelope.time.to_string());
    headers.insert("ce-datacontenttype", envelope.content_type);
    if let Some(subject) = &envelope.subject {
        headers.insert("ce-subject", encode(subject));
    }
    if let Some(trace) = &envelope.traceparent {
        headers.insert(TRACE, encode(trace));
    }
    if envelope.event_type == DELETED {
        headers.insert("Nats-TTL", GONE_TTL);
    }
    headers.insert(NUMBER, number.to_string());
    headers.insert(COUNT, count.to_string());
    headers
}

/// The message of a topic, and its numbers where it has any; none for what is no CloudEvent.
pub(crate) fn message(
    topic: Topic,
    headers: Option<&HeaderMap>,
    data: Bytes,
) -> Option<(Message, Option<(u64, u64)>)> {
    let text = |name: &str| get(headers, name).map(decode);
    let content_type = match get(headers, "ce-datacontenttype") {
        Some(Envelope::PROTOBUF) => Envelope::PROTOBUF,
        _ => Envelope::JSON,
    };
    let envelope = Envelope {
        id: text("ce-id")?,
        source: text("ce-source")?,
        event_type: text("ce-type")?,
        subject: text("ce-subject"),
        time: text("ce-time")
            .and_then(|time| time.parse().ok())
            .unwrap_or(Timestamp::EPOCH),
        content_type,
        traceparent: text(TRACE),
        data,
    };
    let number = |name: &str| get(headers, name).and_then(|value| value.parse().ok());
    let numbers = number(NUMBER).zip(number(COUNT));
    Some((Message { topic, envelope }, numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_header_and_comes_back() {
        for text in ["web 1/ä%", "", "a\r\nb: c", "\"%zz\"", "/agents/a1", "%"] {
            let encoded = encode(text);
            assert!(encoded.bytes().all(|b| b.is_ascii_graphic()), "{encoded:?}");
            assert_eq!(decode(&encoded), text);
        }
        assert_eq!(decode("%zz%ä"), "%zz%ä", "a foreign client's own");
    }

    #[test]
    fn an_event_comes_back_whole() {
        let message = Message {
            topic: Topic::new("agent.out.a1.status").unwrap(),
            envelope: Envelope {
                id: "g-7".into(),
                source: "/agents/a1".into(),
                event_type: "agent.object.created".into(),
                subject: Some("wéb".into()),
                time: Timestamp::from_micros(1_790_000_000_000_001),
                content_type: Envelope::PROTOBUF,
                traceparent: Some("00-1-2-01".into()),
                data: Bytes::from_static(b"x"),
            },
        };
        let headers = of_message(&message, 9, 3);
        assert_eq!(get(Some(&headers), "ce-subject"), Some("w%C3%A9b"));
        let back = super::message(
            message.topic.clone(),
            Some(&headers),
            message.envelope.data.clone(),
        );
        assert_eq!(back, Some((message.clone(), Some((9, 3)))));
        assert_eq!(
            super::message(message.topic, None, Bytes::new()),
            None,
            "no event"
        );
    }

    #[test]
    fn labels_come_back() {
        let wanted: BTreeMap<_, _> = [("zone".to_owned(), "eu-1".to_owned())].into();
        assert_eq!(labels(&of_labels(&wanted)), wanted);
        assert!(labels("").is_empty());
    }
}
