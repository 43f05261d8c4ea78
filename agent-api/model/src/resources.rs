//! What an object may use, and how far that is enforced.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteQuantity, Cpu};

/// Limits wanted for an object. What is not set is not limited. Which of them a driver can hold to is in its
/// capabilities; which are held to for one object is in [`ResourcesView::limits`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processor time, in cores (`500m`, `2`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory in bytes (`256Mi`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteQuantity>,
    /// Number of processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Block input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<IoLimit>,
    /// Number of accelerators; fractions where the substrate shares them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<f64>,
    /// How many copies run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Importance against others: higher goes first. Drivers say what they make of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

impl Resources {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits of block input and output, summed over devices where the substrate allows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IoLimit {
    /// Bytes read per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<ByteQuantity>,
    /// Bytes written per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<ByteQuantity>,
}

/// The name of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResourceField {
    /// [`Resources::cpu`].
    Cpu,
    /// [`Resources::memory`].
    Memory,
    /// [`Resources::pids`].
    Pids,
    /// [`Resources::io`].
    Io,
    /// [`Resources::gpu`].
    Gpu,
    /// [`Resources::replicas`].
    Replicas,
    /// [`Resources::priority`].
    Priority,
}

impl fmt::Display for ResourceField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "io",
            Self::Gpu => "gpu",
            Self::Replicas => "replicas",
            Self::Priority => "priority",
        })
    }
}

/// Whether the substrate holds an object to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// The substrate holds it.
    Enforced,
    /// It is noted, perhaps passed on as a hint, and nothing holds it.
    Advisory,
}

/// One limit of one object as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitStatus {
    /// Which limit.
    pub field: ResourceField,
    /// The value in force, in Kubernetes notation.
    pub value: String,
    /// Whether it is held.
    pub enforcement: Enforcement,
    /// By what (`cgroup v1 cpu.cfs_quota_us`), or why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

/// The resources of an object in its view: what is wanted and what is so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourcesView {
    /// What the spec wants.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub wanted: Resources,
    /// What the driver reports, one entry per limit set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitStatus>,
}

impl ResourcesView {
    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.limits.is_empty()
    }
}
