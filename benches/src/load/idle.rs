//! What objects cost that do nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;

use super::{Agent, Bench, object};
use crate::row::Row;

/// Memory, tasks and processor time of 10,000 simulated objects that idle.
pub async fn idle_objects(bench: &Bench) -> Result<Vec<Row>> {
    let count = 10_000;
    let dir = bench.fresh("idle")?;
    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let tasks = |info: &agent_api_model::AgentInfo| info.tasks.values().sum::<usize>() as f64;
    let (before_tasks, before) = (tasks(&agent.client.info().await?), agent.pss_kib()?);

    let objects: Vec<_> = (0..count)
        .map(|i| object("simulated", &format!("s-{i}"), json!({}), json!({})))
        .collect::<Result<_>>()?;
    let start = Instant::now();
    futures_util::stream::iter(objects.iter().map(|object| agent.client.create(object)))
        .buffer_unordered(256)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let created = start.elapsed().as_secs_f64() * 1e3;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let after = agent.pss_kib()?;
    let window = Duration::from_secs(if bench.quick { 5 } else { 20 });
    let cpu = agent.cpu()?;
    tokio::time::sleep(window).await;
    let idle = (agent.cpu()? - cpu).as_secs_f64() / window.as_secs_f64() * 100.0;
    let after_tasks = tasks(&agent.client.info().await?);
    let stop = agent.stop()?.as_secs_f64() * 1e3;
    let n = count as u64;
    Ok(vec![
        Row::new("create_10000_simulated", created, "ms", None, n),
        Row::new(
            "memory_per_idle_object",
            (after - before) as f64 / count as f64,
            "KiB",
            None,
            n,
        ),
        Row::new("tasks_with_0", before_tasks, "tasks", None, 1),
        Row::new("tasks_with_10000", after_tasks, "tasks", Some(before_tasks), 1),
        Row::new("idle_cpu_with_10000", idle, "%", None, 1),
        Row::new("stop_with_10000", stop, "ms", None, 1),
    ])
}
