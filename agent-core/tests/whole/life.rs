//! Objects from creation to deletion.

use std::time::Duration;

use agent_core::StopMode;
use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::model::{
    Change as SpecChange, ControlAction, DeleteRequest, ErrorKind, ListRequest, Phase, PlanAction,
    PlanRequest, UpdateRequest, WatchEvent, WatchRequest,
};
use futures_util::StreamExt;
use serde_json::json;

use crate::world::{World, target};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life() {
    let state = tempfile::tempdir().unwrap();
    let world = World::start(state.path()).await;
    let mut watch = world.agent.watch(&WatchRequest::default()).unwrap();
    world.simple("a").await;
    world
        .until("it runs", |w| w.phase("a") == Some(Phase::Running))
        .await;
    for (action, phase) in [
        (ControlAction::Pause {}, Phase::Paused),
        (ControlAction::Resume {}, Phase::Running),
        (ControlAction::Restart { grace: None }, Phase::Running),
    ] {
        let verb = action.verb();
        world.submit(Change::Control(target("a"), action)).await.unwrap();
        world
            .until(verb.as_str(), |w| {
                let view = w.view("a").unwrap();
                view.phase == phase && view.operation.is_none()
            })
            .await;
    }
    let update = UpdateRequest {
        change: SpecChange::Merge(json!({"labels": {"tier": "web"}})),
        expected_generation: Some(1),
    };
    let accepted = world
        .submit(Change::Update(target("a"), update.clone()))
        .await
        .unwrap();
    assert_eq!(accepted.generation, 2);
    world
        .until("it has the label", |w| {
            let view = w.view("a").unwrap();
            view.labels.get("tier").is_some_and(|tier| tier == "web") && view.observed_generation == 2
        })
        .await;
    let error = world
        .submit(Change::Update(target("a"), update))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let plan = world
        .agent
        .plan(&PlanRequest::Delete {
            object: target("a"),
            cascade: false,
        })
        .await
        .unwrap();
    assert_eq!(plan.action, PlanAction::Delete);
    assert!(world.agent.explain(&target("a")).unwrap().history.len() >= 4);
    world.delete("a").await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, async {
        while let Some(event) = watch.next().await {
            if matches!(event.unwrap(), WatchEvent::Deleted { name, .. } if name.as_str() == "a") {
                return true;
            }
        }
        false
    });
    assert!(ended.await.unwrap(), "the watch tells of the end");
    assert!(world.substrate.is_empty());
    world.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cascading_delete_takes_dependents_along() {
    let state = tempfile::tempdir().unwrap();
    let world = World::start(state.path()).await;
    world.simple("a").await;
    for (name, on) in [("b", "a"), ("c", "b")] {
        world
            .create(json!({"kind": "simulated", "name": name, "depends_on": [{"name": on}]}))
            .await
            .unwrap();
    }
    world.simple("d").await;
    world
        .until("all run", |w| {
            ["a", "b", "c", "d"]
                .iter()
                .all(|name| w.phase(name) == Some(Phase::Running))
        })
        .await;
    let delete = |cascade| {
        let request = DeleteRequest {
            cascade,
            ..DeleteRequest::default()
        };
        world.submit(Change::Delete(target("a"), request))
    };
    assert_eq!(delete(false).await.unwrap_err().kind(), ErrorKind::Conflict);
    delete(true).await.unwrap();
    world
        .until("only d is left", |w| {
            w.agent.list(&ListRequest::default()).len() == 1
        })
        .await;
    assert_eq!(world.phase("d"), Some(Phase::Running));
    world.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_says_so_and_is_not_felt() {
    let state = tempfile::tempdir().unwrap();
    let world = World::start(state.path()).await;
    world
        .create(json!({"kind": "simulated", "name": "stuck", "spec": {"hang": ["create"]}}))
        .await
        .unwrap();
    world
        .create(json!({"kind": "simulated", "name": "crashing", "spec": {"panic": ["create"]}}))
        .await
        .unwrap();
    world.simple("fine").await;
    world
        .until("the fine one runs", |w| w.phase("fine") == Some(Phase::Running))
        .await;
    world
        .until("the stuck one says so", |w| {
            w.view("stuck").is_some_and(|view| view.operation.is_some())
        })
        .await;
    assert!(world.agent.health().ready);
    let report = world
        .agent
        .stop(StopMode::LeaveRunning, Duration::from_secs(2))
        .await;
    assert!(report.took < Duration::from_secs(10), "{report:?}");
    assert!(
        report
            .aborted
            .iter()
            .any(|line| line.starts_with("create of stuck")),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_objects_need_no_more_tasks_than_ten() {
    const MANY: usize = 10_000;
    let state = tempfile::tempdir().unwrap();
    let world = World::start(state.path()).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut seen = Vec::new();
    for (from, to) in [(0, 10), (10, MANY)] {
        futures_util::stream::iter(from..to)
            .for_each_concurrent(256, |i| {
                let world = &world;
                async move {
                    world.simple(&format!("o{i}")).await;
                }
            })
            .await;
        world.until("all run", |w| w.in_phase(Phase::Running) == to).await;
        world
            .until("no call is in flight", |w| {
                w.agent.drivers().iter().all(|driver| driver.in_flight == 0)
            })
            .await;
        let info = world.agent.info();
        world
            .until("operations have ended", |_| {
                seen.first().is_none_or(|(tasks, _)| alive() <= *tasks)
            })
            .await;
        seen.push((alive(), info.tasks));
    }
    assert_eq!(seen[0].1, seen[1].1);
    assert!(seen[1].0 <= seen[0].0, "{seen:?}");
    assert_eq!(world.agent.list(&ListRequest::default()).len(), MANY);
    let report = world.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
    assert!(report.is_clean(), "{report:?}");
}
