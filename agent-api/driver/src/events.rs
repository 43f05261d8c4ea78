//! What a driver says of its objects.

use std::pin::Pin;

use agent_api_model::{Condition, DriverState, Evidence, ExitStatus, Guid, LimitStatus};
use futures_core::Stream;
use serde_json::Value;

use crate::Handle;

/// What the substrate shows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// It is being made and does not work yet (a pod that is being pulled).
    Starting,
    /// It runs.
    Running,
    /// It is held still.
    Paused,
    /// It ended by itself. [`ObjectStatus::exit`] says how, as far as is known.
    Exited,
    /// It is not there, and was not seen to end.
    Gone,
    /// The substrate does not say. Never taken for an end.
    Unknown,
}

/// The full status of an object: never a difference, so that any event may be lost.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectStatus {
    /// What it is.
    pub state: ObjectState,
    /// How that is known. The revision grows with every change the driver saw of this object, over restarts of
    /// the real thing too.
    pub evidence: Evidence,
    /// How it ended, where it did.
    pub exit: Option<ExitStatus>,
    /// What is special to the kind, by its status schema: a JSON object or null. Holds no secret.
    pub details: Value,
    /// One entry for each limit of the object's resources.
    pub limits: Vec<LimitStatus>,
    /// Named facts (`ImagePull`, `LogRotation` …); none where there is nothing to say.
    pub conditions: Vec<Condition>,
}

impl ObjectStatus {
    /// A status with nothing but a state.
    #[must_use]
    pub fn new(state: ObjectState, evidence: Evidence) -> Self {
        Self {
            state,
            evidence,
            exit: None,
            details: Value::Null,
            limits: Vec::new(),
            conditions: Vec::new(),
        }
    }
}

/// The status of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Which object.
    pub guid: Guid,
    /// Its new handle, where it changed (the substrate replaced the real thing by itself).
    pub handle: Option<Handle>,
    /// Its status.
    pub status: ObjectStatus,
}

/// One event of a driver.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are a status: boxing it would cost an allocation each"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum DriverEvent {
    /// The status of an object changed.
    Status(Observed),
    /// Some events were lost; the truth is in `observe`. Of one object, or of all where none is named.
    Gap(Option<Guid>),
    /// The driver's own health changed.
    Health(DriverState),
}

/// A driver's one stream of events.
pub type EventStream = Pin<Box<dyn Stream<Item = DriverEvent> + Send>>;
