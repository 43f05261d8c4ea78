//! Intervals, leases, batches.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use agent_api_model::{ErrorKind, Signal, Timestamp};
use agent_collector_worker::WorkerConfig;
use common::{FakeDriver, Mode, add, lease, object, pass, worker};

const METRICS: &[Signal] = &[Signal::Metrics];

#[tokio::test(start_paused = true)]
async fn one_call_covers_many_objects_at_once_and_then_in_each_interval() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    for number in 0..100 {
        add(&worker, &object("fake", &format!("o{number}"), "web"));
    }
    worker.begin(lease("", METRICS, 1_000)).unwrap();
    pass(3_500).await;
    assert_eq!(driver.times(), [0, 1_000, 2_000, 3_000]);
    assert!(driver.calls().iter().all(|call| call.guids.len() == 100));
    assert_eq!(sink.points().len(), 100);
    assert!(sink.points().values().all(|points| *points == 4));
    worker.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(worker.stats().tasks, 0);
}

#[tokio::test(start_paused = true)]
async fn leases_of_one_interval_share_calls_and_each_gets_its_own() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    let guids: Vec<_> = (0..50)
        .map(|number| add(&worker, &object("fake", &format!("o{number}"), "web")))
        .collect();
    let all = lease("", METRICS, 1_000);
    worker.begin(all.clone()).unwrap();
    let mut own = Vec::new();
    for guid in &guids {
        let mut lease = lease("", METRICS, 1_000);
        lease.guid = Some(*guid);
        own.push((lease.id, *guid));
        worker.begin(lease).unwrap();
    }
    pass(100).await;
    assert_eq!(driver.calls().len(), 1, "51 leases, one call");
    pass(1_000).await;
    assert_eq!(driver.calls().len(), 2);
    let points = sink.points();
    assert_eq!(points.len(), 100);
    assert!(own.iter().all(|key| points[key] == 2));
    assert!(guids.iter().all(|guid| points[&(all.id, *guid)] == 2));
}

#[tokio::test(start_paused = true)]
async fn chunks_are_no_larger_than_the_driver_takes_and_few_are_in_flight() {
    let driver = FakeDriver::new("fake", 10);
    driver.set(Mode::Slow(Duration::from_millis(5)));
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    for number in 0..95 {
        add(&worker, &object("fake", &format!("o{number}"), "web"));
    }
    worker.begin(lease("", METRICS, 1_000)).unwrap();
    pass(500).await;
    let calls = driver.calls();
    assert_eq!(calls.len(), 10);
    assert!(calls.iter().all(|call| call.guids.len() <= 10));
    let guids: HashSet<_> = calls.iter().flat_map(|call| call.guids.clone()).collect();
    assert_eq!((guids.len(), sink.points().len()), (95, 95));
    assert_eq!(driver.most_in_flight.lock().1, 4);
}

#[tokio::test(start_paused = true)]
async fn a_selector_covers_what_is_created_later_and_not_what_is_gone() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, _sink) = worker(&[&driver], WorkerConfig::default());
    worker.begin(lease("app=web", METRICS, 1_000)).unwrap();
    pass(1_500).await;
    assert!(driver.calls().is_empty(), "nothing to collect from");
    let web = add(&worker, &object("fake", "web", "web"));
    add(&worker, &object("fake", "db", "db"));
    add(&worker, &object("other", "no-driver", "web"));
    pass(1_000).await;
    assert_eq!(driver.calls().last().unwrap().guids, [web]);
    let late = add(&worker, &object("fake", "late", "web"));
    pass(1_000).await;
    assert_eq!(driver.calls().last().unwrap().guids.len(), 2);
    worker.remove(web);
    worker.remove(web);
    pass(1_000).await;
    assert_eq!(driver.calls().last().unwrap().guids, [late]);
    assert_eq!(worker.stats().objects, 3);
}

#[tokio::test(start_paused = true)]
async fn a_collection_that_has_not_ended_means_the_next_is_skipped_and_counted() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    add(&worker, &object("fake", "web", "web"));
    driver.set(Mode::Slow(Duration::from_millis(250)));
    worker.begin(lease("", METRICS, 100)).unwrap();
    pass(1_050).await;
    // The first runs over the first two ticks. The tick it meets waits for it, the one after that is skipped.
    assert_eq!(
        driver.most_in_flight.lock().1,
        1,
        "never two of one group at a time"
    );
    let stats = worker.stats();
    assert!((3..=4).contains(&stats.collections), "{stats:?}");
    assert!(stats.skipped >= 5, "{stats:?}");
    driver.set(Mode::Work);
    let before = sink.offers.lock().len();
    let skipped = {
        pass(300).await;
        worker.stats().skipped
    };
    pass(1_000).await;
    assert_eq!(worker.stats().skipped, skipped);
    assert!(sink.offers.lock().len() >= before + 10);
}

