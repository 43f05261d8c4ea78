//! Ends: how soon they are told, how soon a process runs again.

use std::time::{Duration, Instant};

use agent_api_client::StartAt;
use agent_api_model::Target;
use anyhow::{Context, Result};
use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{Agent, Bench, object};
use crate::births::Births;
use crate::floor::Kids;
use crate::row::{Row, Times};

async fn pid_of(agent: &Agent, name: &str) -> Result<Pid> {
    let target: Target = name.parse().map_err(anyhow::Error::msg)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let view = agent.client.describe(&target).await?.view;
        let pid = view
            .details
            .get("pid")
            .and_then(serde_json::Value::as_i64)
            .and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            return Ok(pid);
        }
        anyhow::ensure!(Instant::now() < deadline, "{name} has no pid");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A process ends → its event is read from the topic. Floor: kill → pidfd wakes, reaped.
pub async fn exit_to_event(bench: &Bench) -> Result<Vec<Row>> {
    let samples = bench.samples(300);
    let dir = bench.fresh("exit-event")?;
    let births = Births::listen(&dir)?;
    let kids = Kids::new(&bench.kid, births.path())?;
    let mut floor = Times::new();
    for _ in 0..samples {
        let kid = kids.spawn("kid")?;
        births.next()?;
        let start = Instant::now();
        kid.kill()?;
        kid.wait()?;
        floor.record(start.elapsed());
    }

    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let mut events = agent.client.events(StartAt::Now).await?;
    let mut times = Times::new();
    for i in 0..samples {
        let name = format!("e-{i}");
        let spec = json!({"command": [bench.kid, births.path(), name]});
        agent
            .client
            .create(&object("process", &name, spec, json!({}))?)
            .await?;
        births.next()?;
        let pid = pid_of(&agent, &name).await?;
        let start = Instant::now();
        kill_process(pid, Signal::KILL)?;
        loop {
            let event = events.next().await.context("the events ended")??.event;
            if event.name.as_str() == name && event.transition.to.is_some_and(|phase| phase.is_terminal()) {
                break;
            }
        }
        times.record(start.elapsed());
    }
    drop(events);
    agent.clear().await?;
    agent.stop()?;
    Ok(times.rows("exit_event", Some(&floor)))
}

/// A process is killed → it runs again, without back-off. Floor: kill, wait by pidfd, spawn.
pub async fn killed_to_running(bench: &Bench) -> Result<Vec<Row>> {
    let samples = bench.samples(300);
    let dir = bench.fresh("killed-running")?;
    let births = Births::listen(&dir)?;
    let kids = Kids::new(&bench.kid, births.path())?;
    let mut floor = Times::new();
    let mut kid = kids.spawn("kid")?;
    births.next()?;
    for _ in 0..samples {
        let start = Instant::now();
        kid.kill()?;
        kid.wait()?;
        kid = kids.spawn("kid")?;
        floor.record(births.next()? - start);
    }
    kid.kill()?;
    kid.wait()?;

    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let more = json!({"restart": {"policy": "always", "backoff": {"start": "0s"}}});
    let spec = json!({"command": [bench.kid, births.path(), "again"]});
    agent
        .client
        .create(&object("process", "again", spec, more)?)
        .await?;
    births.next()?;
    let mut times = Times::new();
    let mut last = None;
    for _ in 0..samples {
        // The pid of the process that runs now, not of the one just killed.
        let mut pid = pid_of(&agent, "again").await?;
        while Some(pid) == last {
            tokio::time::sleep(Duration::from_millis(1)).await;
            pid = pid_of(&agent, "again").await?;
        }
        last = Some(pid);
        let start = Instant::now();
        kill_process(pid, Signal::KILL)?;
        times.record(births.next()? - start);
    }
    agent.clear().await?;
    agent.stop()?;
    Ok(times.rows("killed_running", Some(&floor)))
}
