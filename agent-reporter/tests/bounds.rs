//! A slow or absent bus costs bounded memory, and nothing silent.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod common;

use std::time::Duration;

use agent_api_model::{ErrorKind, Loss, Signal, TelemetryBatch};
use agent_api_reporter::{Report, ReporterApi};
use common::{Mode, assert_complete, config, event, logs, metrics, object, reporter, request, sequence};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn an_absent_bus_costs_the_oldest_metrics_and_each_is_told() {
    let mut config = config();
    config.worker.telemetry_bytes = 100_000;
    let (reporter, bus) = reporter(config);
    let web = object("web");
    let lease = reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap();
    let other = reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap();
    bus.set(Mode::Away);
    for round in 0..600_u64 {
        assert!(reporter.sink().offer(&lease, metrics(&web, 10)));
        if round % 3 == 0 {
            assert!(reporter.sink().offer(&other, metrics(&web, 5)));
        }
        assert!(reporter.stats().queue.length <= 100_000);
        tokio::time::sleep(SECOND).await;
    }
    assert!(reporter.sink().room() < 0.3);
    bus.set(Mode::Work);
    reporter.flush(60 * SECOND).await.unwrap();
    assert_complete(&bus, &lease, Signal::Metrics, 600);
    assert_complete(&bus, &other, Signal::Metrics, 200);
    let lost: u64 = bus.losses().iter().map(|(_, loss)| loss.count).sum();
    assert!(lost > 3_000, "{lost}");
    assert_eq!(reporter.stats().lost["no room"], lost);
    let newest = bus
        .of_type("agent.telemetry.metrics")
        .into_iter()
        .map(|m| sequence(&m))
        .max();
    assert_eq!(newest, Some(600), "the newest are kept");
    assert!(reporter.sink().room() > 0.99);
}

#[tokio::test(start_paused = true)]
async fn log_lines_without_room_are_refused_and_not_lost() {
    let mut config = config();
    config.worker.telemetry_bytes = 100_000;
    let (reporter, bus) = reporter(config);
    let web = object("web");
    let signals = [Signal::Metrics, Signal::Logs];
    let lease = reporter.subscribe(&request(&signals), None).unwrap();
    bus.set(Mode::Away);
    let mut taken = 0;
    while reporter.sink().offer(&lease, logs(&web, vec![b'x'; 1_000])) {
        taken += 1;
        assert!(taken < 100, "it must be full some day");
    }
    assert!(taken > 50);
    for _ in 0..1_000 {
        assert!(!reporter.sink().offer(&lease, logs(&web, vec![b'x'; 1_000])));
    }
    assert!(
        reporter.sink().offer(&lease, metrics(&web, 10)),
        "there is always room for metrics"
    );
    assert!(reporter.stats().lost.is_empty(), "{:?}", reporter.stats());
    bus.set(Mode::Work);
    reporter.flush(60 * SECOND).await.unwrap();
    assert_complete(&bus, &lease, Signal::Logs, taken);
    assert!(bus.losses().is_empty());
}

#[tokio::test(start_paused = true)]
async fn metrics_that_fill_all_leave_room_for_lines() {
    let mut config = config();
    config.worker.telemetry_bytes = 100_000;
    let (reporter, bus) = reporter(config);
    let web = object("web");
    let signals = [Signal::Metrics, Signal::Logs];
    let lease = reporter.subscribe(&request(&signals), None).unwrap();
    bus.set(Mode::Away);
    for _ in 0..1_000 {
        reporter.sink().offer(&lease, metrics(&web, 10));
    }
    for _ in 0..10 {
        assert!(reporter.sink().offer(&lease, logs(&web, vec![b'x'; 1_000])));
    }
    assert!(reporter.stats().queue.length <= 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_slow_bus_gets_full_batches() {
    let (reporter, bus) = reporter(config());
    let web = object("web");
    let lease = reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap();
    bus.set(Mode::Slow(Duration::from_millis(100)));
    for _ in 0..200 {
        assert!(reporter.sink().offer(&lease, metrics(&web, 1)));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reporter.flush(10 * SECOND).await.unwrap();
    assert_complete(&bus, &lease, Signal::Metrics, 200);
    assert!(*bus.tries.lock() <= 8, "{}", bus.tries.lock());
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_is_told_once_the_bus_is_back() {
    let mut config = config();
    config.worker.retry_for = 10 * SECOND;
    let (reporter, bus) = reporter(config);
    let web = object("web");
    let lease = reporter.subscribe(&request(&[Signal::Logs]), None).unwrap();
    bus.set(Mode::Away);
    assert!(reporter.sink().offer(&lease, logs(&web, "lost")));
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(
        *reporter.stats().lost.iter().next().unwrap().1,
        1,
        "{:?}",
        reporter.stats()
    );
    let tries = *bus.tries.lock();
    assert!(tries < 30, "with back-off: {tries}");
    bus.set(Mode::Work);
    reporter.flush(10 * SECOND).await.unwrap();
    let losses = bus.losses();
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].1.reason, "given up: unavailable");
    assert_complete(&bus, &lease, Signal::Logs, 1);
}

#[tokio::test(start_paused = true)]
async fn losses_of_drivers_are_told_on_the_topic_of_the_lease() {
    let (reporter, bus) = reporter(config());
    let web = object("web");
    let lease = reporter.subscribe(&request(&[Signal::Logs]), None).unwrap();
    let batch = TelemetryBatch {
        losses: vec![Loss {
            guid: Some(web.guid),
            signal: Signal::Logs,
            count: 4_096,
            reason: "rotated away".into(),
        }],
        ..TelemetryBatch::default()
    };
    assert!(reporter.sink().offer(&lease, batch));
    reporter.flush(SECOND).await.unwrap();
    let (message, loss) = bus.losses().remove(0);
    assert_eq!(message.topic.as_str(), lease.topic);
    assert_eq!(
        (loss.guid, loss.count, &*loss.reason),
        (Some(web.guid), 4_096, "rotated away")
    );
    assert_eq!((loss.first, loss.last), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_flush_says_what_is_left_and_a_shutdown_writes_what_was_taken() {
    let (reporter, bus) = reporter(config());
    let web = object("web");
    let lease = reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap();
    bus.set(Mode::Away);
    reporter.report(Report::Lifecycle(Box::new(event(&web, 1))));
    assert!(reporter.sink().offer(&lease, metrics(&web, 3)));
    let error = reporter.flush(SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    bus.set(Mode::Slow(Duration::from_millis(200)));
    reporter.shutdown(10 * SECOND).await.unwrap();
    assert_eq!(bus.published.lock().len(), 2);
    assert_eq!(reporter.stats().tasks, 0);
    reporter.shutdown(SECOND).await.unwrap();
    assert!(!reporter.sink().offer(&lease, metrics(&web, 1)));
    assert_eq!(reporter.sink().room(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_over_a_bus_that_hangs_ends_and_counts_what_was_not_written() {
    let (reporter, bus) = reporter(config());
    let web = object("web");
    let lease = reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap();
    bus.set(Mode::Hang);
    assert!(reporter.sink().offer(&lease, metrics(&web, 3)));
    reporter.report(Report::Lifecycle(Box::new(event(&web, 1))));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(reporter.sink().offer(&lease, metrics(&web, 4)));
    reporter.report(Report::Lifecycle(Box::new(event(&web, 2))));
    let started = tokio::time::Instant::now();
    let error = reporter.shutdown(2 * SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(started.elapsed() <= 4 * SECOND);
    assert_eq!(reporter.stats().tasks, 0);
    assert_eq!(reporter.stats().lost["the agent stopped"], 3 + 4 + 1 + 1);
}
