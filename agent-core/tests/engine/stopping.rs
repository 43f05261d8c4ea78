//! Draining and the ordered stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_core::StopMode;
use agent_core::api::agent::AgentApi;
use agent_core::api::driver::ShutdownMode;
use agent_core::api::model::{ErrorKind, Phase, WatchRequest};
use futures_util::StreamExt;

use crate::fake_driver::Knobs;
use crate::world::world;

const DEADLINE: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_drain_ends_what_is_under_way_and_refuses_the_rest() {
    let knobs = Knobs::with("fake", 2);
    let drained = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&drained);
    let world = world(&[&knobs], |builder| {
        builder.on_drain(move || {
            told.fetch_add(1, Ordering::Relaxed);
        })
    })
    .await;
    for i in 0..5 {
        world.create("fake", &format!("gate-{i}")).await.unwrap();
    }
    let agent = world.agent.clone();
    let drain = tokio::spawn(async move { agent.drain(Duration::from_secs(60)).await });
    world.until("draining", |w| w.agent.health().draining).await;
    let error = world.create("fake", "late").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!world.agent.health().ready);
    assert_eq!(drained.load(Ordering::Relaxed), 0);
    knobs.gate.add_permits(5);
    drain.await.unwrap().unwrap();
    assert_eq!(drained.load(Ordering::Relaxed), 1);
    assert_eq!(world.book.in_phase(Phase::Running), 5);
    assert!(world.agent.list(&Default::default()).len() == 5, "reads go on");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_by_its_deadline() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "hang-1").await.unwrap();
    let began = tokio::time::Instant::now();
    world.agent.drain(Duration::from_secs(3)).await.unwrap();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(3) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_in_order_and_complete() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "a").await.unwrap();
    world
        .until("it runs", |w| w.book.phase("a") == Some(Phase::Running))
        .await;
    let mut watch = world.agent.watch(&WatchRequest::default()).unwrap();
    let report = world.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
    assert!(report.is_clean(), "{report:?}");
    assert!(report.took < Duration::from_secs(1), "{report:?}");
    assert_eq!(alive(), before, "no task is left");
    assert_eq!(*knobs.shutdowns.lock(), [ShutdownMode::LeaveRunning]);
    assert_eq!(world.book.log.lock().last().map(String::as_str), Some("seal"));
    while watch.next().await.is_some() {}
    let error = world.create("fake", "late").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(world.agent.health().draining);
    let again = world.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
    assert_eq!(again, report, "a second stop gets the same report");
}

#[tokio::test(start_paused = true)]
async fn a_hung_driver_does_not_hold_the_stop_up() {
    let knobs = Knobs::with("fake", 2);
    let world = world(&[&knobs], |builder| builder).await;
    for i in 0..3 {
        world.create("fake", &format!("hang-{i}")).await.unwrap();
    }
    knobs.hang_shutdown.store(true, Ordering::Relaxed);
    world
        .until("it hangs", |_| knobs.now.load(Ordering::Relaxed) == 1)
        .await;
    let report = world.agent.stop(StopMode::StopObjects, DEADLINE).await;
    assert!(report.took <= DEADLINE + Duration::from_millis(600), "{report:?}");
    assert_eq!((report.aborted.len(), report.not_begun), (1, 2), "{report:?}");
    assert!(report.aborted[0].starts_with("create of hang-"), "{report:?}");
    assert_eq!(report.problems, ["driver fake: did not end in time"]);
    assert_eq!(*knobs.shutdowns.lock(), [ShutdownMode::StopObjects]);
    assert!(world.book.log.lock().iter().any(|line| line == "seal"));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_ends_and_what_waits_is_left_to_the_next_start() {
    let knobs = Knobs::with("fake", 2);
    let world = world(&[&knobs], |builder| builder.shards(1)).await;
    for i in 0..3 {
        world.create("fake", &format!("gate-{i}")).await.unwrap();
    }
    world
        .until("one is in flight", |_| knobs.now.load(Ordering::Relaxed) == 1)
        .await;
    let agent = world.agent.clone();
    let stop = tokio::spawn(async move { agent.stop(StopMode::LeaveRunning, DEADLINE).await });
    world.until("stopping", |w| w.agent.health().draining).await;
    knobs.gate.add_permits(3);
    let report = stop.await.unwrap();
    assert_eq!(
        (report.aborted.len(), report.not_begun, report.is_clean()),
        (0, 2, true),
        "{report:?}"
    );
    assert_eq!(world.book.in_phase(Phase::Running), 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_forces() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "hang-1").await.unwrap();
    world
        .until("it hangs", |_| knobs.now.load(Ordering::Relaxed) == 1)
        .await;
    let agent = world.agent.clone();
    let stop =
        tokio::spawn(async move { agent.stop(StopMode::LeaveRunning, Duration::from_secs(600)).await });
    world.until("stopping", |w| w.agent.health().draining).await;
    world.agent.force_stop();
    let report = stop.await.unwrap();
    assert!(report.took < Duration::from_secs(5), "{report:?}");
    assert_eq!(report.aborted.len(), 1);
    assert!(world.book.log.lock().iter().any(|line| line == "seal"));
}

#[tokio::test(start_paused = true)]
async fn loops_that_turn_are_alive() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.agent.liveness(Duration::from_secs(3)).unwrap();
    assert!(world.agent.health().live);
    world.agent.extend_info(|info| {
        info.tasks.insert("bus".into(), 1);
    });
    assert_eq!(world.agent.info().tasks["bus"], 1);
    assert_eq!(
        world.agent.reload().await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}
