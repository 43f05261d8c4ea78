//! References to the real thing.

use agent_api_model::{AgentId, Guid, OpId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The driver's opaque, versioned reference to the real thing. The manager stores it and never looks inside.
///
/// A driver reads every version it ever wrote and answers an unknown one with
/// [`ErrorKind::Invalid`](agent_api_model::ErrorKind::Invalid). It holds no secret: it is written to the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// The version of the data's form.
    pub version: u32,
    /// Whatever the driver needs to find the real thing again, also after a restart of the agent.
    pub data: Value,
}

impl Handle {
    /// A handle of this version.
    #[must_use]
    pub fn new(version: u32, data: Value) -> Self {
        Self { version, data }
    }
}

/// An object and what the driver knows it by.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The object.
    pub guid: Guid,
    /// The reference its creation returned.
    pub handle: &'a Handle,
}

/// What a driver puts on everything it makes, so that it can be found from outside: labels, environment,
/// cgroup names, whatever the substrate offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose agent.
    pub agent: AgentId,
    /// Which object.
    pub guid: Guid,
    /// Made by which operation.
    pub op_id: OpId,
}
