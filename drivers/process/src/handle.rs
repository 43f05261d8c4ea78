//! What the driver keeps of a process in its handle, version 1.

use std::path::PathBuf;
use std::time::Duration;

use agent_api_driver::model::{Error, OpId, Timestamp};
use agent_api_driver::{Handle, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::sdk::cgroup::Wanted;
use crate::sdk::identity::Identity;

/// The version of handles written now.
pub(crate) const VERSION: u32 = 1;

/// The data of a handle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HandleData {
    #[serde(flatten)]
    pub identity: Identity,
    /// The operation that started it.
    pub op_id: OpId,
    pub started_at: Timestamp,
    /// Grows over restarts; a driver built anew goes on from here.
    pub revision: u64,
    /// How often it was started again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u64,
    /// Of the part of the spec that cannot change while it runs.
    pub digest: u64,
    #[serde(default, skip_serializing_if = "LimitsData::is_default")]
    pub limits: LimitsData,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<PathBuf>,
    pub stop_signal: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u64>,
    /// What earlier runs used, so that counters only grow.
    #[serde(default, skip_serializing_if = "Used::is_default")]
    pub used: Used,
}

/// Counters of the runs before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    pub cpu_nanos: u64,
    pub io_read: u64,
    pub io_write: u64,
}

impl Used {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The limits set, so that a driver built anew knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LimitsData {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write: Option<u64>,
}

impl LimitsData {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Wanted> for LimitsData {
    fn from(w: Wanted) -> Self {
        Self {
            cpu_millis: w.cpu_millis,
            memory: w.memory_bytes,
            pids: w.pids,
            io_read: w.io_read,
            io_write: w.io_write,
        }
    }
}

impl From<LimitsData> for Wanted {
    fn from(l: LimitsData) -> Self {
        Self {
            cpu_millis: l.cpu_millis,
            memory_bytes: l.memory,
            pids: l.pids,
            io_read: l.io_read,
            io_write: l.io_write,
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl HandleData {
    /// Reads a handle of any version ever written.
    pub(crate) fn read(handle: &Handle) -> Result<Self> {
        if handle.version != VERSION {
            return Err(Error::invalid(
                "handle",
                format!(
                    "handle version {} is not known; this driver reads {VERSION}",
                    handle.version
                ),
            ));
        }
        serde_json::from_value(handle.data.clone())
            .map_err(|e| Error::invalid("handle", format!("the handle cannot be read: {e}")))
    }

    /// The handle to store.
    pub(crate) fn write(&self) -> Handle {
        Handle::new(
            VERSION,
            serde_json::to_value(self).expect("the data has only string keys and finite numbers"),
        )
    }

    pub(crate) fn stop_signal(&self) -> Signal {
        Signal::from_named_raw(self.stop_signal).unwrap_or(Signal::TERM)
    }

    pub(crate) fn stop_grace(&self) -> Option<Duration> {
        self.stop_grace_ms.map(Duration::from_millis)
    }
}
