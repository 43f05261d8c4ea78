//! The agent core's face: what the API server, an embedding program and the daemon call.

use std::pin::Pin;
use std::time::Duration;

use agent_api_model::{
    Accepted, AgentInfo, ControlAction, CreateRequest, DeleteRequest, Description, DriverView, ExecFrame,
    ExecInputRequest, ExecRequest, Explanation, HealthReport, Kind, Lease, LeaseId, ListRequest, LogFrame,
    LogRequest, MonitorRequest, ObjectView, Plan, PlanRequest, RequestMeta, Result, StageTimes, Target,
    UpdateRequest, WatchEvent, WatchRequest,
};
use async_trait::async_trait;
use futures_core::Stream;
use std::sync::Arc;

/// A stream of results that its reader may leave at any time.
pub type ResultStream<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

/// A request that changes something.
#[derive(Clone, Debug)]
pub enum Change {
    /// Create an object.
    Create(Box<CreateRequest>),
    /// Change an object's spec.
    Update(Target, UpdateRequest),
    /// Delete an object. The selector of the request is not looked at: the server takes batches apart.
    Delete(Target, DeleteRequest),
    /// A control verb.
    Control(Target, ControlAction),
}

/// The agent.
///
/// Reads answer from the views and wait for nobody. Changes are validated, then journaled, then answered; what they
/// set going is done later and shows in the views and on Bus Out.
#[async_trait]
pub trait AgentApi: Send + Sync + 'static {
    /// Validates a change, makes it durable and returns what was accepted, with the stage times so far.
    ///
    /// # Behavior
    ///
    /// - Validation: the kind is known, the spec fits its schema, the driver has no error against it, the verb is one
    ///   the kind can do. The error names the field, or the kinds and verbs that are known.
    /// - Past its deadline: `Expired`, and nothing is done. A full inbox: `Busy`. A draining agent: `Unavailable`.
    /// - Cancelled by drop: it is accepted or not, and a repeat with the same key tells which.
    async fn submit(&self, meta: RequestMeta, change: Change) -> Result<(Accepted, StageTimes)>;

    /// View, spec and methods of an object, with what the driver calls secret left out of the spec. Waits for nobody.
    fn describe(&self, target: &Target) -> Result<Description>;

    /// Views by name. Waits for nobody.
    fn list(&self, request: &ListRequest) -> Vec<Arc<ObjectView>>;

    /// The chain of events that led an object where it is. Waits for nobody.
    fn explain(&self, target: &Target) -> Result<Explanation>;

    /// The views, then what changes.
    ///
    /// # Behavior
    ///
    /// - All views that match, then `Synced`, then changes, without one missed between.
    /// - A reader that is slow gets a `Gap` and the current views anew.
    /// - With one object that is not there: `NotFound`. The stream of one object ends after its `Deleted`.
    fn watch(&self, request: &WatchRequest) -> Result<ResultStream<WatchEvent>>;

    /// What a request would do. Changes nothing.
    async fn plan(&self, request: &PlanRequest) -> Result<Plan>;

    /// Begins or renews a monitor lease.
    async fn monitor(&self, request: &MonitorRequest) -> Result<Lease>;

    /// Ends a monitor lease.
    async fn unmonitor(&self, id: LeaseId) -> Result<()>;

    /// An object's logs.
    async fn logs(&self, target: &Target, request: &LogRequest) -> Result<ResultStream<LogFrame>>;

    /// Runs a command in an object's context, for a caller as its bus knows it.
    ///
    /// # Behavior
    ///
    /// - An interactive one begins with its session, and ends with its stream: where the command ends, at its timeout,
    ///   and when the caller drops the stream. More than 64 of them at once: `Busy`.
    /// - A terminal that the kind cannot give: `Unsupported`, and nothing is started.
    async fn exec(
        &self,
        caller: &str,
        target: &Target,
        request: &ExecRequest,
    ) -> Result<ResultStream<ExecFrame>>;

    /// Input for a command that runs interactively. Returns when it is in the command's queue.
    ///
    /// # Behavior
    ///
    /// - A session that is not there, has ended, or is another caller's: `NotFound`.
    /// - A command that does not read what it was sent: `Busy`, and nothing was taken in.
    /// - Input after the end of the input: `Conflict`.
    async fn exec_input(&self, caller: &str, request: &ExecInputRequest) -> Result<()>;

    /// What the agent says of itself. Waits for nobody.
    fn info(&self) -> AgentInfo;

    /// The drivers and their kinds. Waits for nobody.
    fn drivers(&self) -> Vec<DriverView>;

    /// The JSON Schema of a whole object of a kind, the driver's part in it.
    fn schema(&self, kind: &Kind) -> Result<serde_json::Value>;

    /// Whether the agent can work. Waits for nobody.
    fn health(&self) -> HealthReport;

    /// Takes no more changes, finishes what is under way, by the deadline; then asks the daemon to end the agent.
    async fn drain(&self, deadline: Duration) -> Result<()>;

    /// Reads the configuration again and applies the difference. `Unsupported` where the agent is embedded without
    /// a configuration. Returns what changed, a sentence each.
    async fn reload(&self) -> Result<Vec<String>>;
}
