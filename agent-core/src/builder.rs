//! Composing an agent.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_api::bus_out::BusOut;
use agent_api::collector::CollectorApi;
use agent_api::driver::{DriverFactory, DriverSet, ShutdownMode};
use agent_api::manager::ManagerApi;
use agent_api::model::{AgentId, Error, Result, ShardId, Topic};
use agent_api::reporter::{ReportSink, ReporterApi, Topics};
use serde_json::Value;

use crate::Agent;
use crate::engine::cell::DriverCell;
use crate::engine::door::Door;
use crate::engine::{self, pump};
use crate::guard::guarded;
use crate::lock::StateLock;
use crate::registry::{Registry, Wanted};
use crate::setup::{
    MakeCollector, MakeManager, MakeReporter, Setup, default_collector, default_manager, default_reporter,
};
use crate::shared::{Clock, DrainHook, Parts, ReloadHook, Shared};

/// The most shards; more than this many cores bring nothing.
const MAX_SHARDS: u16 = 256;

/// Composes an [`Agent`]. Made by [`Agent::builder`].
pub struct AgentBuilder {
    agent: Option<AgentId>,
    state_dir: Option<PathBuf>,
    drivers: Vec<Wanted>,
    bus_out: Option<Arc<dyn BusOut>>,
    topic_root: String,
    shards: Option<u16>,
    inbox: usize,
    heartbeat: Duration,
    operation_timeout: Duration,
    recovery_timeout: Duration,
    max_in_flight: usize,
    manager: MakeManager,
    reporter: MakeReporter,
    collector: MakeCollector,
    drain_hook: Option<DrainHook>,
    reload_hook: Option<ReloadHook>,
}

impl AgentBuilder {
    pub(crate) fn new() -> Self {
        Self {
            agent: None,
            state_dir: None,
            drivers: Vec::new(),
            bus_out: None,
            topic_root: "agent".into(),
            shards: None,
            inbox: 1_024,
            heartbeat: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(30),
            recovery_timeout: Duration::from_secs(10),
            max_in_flight: 64,
            manager: Box::new(|setup| Box::pin(default_manager(setup))),
            reporter: Box::new(|setup| Box::pin(default_reporter(setup))),
            collector: Box::new(|setup, sink| Box::pin(default_collector(setup, sink))),
            drain_hook: None,
            reload_hook: None,
        }
    }

    /// The agent's name, unique on its bus; `agent` by default.
    #[must_use]
    pub fn agent_id(mut self, agent: AgentId) -> Self {
        self.agent = Some(agent);
        self
    }

    /// Where the agent keeps what survives a restart: its journal, and a directory for each driver. Required. One
    /// agent at a time may use it.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Adds a driver with its configuration, null where it needs none. Any number, of different names.
    #[must_use]
    pub fn driver(mut self, factory: Arc<dyn DriverFactory>, config: Value) -> Self {
        self.drivers.push((factory, config));
        self
    }

    /// Where reports go. Without it nothing is reported, and monitor requests are refused.
    #[must_use]
    pub fn bus_out(mut self, bus: Arc<dyn BusOut>) -> Self {
        self.bus_out = Some(bus);
        self
    }

    /// The first word of the topics; `agent` by default.
    #[must_use]
    pub fn topic_root(mut self, root: impl Into<String>) -> Self {
        self.topic_root = root.into();
        self
    }

