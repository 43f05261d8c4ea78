//! What goes out on the bus.

use std::time::Duration;

use agent_core::StopMode;
use agent_core::api::agent::AgentApi;
use agent_core::api::bus_out::{BusReader, StartAt};
use agent_core::api::model::{ErrorKind, LogRequest, MonitorRequest, Phase, Signal};
use agent_core::api::reporter::Heartbeat;
use futures_util::StreamExt;
use serde_json::json;

use crate::world::{World, target};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifecycle_heartbeat_and_telemetry_reach_their_topics() {
    let state = tempfile::tempdir().unwrap();
    let world = World::start(state.path()).await;
    world.agent.set_heartbeat_interval(Duration::from_millis(50));
    let mut reports = world
        .bus
        .subscribe("agent.out.agent.>", StartAt::Now)
        .await
        .unwrap();
    world
        .create(json!({"kind": "simulated", "name": "a", "monitor": {"interval": "50ms"}}))
        .await
        .unwrap();
    world
        .until("it runs", |w| w.phase("a") == Some(Phase::Running))
        .await;
    let request = MonitorRequest {
        object: Some(target("a")),
        signals: vec![Signal::Metrics],
        interval: Duration::from_millis(20),
        ..MonitorRequest::default()
    };
    let lease = world.agent.monitor(&request).await.unwrap();
    let mut wanted = vec![
        "agent.out.agent.status".to_owned(),
        "agent.out.agent.heartbeat".to_owned(),
        "agent.out.agent.metric".to_owned(),
        lease.topic.clone(),
    ];
    let all = tokio::time::timeout(DEADLINE, async {
        while !wanted.is_empty() {
            let message = reports.next().await.unwrap().unwrap().message;
            if message.topic.as_str().ends_with("heartbeat") {
                let beat: Heartbeat = serde_json::from_slice(&message.envelope.data).unwrap();
                assert!(beat.health.live && beat.drivers.len() == 1);
            }
            wanted.retain(|topic| topic != message.topic.as_str());
        }
    });
    assert!(all.await.is_ok(), "never came: {wanted:?}");
    world.agent.unmonitor(lease.id).await.unwrap();
    let error = world.agent.unmonitor(lease.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let report = world.agent.stop(StopMode::LeaveRunning, DEADLINE).await;
    assert!(report.is_clean(), "{report:?}");
    let mut last = None;
    while let Some(delivery) = reports.next().now_or_never_flat() {
        if delivery.message.topic.as_str().ends_with("heartbeat") {
            last = Some(delivery.message.envelope.data);
        }
    }
    let beat: Heartbeat = serde_json::from_slice(&last.unwrap()).unwrap();
    assert!(
        beat.health.draining,
        "the last heartbeat says that the agent leaves"
    );
}

trait Flat<T> {
    fn now_or_never_flat(self) -> Option<T>;
}

impl<T, E: std::fmt::Debug, F: Future<Output = Option<Result<T, E>>>> Flat<T> for F {
    fn now_or_never_flat(self) -> Option<T> {
        futures_util::FutureExt::now_or_never(self)
            .flatten()
            .map(Result::unwrap)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_as_frames() {
    let state = tempfile::tempdir().unwrap();
    let world = World::start(state.path()).await;
    world
        .create(json!({"kind": "simulated", "name": "a", "spec": {"logs": {"rate": 1000}}}))
        .await
        .unwrap();
    world
        .until("it runs", |w| w.phase("a") == Some(Phase::Running))
        .await;
    let request = LogRequest {
        follow: true,
        ..LogRequest::default()
    };
    let mut frames = world.agent.logs(&target("a"), &request).await.unwrap();
    let frame = tokio::time::timeout(DEADLINE, frames.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(!frame.lines.is_empty() && !frame.cursor.is_empty());
    drop(frames);
    world.agent.stop(StopMode::StopObjects, DEADLINE).await;
}
