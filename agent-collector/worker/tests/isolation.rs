//! One driver's trouble is never another's.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod common;

use std::time::Duration;

use agent_api_model::{ErrorKind, Signal};
use agent_collector_worker::WorkerConfig;
use common::{FakeDriver, Mode, add, lease, object, pass, worker};

const METRICS: &[Signal] = &[Signal::Metrics];

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_panics_or_fails_delays_no_other() {
    for mode in [Mode::Hang, Mode::Panic, Mode::Fail] {
        let (bad, good) = (FakeDriver::new("bad", 0), FakeDriver::new("good", 0));
        bad.set(mode);
        let (worker, sink) = worker(&[&bad, &good], WorkerConfig::default());
        let lost = add(&worker, &object("bad", "b", "web"));
        let kept = add(&worker, &object("good", "g", "web"));
        let all = lease("", METRICS, 1_000);
        worker.begin(all.clone()).unwrap();
        pass(5_500).await;
        assert_eq!(good.times(), [0, 1_000, 2_000, 3_000, 4_000, 5_000], "{mode:?}");
        assert_eq!(sink.points()[&(all.id, kept)], 6, "{mode:?}");
        assert!(worker.stats().skipped >= 4, "{mode:?}: {:?}", worker.stats());
        bad.set(Mode::Work);
        pass(3_000).await;
        assert!(
            sink.points()[&(all.id, lost)] >= 2,
            "{mode:?}: it heals by itself"
        );
        worker.shutdown(Duration::from_secs(1)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_of_one_interval_leaves_the_others_of_the_same_driver_alone() {
    let driver = FakeDriver::new("fake", 0);
    let (worker, _sink) = worker(&[&driver], WorkerConfig::default());
    let slow = add(&worker, &object("fake", "slow", "slow"));
    add(&worker, &object("fake", "web", "web"));
    driver.set(Mode::Hang);
    worker.begin(lease("app=slow", METRICS, 60_000)).unwrap();
    pass(100).await;
    assert_eq!(driver.calls()[0].guids, [slow]);
    driver.set(Mode::Work);
    worker.begin(lease("app=web", METRICS, 1_000)).unwrap();
    pass(3_500).await;
    assert_eq!(driver.calls().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_calls_in_flight_and_drops_them_at_its_deadline() {
    let driver = FakeDriver::new("fake", 0);
    let (first, sink) = worker(&[&driver], WorkerConfig::default());
    add(&first, &object("fake", "web", "web"));
    driver.set(Mode::Slow(Duration::from_millis(300)));
    first.begin(lease("", METRICS, 1_000)).unwrap();
    pass(100).await;
    first.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(
        sink.offers.lock().len(),
        1,
        "what was in flight is still handed over"
    );
    assert_eq!(
        first.begin(lease("", METRICS, 1_000)).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    first.shutdown(Duration::from_secs(1)).await.unwrap();

    let (second, _sink) = worker(&[&driver], WorkerConfig::default());
    add(&second, &object("fake", "web", "web"));
    driver.set(Mode::Hang);
    second.begin(lease("", METRICS, 60_000)).unwrap();
    pass(100).await;
    let error = second.shutdown(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    pass(10).await;
    assert_eq!(driver.most_in_flight.lock().0, 0, "no call is left behind");
    assert_eq!(second.stats().tasks, 0);
}
