//! The ring's bounds and counts, against a model.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use agent_api_bus_out::{Message, StartAt};
use agent_api_model::{Envelope, ErrorKind, Timestamp, Topic};
use agent_bus_memory::{RingConfig, TopicReader, TopicRing};
use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;

fn message(topic: &str, id: u64, size: usize) -> Message {
    Message {
        topic: Topic::new(topic).unwrap(),
        envelope: Envelope {
            id: id.to_string(),
            source: "/agents/a1".into(),
            event_type: "agent.test".into(),
            subject: None,
            time: Timestamp::EPOCH,
            content_type: Envelope::JSON,
            traceparent: None,
            data: vec![b'1'; size].into(),
        },
    }
}

#[test]
fn bytes_and_messages_are_bounded() {
    let ring = TopicRing::new(RingConfig {
        bytes: 10_000,
        messages: 5,
        readers: 1,
    });
    for id in 0..20 {
        ring.publish(&[message("a", id, 10)]).unwrap();
    }
    assert_eq!(ring.state().messages, 5);
    for id in 0..20 {
        ring.publish(&[message("a", id, 4_000)]).unwrap();
        assert!(ring.state().bytes <= 10_000);
    }
    assert_eq!(ring.state().messages, 2);
    let error = ring
        .publish(&[message("a", 0, 1), message("a", 1, 20_000)])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(ring.state().published, 40, "none of them was published");
}

#[test]
fn readers_are_bounded_and_leave() {
    let ring = TopicRing::new(RingConfig {
        readers: 2,
        ..RingConfig::default()
    });
    let a = ring.subscribe(">", &StartAt::Now).unwrap();
    let _b = ring.subscribe(">", &StartAt::Now).unwrap();
    assert_eq!(
        ring.subscribe(">", &StartAt::Now).unwrap_err().kind(),
        ErrorKind::Busy
    );
    drop(a);
    assert!(ring.subscribe(">", &StartAt::Now).is_ok());
}

#[test]
fn a_second_ring_goes_on_with_higher_sequences() {
    let first = TopicRing::default();
    first.publish(&[message("a", 1, 1)]).unwrap();
    let mut reader = first.subscribe(">", &StartAt::Kept).unwrap();
    let sequence = reader.next().now_or_never().unwrap().unwrap().unwrap().sequence;

    let second = loop {
        let ring = TopicRing::default();
        ring.publish(&[message("a", 2, 1)]).unwrap();
        let mut reader = ring.subscribe(">", &StartAt::Kept).unwrap();
        let begins = reader.next().now_or_never().unwrap().unwrap().unwrap().sequence;
        // The clock has moved on by a millisecond, as it has by the time an agent restarts.
        if begins > sequence {
            break ring;
        }
    };
    let mut resumed = second.subscribe(">", &StartAt::After(sequence)).unwrap();
    let delivery = resumed.next().now_or_never().unwrap().unwrap().unwrap();
    assert_eq!(
        delivery.message.envelope.id, "2",
        "nothing of the new ring is skipped"
    );
}

#[test]
fn resuming_behind_what_is_kept_counts_what_is_gone() {
    let ring = TopicRing::new(RingConfig {
        messages: 3,
        ..RingConfig::default()
    });
    ring.publish(&[message("a", 0, 1)]).unwrap();
    let mut reader = ring.subscribe("a", &StartAt::Kept).unwrap();
    let first = reader.next().now_or_never().unwrap().unwrap().unwrap().sequence;
    drop(reader);
    let more: Vec<_> = (1..10).map(|id| message("a", id, 1)).collect();
    ring.publish(&more).unwrap();
    let mut resumed = ring.subscribe("a", &StartAt::After(first)).unwrap();
    let delivery = resumed.next().now_or_never().unwrap().unwrap().unwrap();
    assert_eq!((delivery.missed, delivery.message.envelope.id.as_str()), (6, "7"));
}

#[derive(Clone, Debug)]
enum Step {
    Publish { topic: usize, size: usize },
    Read(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_usize, 0..600_usize).prop_map(|(topic, size)| Step::Publish { topic, size }),
        1 => (0..3_usize).prop_map(Step::Read),
    ];
    proptest::collection::vec(step, 0..300)
}

const TOPICS: [&str; 3] = ["a.x", "a.y", "b.x"];
const PATTERNS: [&str; 3] = ["a.*", "b.x", ">"];

/// Reads one delivery, where there is one, and compares it with what is due.
fn take(reader: &mut TopicReader, passed: &mut usize, published: &[u64]) -> bool {
    let Some(delivery) = reader.next().now_or_never() else {
        return false;
    };
    let delivery = delivery.unwrap().unwrap();
    *passed += usize::try_from(delivery.missed).unwrap();
    let due = published.get(*passed).map(u64::to_string);
    assert_eq!(Some(delivery.message.envelope.id), due);
    *passed += 1;
    true
}

proptest! {
    /// Whatever is published and read in whatever order, each reader gets its topics in order, and deliveries and
    /// misses together are what was published.
    #[test]
    fn nothing_is_lost_without_being_counted(steps in steps()) {
        let ring = TopicRing::new(RingConfig { bytes: 4_000, messages: 6, readers: 3 });
        let mut readers: Vec<_> = PATTERNS
            .iter()
            .map(|pattern| ring.subscribe(pattern, &StartAt::Now).unwrap())
            .collect();
        let mut published: [Vec<u64>; 3] = Default::default();
        let mut passed = [0_usize; 3];
        let mut id = 0;
        for step in steps {
            match step {
                Step::Publish { topic, size } => {
                    ring.publish(&[message(TOPICS[topic], id, size)]).unwrap();
                    let topic = Topic::new(TOPICS[topic]).unwrap();
                    for (reader, pattern) in PATTERNS.iter().enumerate() {
                        if topic.matches(pattern) {
                            published[reader].push(id);
                        }
                    }
                    id += 1;
                }
                Step::Read(reader) => {
                    take(&mut readers[reader], &mut passed[reader], &published[reader]);
                }
            }
        }
        for reader in 0..3 {
            while take(&mut readers[reader], &mut passed[reader], &published[reader]) {}
        }
        for reader in 0..3 {
            // What was missed after the last delivery is told with the next one.
            prop_assert!(passed[reader] <= published[reader].len());
        }
        ring.publish(&[message("a.x", id, 1), message("b.x", id, 1)]).unwrap();
        for (reader, log) in published.iter_mut().enumerate() {
            log.push(id);
            if reader == 2 {
                log.push(id);
            }
        }
        for reader in 0..3 {
            while take(&mut readers[reader], &mut passed[reader], &published[reader]) {}
            prop_assert_eq!(passed[reader], published[reader].len());
        }
    }
}
