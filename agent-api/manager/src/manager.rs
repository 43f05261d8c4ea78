//! The manager's two faces.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{Handle, Observed, Recovered};
use agent_api_model::{
    Accepted, DriverName, Explanation, Guid, JournalInfo, ListRequest, ObjectName, ObjectSpec, ObjectView,
    Phase, Plan, PlanRequest, RequestId, Result, ShardId, Target,
};
use async_trait::async_trait;

use crate::{Admission, Command, FollowUp, Operation, Outcome};

/// The present moment on both clocks: monotonic for waiting, wall-clock for showing.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time since the manager was made, monotonic; moves with the runtime's clock, so that tests can pause it.
    pub elapsed: Duration,
    /// Time of day.
    pub wall: agent_api_model::Timestamp,
}

/// The manager: what is shared by all shards.
#[async_trait]
pub trait ManagerApi: Send + Sync + 'static {
    /// The partition of a shard. Called once for each shard, before anything else.
    ///
    /// # Behavior
    ///
    /// - The partitions share nothing that one could wait for another on.
    fn partition(&self, shard: ShardId) -> Box<dyn Partition>;

    /// The shard that owns an object. Constant while the agent runs.
    fn shard_of(&self, guid: Guid) -> ShardId;

    /// Makes one driver call, after the operation's record is on disk.
    ///
    /// # Behavior
    ///
    /// - Waits for [`Operation::after`] first; where that failed, the driver is not called.
    /// - A driver that does not know the object's kind or verb: an error outcome, never a panic.
    /// - Cancelled by drop: the driver's call is dropped.
    async fn run(&self, operation: Operation) -> Outcome;

    /// Asks all drivers for the objects of the journal, once, before the shards start; the answers are given to
    /// [`Partition::recovered`].
    ///
    /// # Behavior
    ///
    /// - A driver that fails, hangs past the deadline or panics leaves its own objects `Unknown` with the reason, and
    ///   no others; they are asked again by the heartbeat.
    async fn recover(&self, deadline: Duration) -> RecoveryReport;

    /// Resolves a name or GUID. No waiting.
    fn resolve(&self, target: &Target) -> Option<Guid>;

    /// The view of an object. No waiting.
    fn view(&self, guid: Guid) -> Option<Arc<ObjectView>>;

    /// The phase of an object and the revision of its evidence: what the heartbeat compares of each object, so a
    /// manager that builds its views when asked should answer this without building one. No waiting.
    fn known(&self, guid: Guid) -> Option<(Phase, u64)> {
        let view = self.view(guid)?;
        Some((view.phase, view.evidence.revision))
    }

    /// Whether people see of an object what a driver shows here besides its state: its handle, details, conditions (but
    /// for since when), limits and exit (but for when). An object that is not there, or is known in a newer revision,
    /// has nothing to learn from it: `true`. What the heartbeat asks of each object, so it compares in place, and
    /// neither builds a view nor writes anything out. No waiting.
    fn shows(&self, observed: &Observed) -> bool;

    /// The spec of an object. No waiting.
    fn spec(&self, guid: Guid) -> Option<Arc<ObjectSpec>>;

    /// The handle of an object, where it has one. No waiting.
    fn handle(&self, guid: Guid) -> Option<Arc<Handle>>;

    /// The views of many objects, by name. No waiting.
    fn list(&self, request: &ListRequest) -> Vec<Arc<ObjectView>>;

    /// The chain of events that led an object where it is. No waiting.
    fn explain(&self, guid: Guid) -> Option<Explanation>;

    /// The names of objects that depend on this one, directly. No waiting.
    fn dependents(&self, name: &ObjectName) -> Vec<ObjectName>;

    /// The reply that was given under this idempotency key, where one was. No waiting.
    fn replied(&self, key: &RequestId) -> Option<Accepted>;

    /// What a request would do. Asks the driver; changes nothing.
    async fn plan(&self, request: &PlanRequest) -> Result<Plan>;

    /// Numbers for `info`. No waiting.
    fn stats(&self) -> ManagerStats;

    /// Writes a snapshot where the journal has grown enough to need one. Called by the core now and then, never on
    /// the control path.
    async fn compact(&self) -> Result<()>;

    /// Ends the manager: what was accepted is on disk, the journal is sealed. By the deadline.
    async fn seal(&self, deadline: Duration) -> Result<()>;
}

