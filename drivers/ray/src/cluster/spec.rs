//! The spec of kind `ray/cluster`, and its handle.

use agent_api_driver::model::{Error, Guid, ObjectSpec};
use agent_api_driver::{Handle, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TYPE;

/// A Ray cluster that is there already. It is watched, and never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// The cluster, by its name in the driver's configuration; not needed where there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// With fewer nodes that are alive it counts as not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_nodes: Option<u32>,
}

impl ClusterSpec {
    pub(super) fn parse(object: &ObjectSpec) -> Result<Self> {
        let value = if object.spec.is_null() {
            Value::Object(Map::new())
        } else {
            object.spec.clone()
        };
        serde_json::from_value(value)
            .map_err(|e| Error::invalid("spec", e.to_string()).with_hint("see `agent schema ray/cluster`"))
    }
}

/// The handle of a cluster that is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ClusterHandle {
    pub(super) guid: Guid,
    pub(super) cluster: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) min_nodes: Option<u32>,
    /// The revision when the handle was written: later ones are above it.
    pub(super) revision: u64,
}

impl ClusterHandle {
    pub(super) fn read(handle: &Handle) -> Result<Self> {
        crate::handle::read(TYPE, handle)
    }

    pub(super) fn write(&self) -> Handle {
        crate::handle::write(TYPE, self)
    }
}
