//! Log cursors: no line lost, none doubled.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod common;

use std::sync::Arc;

use agent_api_model::{Guid, Lease, ObjectView, Signal, Timestamp};
use agent_collector_worker::WorkerConfig;
use common::{FakeDriver, Mode, add, lease, object, pass, worker};

const LOGS: &[Signal] = &[Signal::Logs];
const BOTH: &[Signal] = &[Signal::Metrics, Signal::Logs];

fn lines(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("line {number}")).collect()
}

#[tokio::test(start_paused = true)]
async fn lines_come_once_and_in_order_while_the_sink_refuses_now_and_then() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let guid = add(&worker, &object("fake", "web", "web"));
    let lease = lease("", BOTH, 1_000);
    worker.begin(lease.clone()).unwrap();
    pass(100).await;
    for round in 0..20 {
        driver.write(guid, lines(round * 10..round * 10 + 10));
        *sink.full.lock() = round % 3 != 0;
        pass(700).await;
    }
    assert!(*sink.refused.lock() > 5);
    *sink.full.lock() = false;
    pass(2_100).await;
    assert_eq!(sink.lines(lease.id, guid), lines(0..200));
    let points = sink.points()[&(lease.id, guid)];
    assert!(points >= 15, "metrics go on: {points}");
}

#[tokio::test(start_paused = true)]
async fn lines_come_once_over_failures_of_the_driver() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let guid = add(&worker, &object("fake", "web", "web"));
    let lease = lease("", LOGS, 100);
    worker.begin(lease.clone()).unwrap();
    pass(50).await;
    for (round, mode) in [
        Mode::Fail,
        Mode::Work,
        Mode::Panic,
        Mode::Work,
        Mode::Hang,
        Mode::Work,
    ]
    .into_iter()
    .enumerate()
    {
        driver.write(guid, lines(round * 10..round * 10 + 10));
        driver.set(mode);
        pass(1_500).await;
    }
    assert_eq!(sink.lines(lease.id, guid), lines(0..60));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_read_at_once_and_not_one_piece_in_each_interval() {
    let driver = FakeDriver::new("fake", 0);
    let config = WorkerConfig {
        log_bytes: 10_000,
        ..WorkerConfig::default()
    };
    let (worker, sink) = worker(&[&driver], config);
    let guid = add(&worker, &object("fake", "web", "web"));
    let quiet = add(&worker, &object("fake", "quiet", "web"));
    let lease = lease("", BOTH, 10_000);
    worker.begin(lease.clone()).unwrap();
    pass(100).await;
    driver.write(guid, lines(0..20_000));
    driver.write(quiet, lines(0..1));
    pass(10_000).await;
    assert_eq!(sink.lines(lease.id, guid), lines(0..20_000));
    assert_eq!(sink.lines(lease.id, quiet), lines(0..1));
    assert_eq!(sink.points()[&(lease.id, guid)], 2, "metrics keep their interval");
    assert!(driver.calls().iter().all(|call| call.max_log_bytes <= 10_000));
    let calls = driver.calls().len();
    pass(5_000).await;
    assert_eq!(driver.calls().len(), calls, "and then it is quiet");
}

#[tokio::test(start_paused = true)]
async fn two_leases_over_one_object_have_cursors_of_their_own() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let guid = add(&worker, &object("fake", "web", "web"));
    let (first, second) = (lease("", LOGS, 1_000), lease("app=web", LOGS, 1_000));
    worker.begin(first.clone()).unwrap();
    pass(100).await;
    driver.write(guid, lines(0..5));
    pass(1_000).await;
    worker.begin(second.clone()).unwrap();
    pass(100).await;
    driver.write(guid, lines(5..10));
    pass(2_000).await;
    assert_eq!(sink.lines(first.id, guid), lines(0..10));
    assert_eq!(sink.lines(second.id, guid), lines(5..10), "from its beginning on");
}

#[tokio::test(start_paused = true)]
async fn a_new_object_is_followed_at_once_and_a_new_handle_goes_on() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let lease = lease("", LOGS, 10_000);
    worker.begin(lease.clone()).unwrap();
    pass(100).await;
    let view = object("fake", "web", "web");
    let guid = add(&worker, &view);
    pass(10).await;
    driver.write(guid, lines(0..5));
    add(&worker, &view);
    pass(10).await;
    driver.write(guid, lines(5..10));
    pass(20_000).await;
    assert_eq!(sink.lines(lease.id, guid), lines(0..10));
}

#[tokio::test(start_paused = true)]
async fn last_lines_of_a_removed_object_are_collected_also_when_refused_first() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let guid = add(&worker, &object("fake", "web", "web"));
    let lease = lease("", LOGS, 60_000);
    worker.begin(lease.clone()).unwrap();
    pass(100).await;
    driver.write(guid, lines(0..100));
    *sink.full.lock() = true;
    worker.remove(guid);
    pass(500).await;
    assert!(*sink.refused.lock() >= 1);
    *sink.full.lock() = false;
    pass(2_000).await;
    assert_eq!(sink.lines(lease.id, guid), lines(0..100));
    let calls = driver.calls().len();
    driver.write(guid, lines(100..110));
    pass(120_000).await;
    assert_eq!(sink.lines(lease.id, guid), lines(0..100));
    assert_eq!(
        driver.calls().len(),
        calls,
        "it is gone, and nothing is asked of it any more"
    );
}

