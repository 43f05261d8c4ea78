//! What is known of an object.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Condition, Evidence, ExitStatus, Generation, Guid, HealthState, Kind, Labels, ObjectName, OpId, Phase,
    ResourcesView, Timestamp, Verb,
};

/// What is known of an object: what `get`, `describe` and `watch` show. Cheap to clone behind an `Arc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectView {
    /// Its identity.
    pub guid: Guid,
    /// Its name.
    pub name: ObjectName,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    #[serde(default, skip_serializing_if = "labels_are_empty")]
    pub labels: Arc<Labels>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: Timestamp,
    /// When it was accepted.
    pub created: Timestamp,
    /// The generation of the spec that is wanted.
    pub generation: Generation,
    /// The generation that the driver has applied; 0 before the first.
    pub observed_generation: Generation,
    /// How the phase is known.
    pub evidence: Evidence,
    /// What is wanted and what is so.
    #[serde(default, skip_serializing_if = "ResourcesView::is_empty")]
    pub resources: ResourcesView,
    /// Named facts beside the phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What the driver tells besides, for example `pid`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
    /// How often it was started again by its restart policy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// How it ended the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// What its health check says, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthState>,
    /// The driver call in flight. One that hangs shows here, with the time since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationView>,
    /// Whether it was found again after a restart of the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
}

/// A driver call in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationView {
    /// Its identity.
    pub op_id: OpId,
    /// What it does.
    pub verb: Verb,
    /// Since when it is under way, first try.
    pub since: Timestamp,
    /// How often it was tried before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Why the last try failed, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn labels_are_empty(labels: &Labels) -> bool {
    labels.is_empty()
}
