//! A program that has an agent inside: creates an object, waits until it runs, changes it, and ends in order.

use std::sync::Arc;
use std::time::Duration;

use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::model::{self, ObjectSpec, Phase, RequestMeta, Target, UpdateRequest};
use agent_core::{Agent, StopMode};
use agent_driver_file::FileFactory;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let state = tempfile::tempdir()?;
    let agent = Agent::builder()
        .state_dir(state.path())
        .driver(Arc::new(FileFactory), Value::Null)
        .build()
        .await?;

    let object: ObjectSpec =
        serde_json::from_value(json!({"kind": "file", "name": "greeting", "spec": {"content": "hello"}}))?;
    let me = || RequestMeta::local("embedding");
    let (accepted, stages) = agent.submit(me(), Change::Create(Box::new(object))).await?;
    println!(
        "accepted {} as {}, on disk after {} µs",
        accepted.name,
        accepted.guid,
        stages.durable_us.unwrap_or(0)
    );

    let target = Target::Guid(accepted.guid);
    let path = until(&agent, &target, accepted.generation).await?;
    println!("{path} says {:?}", std::fs::read_to_string(&path)?);

    let change = model::Change::Merge(json!({"spec": {"content": "good morning"}}));
    let update = UpdateRequest {
        change,
        expected_generation: Some(accepted.generation),
    };
    let (accepted, _) = agent.submit(me(), Change::Update(target.clone(), update)).await?;
    let path = until(&agent, &target, accepted.generation).await?;
    let content = std::fs::read_to_string(&path)?;
    println!("{path} says {content:?}");
    assert_eq!(content, "good morning");

    let report = agent.stop(StopMode::StopObjects, Duration::from_secs(5)).await;
    assert!(report.is_clean(), "{report:?}");
    Ok(())
}

/// Waits until this generation of the object runs, and returns where its file is.
async fn until(
    agent: &Agent,
    target: &Target,
    generation: u64,
) -> Result<String, Box<dyn std::error::Error>> {
    for _ in 0..1_000 {
        let view = agent.describe(target)?.view;
        if view.phase == Phase::Running && view.observed_generation >= generation {
            return Ok(view.details["path"]
                .as_str()
                .ok_or("a file has a path")?
                .to_owned());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("the file was not there in 10 s".into())
}
