//! Topics as server-sent events.

use std::task::{Context, Poll};
use std::time::Duration;

use agent_api_bus_out::{Delivery, Message};
use agent_api_model::{Envelope, Error, Result, Topic};
use agent_bus_memory::TopicReader;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use crate::body::{KeepAlive, PIECE};
use crate::connection::InFlight;

/// A subscription: an event for each message, its sequence as the event's id.
pub(crate) struct Events {
    reader: Option<TopicReader>,
    keep_alive: KeepAlive,
    begun: bool,
    _permit: OwnedSemaphorePermit,
    _request: InFlight,
}

impl Events {
    pub(crate) fn new(
        reader: TopicReader,
        keep_alive: Duration,
        permit: OwnedSemaphorePermit,
        request: InFlight,
    ) -> Self {
        Self {
            reader: Some(reader),
            keep_alive: KeepAlive::new(keep_alive),
            begun: false,
            _permit: permit,
            _request: request,
        }
    }

    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut piece = BytesMut::new();
        if !self.begun {
            // At once, so that the reader knows that it is subscribed.
            self.begun = true;
            piece.extend_from_slice(b": subscribed\n\n");
        }
        while piece.len() < PIECE {
            let Some(reader) = &mut self.reader else { break };
            match reader.poll_delivery(cx) {
                Poll::Ready(Some(delivery)) => write(&delivery, &mut piece),
                Poll::Ready(None) => self.reader = None,
                Poll::Pending => break,
            }
        }
        if !piece.is_empty() {
            self.keep_alive.reset();
            return Poll::Ready(Some(piece.freeze()));
        }
        if self.reader.is_none() {
            return Poll::Ready(None);
        }
        self.keep_alive.poll(cx).map(|()| {
            self.keep_alive.reset();
            Some(Bytes::from_static(b": keep-alive\n\n"))
        })
    }
}

/// Writes a delivery as an event, behind an event `missed` where messages were.
fn write(delivery: &Delivery, piece: &mut BytesMut) {
    if delivery.missed > 0 {
        piece.extend_from_slice(
            format!("event: missed\ndata: {{\"missed\":{}}}\n\n", delivery.missed).as_bytes(),
        );
    }
    let message = &delivery.message;
    let event = message.envelope.to_structured(|bytes| STANDARD.encode(bytes));
    // The topic is an extension attribute of the event, put in front of the others.
    piece.extend_from_slice(
        format!(
            "id: {}\ndata: {{\"topic\":\"{}\",",
            delivery.sequence, message.topic
        )
        .as_bytes(),
    );
    // JSON data may be spread over lines; outside of strings, where a line's end is escaped, they mean nothing.
    piece.extend(event[1..].iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    }));
    piece.extend_from_slice(b"\n\n");
}

#[derive(Deserialize)]
struct Event<'a> {
    topic: Topic,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    subject: Option<String>,
    time: agent_api_model::Timestamp,
    datacontenttype: String,
    traceparent: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

/// Reads events from lines, as they come.
#[derive(Default)]
pub(crate) struct EventReader {
    id: u64,
    missed: u64,
    name: String,
    data: String,
}

impl EventReader {
    /// Takes one line without its end; a delivery where it completes one.
    pub(crate) fn line(&mut self, line: &str) -> Option<Result<Delivery>> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            return match name.as_str() {
                _ if data.is_empty() => None,
                "missed" => {
                    self.missed += read_missed(&data);
                    None
                }
                _ => Some(read_event(&data).map(|message| Delivery {
                    sequence: self.id,
                    missed: std::mem::take(&mut self.missed),
                    message,
                })),
            };
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = value.parse().unwrap_or(self.id),
            "event" => self.name = value.into(),
            "data" => self.data.push_str(value),
            _ => {}
        }
        None
    }
}

fn read_missed(data: &str) -> u64 {
    #[derive(Deserialize)]
    struct Missed {
        missed: u64,
    }
    serde_json::from_str::<Missed>(data).map_or(0, |missed| missed.missed)
}

fn read_event(data: &str) -> Result<Message> {
    let broken = |what: &str| Error::internal(format!("an event cannot be read: {what}"));
    let event: Event<'_> = serde_json::from_str(data).map_err(|error| broken(&error.to_string()))?;
    let data = match (event.data, event.data_base64) {
        (Some(data), _) => Bytes::copy_from_slice(data.get().as_bytes()),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|error| broken(&error.to_string()))?
            .into(),
        (None, None) => Bytes::new(),
    };
    Ok(Message {
        topic: event.topic,
        envelope: Envelope {
            id: event.id,
            source: event.source,
            event_type: event.event_type,
            subject: event.subject,
            time: event.time,
            content_type: match event.datacontenttype.as_str() {
                Envelope::JSON => Envelope::JSON,
                Envelope::PROTOBUF => Envelope::PROTOBUF,
                _ => "application/octet-stream",
            },
            traceparent: event.traceparent,
            data,
        },
    })
}

#[cfg(test)]
mod tests {
    use agent_api_model::Timestamp;

    use super::*;

    fn delivery(content_type: &'static str, data: &'static [u8]) -> Delivery {
        Delivery {
            sequence: 42,
            missed: 3,
            message: Message {
                topic: Topic::new("agent.out.a1.status").unwrap(),
                envelope: Envelope {
                    id: "1".into(),
                    source: "/agents/a1".into(),
                    event_type: "agent.object.created".into(),
                    subject: Some("web".into()),
                    time: Timestamp::from_micros(1_790_000_000_123_456),
                    content_type,
                    traceparent: None,
                    data: Bytes::from_static(data),
                },
            },
        }
    }

    fn read(text: &[u8]) -> Vec<Result<Delivery>> {
        let mut reader = EventReader::default();
        std::str::from_utf8(text)
            .unwrap()
            .split('\n')
            .filter_map(|line| reader.line(line))
            .collect()
    }

    #[test]
    fn events_are_read_as_they_were_written() {
        for (content_type, data) in [
            (Envelope::JSON, &br#"{"kind":"created"}"#[..]),
            (Envelope::PROTOBUF, &b"\x00\x01\xff\n\n"[..]),
        ] {
            let sent = delivery(content_type, data);
            let mut text = BytesMut::new();
            write(&sent, &mut text);
            assert_eq!(read(&text), [Ok(sent)]);
        }
    }

    #[test]
    fn json_over_several_lines_stays_one_event() {
        let mut text = BytesMut::new();
        write(&delivery(Envelope::JSON, b"{\n \"a\":\r\n 1}"), &mut text);
        let read = read(&text);
        assert_eq!(read.len(), 1);
        let data = &read[0].as_ref().unwrap().message.envelope.data;
        let value: serde_json::Value = serde_json::from_slice(data).unwrap();
        assert_eq!(value, serde_json::json!({"a": 1}));
    }

    #[test]
    fn garbage_is_an_error_and_comments_are_nothing() {
        let read = read(b": subscribed\n\nid: 1\ndata: {\"topic\":7}\n\n: keep-alive\n\n");
        assert_eq!(read.len(), 1);
        assert!(read[0].is_err());
    }
}
