//! The reporter contract: register, withdraw, report, subscribe, flush; and the sink that never blocks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{
    AgentId, DriverName, DriverState, Guid, HealthReport, Lease, LeaseId, LifecycleEvent, MonitorRequest,
    ObjectView, Phase, QueueInfo, Result, TelemetryBatch, Timestamp, Topic,
};
use async_trait::async_trait;

/// Owns the topics, leases and routes; has the report workers write to Bus Out through the rpc client.
#[async_trait]
pub trait ReporterApi: Send + Sync + 'static {
    /// A new GUID from the rpc client. Never waits for a round trip.
    fn guid(&self) -> Guid;

    /// Registers an object's methods with the rpc client. Queued; a failure is tried again and counted.
    fn register(&self, view: &Arc<ObjectView>);

    /// Withdraws an object's methods and GUID. Queued likewise.
    fn withdraw(&self, guid: Guid);

    /// Reports a lifecycle event or heartbeat. Never blocks; what finds no room is counted and told in-band.
    fn report(&self, report: Report);

    /// Grants a monitor lease, or renews one.
    ///
    /// # Behavior
    ///
    /// - A topic that is not one: `Invalid` at `topic`. An interval below 10 ms or a ttl over a day: `Invalid`.
    /// - A renewal of a lease that has ended: `NotFound`.
    /// - More leases than the limit: `Busy`.
    /// - A lease that nobody renews ends by itself, on the runtime's clock, whatever the wall clock does.
    fn subscribe(&self, request: &MonitorRequest, guid: Option<Guid>) -> Result<Lease>;

    /// Ends a lease; `false` where it is not known.
    fn unsubscribe(&self, id: LeaseId) -> bool;

    /// The sink that collect workers hand telemetry to.
    fn sink(&self) -> Arc<dyn ReportSink>;

    /// Writes out everything that was taken before, by the deadline; says what was not written.
    async fn flush(&self, deadline: Duration) -> Result<()>;

    /// Numbers for `info`. No waiting.
    fn stats(&self) -> ReporterStats;

    /// Flushes and ends the workers.
    async fn shutdown(&self, deadline: Duration) -> Result<()>;
}

/// Takes telemetry without blocking.
pub trait ReportSink: Send + Sync + 'static {
    /// Takes a batch for a lease's topic.
    ///
    /// # Behavior
    ///
    /// - Never blocks and never waits.
    /// - Metrics and spans: where there is no room the oldest are dropped, counted by lease and reason, and the loss is
    ///   reported on the same topic as soon as there is room again.
    /// - Log lines: where there is no room the whole batch is refused. That is no loss yet: the collector leaves its
    ///   cursor and offers the lines again. So it offers logs apart from metrics and spans.
    /// - Returns whether it was taken.
    fn offer(&self, lease: &Lease, batch: TelemetryBatch) -> bool;

    /// Nothing more will be offered for this lease: what is kept for it is let go once it is written.
    fn end(&self, lease: LeaseId) {
        let _ = lease;
    }

    /// How much room is left, 0 to 1: a collector may slow down before things are dropped.
    fn room(&self) -> f64;
}

/// What goes out on the agent's own topics.
#[derive(Clone, Debug)]
pub enum Report {
    /// To `…status`: what happened to an object.
    Lifecycle(Box<LifecycleEvent>),
    /// To `…heartbeat`: how the agent and its objects are. Of constant size.
    Heartbeat(Box<Heartbeat>),
}

/// The heartbeat report: one per tick and agent, of constant size.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Heartbeat {
    /// Which agent.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// Grows by one with each.
    pub sequence: u64,
    /// Objects by phase.
    pub objects: BTreeMap<Phase, usize>,
    /// Objects whose actual state differed from what was known.
    pub corrected: usize,
    /// How the drivers are.
    pub drivers: BTreeMap<DriverName, DriverState>,
    /// Whether the agent can work.
    pub health: HealthReport,
    /// Until the next one, in milliseconds.
    pub interval_ms: u64,
}

/// Numbers for `info`.
#[derive(Clone, Debug, Default)]
pub struct ReporterStats {
    /// Standing tasks.
    pub tasks: usize,
    /// Leases in force.
    pub leases: usize,
    /// Messages written to Bus Out.
    pub published: u64,
    /// Messages that could not be written and were given up.
    pub failed: u64,
    /// Points, lines and spans lost, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Bytes that wait to be written.
    pub queue: QueueInfo,
}

/// The topics of an agent.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// The topics of this agent under a root, `agent` by default.
    #[must_use]
    pub fn new(root: &str, agent: &AgentId) -> Self {
        Self {
            prefix: format!("{root}.out.{agent}"),
        }
    }

    /// Lifecycle events.
    #[must_use]
    pub fn status(&self) -> Topic {
        self.topic("status")
    }

    /// Heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Topic {
        self.topic("heartbeat")
    }

    /// Metrics that no lease gave a topic of its own.
    #[must_use]
    pub fn metric(&self) -> Topic {
        self.topic("metric")
    }

    /// Log records that no lease gave a topic of its own.
    #[must_use]
    pub fn log(&self) -> Topic {
        self.topic("log")
    }

    /// Spans that no lease gave a topic of its own.
    #[must_use]
    pub fn trace(&self) -> Topic {
        self.topic("trace")
    }

    /// The topic of a lease that asked for none.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Topic {
        self.topic(&format!("lease.{id}"))
    }

    fn topic(&self, last: &str) -> Topic {
        Topic::new(format!("{}.{last}", self.prefix)).expect("a root and an agent id are words of a topic")
    }
}
