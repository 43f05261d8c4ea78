//! The arguments and results of the driver's calls.

use std::time::Duration;

use agent_api_model::{ExitStatus, Generation, Guid, ObjectSpec, OpId};

use crate::{Handle, ObjectStatus};

/// Create an object, or bring it to a new spec, or start it again after it ended.
#[derive(Clone, Debug)]
pub struct ApplyRequest<'a> {
    /// Which object.
    pub guid: Guid,
    /// The generation of the spec.
    pub generation: Generation,
    /// The identity of this operation.
    pub op_id: OpId,
    /// Whether an earlier call with this `op_id` may have had its effect without its handle being known: after a
    /// crash, a timeout or a lost answer. The driver then looks for the mark before it makes anything.
    pub maybe_applied: bool,
    /// What is wanted, all of it.
    pub spec: &'a ObjectSpec,
    /// What an earlier operation returned; none for a create.
    pub handle: Option<&'a Handle>,
    /// What is left of the operation's time.
    pub deadline: Duration,
}

/// What an `apply` or a control call brought about.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The reference to the real thing as it is now.
    pub handle: Handle,
    /// Its status as it is now.
    pub status: ObjectStatus,
    /// The spec that is wanted from now on, where the call itself changed what is wanted (a rollback): all of it, of the
    /// same kind and name. The manager keeps it as a new generation, unless a later change waits already. None
    /// otherwise. A repeated `op_id` returns the same.
    pub spec: Option<ObjectSpec>,
}

impl Applied {
    /// A handle and a status; the spec stays.
    #[must_use]
    pub fn new(handle: Handle, status: ObjectStatus) -> Self {
        Self {
            handle,
            status,
            spec: None,
        }
    }
}

/// What would a change of the spec do?
#[derive(Clone, Copy, Debug)]
pub struct PlanRequest<'a> {
    /// Which object.
    pub guid: Guid,
    /// The spec it has; none for a create.
    pub previous: Option<&'a ObjectSpec>,
    /// The spec it would get.
    pub next: &'a ObjectSpec,
    /// Its handle, where it has one.
    pub handle: Option<&'a Handle>,
}

/// Remove an object.
#[derive(Clone, Debug)]
pub struct DeleteRequest<'a> {
    /// Which object.
    pub guid: Guid,
    /// The identity of this operation.
    pub op_id: OpId,
    /// What an earlier operation returned; none where a create may have had its effect and its handle was never
    /// known: then the driver looks for the mark.
    pub handle: Option<&'a Handle>,
    /// How long it may take to end by itself before it is ended; none for the driver's default. The driver
    /// shortens it to fit the deadline.
    pub grace: Option<Duration>,
    /// Leave the real thing and only forget it: take our marks away where the substrate allows it.
    pub orphan: bool,
    /// What is left of the operation's time.
    pub deadline: Duration,
}

/// What a `delete` brought about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deleted {
    /// How it ended, where it was running and that is known.
    pub exit: Option<ExitStatus>,
    /// What could not be removed, a sentence each; empty where nothing is left.
    pub left: Vec<String>,
}

/// One object after a restart of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// Which object.
    pub guid: Guid,
    /// What became of it.
    pub state: RecoveredState,
}

/// What became of an object while the agent was away.
#[derive(Clone, Debug, PartialEq)]
pub enum RecoveredState {
    /// It is ours again: status and, where it changed, a new handle.
    Adopted(ObjectStatus, Option<Handle>),
    /// It ended while the agent was away; the status has the exit as far as is known.
    Exited(ObjectStatus),
    /// It is not there, and nobody can say how it ended.
    Lost(String),
    /// Something is there under that reference that is not ours: it is not touched.
    Foreign(String),
}

/// How a driver ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Objects go on, to be adopted at the next start.
    LeaveRunning,
    /// Objects are stopped first.
    StopObjects,
}
