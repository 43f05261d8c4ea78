//! Many at once: created, listed, stopped.

use std::time::Instant;

use agent_api_model::{DeleteRequest, ListRequest, Selector};
use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;

use super::{Agent, Bench, object};
use crate::births::Births;
use crate::floor::{Kids, echoes};
use crate::row::{Row, Times};

/// Callers at the same time.
const CALLERS: usize = 32;

/// So many processes created until all run, and deleted until all are gone. Floor: spawned in a loop, killed and reaped.
pub async fn created_and_stopped(bench: &Bench) -> Result<Vec<Row>> {
    let count = if bench.quick { 200 } else { 1_000 };
    let dir = bench.fresh("bulk")?;
    let births = Births::listen(&dir)?;

    let kids = Kids::new(&bench.kid, births.path())?;
    let start = Instant::now();
    let spawned: Vec<_> = (0..count)
        .map(|i| kids.spawn(&i.to_string()))
        .collect::<Result<_>>()?;
    let floor_created = (births.wait(count)? - start).as_secs_f64() * 1e3;
    let start = Instant::now();
    for kid in &spawned {
        kid.kill()?;
    }
    for kid in &spawned {
        kid.wait()?;
    }
    let floor_stopped = start.elapsed().as_secs_f64() * 1e3;

    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let objects: Vec<_> = (0..count)
        .map(|i| {
            let name = format!("p-{i}");
            object(
                "process",
                &name,
                json!({"command": [bench.kid, births.path(), name]}),
                json!({}),
            )
        })
        .collect::<Result<_>>()?;
    let start = Instant::now();
    futures_util::stream::iter(objects.iter().map(|object| agent.client.create(object)))
        .buffer_unordered(CALLERS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let created = (births.wait(count)? - start).as_secs_f64() * 1e3;
    let memory = agent.pss_kib()? as f64 / 1024.0;

    let start = Instant::now();
    agent
        .client
        .delete_selected(&Selector::everything(), &DeleteRequest::default())
        .await?;
    agent.wait_for_count(0).await?;
    let stopped = start.elapsed().as_secs_f64() * 1e3;
    agent.stop()?;
    let samples = count as u64;
    Ok(vec![
        Row::new(
            format!("create_{count}_running"),
            created,
            "ms",
            Some(floor_created),
            samples,
        ),
        Row::new(
            format!("stop_{count}"),
            stopped,
            "ms",
            Some(floor_stopped),
            samples,
        ),
        Row::new(format!("memory_with_{count}_processes"), memory, "MiB", None, 1),
    ])
}

/// A list of 1,000 objects. Floor: an echo whose answer is as long.
pub async fn list(bench: &Bench) -> Result<Vec<Row>> {
    let (count, samples) = (1_000, bench.samples(300));
    let dir = bench.fresh("list")?;
    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let objects: Vec<_> = (0..count)
        .map(|i| object("simulated", &format!("s-{i}"), json!({}), json!({})))
        .collect::<Result<_>>()?;
    futures_util::stream::iter(objects.iter().map(|object| agent.client.create(object)))
        .buffer_unordered(CALLERS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let mut times = Times::new();
    let mut bytes = 0;
    for _ in 0..samples {
        let start = Instant::now();
        let views = agent.client.list(&ListRequest::default()).await?;
        times.record(start.elapsed());
        anyhow::ensure!(views.len() == count, "the list has {} objects", views.len());
        bytes = bytes.max(serde_json::to_vec(&views)?.len());
    }
    agent.stop()?;
    let floor = echoes(&dir, samples, 64, bytes)?;
    Ok(times.rows("list_1000", Some(&floor)))
}
