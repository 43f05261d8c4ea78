//! A cluster's workloads through the agent, beside a bare kube-rs program on the same server.

use std::time::{Duration, Instant};

use agent_api_client::{ObjectEvent, StartAt};
use agent_api_model::ObjectSpec;
use anyhow::{Context, Result, bail};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Agent, Bench, object};
use crate::floor::{Bare, Seen, commits, config_map};
use crate::row::{Row, Times};

/// Requests in flight where many are.
const CONCURRENCY: usize = 32;

fn manifest(bare: &Bare, name: &str) -> Result<ObjectSpec> {
    let spec = json!({"namespace": bare.namespace, "objects": [config_map(name, "1")]});
    object("kubernetes/manifest", name, spec, json!({"drift": "report"}))
}

async fn until(seen: &mut mpsc::Receiver<Seen>, found: impl Fn(&Seen) -> bool) -> Result<Instant> {
    let wait = async {
        loop {
            match seen.recv().await {
                Some(seen) if found(&seen) => return Ok(seen.at),
                Some(_) => {}
                None => bail!("the bare watch ended"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .context("not seen by the bare watch in 30 s")?
}

/// Create → a watch shows it, one at a time. Floor: one commit and the bare client's apply.
pub async fn kubernetes_create(bench: &Bench) -> Result<Vec<Row>> {
    let samples = bench.samples(500);
    let dir = bench.fresh("kubernetes-create")?;
    let bare = Bare::connect().await?;
    let (mut seen, watch) = bare.watch_maps();
    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let mut commit = commits(&dir)?;
    let (mut floor, mut times) = (Times::new(), Times::new());
    // In turn, so that both meet the same server.
    for i in 0..samples + 20 {
        let name = format!("bare-{i}");
        let start = Instant::now();
        commit();
        bare.apply(&name).await?;
        let bare_took = until(&mut seen, |seen| seen.name == name).await? - start;

        let name = format!("agent-{i}");
        let object = manifest(&bare, &name)?;
        let start = Instant::now();
        agent.client.create(&object).await?;
        let agent_took = until(&mut seen, |seen| seen.name == name).await? - start;
        if i >= 20 {
            floor.record(bare_took);
            times.record(agent_took);
        }
    }
    watch.abort();
    agent.clear().await?;
    agent.stop()?;
    bare.close().await?;
    Ok(times.rows("kubernetes_create", Some(&floor)))
}

/// Create → Running, of a Deployment with one pod. Floor: the same by the bare client and its watch.
pub async fn kubernetes_ready(bench: &Bench) -> Result<Vec<Row>> {
    let samples = if bench.quick { 5 } else { 20 };
    let dir = bench.fresh("kubernetes-ready")?;
    let bare = Bare::connect().await?;
    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let mut events = agent.client.events(StartAt::Now).await?;
    let (mut floor, mut times) = (Times::new(), Times::new());
    for i in 0..samples {
        floor.record(bare.deploy(&format!("bare-{i}")).await?);

        let name = format!("agent-{i}");
        let spec = json!({
            "namespace": bare.namespace, "image": "localhost/busybox:1", "pull_policy": "never",
            "command": ["sleep", "100000"], "stop_grace": "0s",
        });
        let object = object("kubernetes/deployment", &name, spec, json!({}))?;
        let start = Instant::now();
        agent.client.create(&object).await?;
        until_event(&mut events, |event| {
            event.event.name.as_str() == name
                && event.event.transition.to == Some(agent_api_model::Phase::Running)
        })
        .await?;
        times.record(start.elapsed());
    }
    drop(events);
    agent.clear().await?;
    agent.stop()?;
    bare.close().await?;
    Ok(times.rows("kubernetes_ready", Some(&floor)))
}

async fn until_event<E>(
    events: &mut (impl Stream<Item = Result<ObjectEvent, E>> + Unpin),
    found: impl Fn(&ObjectEvent) -> bool,
) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let wait = async {
        loop {
            let event = events.next().await.context("the events ended")??;
            if found(&event) {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .context("not on the bus in 60 s")?
}

/// Somebody else changes an object → the agent's event is on the bus. Floor: the bare watch shows the change.
pub async fn kubernetes_change(bench: &Bench) -> Result<Vec<Row>> {
    let samples = bench.samples(300);
    let dir = bench.fresh("kubernetes-change")?;
    let bare = Bare::connect().await?;
    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    // A drift is told once, so that each sample needs an object of its own.
    for i in 0..samples {
        agent
            .client
            .create(&manifest(&bare, &format!("watched-{i}"))?)
            .await?;
    }
    agent.wait_for_running(samples).await?;
    let (mut seen, watch) = bare.watch_maps();
    let mut events = agent.client.events(StartAt::Now).await?;
    let (mut floor, mut times) = (Times::new(), Times::new());
    for i in 0..samples {
        let name = format!("watched-{i}");
        let start = Instant::now();
        let version = bare.change(&name, "2").await?;
        let on_bus = async {
            until_event(&mut events, |event| event.event.name.as_str() == name).await?;
            Ok::<_, anyhow::Error>(start.elapsed())
        };
        let on_watch = until(&mut seen, |seen| seen.version == version);
        let (on_watch, on_bus) = tokio::try_join!(on_watch, on_bus)?;
        floor.record(on_watch.saturating_duration_since(start));
        times.record(on_bus);
    }
    watch.abort();
    drop(events);
    agent.clear().await?;
    agent.stop()?;
    bare.close().await?;
    Ok(times.rows("kubernetes_change", Some(&floor)))
}

/// Applies per second with many in flight, and API requests per object. Floor: the bare client's rate.
pub async fn kubernetes_bulk(bench: &Bench) -> Result<Vec<Row>> {
    let count = if bench.quick { 100 } else { 500 };
    let dir = bench.fresh("kubernetes-bulk")?;
    let bare = Bare::connect().await?;
    let start = Instant::now();
    stream::iter((0..count).map(Ok))
        .try_for_each_concurrent(CONCURRENCY, |i| {
            let bare = &bare;
            async move { bare.apply(&format!("bare-{i}")).await }
        })
        .await?;
    let floor = start.elapsed();

    let (mut seen, watch) = bare.watch_maps();
    let agent = Agent::start(&bench.agent, dir.join("state")).await?;
    let start = Instant::now();
    stream::iter((0..count).map(Ok))
        .try_for_each_concurrent(CONCURRENCY, |i| {
            let (agent, bare) = (&agent, &bare);
            async move {
                agent
                    .client
                    .create(&manifest(bare, &format!("agent-{i}"))?)
                    .await?;
                Ok::<_, anyhow::Error>(())
            }
        })
        .await?;
    let mut last = start;
    for _ in 0..count {
        last = last.max(until(&mut seen, |seen| seen.name.starts_with("agent-")).await?);
    }
    let took = last - start;
    watch.abort();
    agent.wait_for_running(count).await?;
    let created = requests(&agent).await?;
    agent.clear().await?;
    let deleted = requests(&agent).await? - created;
    agent.stop()?;
    bare.close().await?;

    let (rate, floor) = (
        count as f64 / took.as_secs_f64(),
        count as f64 / floor.as_secs_f64(),
    );
    let samples = count as u64;
    Ok(vec![
        Row::new("kubernetes_applies_per_second", rate, "1/s", Some(floor), samples),
        Row::new(
            "kubernetes_requests_per_create",
            created / count as f64,
            "1",
            Some(1.0),
            samples,
        ),
        Row::new(
            "kubernetes_requests_per_delete",
            deleted / count as f64,
            "1",
            Some(1.0),
            samples,
        ),
    ])
}

/// API requests that the agent's driver has sent so far.
async fn requests(agent: &Agent) -> Result<f64> {
    let metrics = agent.client.metrics().await?;
    let sum = metrics
        .lines()
        .filter(|line| line.starts_with("agent_kubernetes_requests"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    Ok(sum)
}
