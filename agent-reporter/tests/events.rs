//! Lifecycle events, heartbeats, registrations.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_model::{ErrorKind, HealthReport, LifecycleEvent, Phase, Signal, Timestamp, Verb};
use agent_api_reporter::{Heartbeat, Report, ReporterApi};
use common::{Mode, agent, config, event, metrics, object, reporter, request};

const SECOND: Duration = Duration::from_secs(1);

fn heartbeat(sequence: u64) -> Report {
    Report::Heartbeat(Box::new(Heartbeat {
        agent: agent(),
        at: Timestamp::from_micros(5),
        sequence,
        objects: [(Phase::Running, 3)].into(),
        corrected: 0,
        drivers: BTreeMap::new(),
        health: HealthReport::default(),
        interval_ms: 10_000,
    }))
}

#[tokio::test(start_paused = true)]
async fn events_come_once_in_order_with_the_same_id_on_a_repeat() {
    let (reporter, bus) = reporter(config());
    let (web, db) = (object("web"), object("db"));
    for sequence in 1..=500 {
        bus.set(if sequence % 50 == 0 {
            Mode::Forgetful
        } else {
            Mode::Work
        });
        reporter.report(Report::Lifecycle(Box::new(event(&web, sequence))));
        reporter.report(Report::Lifecycle(Box::new(event(&db, sequence))));
        if sequence % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    bus.set(Mode::Work);
    reporter.flush(20 * SECOND).await.unwrap();
    let messages = bus.of_type("agent.object.phase_changed");
    assert!(messages.len() > 1_000, "some came twice: {}", messages.len());
    let mut first_seen = std::collections::HashSet::new();
    let mut sequences: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in &messages {
        assert_eq!(message.topic.as_str(), "agent.out.a1.status");
        let event: LifecycleEvent = serde_json::from_slice(&message.envelope.data).unwrap();
        assert_eq!(message.envelope.id, format!("{}-{}", event.guid, event.sequence));
        assert_eq!(message.envelope.subject.as_deref(), Some(event.name.as_str()));
        assert_eq!(message.envelope.time, event.transition.at);
        if first_seen.insert(message.envelope.id.clone()) {
            sequences
                .entry(event.name.to_string())
                .or_default()
                .push(event.sequence);
        }
    }
    assert_eq!(sequences["web"], (1..=500).collect::<Vec<_>>());
    assert_eq!(sequences["db"], (1..=500).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn heartbeats_go_to_their_topic() {
    let (reporter, bus) = reporter(config());
    reporter.report(heartbeat(1));
    reporter.report(heartbeat(2));
    reporter.flush(SECOND).await.unwrap();
    let messages = bus.of_type("agent.heartbeat");
    assert_eq!(messages.len(), 2);
    assert_ne!(messages[0].envelope.id, messages[1].envelope.id);
    assert_eq!(messages[0].topic.as_str(), "agent.out.a1.heartbeat");
    let read: Heartbeat = serde_json::from_slice(&messages[1].envelope.data).unwrap();
    assert_eq!((read.sequence, read.objects[&Phase::Running]), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn events_pass_telemetry_that_hangs() {
    let (reporter, bus) = reporter(config());
    let web = object("web");
    let lease = reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap();
    bus.set(Mode::Hang);
    assert!(reporter.sink().offer(&lease, metrics(&web, 10)));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(*bus.tries.lock(), 1, "the telemetry hangs");
    bus.set(Mode::Work);
    reporter.report(Report::Lifecycle(Box::new(event(&web, 1))));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(bus.of_type("agent.object").len(), 1);
    assert_eq!(bus.of_type("agent.telemetry").len(), 0);
    reporter.flush(60 * SECOND).await.unwrap();
    assert_eq!(
        bus.of_type("agent.telemetry.metrics").len(),
        1,
        "it is tried again"
    );
}

#[tokio::test(start_paused = true)]
async fn events_without_room_drop_the_oldest_and_are_told() {
    let mut config = config();
    config.worker.event_bytes = 20_000;
    let (reporter, bus) = reporter(config);
    let web = object("web");
    bus.set(Mode::Away);
    for sequence in 1..=1_000 {
        reporter.report(Report::Lifecycle(Box::new(event(&web, sequence))));
    }
    assert!(reporter.stats().queue.length <= 20_000);
    tokio::time::sleep(SECOND).await;
    bus.set(Mode::Work);
    reporter.flush(60 * SECOND).await.unwrap();
    let events = bus.of_type("agent.object");
    let losses = bus.losses();
    assert!(
        losses
            .iter()
            .all(|(message, loss)| message.topic.as_str() == "agent.out.a1.status"
                && loss.signal == "events"
                && loss.reason == "no room")
    );
    let lost: u64 = losses.iter().map(|(_, loss)| loss.count).sum();
    assert!(lost > 900, "{lost}");
    assert_eq!(events.len() as u64 + lost, 1_000);
    assert!(
        events.last().unwrap().envelope.id.ends_with("-1000"),
        "the latest are kept"
    );
    assert_eq!(reporter.stats().lost["no room"], lost);
}

#[tokio::test(start_paused = true)]
async fn one_refused_message_costs_no_other() {
    let (reporter, bus) = reporter(config());
    let web = object("web");
    bus.set(Mode::Refuses("agent.heartbeat"));
    reporter.report(Report::Lifecycle(Box::new(event(&web, 1))));
    reporter.report(heartbeat(1));
    reporter.report(Report::Lifecycle(Box::new(event(&web, 2))));
    reporter.flush(SECOND).await.unwrap();
    assert_eq!(bus.of_type("agent.object").len(), 2);
    assert_eq!(bus.of_type("agent.heartbeat").len(), 0);
    let losses = bus.losses();
    assert_eq!(losses[0].0.topic.as_str(), "agent.out.a1.heartbeat");
    assert_eq!(losses[0].1.reason, "refused: denied");
    assert_eq!(reporter.stats().failed, 1);
    bus.set(Mode::Panic);
    reporter.report(Report::Lifecycle(Box::new(event(&web, 3))));
    reporter.flush(SECOND).await.unwrap();
    assert_eq!(reporter.stats().lost["refused: internal"], 1);
    bus.set(Mode::Work);
    reporter.report(Report::Lifecycle(Box::new(event(&web, 4))));
    reporter.flush(10 * SECOND).await.unwrap();
    let last = bus.of_type("agent.object").pop().unwrap();
    assert!(
        last.envelope.id.ends_with("-4"),
        "a bus that panics does not end the worker"
    );
}

#[tokio::test(start_paused = true)]
async fn registrations_are_tried_again_in_order_and_counted() {
    let mut config = config();
    let web = object("web");
    config
        .methods
        .insert(web.kind.clone(), vec![Verb::Pause, Verb::Resume]);
    let (reporter, bus) = reporter(config);
    *bus.answer.lock() = ErrorKind::Unavailable;
    let guid = reporter.guid();
    assert_ne!(guid, reporter.guid());
    for number in 0..1_000 {
        reporter.register(&object(&format!("o{number}")));
    }
    reporter.withdraw(web.guid);
    tokio::time::sleep(SECOND).await;
    assert!(reporter.stats().failed >= 3, "{:?}", reporter.stats());
    let tries = bus.calls.lock().len();
    assert!(tries < 20, "with back-off: {tries}");
    *bus.answer.lock() = ErrorKind::Unsupported;
    tokio::time::sleep(10 * SECOND).await;
    let calls = bus.calls.lock().len();
    reporter.register(&web);
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        bus.calls.lock().len(),
        calls,
        "a bus without a registry is not asked again"
    );
    assert!(
        bus.calls
            .lock()
            .iter()
            .all(|method| method == "agent.ctl.register")
    );
}
