//! Ending commands in a container: Kubernetes leaves them running when their caller goes.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout};

use super::script::{self, Input};
use super::session::{Session, Start};
use super::{Container, connect};
use crate::sdk::Cluster;
use crate::shared::Shared;

/// How long the killing of a command may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Kills commands in one container.
pub(super) struct Reaper {
    pub shared: Arc<Shared>,
    pub cluster: Arc<Cluster>,
    pub container: Container,
}

impl Reaper {
    /// Kills a command and what it started.
    pub(super) async fn kill(self: &Arc<Self>, pid: u32) -> Result<()> {
        // Boxed: ending a command is itself a command.
        let run = Box::pin(run(
            &self.shared,
            &self.cluster,
            &self.container,
            script::kill(pid),
        ));
        match timeout(LIMIT, run).await {
            Ok(done) => done.map(drop),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("process {pid} could not be killed in time"),
            )),
        }
    }

    /// The same from where nothing can be awaited.
    pub(super) fn kill_later(this: &Arc<Self>, pid: u32) {
        let reaper = Arc::clone(this);
        this.shared.tasks.spawn(async move {
            if let Err(error) = reaper.kill(pid).await {
                let container = &reaper.container;
                tracing::warn!(pod = container.pod, pid, %error, "a command was left running");
            }
        });
    }
}

/// Runs a command without input to its end and returns its code and what it wrote to standard error.
pub(super) async fn run(
    shared: &Arc<Shared>,
    cluster: &Arc<Cluster>,
    container: &Container,
    words: Vec<String>,
) -> Result<(i32, String)> {
    use agent_api_driver::ExecOutput;

    let link = connect(cluster, container, &words, Input::Empty).await?;
    let start = Start {
        input: Input::Empty,
        wrapped: false,
        deadline: Instant::now() + LIMIT,
    };
    let reaper = Arc::new(Reaper {
        shared: Arc::clone(shared),
        cluster: Arc::clone(cluster),
        container: container.clone(),
    });
    let mut session = Session::new(link, &start, reaper);
    let mut said = Vec::new();
    while let Some(output) = session.next().await {
        match output? {
            ExecOutput::Stderr(piece) if said.len() < 4096 => said.extend_from_slice(&piece),
            ExecOutput::Exit(status) => {
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                return Ok((status.code.unwrap_or(-1), said));
            }
            _ => {}
        }
    }
    Err(Error::new(
        ErrorKind::Lost,
        "the connection was closed before the command had ended",
    ))
}
