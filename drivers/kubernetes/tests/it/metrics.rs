//! Metrics of objects on the lab's cluster, from `stats/summary` of its node.

use std::time::Duration;

use agent_api_driver::model::{MetricKind, MetricPoint, MetricValue, ObjectSpec, Signal, TelemetryBatch};
use agent_api_driver::{CollectRequest, CollectTarget, ObjectState};
use kube::api::DeleteParams;
use tokio::time::{Instant, sleep};

use crate::support::{Object, PATIENCE, World, shell};

async fn collect(world: &World, objects: &[&Object]) -> TelemetryBatch {
    let mut batch = TelemetryBatch::default();
    let targets: Vec<CollectTarget<'_>> = objects
        .iter()
        .map(|object| CollectTarget {
            guid: object.guid,
            handle: &object.handle,
            log_cursor: None,
            from_start: false,
        })
        .collect();
    let request = CollectRequest {
        targets: &targets,
        signals: &[Signal::Metrics],
        max_log_bytes: 0,
        deadline: Duration::from_secs(20),
    };
    world
        .driver
        .collect(request, &mut batch, &mut Vec::new())
        .await
        .unwrap();
    batch
}

fn find<'a>(batch: &'a TelemetryBatch, object: &Object, name: &str) -> Option<&'a MetricPoint> {
    batch
        .metrics
        .iter()
        .find(|point| point.guid == object.guid && point.name == name)
}

fn value(point: &MetricPoint) -> f64 {
    match point.value {
        MetricValue::Int(value) => f64::from(u32::try_from(value).unwrap_or(u32::MAX)),
        MetricValue::Float(value) => value,
    }
}

/// Until the node tells of the object, and of this much processor time.
async fn until_cpu(world: &World, object: &Object, least: f64) -> TelemetryBatch {
    let by = Instant::now() + PATIENCE;
    loop {
        let batch = collect(world, &[object]).await;
        let seen = find(&batch, object, "process.cpu.time").map(value);
        if seen.is_some_and(|seen| seen > least) {
            return batch;
        }
        assert!(
            Instant::now() < by,
            "cpu time {seen:?}, expected more than {least}: {:?}",
            batch.losses
        );
        sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn pods_of_an_object_are_summed_up_and_counters_only_grow() {
    let world = World::new().await;
    let script = "trap 'exit 0' TERM; i=0; while true; do i=$((i+1)); done";
    let mut spec: ObjectSpec = world.spec("deployment", "busy", shell(script));
    spec.resources.cpu = Some("50m".parse().unwrap());
    let busy = world.make(&spec).await;
    world.until(&busy, ObjectState::Running).await;
    let batch = until_cpu(&world, &busy, 0.0).await;
    let cpu = find(&batch, &busy, "process.cpu.time").unwrap();
    assert_eq!((cpu.kind, cpu.unit.as_ref()), (MetricKind::Counter, "s"));
    assert!(value(find(&batch, &busy, "process.memory.usage").unwrap()) > 0.0);
    assert_eq!(value(find(&batch, &busy, "agent.object.restarts").unwrap()), 0.0);
    let replicas: Vec<(String, f64)> = batch
        .metrics
        .iter()
        .filter(|point| point.name == "agent.kubernetes.replicas")
        .map(|point| (point.attributes[0].1.to_string(), value(point)))
        .collect();
    assert!(
        replicas.contains(&("ready".into(), 1.0)) && replicas.contains(&("desired".into(), 1.0)),
        "{replicas:?}"
    );
    let phase = find(&batch, &busy, "agent.kubernetes.pods").unwrap();
    assert_eq!((phase.attributes[0].1.as_ref(), value(phase)), ("Running", 1.0));
    let pod = find(&batch, &busy, "k8s.pod.memory.working_set")
        .unwrap()
        .attributes[0]
        .1
        .to_string();
    assert!(pod.starts_with("busy-"), "{pod}");

    // The pod is replaced: what the old one used still counts.
    let before = value(cpu);
    world
        .api("v1", "Pod")
        .delete(&pod, &DeleteParams::default())
        .await
        .unwrap();
    let by = Instant::now() + PATIENCE;
    loop {
        let batch = collect(&world, &[&busy]).await;
        let seen = find(&batch, &busy, "process.cpu.time").map_or(before, value);
        assert!(seen >= before, "shrank from {before} to {seen}");
        let now =
            find(&batch, &busy, "k8s.pod.memory.working_set").map(|point| point.attributes[0].1.to_string());
        if now.is_some_and(|now| now != pod) {
            break;
        }
        assert!(Instant::now() < by, "the new pod has no numbers");
        sleep(Duration::from_millis(500)).await;
    }
    until_cpu(&world, &busy, before).await;
    world.delete(busy.guid, Some(&busy.handle)).await.unwrap();
    assert!(collect(&world, &[&busy]).await.metrics.is_empty());
    world.end().await;
}
