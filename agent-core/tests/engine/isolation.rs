//! One driver's trouble never becomes another's.

use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::driver::{DriverEvent, ObjectState, ObjectStatus};
use agent_core::api::model::{ErrorKind, ListRequest, Phase, WatchRequest};
use tokio::time::Instant;

use crate::fake_driver::{Knobs, evidence};
use crate::world::{spec, target, world};

#[tokio::test(start_paused = true)]
async fn a_hung_driver_is_not_felt_by_another() {
    let (bad, good) = (Knobs::new("bad"), Knobs::new("good"));
    let world = world(&[&bad, &good], |builder| builder).await;
    for i in 0..200 {
        world.create("bad", &format!("hang-{i}")).await.unwrap();
    }
    let began = Instant::now();
    for i in 0..50 {
        world.create("good", &format!("good-{i}")).await.unwrap();
    }
    world
        .until("the good ones run", |w| w.book.in_phase(Phase::Running) == 50)
        .await;
    assert!(began.elapsed() < Duration::from_secs(1), "of the paused clock");
    assert_eq!(
        bad.now.load(Ordering::Relaxed),
        48,
        "its cap, less what control keeps"
    );
    // What hangs is ended by its deadline, and the next ones get their turn.
    world
        .until("the bad ones have failed", |w| {
            w.book.in_phase(Phase::Failed) == 200
        })
        .await;
    let errors = world.book.errors.lock();
    assert!(errors.values().all(|error| error.kind() == ErrorKind::Timeout));
    assert_eq!(
        errors["hang-7"].to_string(),
        "hang-7: driver bad did not finish create in 30s"
    );
    drop(errors);
    assert_eq!(world.counter("operations_timed_out"), 200);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_of_that_call() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    for i in 0..20 {
        world.create("fake", &format!("panic-{i}")).await.unwrap();
        world.create("fake", &format!("good-{i}")).await.unwrap();
    }
    world
        .until("all have ended", |w| {
            (w.book.in_phase(Phase::Running), w.book.in_phase(Phase::Failed)) == (20, 20)
        })
        .await;
    let error = world.book.errors.lock()["panic-3"].clone();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(
        error.message().contains("panicked in create: fake panic"),
        "{error}"
    );
    assert_eq!(world.counter("operations_panicked"), 20);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_everywhere_leaves_the_agent_working() {
    let (bad, good) = (Knobs::new("bad"), Knobs::new("good"));
    let world = world(&[&bad, &good], |builder| builder).await;
    world.create("bad", "a").await.unwrap();
    world.create("bad", "still-there").await.unwrap();
    world.create("good", "b").await.unwrap();
    world
        .until("all run", |w| w.book.in_phase(Phase::Running) == 3)
        .await;
    bad.panic_everywhere.store(true, Ordering::Relaxed);
    let error = world.create("bad", "c").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().contains("panicked in validate"), "{error}");
    world.delete("a").await.unwrap();
    world
        .until("the delete failed", |w| w.book.errors.lock().contains_key("a"))
        .await;
    // Heartbeats: the panicking driver is asked in vain, the other is asked all the same.
    world
        .until("heartbeats", |w| w.counter("heartbeat_failed") >= 2)
        .await;
    assert!(good.observes.load(Ordering::Relaxed) >= 1);
    let problems = world.problems();
    assert!(problems.contains("driver bad"), "{problems}");
    assert!(!problems.contains("driver good"), "{problems}");
    world.signal("b").await.unwrap();
    assert!(world.agent.health().ready);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_hangs_is_not_asked_again_meanwhile() {
    let (bad, good) = (Knobs::new("bad"), Knobs::new("good"));
    let world = world(&[&bad, &good], |builder| {
        builder
            .shards(1)
            .heartbeat_interval(Duration::from_secs(1))
            .operation_timeout(Duration::from_secs(10))
    })
    .await;
    world.create("bad", "a").await.unwrap();
    world.create("good", "b").await.unwrap();
    world
        .until("both run", |w| w.book.in_phase(Phase::Running) == 2)
        .await;
    bad.hang_observe.store(true, Ordering::Relaxed);
    world
        .until("skipped", |w| w.counter("heartbeat_skipped") >= 5)
        .await;
    assert_eq!(bad.observes.load(Ordering::Relaxed), 1);
    assert!(good.observes.load(Ordering::Relaxed) >= 5);
    bad.hang_observe.store(false, Ordering::Relaxed);
    world
        .until("asked again after its deadline", |_| {
            bad.observes.load(Ordering::Relaxed) >= 3
        })
        .await;
    assert_eq!(world.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_blocks_its_thread_is_told_all_the_same() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let mut object = spec("fake", "block-1");
    object.labels.insert("quick".into(), "yes".into());
    world.submit(Change::Create(Box::new(object))).await.unwrap();
    world
        .until("it is told", |w| w.book.phase("block-1") == Some(Phase::Failed))
        .await;
    assert_eq!(world.book.errors.lock()["block-1"].kind(), ErrorKind::Timeout);
    assert_eq!(
        world.agent.info().drivers[0].in_flight,
        1,
        "the call still holds its place"
    );
    knobs.release.store(true, Ordering::Relaxed);
    world
        .until("it gave its place back", |w| {
            w.agent.info().drivers[0].in_flight == 0
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn as_many_tasks_for_ten_thousand_objects_as_for_ten() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut seen = Vec::new();
    for (from, to) in [(0, 10), (10, 10_000)] {
        for i in from..to {
            world.create("fake", &format!("o{i}")).await.unwrap();
        }
        world
            .until("all run", |w| w.book.in_phase(Phase::Running) == to)
            .await;
        world
            .until("calls ended", |w| w.agent.info().drivers[0].in_flight == 0)
            .await;
        seen.push((alive(), world.agent.info().tasks));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(
        seen[0].0,
        2 + 1 + 2,
        "shards, one driver's events, heartbeat and compactor"
    );
    assert_eq!(world.agent.list(&ListRequest::default()).len(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn dropped_without_a_stop_nothing_goes_on() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "hang-1").await.unwrap();
    let watch = world.agent.watch(&WatchRequest::default()).unwrap();
    world
        .until("the call hangs", |_| knobs.now.load(Ordering::Relaxed) == 1)
        .await;
    drop(world);
    drop(watch);
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while alive() > before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(ended.await.is_ok(), "{} tasks go on", alive() - before);
    assert_eq!(knobs.now.load(Ordering::Relaxed), 0, "the call was dropped");
}

#[tokio::test(start_paused = true)]
async fn events_reach_the_shard_and_timers_fire() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let guid = world.create("fake", "a").await.unwrap().guid;
    world
        .until("it runs", |w| w.book.phase("a") == Some(Phase::Running))
        .await;
    knobs
        .events
        .send(DriverEvent::Status(agent_core::api::driver::Observed {
            guid,
            handle: None,
            status: ObjectStatus::new(ObjectState::Exited, evidence(5)),
        }))
        .await
        .unwrap();
    world
        .until("it ended", |w| w.book.phase("a") == Some(Phase::Succeeded))
        .await;
    // The fake manager starts it again a second later.
    world
        .until("it runs again", |w| w.book.phase("a") == Some(Phase::Running))
        .await;
    assert!(world.book.log.lock().iter().any(|line| line == "wake"));
    assert!(world.agent.describe(&target("a")).is_ok());
}
