//! Lanes, caps and full inboxes.

use std::sync::atomic::Ordering;

use agent_core::api::agent::AgentApi;
use agent_core::api::model::{ErrorKind, Phase};
use futures_util::future::join_all;

use crate::fake_driver::Knobs;
use crate::world::world;

#[tokio::test(start_paused = true)]
async fn control_goes_ahead_of_what_came_before_it() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder.shards(1)).await;
    world.create("fake", "first").await.unwrap();
    world
        .until("first runs", |w| w.book.phase("first") == Some(Phase::Running))
        .await;
    let from = world.book.log.lock().len();
    let creates = join_all((0..20).map(|i| {
        let world = &world;
        async move { world.create("fake", &format!("o{i}")).await.map(|_| ()) }
    }));
    let control = async { world.signal("first").await.map(|_| ()) };
    let (created, signalled) = tokio::join!(creates, control);
    assert!(created.into_iter().all(|result| result.is_ok()) && signalled.is_ok());
    let log = world.book.log.lock()[from..].to_vec();
    let admitted: Vec<_> = log.iter().filter(|line| line.starts_with("admit")).collect();
    assert_eq!(admitted.len(), 21);
    assert_eq!(admitted[0], "admit signal first");
}

#[tokio::test(start_paused = true)]
async fn a_driver_has_so_many_calls_and_keeps_some_for_control() {
    let knobs = Knobs::with("fake", 4);
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "first").await.unwrap();
    world
        .until("first runs", |w| w.book.phase("first") == Some(Phase::Running))
        .await;
    for i in 0..20 {
        world.create("fake", &format!("gate-{i}")).await.unwrap();
    }
    world
        .until("three wait at the gate", |_| {
            knobs.now.load(Ordering::Relaxed) == 3
        })
        .await;
    // Twenty creates wait; control does not.
    world.signal("first").await.unwrap();
    world
        .until("the signal is done", |w| {
            w.book
                .log
                .lock()
                .iter()
                .any(|line| line == "settle signal first ok")
        })
        .await;
    let driver = &world.agent.info().drivers[0];
    assert_eq!(driver.in_flight, 3);
    knobs.gate.add_permits(20);
    world
        .until("all run", |w| w.book.in_phase(Phase::Running) == 21)
        .await;
    assert_eq!(knobs.most.load(Ordering::Relaxed), 3);
    assert_eq!(world.agent.info().drivers[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_driver_with_one_call_at_a_time_gets_one() {
    let knobs = Knobs::with("fake", 1);
    let world = world(&[&knobs], |builder| builder.shards(4)).await;
    knobs.gate.add_permits(100);
    for i in 0..30 {
        world.create("fake", &format!("gate-{i}")).await.unwrap();
    }
    world
        .until("all run", |w| w.book.in_phase(Phase::Running) == 30)
        .await;
    assert_eq!(knobs.most.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_answers_busy_and_takes_nothing_in() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder.shards(1).inbox(2)).await;
    let results = join_all((0..10).map(|i| {
        let world = &world;
        async move { world.create("fake", &format!("o{i}")).await }
    }))
    .await;
    let refused: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .collect();
    assert!(!refused.is_empty());
    for error in &refused {
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.is_retryable() && error.retry_delay().is_some());
    }
    assert_eq!(world.book.objects.lock().len(), 10 - refused.len());
    assert_eq!(world.counter("requests_busy"), refused.len() as u64);
    let queue = world.agent.info().queues["shard0.ordinary"];
    assert_eq!((queue.capacity, queue.dropped), (2, refused.len() as u64));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_call_is_shown_with_its_object() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    world.create("fake", "hang-1").await.unwrap();
    world
        .until("the call hangs", |_| knobs.now.load(Ordering::Relaxed) == 1)
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    let driver = &world.agent.info().drivers[0];
    assert!(driver.oldest_call_ms.unwrap() >= 12_000, "{driver:?}");
    let problems = world.problems();
    assert!(
        problems.contains("driver fake: oldest call 12 s (create of hang-1)"),
        "{problems}"
    );
    assert!(
        world.agent.health().ready,
        "one slow driver does not make the agent unready"
    );
    world
        .until("its deadline passed", |w| {
            w.book.phase("hang-1") == Some(Phase::Failed)
        })
        .await;
    assert_eq!(world.problems(), "");
}
