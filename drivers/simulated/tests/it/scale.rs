//! Ten thousand objects: one task, and time that is not felt. Bounds are wide, for busy machines and debug builds;
//! `benches/` measures.

use std::time::Duration;

use crate::support::{apply, spec};
use agent_api_driver::model::{Guid, OpId, Signal, TelemetryBatch};
use agent_api_driver::{
    CollectRequest, CollectTarget, DriverFactory, Handle, ObjectDriver, ShutdownMode, Target,
};
use agent_driver_simulated::SimulatedFactory;
use serde_json::{Value, json};
use tokio::time::Instant;

const OBJECTS: usize = 10_000;

async fn create_all(driver: &dyn ObjectDriver) -> Vec<(Guid, Handle)> {
    let mut objects = Vec::with_capacity(OBJECTS);
    for n in 0..OBJECTS {
        let (guid, value) = (
            Guid::generate(),
            spec(&format!("object-{n}"), json!({"lifetime": "1h"})),
        );
        objects.push((
            guid,
            apply(driver, guid, OpId::generate(), &value, None)
                .await
                .unwrap()
                .handle,
        ));
    }
    objects
}

#[tokio::test]
async fn ten_thousand_objects_cost_one_task_and_outlive_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let mut build = crate::support::build_request(Value::Null);
    build.state_dir = dir.path().join("state");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let driver = SimulatedFactory::new().build(build.clone()).await.unwrap();
    let began = Instant::now();
    let objects = create_all(&*driver).await;
    let created = began.elapsed();
    assert_eq!(tasks() - before, 1, "one task, whatever the number of objects");
    assert!(created < Duration::from_secs(20), "created in {created:?}");

    let began = Instant::now();
    let targets: Vec<_> = objects
        .iter()
        .map(|(guid, handle)| Target { guid: *guid, handle })
        .collect();
    let mut out = Vec::new();
    driver.observe(&targets, &mut out).await.unwrap();
    let observed = began.elapsed();
    assert_eq!(out.len(), OBJECTS);
    assert!(observed < Duration::from_secs(5), "observed in {observed:?}");

    let began = Instant::now();
    let collect: Vec<_> = objects
        .iter()
        .map(|(guid, handle)| CollectTarget {
            guid: *guid,
            handle,
            log_cursor: None,
            from_start: false,
        })
        .collect();
    let request = CollectRequest {
        targets: &collect,
        signals: &[Signal::Metrics],
        max_log_bytes: 0,
        deadline: Duration::from_secs(30),
    };
    let mut batch = TelemetryBatch::default();
    driver
        .collect(request, &mut batch, &mut Vec::new())
        .await
        .unwrap();
    let collected = began.elapsed();
    assert_eq!(batch.metrics.len(), 3 * OBJECTS);
    assert!(collected < Duration::from_secs(5), "collected in {collected:?}");

    // As a crash: without a shutdown.
    drop(driver);
    let began = Instant::now();
    let driver = SimulatedFactory::new().build(build).await.unwrap();
    let answers = driver.recover(&targets).await.unwrap();
    let recovered = began.elapsed();
    let adopted = answers
        .iter()
        .filter(|answer| matches!(answer.state, agent_api_driver::RecoveredState::Adopted(..)))
        .count();
    assert_eq!(adopted, OBJECTS);
    assert!(recovered < Duration::from_secs(20), "recovered in {recovered:?}");
    println!("created {created:?}, observed {observed:?}, collected {collected:?}, recovered {recovered:?}");
    driver
        .shutdown(ShutdownMode::StopObjects, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(tasks(), before);
}
