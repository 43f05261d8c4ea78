//! Bus Out: topics and their readers.

use std::time::Duration;

use agent_api_bus_out::{Delivery, DeliveryStream, Message, StartAt};
use agent_api_model::{Envelope, ErrorKind, Timestamp, Topic};
use bytes::Bytes;
use futures_util::StreamExt;

use super::{Ends, PATIENCE};

fn message(topic: &str, n: u64, size: usize) -> Message {
    Message {
        topic: Topic::new(topic).expect("a topic"),
        envelope: Envelope {
            id: n.to_string(),
            source: "/agents/a1".into(),
            event_type: "agent.test".into(),
            subject: Some("web".into()),
            time: Timestamp::from_micros(1_790_000_000_000_000),
            content_type: if n.is_multiple_of(2) {
                Envelope::JSON
            } else {
                Envelope::PROTOBUF
            },
            traceparent: None,
            data: Bytes::from(format!("\"{}\"", "x".repeat(size))),
        },
    }
}

async fn read(stream: &mut DeliveryStream) -> Delivery {
    tokio::time::timeout(PATIENCE, stream.next())
        .await
        .expect("a message in time")
        .expect("the stream goes on")
        .expect("no error")
}

async fn publish(ends: &Ends, messages: &[Message]) {
    ends.bus_out.publish(messages).await.expect("published");
}

/// What a pattern covers arrives whole and in order; nothing else does.
pub async fn topics_arrive_in_order(ends: Ends) {
    let _handler = ends.open().await;
    publish(&ends, &[message("agent.out.a1.status", 999, 1)]).await;
    let mut status = ends
        .reader
        .subscribe("agent.out.*.status", StartAt::Now)
        .await
        .expect("subscribed");
    let mut all = ends
        .reader
        .subscribe("agent.>", StartAt::Now)
        .await
        .expect("subscribed");
    let messages: Vec<_> = (0..500)
        .map(|n| {
            let topic = if n % 5 == 0 {
                "agent.out.a1.metric"
            } else {
                "agent.out.a1.status"
            };
            message(topic, n, 10)
        })
        .collect();
    for chunk in messages.chunks(7) {
        publish(&ends, chunk).await;
    }
    let mut last = 0;
    for expected in &messages {
        let got = read(&mut all).await;
        assert_eq!((&got.message, got.missed), (expected, 0));
        assert!(got.sequence > last, "sequences grow");
        last = got.sequence;
    }
    for expected in messages
        .iter()
        .filter(|message| message.topic.as_str().ends_with("status"))
    {
        assert_eq!(&read(&mut status).await.message, expected);
    }
    ends.close().await;
}

/// A reader that does not read holds nobody up, misses messages, and is told exactly how many of its own topics.
pub async fn a_slow_reader_misses_and_knows_how_many(ends: Ends) {
    let _handler = ends.open().await;
    let mut slow = ends
        .reader
        .subscribe("agent.out.a1.status", StartAt::Now)
        .await
        .expect("subscribed");
    const ALL: u64 = 60_000;
    let mut n = 0;
    while n < ALL {
        let chunk: Vec<_> = (n..n + 100)
            .flat_map(|n| {
                [
                    message("agent.out.a1.status", n, 500),
                    message("agent.out.a1.metric", n, 500),
                ]
            })
            .collect();
        tokio::time::timeout(PATIENCE, publish(&ends, &chunk))
            .await
            .expect("publishing waits for no reader");
        n += 100;
    }
    let (mut read_well, mut missed, mut next) = (0, 0, 0);
    while next < ALL {
        let delivery = read(&mut slow).await;
        missed += delivery.missed;
        let id: u64 = delivery.message.envelope.id.parse().expect("a number");
        assert_eq!(
            id,
            next + delivery.missed,
            "just those that were counted are missing"
        );
        next = id + 1;
        read_well += 1;
    }
    assert_eq!(read_well + missed, ALL);
    assert!(missed > 0, "the bus keeps less than was published");
    ends.close().await;
}

/// A reader goes on after a sequence, or begins with all that is kept.
pub async fn a_reader_goes_on_where_it_was(ends: Ends) {
    let _handler = ends.open().await;
    let messages: Vec<_> = (0..10).map(|n| message("agent.out.a1.status", n, 1)).collect();
    publish(&ends, &messages).await;
    let subscribe = async |from| {
        ends.reader
            .subscribe("agent.out.>", from)
            .await
            .expect("subscribed")
    };
    let mut kept = subscribe(StartAt::Kept).await;
    let mut sequence = 0;
    for expected in &messages[..5] {
        let delivery = read(&mut kept).await;
        assert_eq!((&delivery.message, delivery.missed), (expected, 0));
        sequence = delivery.sequence;
    }
    drop(kept);
    let mut rest = subscribe(StartAt::After(sequence)).await;
    for expected in &messages[5..] {
        let delivery = read(&mut rest).await;
        assert_eq!((&delivery.message, delivery.missed), (expected, 0));
    }
    // Of a bus of long ago: all that is kept.
    let mut old = subscribe(StartAt::After(1)).await;
    assert_eq!(read(&mut old).await.message, messages[0]);
    ends.close().await;
}

/// A reader that leaves costs nothing any more: many come and go.
pub async fn a_reader_that_leaves_is_forgotten(ends: Ends) {
    let _handler = ends.open().await;
    let end = tokio::time::Instant::now() + PATIENCE;
    for n in 0..1_000 {
        // A bus may need a moment to see that the one before has left.
        let mut stream = loop {
            match ends.reader.subscribe("agent.>", StartAt::Now).await {
                Ok(stream) => break stream,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Busy);
                    assert!(
                        tokio::time::Instant::now() < end,
                        "readers that left are still counted"
                    );
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        if n % 100 == 0 {
            publish(&ends, &[message("agent.out.a1.status", n, 1)]).await;
            assert_eq!(read(&mut stream).await.message.envelope.id, n.to_string());
        }
    }
    ends.close().await;
}

/// What is no pattern is refused with words.
pub async fn what_is_no_pattern_is_refused(ends: Ends) {
    let _handler = ends.open().await;
    for bad in ["", "a..b", "a.>.b", "a b", "a/b"] {
        let error = match ends.reader.subscribe(bad, StartAt::Now).await {
            Err(error) => error,
            Ok(_) => panic!("{bad:?} is not a pattern"),
        };
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
    }
    ends.close().await;
}

/// Readers get what was published before the bus closed, and end.
pub async fn readers_end_when_the_bus_closes(ends: Ends) {
    let _handler = ends.open().await;
    let mut stream = ends
        .reader
        .subscribe("agent.>", StartAt::Now)
        .await
        .expect("subscribed");
    publish(&ends, &[message("agent.out.a1.status", 1, 1)]).await;
    let (delivery, closed) = tokio::join!(read(&mut stream), ends.bus_in.close(PATIENCE));
    assert_eq!(delivery.message.envelope.id, "1");
    assert_eq!(closed, Ok(()));
    let end = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .expect("it ends in time");
    assert!(end.is_none(), "{end:?}");
    let late = ends
        .bus_out
        .publish(&[message("agent.out.a1.status", 2, 1)])
        .await;
    assert_eq!(
        late.expect_err("the bus is closed").kind(),
        ErrorKind::Unavailable
    );
}

/// A bus without other parties says so.
pub async fn calls_to_nobody_are_unsupported(ends: Ends) {
    let _handler = ends.open().await;
    let error = ends
        .bus_out
        .call("agent.call.nobody", Bytes::new(), PATIENCE)
        .await
        .expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    ends.close().await;
}
