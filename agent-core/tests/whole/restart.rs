//! What is there after the agent was away.

use std::time::Duration;

use agent_core::StopMode;
use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::model::{ErrorKind, ExitStatus, ObjectSpec, Phase, RequestId, RequestMeta};
use serde_json::json;

use crate::world::{World, builder};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_outlive_the_agent_and_are_adopted() {
    let state = tempfile::tempdir().unwrap();
    let first = World::start(state.path()).await;
    for i in 0..20 {
        first.simple(&format!("o{i}")).await;
    }
    first.until("all run", |w| w.in_phase(Phase::Running) == 20).await;
    let guid = first.view("o3").unwrap().guid;
    let report = first.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(first.substrate.len(), 20);
    let gone = first.view("o7").unwrap().guid;
    let substrate = first.substrate.clone();
    assert!(substrate.end(gone, ExitStatus::with_code(3)));
    drop(first);

    let second = World::on(state.path(), substrate).await;
    let recovery = second.agent.recovery();
    assert_eq!(
        (recovery.objects, recovery.adopted, recovery.exited),
        (20, 19, 1),
        "{recovery:?}"
    );
    second
        .until("nineteen run", |w| w.in_phase(Phase::Running) == 19)
        .await;
    let view = second.view("o3").unwrap();
    assert!(view.adopted && view.guid == guid);
    let ended = second.view("o7").unwrap();
    assert_eq!(
        (ended.phase, ended.exit.as_ref().unwrap().code),
        (Phase::Failed, Some(3))
    );
    for i in 0..20 {
        second.delete(&format!("o{i}")).await.unwrap();
    }
    second
        .until("all are gone", |w| w.agent.list(&Default::default()).is_empty())
        .await;
    assert!(second.substrate.is_empty());
    second.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_without_a_stop_nothing_accepted_is_lost() {
    let state = tempfile::tempdir().unwrap();
    let first = World::start(state.path()).await;
    for i in 0..50 {
        first.simple(&format!("o{i}")).await;
    }
    let substrate = first.substrate.clone();
    drop(first);
    // Its aborted tasks let go of the directory when the runtime drops them.
    let bus = std::sync::Arc::default();
    let until = tokio::time::Instant::now() + DEADLINE;
    let second = loop {
        match builder(state.path(), &substrate, &bus).build().await {
            Ok(agent) => {
                break World {
                    agent,
                    bus,
                    substrate,
                };
            }
            Err(error) if error.kind() == ErrorKind::Conflict && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    };
    second
        .until("all run", |w| w.in_phase(Phase::Running) == 50)
        .await;
    assert_eq!(second.substrate.len(), 50, "each was made once");
    second.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_key_gets_the_first_reply_also_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let first = World::start(state.path()).await;
    let mut meta = RequestMeta::local("test");
    meta.idempotency_key = Some(RequestId::new("key-1").unwrap());
    let spec: ObjectSpec = serde_json::from_value(json!({"kind": "simulated", "name": "a"})).unwrap();
    let create = Change::Create(Box::new(spec));
    let (accepted, _) = first.agent.submit(meta.clone(), create.clone()).await.unwrap();
    assert!(!accepted.repeated);
    let (again, _) = first.agent.submit(meta.clone(), create.clone()).await.unwrap();
    assert!(again.repeated && again.guid == accepted.guid && again.op_id == accepted.op_id);
    first.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
    let substrate = first.substrate.clone();
    drop(first);
    let second = World::on(state.path(), substrate).await;
    let (again, _) = second.agent.submit(meta, create.clone()).await.unwrap();
    assert!(again.repeated && again.guid == accepted.guid);
    let error = second.submit(create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    second.agent.stop(StopMode::StopObjects, DEADLINE).await;
}