    /// How many shards; one per core by default. May change from start to start.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Self {
        self.shards = Some(shards);
        self
    }

    /// How many requests may wait in each lane of each shard before they are refused as `Busy`; 1,024 by default.
    #[must_use]
    pub fn inbox(mut self, requests: usize) -> Self {
        self.inbox = requests;
        self
    }

    /// How often all objects are asked for and a heartbeat is reported; 10 s by default.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// How long a driver call may take where its driver says nothing else; 30 s by default.
    #[must_use]
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// How long the drivers may take at the start to find their objects again; 10 s by default. Objects of a driver
    /// that is slower are `Unknown` until the heartbeat finds them.
    #[must_use]
    pub fn recovery_timeout(mut self, timeout: Duration) -> Self {
        self.recovery_timeout = timeout;
        self
    }

    /// How many operations may be in flight on a driver that names no number of its own; 64 by default. A quarter of
    /// them is kept for control verbs and deletes.
    #[must_use]
    pub fn max_in_flight(mut self, operations: usize) -> Self {
        self.max_in_flight = operations;
        self
    }

    /// Another manager than the workspace's own.
    #[must_use]
    pub fn manager<F, R>(mut self, make: F) -> Self
    where
        F: FnOnce(Setup) -> R + Send + 'static,
        R: Future<Output = Result<Arc<dyn ManagerApi>>> + Send + 'static,
    {
        self.manager = Box::new(|setup| Box::pin(make(setup)));
        self
    }

    /// Another reporter than the workspace's own.
    #[must_use]
    pub fn reporter<F, R>(mut self, make: F) -> Self
    where
        F: FnOnce(Setup) -> R + Send + 'static,
        R: Future<Output = Result<Arc<dyn ReporterApi>>> + Send + 'static,
    {
        self.reporter = Box::new(|setup| Box::pin(make(setup)));
        self
    }

    /// Another collector than the workspace's own; it gets the reporter's sink.
    #[must_use]
    pub fn collector<F, R>(mut self, make: F) -> Self
    where
        F: FnOnce(Setup, Arc<dyn ReportSink>) -> R + Send + 'static,
        R: Future<Output = Result<Arc<dyn CollectorApi>>> + Send + 'static,
    {
        self.collector = Box::new(|setup, sink| Box::pin(make(setup, sink)));
        self
    }

    /// Called when a `drain` has ended: the program then stops the agent. Called from a task of the agent's; it must
    /// not block.
    #[must_use]
    pub fn on_drain(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.drain_hook = Some(Box::new(hook));
        self
    }

    /// Called for `reload`: reads the configuration again, applies the difference and says what changed, a sentence
    /// each. Without it `reload` is `Unsupported`.
    #[must_use]
    pub fn on_reload<F, R>(mut self, hook: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Vec<String>>> + Send + 'static,
    {
        self.reload_hook = Some(Box::new(move || Box::pin(hook())));
        self
    }

    /// Starts the agent on the present runtime and returns when it is ready: drivers built, journal replayed,
    /// objects found again, reporter, collector and shards running. Buses are opened by the caller afterwards.
    ///
    /// # Errors
    ///
    /// `Invalid` where a setting or a driver's configuration is wrong, with its path; what the manager, reporter or
    /// collector say where they cannot start. A driver that cannot be built is no error: its kinds are unavailable.
    ///
    /// # Cancellation
    ///
    /// Dropped before it returns, everything that was started is aborted.
    pub async fn build(self) -> Result<Agent> {
        let setup_error = |path: &str, message: &str| Err(Error::invalid(path, message));
        let Some(state_dir) = self.state_dir else {
            return setup_error("state_dir", "is required: AgentBuilder::state_dir");
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = self
            .shards
            .unwrap_or_else(|| u16::try_from(cores).unwrap_or(MAX_SHARDS).min(MAX_SHARDS));
        if !(1..=MAX_SHARDS).contains(&shards) {
            return setup_error("shards", "must lie between 1 and 256");
        }
        if self.heartbeat < Duration::from_millis(10) {
            return setup_error("heartbeat_interval", "must be at least 10ms");
        }
        if self.operation_timeout.is_zero() {
            return setup_error("operation_timeout", "must be more than 0s");
        }
        if self.topic_root.contains('.') || Topic::new(&self.topic_root).is_err() {
            return setup_error("topic_root", "use one word of letters, digits, '_' and '-'");
        }
        let agent = match self.agent {
            Some(agent) => agent,
            None => AgentId::new("agent").expect("a DNS label"),
        };

        let lock = StateLock::take(&state_dir)?;
        let registry = Registry::build(&agent, &state_dir, self.drivers).await?;
        let drivers = DriverSet::new(registry.built().cloned());
        let mut started = Started::new(drivers.clone());
        let setup = Setup {
            agent: agent.clone(),
            state_dir: state_dir.clone(),
            drivers,
            shards,
            operation_timeout: self.operation_timeout,
            topic_root: self.topic_root.clone(),
            bus_out: self.bus_out,
        };
        let clock = Clock::start();
        let manager = started.note((self.manager)(setup.clone()).await).await?;
        started.manager = Some(Arc::clone(&manager));
        let (doors, inboxes): (Vec<_>, Vec<_>) = (0..shards)
            .map(|_| {
                let (door, inbox) = Door::new(self.inbox);
                (Arc::new(door), inbox)
            })
            .unzip();
        let doors: Arc<[Arc<Door>]> = doors.into();
        let cells: BTreeMap<_, _> = registry
            .built()
            .map(|driver| {
                let cell = DriverCell::new(Arc::clone(driver), self.max_in_flight, Arc::clone(&doors));
                (cell.name.clone(), Arc::new(cell))
            })
            .collect();
        // The streams are taken before recovery, so that nothing that happens meanwhile is missed.
        let streams: Vec<_> = cells.values().map(pump::open).collect();
        let partitions: Vec<_> = (0..shards)
            .map(|shard| manager.partition(ShardId(shard)))
            .collect();
        let recovery = manager.recover(self.recovery_timeout).await;
        for note in &recovery.notes {
            tracing::warn!(note, "recovery");
        }
        tracing::info!(
            objects = recovery.objects,
            adopted = recovery.adopted,
            exited = recovery.exited,
            lost = recovery.lost,
            unknown = recovery.unknown,
            "objects recovered"
        );
        let reporter = started.note((self.reporter)(setup.clone()).await).await?;
        started.reporter = Some(Arc::clone(&reporter));
        let collector = started
            .note((self.collector)(setup, reporter.sink()).await)
            .await?;
        let shared = Arc::new(Shared::new(Parts {
            lock,
            topics: Topics::new(&self.topic_root, &agent),
            agent,
            state_dir,
            clock,
            registry,
            drivers: cells,
            manager,
            reporter,
            collector,
            doors,
            recovery,
            operation_timeout: self.operation_timeout,
            heartbeat: self.heartbeat,
            drain_hook: self.drain_hook,
            reload_hook: self.reload_hook,
        }));
        shared.metrics.observe(&Arc::downgrade(&shared));
        let tasks = engine::start(&shared, partitions, inboxes, streams);
        Ok(Agent::new(shared, tasks))
    }
}

/// What has been started, to be ended where the rest cannot be.
struct Started {
    drivers: DriverSet,
    manager: Option<Arc<dyn ManagerApi>>,
    reporter: Option<Arc<dyn ReporterApi>>,
}

impl Started {
    fn new(drivers: DriverSet) -> Self {
        Self {
            drivers,
            manager: None,
            reporter: None,
        }
    }

    async fn note<T>(&self, made: Result<T>) -> Result<T> {
        if made.is_err() {
            self.end().await;
        }
        made
    }

    async fn end(&self) {
        let deadline = Duration::from_secs(2);
        if let Some(reporter) = &self.reporter {
            let _ = guarded(deadline, reporter.shutdown(deadline)).await;
        }
        let drivers = self
            .drivers
            .iter()
            .map(|(_, driver)| guarded(deadline, driver.shutdown(ShutdownMode::LeaveRunning, deadline)));
        futures_util::future::join_all(drivers).await;
        if let Some(manager) = &self.manager {
            let _ = guarded(deadline, manager.seal(deadline)).await;
        }
    }
}

impl std::fmt::Debug for AgentBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentBuilder")
            .field("agent", &self.agent)
            .field("state_dir", &self.state_dir)
            .field("drivers", &self.drivers.len())
            .finish_non_exhaustive()
    }
}
