//! The agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_api::manager::RecoveryReport;
use agent_api::model::{AgentId, AgentInfo};

use crate::AgentBuilder;
use crate::engine::Tasks;
use crate::health;
use crate::shared::Shared;
use crate::stop::{StopMode, StopReport, stop};

/// A running agent. A handle: cheap to clone, and used through
/// [`AgentApi`](agent_api::agent::AgentApi).
///
/// [`stop`](Self::stop) ends it in order. Where the last handle is dropped without it, its tasks are aborted; what was
/// accepted is on disk all the same, and objects go on.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    tasks: usize,
    running: tokio::sync::Mutex<Running>,
}

enum Running {
    Yes(Tasks),
    Stopped(StopReport),
    /// A stop was begun and dropped before it ended.
    Aborted,
}

impl Agent {
    /// Begins to compose an agent.
    ///
    /// # Examples
    ///
    /// See the [crate].
    #[must_use]
    pub fn builder() -> AgentBuilder {
        AgentBuilder::new()
    }

    pub(crate) fn new(shared: Arc<Shared>, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            shared,
            tasks: tasks.shards.len() + tasks.others.len(),
            running: tokio::sync::Mutex::new(Running::Yes(tasks)),
        }))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// How many standing tasks there are.
    pub(crate) fn tasks(&self) -> usize {
        self.0.tasks
    }

    /// The agent's name.
    #[must_use]
    pub fn id(&self) -> &AgentId {
        &self.0.shared.agent
    }

    /// Where the agent keeps what survives a restart.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.0.shared.state_dir
    }

    /// What the start found of the objects that were there before.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.0.shared.recovery
    }

    /// Ends the agent in order: no more changes are taken, what is in flight ends, collector and reporter end, reports
    /// are flushed, drivers end, the journal is sealed. Returns by the deadline, or a few hundred milliseconds later
    /// where something would not end.
    ///
    /// A second call waits for the first and gets the same report.
    ///
    /// # Cancellation
    ///
    /// Dropped before it returns, what still runs is aborted; what was accepted is on disk all the same.
    pub async fn stop(&self, mode: StopMode, deadline: Duration) -> StopReport {
        let mut running = self.0.running.lock().await;
        let tasks = match std::mem::replace(&mut *running, Running::Aborted) {
            Running::Yes(tasks) => tasks,
            Running::Stopped(report) => {
                *running = Running::Stopped(report.clone());
                return report;
            }
            Running::Aborted => {
                return StopReport {
                    problems: vec!["an earlier stop was abandoned, and the agent aborted".into()],
                    ..StopReport::default()
                };
            }
        };
        let report = stop(&self.0.shared, tasks, mode, deadline).await;
        *running = Running::Stopped(report.clone());
        report
    }

    /// Has a [`stop`](Self::stop) that is under way wait for nothing any more: for a second signal.
    pub fn force_stop(&self) {
        self.0.shared.stages.force.cancel();
    }

    /// Whether all loops that do the work have turned within this time; a sentence for each that has not. They turn at
    /// least once a second. Feed a watchdog from it.
    ///
    /// # Errors
    ///
    /// The loops that have not.
    pub fn liveness(&self, within: Duration) -> Result<(), Vec<String>> {
        let silent = health::silent(&self.0.shared, within);
        if silent.is_empty() { Ok(()) } else { Err(silent) }
    }

    /// How often all objects are asked for and a heartbeat is reported.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        self.0.shared.heartbeat()
    }

    /// Changes the heartbeat interval, at least 10 ms, from the next one on.
    pub fn set_heartbeat_interval(&self, interval: Duration) {
        self.0
            .shared
            .set_heartbeat(interval.max(Duration::from_millis(10)));
    }

    /// Adds to what `info` answers: buses, their tasks and queues, anything the program around the agent knows. Called
    /// on each `info`; it must not block. Forgotten when the agent stops.
    pub fn extend_info(&self, hook: impl Fn(&mut AgentInfo) + Send + Sync + 'static) {
        let hook: crate::shared::InfoHook = Box::new(hook);
        self.0.shared.info_hooks.lock().push(Arc::new(hook));
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("id", &self.0.shared.agent)
            .finish_non_exhaustive()
    }
}