#[tokio::test(start_paused = true)]
async fn intervals_slept_through_are_left_out_and_the_rhythm_is_kept() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, _sink) = worker(&[&driver], WorkerConfig::default());
    add(&worker, &object("fake", "web", "web"));
    worker.begin(lease("", METRICS, 1_000)).unwrap();
    pass(100).await;
    // As after a suspend of the host: one step of an hour and a bit.
    tokio::time::advance(Duration::from_millis(3_600_200)).await;
    pass(0).await;
    pass(1_000).await;
    assert_eq!(driver.times(), [0, 3_600_300, 3_601_000]);
    assert_eq!(worker.stats().skipped, 0);
}

#[tokio::test(start_paused = true)]
async fn leases_end_by_the_runtimes_clock_unless_renewed() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    add(&worker, &object("fake", "web", "web"));
    let mut first = lease("", METRICS, 1_000);
    // The wall clock says it ended long ago, as after a jump; the ttl counts.
    first.expires = Some(Timestamp::EPOCH);
    first.ttl = Some(Duration::from_millis(5_500));
    worker.begin(first.clone()).unwrap();
    pass(4_000).await;
    worker.begin(first.clone()).unwrap();
    pass(4_100).await;
    assert_eq!(worker.stats().leases, 1, "it was renewed");
    assert_eq!(driver.times(), (0..=8).map(|s| s * 1_000).collect::<Vec<_>>());
    pass(10_000).await;
    assert_eq!(worker.stats().leases, 0);
    assert_eq!(driver.times().last(), Some(&9_000));
    assert_eq!(*sink.ended.lock(), [first.id]);
    assert!(!worker.end(first.id));
}

#[tokio::test(start_paused = true)]
async fn leases_stop_and_change_their_interval() {
    let driver = FakeDriver::new("fake", 0);
    let config = WorkerConfig {
        max_leases: 2,
        ..WorkerConfig::default()
    };
    let (worker, sink) = worker(&[&driver], config);
    add(&worker, &object("fake", "web", "web"));
    let first = lease("", METRICS, 1_000);
    worker.begin(first.clone()).unwrap();
    pass(2_500).await;
    assert_eq!(driver.times(), [0, 1_000, 2_000]);
    assert!(worker.retune(first.id, Duration::from_millis(100)));
    pass(1_050).await;
    let calls = driver.calls().len();
    assert!((13..=14).contains(&calls), "{calls}");
    assert!(worker.end(first.id));
    assert!(!worker.end(first.id) && !worker.retune(first.id, Duration::from_secs(1)));
    pass(5_000).await;
    assert_eq!(driver.calls().len(), calls);
    assert_eq!(*sink.ended.lock(), [first.id]);
    worker.begin(first.clone()).unwrap();
    worker.begin(first).unwrap();
    worker.begin(lease("", METRICS, 1_000)).unwrap();
    let error = worker.begin(lease("", METRICS, 1_000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
}

#[tokio::test(start_paused = true)]
async fn little_room_in_the_sink_slows_calls_and_stops_none() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    add(&worker, &object("fake", "web", "web"));
    *sink.used.lock() = 90;
    worker.begin(lease("", METRICS, 1_000)).unwrap();
    pass(300).await;
    assert!(driver.calls().is_empty());
    pass(300).await;
    assert_eq!(driver.times(), [500]);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_leases_that_vanish_leave_nothing() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, sink) = worker(&[&driver], WorkerConfig::default());
    for number in 0..10 {
        add(&worker, &object("fake", &format!("o{number}"), "web"));
    }
    let both = [Signal::Metrics, Signal::Logs];
    for number in 0..1_000_u64 {
        let mut lease = lease("", &both, 100 + number % 7);
        lease.ttl = Some(Duration::from_millis(500));
        worker.begin(lease).unwrap();
    }
    pass(300).await;
    assert_eq!((worker.stats().leases, worker.stats().tasks), (1_000, 1));
    pass(5_000).await;
    let stats = worker.stats();
    assert_eq!(
        (stats.leases, stats.tasks, stats.queue.length),
        (0, 1, 0),
        "{stats:?}"
    );
    assert_eq!(sink.ended.lock().len(), 1_000);
    let calls = driver.calls().len();
    pass(60_000).await;
    assert_eq!(driver.calls().len(), calls, "nothing is due any more");
}

#[tokio::test(start_paused = true)]
async fn what_waits_without_a_lease_is_bounded() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, _sink) = worker(&[&driver], WorkerConfig::default());
    let view = object("fake", "web", "web");
    for _ in 0..10_000 {
        add(&worker, &view);
    }
    assert_eq!(worker.stats().queue.length, 1, "one object, one change");
    for number in 0..20_000 {
        let view = object("fake", &format!("o{number}"), "web");
        worker.remove(add(&worker, &view));
        if number % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    pass(10).await;
    let stats = worker.stats();
    assert!(stats.queue.length < 4_200 && stats.objects <= 1, "{stats:?}");
}