/// The single writer of a part of the objects. No I/O, no waiting.
pub trait Partition: Send {
    /// Lets a command in, or refuses it.
    ///
    /// # Behavior
    ///
    /// - Refused commands change nothing.
    /// - The same idempotency key gives the reply of the first, with `repeated`, and has no effect.
    /// - A create whose name is taken: `AlreadyExists`. A cycle of dependencies: `Invalid` with the cycle named.
    /// - A command for an object that is not there: `NotFound`. For one that is being deleted: `Conflict`, except for
    ///   another delete, which is the same.
    /// - A delete of an object that others depend on: `Conflict` with their names, unless they are being deleted too.
    /// - One operation per object at a time: later ones wait in order, at most 16, then `Busy`.
    /// - A delete while a create is in flight waits for it or cancels it.
    fn admit(&mut self, command: Command, now: Now) -> Result<Admission>;

    /// Takes what became of an operation.
    ///
    /// # Behavior
    ///
    /// - An outcome of an operation that is no longer the object's is ignored.
    /// - A retryable error is tried again with the same `op_id` under back-off; another one fails the operation.
    /// - After it the object's next waiting operation is run.
    fn settle(&mut self, outcome: Outcome, now: Now) -> Vec<FollowUp>;

    /// Takes what a driver saw.
    ///
    /// # Behavior
    ///
    /// - An older revision than the one known is ignored; so is an object that is not there.
    /// - An end is written to the journal before it is acted on.
    fn observe(&mut self, observed: Observed, now: Now) -> Vec<FollowUp>;

    /// A wake-up that was asked for is due.
    fn wake(&mut self, guid: Guid, reason: crate::WakeReason, now: Now) -> Vec<FollowUp>;

    /// Something that this object waits for has changed.
    fn dependency_changed(&mut self, guid: Guid, now: Now) -> Vec<FollowUp>;

    /// Takes the answers of [`ManagerApi::recover`] for this shard, and goes on with what was under way. Called once,
    /// before anything else.
    fn recovered(&mut self, now: Now) -> Vec<FollowUp>;

    /// Takes a driver's later answers about objects that could not be recovered at the start.
    fn recovered_late(&mut self, answers: Vec<Recovered>, now: Now) -> Vec<FollowUp>;

    /// The objects of a driver that have a handle and are due for the heartbeat: all that are not being made or
    /// deleted, in chunks of at most `chunk`.
    fn audit(&self, driver: &DriverName, chunk: usize) -> Vec<Vec<(Guid, Arc<Handle>)>>;

    /// How many objects there are, by phase.
    fn count(&self) -> Vec<(Phase, usize)>;
}

/// Numbers for `info`.
#[derive(Clone, Debug, Default)]
pub struct ManagerStats {
    /// The journal.
    pub journal: JournalInfo,
    /// Bytes waiting to be written, and the bound.
    pub journal_queue: agent_api_model::QueueInfo,
    /// Objects by phase.
    pub objects: Vec<(Phase, usize)>,
    /// Counters, for example `restarts`.
    pub counters: Vec<(&'static str, u64)>,
}

/// What recovery found, in numbers and sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Objects read from the journal.
    pub objects: usize,
    /// Found again and running.
    pub adopted: usize,
    /// Ended meanwhile.
    pub exited: usize,
    /// Not there.
    pub lost: usize,
    /// Somebody else's under our reference.
    pub foreign: usize,
    /// Not known, because their driver did not answer.
    pub unknown: usize,
    /// What a person should know: damaged records, drivers that failed, leaks found.
    pub notes: Vec<String>,
}
