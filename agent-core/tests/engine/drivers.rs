//! The registry, the heartbeat, gaps, and drivers that cannot be started.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_core::Agent;
use agent_core::api::agent::AgentApi;
use agent_core::api::driver::{DriverEvent, ObjectState, ObjectStatus};
use agent_core::api::model::{Condition, DriverState, ErrorKind, Kind, Phase};
use serde_json::json;

use crate::fake_driver::{FakeFactory, Knobs, Stub, evidence};
use crate::world::{World, world};

#[tokio::test(start_paused = true)]
async fn an_unknown_kind_is_answered_with_the_known_ones() {
    let knobs = Knobs::new("fake");
    let broken = Knobs::new("broken");
    let world = world(&[&knobs], |builder| {
        builder
            .driver(Arc::new(Stub), json!(null))
            .driver(Arc::new(FakeFactory(broken)), json!({"build": "fail"}))
            .driver(
                Arc::new(FakeFactory(Knobs::new("crash"))),
                json!({"build": "panic"}),
            )
    })
    .await;
    let mut said = Vec::new();
    for kind in ["fke", "other", "stub/job", "broken", "crash"] {
        let error = world.create(kind, "a").await.unwrap_err();
        said.push((error.kind(), error.to_string()));
    }
    assert_eq!(
        said,
        [
            (
                ErrorKind::NotFound,
                "a: kind: kind fke is not known; known are fake (did you mean fake?)".into()
            ),
            (
                ErrorKind::NotFound,
                "a: kind: kind other is not known; known are fake".into()
            ),
            (
                ErrorKind::Unsupported,
                "a: kind: driver stub was not compiled in (build the agent with the feature `stub`)".into()
            ),
            (
                ErrorKind::Unavailable,
                "a: kind: driver broken could not be started: no right to the substrate".into()
            ),
            (
                ErrorKind::Unavailable,
                "a: kind: driver crash could not be started: driver crash panicked in its start: fake panic"
                    .into()
            ),
        ]
    );
    assert!(world.create("fake", "a").await.is_ok(), "the others go on");
    let views = world.agent.drivers();
    let view = |name: &str| views.iter().find(|view| view.name.as_str() == name).unwrap();
    assert_eq!(view("stub").missing_feature.as_deref(), Some("stub"));
    assert!(matches!(
        view("broken").health,
        Some(DriverState::Unavailable { .. })
    ));
    assert_eq!(view("fake").health, Some(DriverState::Healthy));
    assert!(world.problems().contains("driver broken could not be started"));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_configuration_is_refused_with_its_path() {
    let state = tempfile::tempdir().unwrap();
    let driver = || Arc::new(FakeFactory(Knobs::new("fake")));
    let error = Agent::builder()
        .state_dir(state.path())
        .driver(driver(), json!({"wrong": 1}))
        .build()
        .await
        .unwrap_err();
    assert_eq!(error.path(), Some("drivers.fake.wrong"));
    let error = Agent::builder().build().await.unwrap_err();
    assert_eq!(error.path(), Some("state_dir"));
    let error = Agent::builder()
        .state_dir(state.path())
        .driver(driver(), json!(null))
        .driver(driver(), json!(null))
        .build()
        .await
        .unwrap_err();
    assert!(error.message().contains("two drivers are named fake"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_agent_per_state_directory() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let error = Agent::builder()
        .state_dir(world.agent.state_dir())
        .build()
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Conflict, Some("state_dir"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_schema_of_a_kind_is_a_whole_object() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let schema = world.agent.schema(&Kind::new("fake").unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    assert!(validator.is_valid(&json!({"kind": "fake", "name": "a", "spec": {"size": 1}})));
    assert!(!validator.is_valid(&json!({"kind": "fake", "name": "a", "spec": {"size": "big"}})));
    assert!(!validator.is_valid(&json!({"kind": "other", "name": "a"})));
    assert!(!validator.is_valid(&json!({"kind": "fake", "name": "a", "colour": 1})));
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_finds_what_no_event_told() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let mut guids = Vec::new();
    for i in 0..10 {
        guids.push(world.create("fake", &format!("o{i}")).await.unwrap().guid);
    }
    world
        .until("all run", |w| w.book.in_phase(Phase::Running) == 10)
        .await;
    world
        .until("two walks", |w| w.counter("heartbeat_observed") >= 20)
        .await;
    assert_eq!(world.counter("heartbeat_corrected"), 0, "nothing differed");
    assert!(
        !world
            .book
            .log
            .lock()
            .iter()
            .any(|line| line.starts_with("observe"))
    );
    knobs
        .observed
        .lock()
        .insert(guids[3], ObjectStatus::new(ObjectState::Paused, evidence(7)));
    world
        .until("corrected", |w| w.book.phase("o3") == Some(Phase::Paused))
        .await;
    assert_eq!(world.counter("heartbeat_corrected"), 1);

    // The driver did not count this one up.
    let drifted = |holds: bool| {
        let mut status = ObjectStatus::new(ObjectState::Running, evidence(1));
        status.conditions =
            Vec::from_iter(holds.then(|| Condition::new(Condition::DRIFTED, true, "Edited", "")));
        status
    };
    knobs.observed.lock().insert(guids[5], drifted(true));
    let shown = |world: &World| world.book.view("o5").unwrap().conditions.len();
    world.until("drift is told", |w| shown(w) == 1).await;
    let walked = world.counter("heartbeat_observed");
    world
        .until("another walk", |w| w.counter("heartbeat_observed") >= walked + 20)
        .await;
    assert_eq!(world.counter("heartbeat_corrected"), 2, "told once");
    knobs.observed.lock().insert(guids[5], drifted(false));
    world.until("it is no more", |w| shown(w) == 0).await;
    assert_eq!(world.counter("heartbeat_corrected"), 3);
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_the_driver_is_asked_at_once() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| {
        builder.heartbeat_interval(Duration::from_secs(3_600))
    })
    .await;
    let one = world.create("fake", "one").await.unwrap().guid;
    let two = world.create("fake", "two").await.unwrap().guid;
    world
        .until("both run", |w| w.book.in_phase(Phase::Running) == 2)
        .await;
    for guid in [one, two] {
        let paused = ObjectStatus::new(ObjectState::Paused, evidence(7));
        knobs.observed.lock().insert(guid, paused);
    }
    knobs.events.send(DriverEvent::Gap(Some(one))).await.unwrap();
    world
        .until("one is seen", |w| w.book.phase("one") == Some(Phase::Paused))
        .await;
    assert_eq!(world.book.phase("two"), Some(Phase::Running));
    knobs.events.send(DriverEvent::Gap(None)).await.unwrap();
    world
        .until("two is seen", |w| w.book.phase("two") == Some(Phase::Paused))
        .await;
    assert_eq!(world.counter("driver_gaps"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_or_panics_leaves_the_heartbeat() {
    for how in ["end", "panic"] {
        let knobs = Knobs::new("fake");
        let world = world(&[&knobs], |builder| builder).await;
        let guid = world.create("fake", "a").await.unwrap().guid;
        world
            .until("it runs", |w| w.book.phase("a") == Some(Phase::Running))
            .await;
        let reason = how.to_owned();
        knobs
            .events
            .send(DriverEvent::Health(DriverState::Degraded { reason }))
            .await
            .unwrap();
        world
            .until("it is told", |w| {
                matches!(w.agent.drivers()[0].health, Some(DriverState::Degraded { .. }))
            })
            .await;
        assert!(world.problems().contains("the heartbeat finds what changes"));
        knobs
            .observed
            .lock()
            .insert(guid, ObjectStatus::new(ObjectState::Paused, evidence(7)));
        world
            .until("the heartbeat sees", |w| w.book.phase("a") == Some(Phase::Paused))
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_without_evidence_is_recovered_not_observed() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| builder).await;
    let guid = world.create("fake", "a").await.unwrap().guid;
    world
        .until("it runs", |w| w.book.phase("a") == Some(Phase::Running))
        .await;
    world.book.set(guid, |view| view.phase = Phase::Unknown);
    world
        .until("it is found again", |w| w.book.phase("a") == Some(Phase::Running))
        .await;
    assert_eq!(knobs.recovers.load(Ordering::Relaxed), 1);
    assert!(world.book.view("a").unwrap().adopted);
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_interval_can_be_changed() {
    let knobs = Knobs::new("fake");
    let world = world(&[&knobs], |builder| {
        builder.heartbeat_interval(Duration::from_secs(60))
    })
    .await;
    world.create("fake", "a").await.unwrap();
    world.agent.set_heartbeat_interval(Duration::from_millis(100));
    assert_eq!(world.agent.heartbeat_interval(), Duration::from_millis(100));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        knobs.observes.load(Ordering::Relaxed) >= 8,
        "at once, not after a minute"
    );
}
