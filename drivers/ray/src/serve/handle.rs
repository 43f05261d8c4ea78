//! The handle of a Serve application.

use std::collections::BTreeMap;

use agent_api_driver::model::{Guid, ObjectSpec, OpId, ResourceField};
use agent_api_driver::{Handle, Result};
use serde::{Deserialize, Serialize};

use super::TYPE;

/// What finds an application again, and tells whether it is as it was left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServeHandle {
    /// The cluster, by its name in the driver's configuration.
    pub(crate) cluster: String,
    /// The application's name there.
    pub(crate) application: String,
    /// The object in its mark.
    pub(crate) guid: Guid,
    /// The operation in its mark: the one that made it, or that restarted it last.
    pub(crate) op_id: OpId,
    /// Of the configuration that was sent.
    pub(crate) digest: String,
    /// The revision when the handle was written: later ones are above it.
    pub(crate) revision: u64,
    /// The deployment that the limits are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) main: Option<String>,
    /// The limits that the spec sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) limits: BTreeMap<ResourceField, String>,
    /// The number of replicas is someone else's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) external_scaler: bool,
}

impl ServeHandle {
    pub(crate) fn read(handle: &Handle) -> Result<Self> {
        crate::handle::read(TYPE, handle)
    }

    pub(crate) fn write(&self) -> Handle {
        crate::handle::write(TYPE, self)
    }
}

/// The limits that a spec sets, in Kubernetes notation.
pub(super) fn limits_of(object: &ObjectSpec) -> BTreeMap<ResourceField, String> {
    let wanted = &object.resources;
    let mut limits = BTreeMap::new();
    if let Some(replicas) = wanted.replicas {
        limits.insert(ResourceField::Replicas, replicas.to_string());
    }
    if let Some(cpu) = wanted.cpu {
        limits.insert(ResourceField::Cpu, cpu.to_string());
    }
    if let Some(memory) = wanted.memory {
        limits.insert(ResourceField::Memory, memory.to_string());
    }
    if let Some(gpu) = wanted.gpu {
        limits.insert(ResourceField::Gpu, gpu.to_string());
    }
    limits
}
