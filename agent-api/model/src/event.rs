//! What happened to an object.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    DependencyCondition, EvidenceSource, ExitStatus, Generation, Guid, Kind, ObjectName, ObjectView, OpId,
    Phase, RequestId, Timestamp, Verb,
};

/// One step of an object from phase to phase, with its cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// The phase before; none where the object began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Phase>,
    /// The phase after; none where the object is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Phase>,
    /// Why.
    pub cause: Cause,
}

/// Why something happened to an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// Somebody asked.
    Request {
        /// What for.
        verb: Verb,
        /// In which request.
        request_id: RequestId,
    },
    /// An operation ended well.
    Done {
        /// What it did.
        verb: Verb,
        /// Which one.
        op_id: OpId,
    },
    /// An operation failed.
    Error {
        /// What it did.
        verb: Verb,
        /// Which one.
        op_id: OpId,
        /// Why, in one sentence.
        message: String,
    },
    /// The substrate showed it.
    Observed {
        /// How it is known.
        source: EvidenceSource,
        /// What was seen, in one sentence.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// It ended.
    Exited {
        /// How it is known.
        source: EvidenceSource,
        /// How it ended.
        exit: ExitStatus,
    },
    /// Its restart policy starts it again.
    Restart {
        /// The restart's number, from 1.
        attempt: u32,
        /// The wait before it, in milliseconds.
        delay_ms: u64,
    },
    /// Its health check failed.
    Health {
        /// What was seen, in one sentence.
        message: String,
    },
    /// The real thing is not what the spec wants, because somebody else changed it or took it away.
    Drift {
        /// What was seen, in one sentence.
        message: String,
        /// The number of the repair that begins, from 1; none where nothing is done yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        repair: Option<u32>,
    },
    /// Something it depends on changed.
    Dependency {
        /// Which.
        name: ObjectName,
        /// What came true of it; none where it is still waited for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        met: Option<DependencyCondition>,
    },
    /// It was found, or not found, after a restart of the agent.
    Recovered {
        /// What was found, in one sentence.
        message: String,
    },
}

impl Cause {
    /// One sentence for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Request { verb, .. } => format!("{verb} requested"),
            Self::Done { verb, .. } => format!("{verb} done"),
            Self::Error { verb, message, .. } => format!("{verb} failed: {message}"),
            Self::Observed { message, .. } if message.is_empty() => "seen on the substrate".into(),
            Self::Observed { message, .. } | Self::Recovered { message } => message.clone(),
            Self::Exited { exit, .. } => exit.to_string(),
            Self::Restart { attempt, delay_ms: 0 } => format!("restart {attempt} at once"),
            Self::Restart { attempt, delay_ms } => format!("restart {attempt} in {delay_ms} ms"),
            Self::Health { message } => format!("health check: {message}"),
            Self::Drift {
                message,
                repair: None,
            } => format!("drifted: {message}"),
            Self::Drift {
                message,
                repair: Some(number),
            } => format!("repair {number}: {message}"),
            Self::Dependency { name, met: None } => format!("waits for {name}"),
            Self::Dependency {
                name,
                met: Some(DependencyCondition::Running),
            } => format!("{name} runs"),
            Self::Dependency {
                name,
                met: Some(DependencyCondition::Succeeded),
            } => format!("{name} succeeded"),
        }
    }
}

/// The kind of a lifecycle event: the last part of its CloudEvents type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LifecycleKind {
    /// Accepted into the system.
    Created,
    /// Its phase changed.
    PhaseChanged,
    /// Something else in its view changed.
    Updated,
    /// An operation failed; it may be tried again.
    OperationFailed,
    /// It is gone and its resources are freed.
    Deleted,
}

impl LifecycleKind {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::PhaseChanged => "phase_changed",
            Self::Updated => "updated",
            Self::OperationFailed => "operation_failed",
            Self::Deleted => "deleted",
        }
    }
}

/// A lifecycle event of an object, as it goes out on Bus Out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LifecycleEvent {
    /// What kind of event.
    pub kind: LifecycleKind,
    /// The object's identity.
    pub guid: Guid,
    /// The object's name.
    pub name: ObjectName,
    /// What the object is.
    pub object_kind: Kind,
    /// The generation wanted at that time.
    pub generation: Generation,
    /// The step and its cause.
    pub transition: Transition,
    /// Grows by one with each event of the object, so that a reader sees what it missed.
    pub sequence: u64,
}

/// What a watcher gets: first the objects that are, then what changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum WatchEvent {
    /// The view of an object as it is now; replaces the one before.
    Changed(Arc<ObjectView>),
    /// The object is gone.
    Deleted {
        /// Its identity.
        guid: Guid,
        /// Its name.
        name: ObjectName,
    },
    /// All objects that were there at the beginning have been sent.
    Synced,
    /// Some changes were missed because the watcher was slow; the current views follow anew.
    Gap {
        /// How many changes were missed.
        missed: u64,
    },
}
