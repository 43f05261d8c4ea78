//! What a reader has not read yet: bounded, the oldest make room, and what was missed is known.

use std::collections::{HashMap, VecDeque};

use agent_api_bus_out::{Delivery, Message};
use agent_api_model::Topic;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Messages kept for a reader.
const MESSAGES: usize = 16_384;
/// Bytes kept for a reader, all told.
const BYTES: usize = 8 << 20;
/// What a message costs beside its text.
const OVERHEAD: usize = 256;
/// Sources and topics whose counts are known; with more they are forgotten, and the next of each is the first.
const TOPICS: usize = 16_384;

/// The messages between a subscription and its reader.
#[derive(Default)]
pub(crate) struct Backlog {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    kept: VecDeque<Delivery>,
    bytes: usize,
    counts: Counts,
    /// Missed before the oldest that is kept.
    carry: u64,
    last: u64,
    closed: bool,
}

/// The last count seen of each source's topics.
#[derive(Default)]
pub(crate) struct Counts(HashMap<(String, Topic), (u64, u64)>);

/// What a message is to a reader that saw others before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// New, with so many missed before it.
    New(u64),
    /// Read before.
    Before,
}

impl Counts {
    /// Judges a message by its numbers.
    pub(crate) fn see(&mut self, message: &Message, numbers: Option<(u64, u64)>) -> Seen {
        let Some((number, count)) = numbers else {
            return Seen::New(0);
        };
        if self.0.len() >= TOPICS {
            self.0.clear();
        }
        let key = (message.envelope.source.clone(), message.topic.clone());
        let Some(last) = self.0.get_mut(&key) else {
            self.0.insert(key, (number, count));
            return Seen::New(0);
        };
        if number <= last.0 {
            return Seen::Before;
        }
        // Counts begin anew with each run of the agent: then nobody knows.
        let missed = if count > last.1 { count - last.1 - 1 } else { 0 };
        *last = (number, count);
        Seen::New(missed)
    }
}

impl Counts {
    /// Whether a message with this number was seen.
    pub(crate) fn has(&self, message: &Message, number: u64) -> bool {
        let key = (message.envelope.source.clone(), message.topic.clone());
        self.0.get(&key).is_some_and(|(last, _)| number <= *last)
    }
}

impl Backlog {
    /// Takes a message of a wanted topic. Never waits.
    pub(crate) fn push(&self, message: Message, numbers: Option<(u64, u64)>) {
        let mut inner = self.inner.lock();
        let Seen::New(missed) = inner.counts.see(&message, numbers) else {
            return;
        };
        let sequence = numbers.map_or(inner.last + 1, |(number, _)| number);
        inner.last = inner.last.max(sequence);
        let delivery = Delivery {
            sequence,
            missed,
            message,
        };
        inner.bytes += size(&delivery);
        inner.kept.push_back(delivery);
        while inner.kept.len() > MESSAGES || (inner.bytes > BYTES && inner.kept.len() > 1) {
            if let Some(oldest) = inner.kept.pop_front() {
                inner.bytes -= size(&oldest);
                inner.carry += oldest.missed + 1;
            }
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// No more come.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_one();
    }

    /// The next message; none when no more come.
    pub(crate) async fn next(&self) -> Option<Delivery> {
        loop {
            {
                let mut inner = self.inner.lock();
                if let Some(mut delivery) = inner.kept.pop_front() {
                    inner.bytes -= size(&delivery);
                    delivery.missed += std::mem::take(&mut inner.carry);
                    return Some(delivery);
                }
                if inner.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

fn size(delivery: &Delivery) -> usize {
    let envelope = &delivery.message.envelope;
    OVERHEAD
        + delivery.message.topic.as_str().len()
        + envelope.id.len()
        + envelope.source.len()
        + envelope.event_type.len()
        + envelope.data.len()
}

#[cfg(test)]
mod tests {
    use agent_api_model::{Envelope, Timestamp};
    use bytes::Bytes;

    use super::*;

    fn message(topic: &str, data: usize) -> Message {
        Message {
            topic: Topic::new(topic).unwrap(),
            envelope: Envelope {
                id: "1".into(),
                source: "/agents/a1".into(),
                event_type: "t".into(),
                subject: None,
                time: Timestamp::EPOCH,
                content_type: Envelope::JSON,
                traceparent: None,
                data: Bytes::from(vec![b'x'; data]),
            },
        }
    }

    #[tokio::test]
    async fn gaps_and_what_made_room_are_counted_and_repeats_are_not_read_twice() {
        let backlog = Backlog::default();
        backlog.push(message("a", 1), Some((10, 1)));
        backlog.push(message("b", 1), Some((11, 1)));
        backlog.push(message("a", 1), Some((14, 4)));
        backlog.push(message("a", 1), Some((14, 4)));
        backlog.push(message("a", 1), Some((20, 1)));
        let mut got = Vec::new();
        for _ in 0..4 {
            let delivery = backlog.next().await.unwrap();
            got.push((delivery.sequence, delivery.missed));
        }
        assert_eq!(got, [(10, 0), (11, 0), (14, 2), (20, 0)]);

        for n in 0..1_000 {
            backlog.push(message("c", 100_000), Some((100 + n, 1 + n)));
        }
        backlog.close();
        let first = backlog.next().await.unwrap();
        assert_eq!(first.sequence, 100 + first.missed);
        assert!(first.missed > 900);
        let mut rest = 1;
        while backlog.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(first.missed + rest, 1_000);
    }
}
