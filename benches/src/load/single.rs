//! One request at a time: a describe, a create until it is accepted, a create until the process runs.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::{Agent, Bench, object};
use crate::births::Births;
use crate::floor::{Echo, Kids, commits, echoes};
use crate::row::{Row, Times};

/// Bytes of a create and of its reply, about.
const REQUEST: usize = 256;
const REPLY: usize = 256;

/// Describe, which waits for nobody. Floor: an echo over a Unix socket.
pub async fn describe(bench: &Bench) -> Result<Vec<Row>> {
    let samples = bench.samples(2_000);
    let dir = bench.fresh("describe")?;
    let floor = echoes(&dir, samples, REQUEST, 2 * REPLY)?;
    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let accepted = agent
        .client
        .create(&object("simulated", "a", json!({}), json!({}))?)
        .await?;
    let target = agent_api_model::Target::Guid(accepted.guid);
    let mut times = Times::new();
    for i in 0..samples + 20 {
        let start = Instant::now();
        agent.client.describe(&target).await?;
        if i >= 20 {
            times.record(start.elapsed());
        }
    }
    agent.stop()?;
    Ok(times.rows("describe", Some(&floor)))
}

/// Create → accepted, for a simulated object. Floor: an echo over a Unix socket and one commit.
pub async fn create_accepted(bench: &Bench) -> Result<Vec<Row>> {
    let samples = bench.samples(2_000);
    let dir = bench.fresh("create-accepted")?;
    let mut echo = Echo::start(&dir, REQUEST, REPLY, commits(&dir)?)?;
    let mut floor = Times::new();
    for _ in 0..samples {
        let start = Instant::now();
        echo.ask(REQUEST, REPLY)?;
        floor.record(start.elapsed());
    }

    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let mut times = Times::new();
    for i in 0..samples + 20 {
        let object = object("simulated", &format!("a-{i}"), json!({}), json!({}))?;
        let start = Instant::now();
        agent.client.create(&object).await?;
        if i >= 20 {
            times.record(start.elapsed());
        }
    }
    agent.stop()?;
    Ok(times.rows("create_accepted", Some(&floor)))
}

/// Create → the process's `main` runs. Floor: a spawn and one commit behind an echo.
pub async fn create_running(bench: &Bench) -> Result<Vec<Row>> {
    let samples = bench.samples(500);
    let dir = bench.fresh("create-running")?;
    let births = Births::listen(&dir)?;

    let kids = Kids::new(&bench.kid, births.path())?;
    let (sender, spawned) = std::sync::mpsc::channel();
    let mut commit = commits(&dir)?;
    let mut echo = Echo::start(&dir, REQUEST, REPLY, move || {
        commit();
        let _ = sender.send(kids.spawn("kid"));
    })?;
    let mut floor = Times::new();
    for _ in 0..samples {
        let start = Instant::now();
        echo.ask(REQUEST, REPLY)?;
        floor.record(births.next()? - start);
        let kid = spawned.recv()??;
        kid.kill()?;
        kid.wait()?;
    }

    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let mut times = Times::new();
    for i in 0..samples + 20 {
        let name = format!("p-{i}");
        let object = object(
            "process",
            &name,
            json!({"command": [bench.kid, births.path(), name]}),
            json!({}),
        )?;
        let start = Instant::now();
        agent.client.create(&object).await?;
        let took = births.next()? - start;
        if i >= 20 {
            times.record(took);
        }
    }
    agent.clear().await?;
    agent.stop()?;
    Ok(times.rows("create_running", Some(&floor)))
}
