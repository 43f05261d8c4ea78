//! One driver call for one object.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{Applied, Deleted, Handle, ProbeOutcome};
use agent_api_model::{
    ControlAction, DriverName, Error, Generation, Guid, HealthCheck, ObjectName, ObjectSpec, OpId,
    PlanAction, Verb,
};

/// One driver call for one object, to be run once.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its identity; a retry has the same.
    pub op_id: OpId,
    /// Which object.
    pub guid: Guid,
    /// Its name, for messages.
    pub name: ObjectName,
    /// Whose call it is.
    pub driver: DriverName,
    /// Which queue it waits in where the driver is at its cap.
    pub lane: Lane,
    /// What to do.
    pub action: Action,
    /// The generation that is wanted.
    pub generation: Generation,
    /// What is wanted.
    pub spec: Arc<ObjectSpec>,
    /// What an earlier operation returned.
    pub handle: Option<Arc<Handle>>,
    /// Whether an earlier try may have had its effect.
    pub maybe_applied: bool,
    /// How long the driver may take. The core ends the call then.
    pub deadline: Duration,
    /// The journal position that must be on disk before the driver is called; 0 where nothing must.
    pub after: u64,
}

/// Which queue an operation waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Control verbs and deletes: ahead of everything else.
    Control,
    /// The rest.
    Ordinary,
}

/// What an operation does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Create the object, or start it again after it ended.
    Start,
    /// Bring it to a new spec. With [`PlanAction::NoOp`] the operation only waits for the disk.
    Update(PlanAction),
    /// A control verb.
    Control(ControlAction),
    /// Stop and start it through delete and apply, where the driver has no restart of its own.
    Replace,
    /// Remove it.
    Delete {
        /// How long it may take to end by itself.
        grace: Option<Duration>,
        /// Leave the real thing.
        orphan: bool,
    },
    /// Try its health check once.
    Probe(Arc<HealthCheck>),
}

impl Action {
    /// The verb it belongs to.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Start => Verb::Create,
            Self::Update(_) => Verb::Update,
            Self::Control(action) => action.verb(),
            Self::Replace => Verb::Restart,
            Self::Delete { .. } => Verb::Delete,
            Self::Probe(_) => Verb::Health,
        }
    }
}

/// What became of an operation. Made by [`ManagerApi::run`](crate::ManagerApi::run), or by the core where the call
/// panicked, passed its deadline or could not be started.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The operation.
    pub operation: Operation,
    /// What happened.
    pub result: Result<Effect, Error>,
    /// When the driver was called and returned; none where it was not called.
    pub performed: Option<Performed>,
}

/// When the driver was called and returned, in microseconds of wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Performed {
    /// Called.
    pub called: agent_api_model::Timestamp,
    /// Returned.
    pub returned: agent_api_model::Timestamp,
}

/// What a driver call brought about.
#[expect(
    clippy::large_enum_variant,
    reason = "moved a few times for each driver call, and never kept"
)]
#[derive(Clone, Debug)]
pub enum Effect {
    /// The object is there, with this handle and status.
    Applied(Applied),
    /// The object is removed.
    Deleted(Deleted),
    /// The probe's answer.
    Probed(ProbeOutcome),
    /// Nothing had to be done but to wait for the disk; the driver was not called.
    Nothing,
}
