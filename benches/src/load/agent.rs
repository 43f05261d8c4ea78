//! The agent under test: the real binary in a state directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_api_client::Client;
use agent_api_model::{DeleteRequest, ListRequest, ObjectSpec, Phase, Selector};
use agent_bus_http::HttpCaller;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A running agent and a client of it.
pub struct Agent {
    child: Child,
    /// The client, over the Unix socket.
    pub client: Client,
}

impl Agent {
    /// Starts it with an empty state directory and waits until it is ready.
    pub async fn start(binary: &Path, state: PathBuf) -> Result<Self> {
        let child = Command::new(binary)
            .args(["run", "--log", "warn", "--state-dir"])
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let caller = Arc::new(HttpCaller::unix(state.join("agent.sock")));
        let client = Client::new(caller.clone(), Some(caller));
        let mut agent = Self { child, client };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match agent.client.health().await {
                Ok(health) if health.ready => return Ok(agent),
                _ if Instant::now() > deadline => bail!("the agent was not ready in 30 s"),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            if let Some(status) = agent.child.try_wait()? {
                bail!("the agent ended at its start: {status}");
            }
        }
    }

    /// Memory in KiB: its proportional set size.
    pub fn pss_kib(&self) -> Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .context("no Pss in smaps_rollup")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .context("stat has a name")?
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(
            ticks * 1000 / rustix::param::clock_ticks_per_second(),
        ))
    }

    /// Waits until so many objects are left.
    pub async fn wait_for_count(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.client.list(&ListRequest::default()).await?.len() != count {
            if Instant::now() > deadline {
                bail!("there were not {count} objects in 120 s");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits until so many objects run.
    pub async fn wait_for_running(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let running = ListRequest {
            phase: Some(Phase::Running),
            ..ListRequest::default()
        };
        while self.client.list(&running).await?.len() != count {
            if Instant::now() > deadline {
                bail!("there were not {count} running objects in 120 s");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Deletes everything and waits until it is gone.
    pub async fn clear(&self) -> Result<()> {
        let request = DeleteRequest {
            grace: Some(Duration::ZERO),
            ..DeleteRequest::default()
        };
        self.client
            .delete_selected(&Selector::everything(), &request)
            .await?;
        self.wait_for_count(0).await
    }

    /// Ends it with SIGTERM, objects left running, and returns how long that took.
    pub fn stop(mut self) -> Result<Duration> {
        let start = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the agent ended with {status}");
        }
        Ok(start.elapsed())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An object, from its kind, name, spec and anything else at the top.
pub fn object(kind: &str, name: &str, spec: Value, more: Value) -> Result<ObjectSpec> {
    let mut object = json!({"kind": kind, "name": name, "spec": spec});
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    Ok(serde_json::from_value(object)?)
}
