//! The numbers of what is published, by which readers see order and loss.

use std::collections::{HashMap, VecDeque};

use agent_api_bus_out::Message;
use agent_api_model::{Timestamp, Topic};

/// Topics whose messages are counted; with more all counts begin anew.
const TOPICS: usize = 4_096;
/// Messages not known to be published, whose numbers are kept for the next try.
const UNSURE: usize = 4_096;

/// Gives each message a number of this agent and a count of its topic. A number is the time of publishing with the
/// messages of that millisecond counted, so that numbers grow over restarts, and those of several agents stand in the
/// order of time as far as their clocks agree. A message that is published again has the numbers it had.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: u64,
    counts: HashMap<Topic, u64>,
    unsure: HashMap<String, (u64, u64)>,
    oldest: VecDeque<String>,
}

/// 22 bits of messages for each millisecond: no agent is that fast.
const BITS: u32 = 22;

impl Numbers {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            counts: HashMap::new(),
            unsure: HashMap::new(),
            oldest: VecDeque::new(),
        }
    }

    /// The numbers of a message.
    pub(crate) fn of(&mut self, message: &Message) -> (u64, u64) {
        if let Some(numbers) = self.unsure.get(&message.envelope.id) {
            return *numbers;
        }
        if self.counts.len() >= TOPICS && !self.counts.contains_key(&message.topic) {
            self.counts.clear();
        }
        let count = self.counts.entry(message.topic.clone()).or_insert(0);
        *count += 1;
        self.next = (self.next + 1).max(first_of(Timestamp::now()));
        (self.next, *count)
    }

    /// The message is about to be published: until that is known to be done, a repeat has these numbers.
    pub(crate) fn unsure(&mut self, message: &Message, numbers: (u64, u64)) {
        let id = &message.envelope.id;
        if self.unsure.insert(id.clone(), numbers).is_none() {
            self.oldest.push_back(id.clone());
        }
        if self.oldest.len() > 2 * UNSURE {
            self.oldest.retain(|id| self.unsure.contains_key(id));
        }
        while self.oldest.len() > UNSURE && self.unsure.len() > UNSURE {
            if let Some(id) = self.oldest.pop_front() {
                self.unsure.remove(&id);
            }
        }
    }

    /// The message was published.
    pub(crate) fn done(&mut self, message: &Message) {
        self.unsure.remove(&message.envelope.id);
        if self.unsure.is_empty() {
            self.oldest.clear();
        }
    }
}

/// The least number of a message published at this moment.
pub(crate) fn first_of(time: Timestamp) -> u64 {
    u64::try_from(time.as_micros() / 1_000).unwrap_or(0) << BITS
}

/// When the message with this number was published, to the millisecond, by its agent's clock.
pub(crate) fn time_of(number: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from((number >> BITS) * 1_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use agent_api_model::Envelope;
    use bytes::Bytes;

    use super::*;

    fn message(topic: &str, id: &str) -> Message {
        Message {
            topic: Topic::new(topic).unwrap(),
            envelope: Envelope {
                id: id.into(),
                source: "/agents/a1".into(),
                event_type: "t".into(),
                subject: None,
                time: Timestamp::EPOCH,
                content_type: Envelope::JSON,
                traceparent: None,
                data: Bytes::new(),
            },
        }
    }

    #[test]
    fn a_repeat_has_the_numbers_it_had() {
        let mut numbers = Numbers::new();
        let (one, two) = (message("a", "1"), message("b", "2"));
        let first = numbers.of(&one);
        assert_eq!(first.1, 1);
        let second = numbers.of(&two);
        assert!(second.0 > first.0 && second.1 == 1);
        numbers.unsure(&one, first);
        let third = numbers.of(&message("a", "3"));
        assert!(third.0 > second.0 && third.1 == 2);
        assert_eq!(numbers.of(&one), first);
        numbers.done(&one);
        let last = numbers.of(&one);
        assert!(last.0 > third.0 && last.1 == 3);
        for n in 0..10_000 {
            let message = message("a", &format!("x{n}"));
            let given = numbers.of(&message);
            numbers.unsure(&message, given);
        }
        assert!(numbers.unsure.len() <= UNSURE && numbers.oldest.len() <= 2 * UNSURE);
    }

    #[test]
    fn numbers_tell_the_time_of_the_run() {
        let now = Timestamp::from_micros(1_790_000_000_123_000);
        assert_eq!(time_of(first_of(now) + 77), now);
        assert_eq!(time_of(1), Timestamp::EPOCH);
    }
}
