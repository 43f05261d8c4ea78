//! Bus Out: what is stored, where, and once.

use std::collections::BTreeSet;

use agent_api_bus_in::BusIn;
use agent_api_bus_out::{BusOut, BusReader, StartAt};
use agent_api_model::ErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::lab::{Lab, PATIENCE, bus, caller, client, message, until};

const STATUS: &str = "agent.out.a1.status";

/// A status is stored once whatever is repeated, the last of each object is kept apart, and a foreign client reads
/// CloudEvents.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_stored_once_and_the_last_of_each_object_is_kept() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    let batch: Vec<_> = (0..30)
        .map(|n| {
            message(
                STATUS,
                &format!("e{n}"),
                Some(if n % 2 == 0 { "web" } else { "db" }),
            )
        })
        .collect();
    bus.publish(&batch).await.unwrap();
    // The same again, cut otherwise: as after a crash.
    bus.publish(&batch[5..]).await.unwrap();
    bus.publish(&batch[..7]).await.unwrap();
    bus.publish(&batch[29..]).await.unwrap();

    let client = client(&lab).await;
    let js = async_nats::jetstream::new(client.clone());
    let events = js.get_stream("AGENT_EVENTS").await.unwrap();
    assert_eq!(events.cached_info().state.messages, 30, "each once");
    let first = events.get_raw_message(1).await.unwrap();
    assert_eq!(first.subject.as_str(), "agent.out.a1.status.web");
    let header = |name: &str| first.headers.get(name).unwrap().as_str().to_owned();
    assert_eq!(header("ce-id"), "e0");
    assert_eq!(header("ce-specversion"), "1.0");
    assert_eq!(header("ce-subject"), "web");
    let status = js.get_stream("AGENT_STATUS").await.unwrap();
    let last = async |object: &str| {
        let subject = format!("agent.out.a1.status.{object}");
        let found = status.get_last_raw_message_by_subject(&subject).await.ok()?;
        Some(found.headers.get("ce-id")?.as_str().to_owned())
    };
    let end = tokio::time::Instant::now() + PATIENCE;
    while (last("web").await, last("db").await) != (Some("e28".into()), Some("e29".into())) {
        assert!(
            tokio::time::Instant::now() < end,
            "the last of each object is kept"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    bus.close(PATIENCE).await.unwrap();
    assert_eq!(bus.tasks(), 0);
}

/// Telemetry comes into its stream whole and in order, more of it than may be on its way at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_is_ingested_in_order_and_counted() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    const ALL: usize = 3_000;
    for chunk in (0..ALL).collect::<Vec<_>>().chunks(97) {
        let messages: Vec<_> = chunk
            .iter()
            .map(|n| {
                let topic = ["agent.out.a1.metric", "agent.out.a1.log", "agent.out.a1.lease.7"][n % 3];
                message(topic, &format!("t{n}"), None)
            })
            .collect();
        bus.publish(&messages).await.unwrap();
    }
    let caller = caller(&lab).await;
    bus.close(PATIENCE).await.unwrap();
    let state = bus.state();
    assert_eq!((state.lost, state.stored), (0, ALL as u64), "{state:?}");
    let mut kept = caller.subscribe("agent.out.>", StartAt::Kept).await.unwrap();
    for n in 0..ALL {
        let delivery = tokio::time::timeout(PATIENCE, kept.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(
            (delivery.message.envelope.id, delivery.missed),
            (format!("t{n}"), 0)
        );
    }
}

/// A heartbeat is for who listens now; an own topic too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_is_in_no_stream() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    let caller = caller(&lab).await;
    let mut live = caller.subscribe(">", StartAt::Now).await.unwrap();
    let heartbeat = message("agent.out.a1.heartbeat", "h1", None);
    let own = message("my.own.topic", "o1", Some("web"));
    bus.publish(&[heartbeat.clone(), own.clone()]).await.unwrap();
    for wanted in [heartbeat, own] {
        let got = tokio::time::timeout(PATIENCE, live.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(got.message, wanted);
    }
    let js = async_nats::jetstream::new(client(&lab).await);
    for stream in ["AGENT_EVENTS", "AGENT_RESULT", "AGENT_TELEMETRY", "AGENT_STATUS"] {
        let stream = js.get_stream(stream).await.unwrap();
        assert_eq!(stream.cached_info().state.messages, 0);
    }
    bus.close(PATIENCE).await.unwrap();
}

/// What is too large is refused for good, and what no stream takes may be taken later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_has_no_stream_is_an_error() {
    let lab = Lab::bare(&[]).await;
    let bus = bus(&lab);
    let mut large = message(STATUS, "large", None);
    large.envelope.data = Bytes::from(vec![b'x'; 1 << 20]);
    let error = bus.publish(&[large]).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Invalid, false));
    for topic in [STATUS, "agent.out.a1.log"] {
        let error = bus.publish(&[message(topic, "1", None)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(
            error.is_retryable() && error.to_string().contains("no stream takes"),
            "{error}"
        );
    }
    lab.set_up().await;
    for topic in [STATUS, "agent.out.a1.log"] {
        bus.publish(&[message(topic, "1", None)]).await.unwrap();
    }
    until("nothing is lost", || bus.state().stored >= 1).await;
    bus.close(PATIENCE).await.unwrap();
    assert_eq!(bus.state().stored, 2, "{:?}", bus.state());
}

/// Readers of two streams get what is kept in the order of publishing, then what is new, nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_and_new_messages_join_without_a_seam() {
    let lab = Lab::up().await;
    let bus = bus(&lab);
    let caller = caller(&lab).await;
    let batch = |from: usize| -> Vec<_> {
        (from..from + 100)
            .map(|n| {
                let topic = if n % 3 == 0 {
                    "agent.out.a1.result.process"
                } else {
                    STATUS
                };
                message(topic, &format!("{n:04}"), Some("web"))
            })
            .collect()
    };
    for n in 0..5 {
        bus.publish(&batch(n * 100)).await.unwrap();
    }
    let publish = async {
        for n in 5..20 {
            bus.publish(&batch(n * 100)).await.unwrap();
        }
    };
    let read = async {
        let mut kept = caller.subscribe("agent.>", StartAt::Kept).await.unwrap();
        let mut ids = Vec::new();
        while ids.len() < 2_000 {
            let got = tokio::time::timeout(PATIENCE, kept.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert_eq!(got.missed, 0, "after {:?}", ids.last());
            ids.push(got.message.envelope.id);
        }
        ids
    };
    let ((), ids) = tokio::join!(publish, read);
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), 2_000, "nothing twice");
    bus.close(PATIENCE).await.unwrap();
}