#[tokio::test(start_paused = true)]
async fn last_lines_come_also_where_the_lease_ends_with_the_object() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let guid = add(&worker, &object("fake", "web", "web"));
    let stays = add(&worker, &object("fake", "stays", "web"));
    let lease = lease("", LOGS, 1_000);
    worker.begin(lease.clone()).unwrap();
    pass(100).await;
    driver.write(guid, lines(0..100));
    *sink.full.lock() = true;
    worker.remove(guid);
    assert!(worker.end(lease.id));
    pass(300).await;
    driver.write(stays, lines(0..1));
    assert!(sink.ended.lock().is_empty(), "not before the last lines");
    *sink.full.lock() = false;
    pass(2_000).await;
    assert_eq!(sink.lines(lease.id, guid), lines(0..100));
    assert_eq!(
        sink.lines(lease.id, stays),
        lines(0..0),
        "the lease covers nothing else any more"
    );
    assert_eq!(*sink.ended.lock(), [lease.id]);
    let calls = driver.calls().len();
    pass(60_000).await;
    assert_eq!(driver.calls().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn last_lines_that_nobody_takes_are_given_up() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let guid = add(&worker, &object("fake", "web", "web"));
    worker.begin(lease("", LOGS, 3_600_000)).unwrap();
    pass(100).await;
    driver.write(guid, lines(0..10));
    *sink.full.lock() = true;
    worker.remove(guid);
    pass(30_000).await;
    let calls = driver.calls().len();
    assert!(calls < 40, "{calls}");
    pass(600_000).await;
    assert_eq!(driver.calls().len(), calls);
}

/// An object that is created now.
fn created() -> Arc<ObjectView> {
    let mut view = Arc::unwrap_or_clone(object("fake", "web", "web"));
    view.created = Timestamp::now();
    Arc::new(view)
}

/// A lease of the object's own `monitor` part.
fn own(guid: Guid) -> Lease {
    Lease {
        guid: Some(guid),
        ..lease("", LOGS, 1_000)
    }
}

#[tokio::test(start_paused = true)]
async fn an_objects_own_logs_begin_with_the_first_line_and_those_of_a_later_lease_from_now() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let view = created();
    driver.write(view.guid, lines(0..5));
    let guid = add(&worker, &view);
    let own = own(guid);
    worker.begin(own.clone()).unwrap();
    pass(100).await;
    assert_eq!(sink.lines(own.id, guid), lines(0..5));
    let later = Lease {
        ttl: Some(std::time::Duration::from_secs(60)),
        ..lease("", LOGS, 1_000)
    };
    let of_it = Lease {
        guid: Some(guid),
        id: agent_api_model::LeaseId::generate(),
        ..later.clone()
    };
    worker.begin(later.clone()).unwrap();
    worker.begin(of_it.clone()).unwrap();
    pass(100).await;
    driver.write(guid, lines(5..10));
    pass(2_000).await;
    assert_eq!(sink.lines(own.id, guid), lines(0..10));
    assert_eq!(sink.lines(later.id, guid), lines(5..10));
    assert_eq!(sink.lines(of_it.id, guid), lines(5..10));
}

#[tokio::test(start_paused = true)]
async fn an_objects_own_logs_go_on_over_its_restart_without_a_gap() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let view = created();
    let guid = add(&worker, &view);
    let own = own(guid);
    worker.begin(own.clone()).unwrap();
    for round in 0..3 {
        driver.write(guid, lines(round * 10..round * 10 + 10));
        worker.remove(guid);
        pass(30_000).await;
        // What it writes before it is there for the collector.
        driver.write(guid, lines(100 + round..101 + round));
        add(&worker, &view);
        pass(2_000).await;
    }
    let expected: Vec<_> = (0..3)
        .flat_map(|round| {
            [
                lines(round * 10..round * 10 + 10),
                lines(100 + round..101 + round),
            ]
            .concat()
        })
        .collect();
    assert_eq!(sink.lines(own.id, guid), expected);
}

#[tokio::test(start_paused = true)]
async fn the_lines_of_an_object_that_ended_at_once_come_all() {
    for apart in [0, 100] {
        let driver = FakeDriver::new("fake", 0);
        let (worker, sink) = worker(&[&driver], WorkerConfig::default());
        let view = created();
        driver.write(view.guid, lines(0..5));
        let guid = add(&worker, &view);
        pass(apart).await;
        let own = own(guid);
        worker.begin(own.clone()).unwrap();
        worker.remove(guid);
        pass(5_000).await;
        assert_eq!(sink.lines(own.id, guid), lines(0..5), "{apart}");
        worker.end(own.id);
        pass(1_000).await;
        assert_eq!(*sink.ended.lock(), [own.id]);
    }
}

#[tokio::test(start_paused = true)]
async fn no_line_is_repeated_after_a_restart_of_the_agent_or_a_change_of_the_monitor_part() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    // Created before this worker was; and one whose spec was changed since.
    let before = object("fake", "before", "web");
    let mut changed = Arc::unwrap_or_clone(created());
    changed.generation = 2;
    for view in [before, Arc::new(changed)] {
        driver.write(view.guid, lines(0..5));
        let guid = add(&worker, &view);
        let own = own(guid);
        worker.begin(own.clone()).unwrap();
        pass(100).await;
        driver.write(guid, lines(5..10));
        pass(2_000).await;
        assert_eq!(sink.lines(own.id, guid), lines(5..10), "{}", view.name);
        assert!(worker.retune(own.id, std::time::Duration::from_millis(500)));
        pass(2_000).await;
        assert_eq!(sink.lines(own.id, guid), lines(5..10), "{}", view.name);
    }
}
