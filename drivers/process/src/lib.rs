//! Object driver for local processes.
//!
//! Processes are started without a shell, without a copy of the agent's memory and without a helper beside them, each in a
//! session of its own; they write their logs themselves and outlive the agent. Their ends are told by pidfds, all in one epoll
//! instance. A later agent finds them again by boot, pid and start time, and what a crash left in the middle of a create by the
//! mark in its environment.
//!
//! # Parts
//!
//! One task per driver (ends of processes, a tick for the log files) and one or two threads (starting, walking `/proc`);
//! neither grows with the number of objects.
//!
//! - `driver`: the contract's calls and the capabilities; `start`, `stop`, `control`, `recover`, `observe`, `logs`, `command`
//!   do them; `table` is what is known of the objects, `task` the one task, `events` the one stream.
//! - `spec`, `config`, `handle`: what a person writes, and what the manager stores.
//! - `sdk`: the system below, without a word of the contract. All unsafe code is in `sdk/sys.rs` and `sdk/clone3.rs`.
//!
//! # What holds
//!
//! - No process is signalled unless its pid, start time and boot were found to be those of the object while a descriptor
//!   pinned it; groups are signalled through that descriptor where the kernel can (6.9).
//! - An object is its whole tree: what the first process leaves behind ends with it. A cgroup holds the tree where the host has
//!   a v2 hierarchy we may write to; else the process group does, and the mark finds what has left the group.
//! - The same operation starts one process, also after a crash: a record beside the logs or the mark tells.
//! - Rotation frees the oldest part of a log file in place (see `sdk/logfile.rs`), so no line is lost while a reader keeps up,
//!   and what it misses is counted.
//!
//! Needs Linux 5.11 (`close_range`); 5.14 for `cgroup.kill`; 6.9 and 6.15 add what is said above and the exit codes of
//! adopted processes.

mod command;
mod config;
mod control;
mod driver;
mod error;
mod events;
mod handle;
mod logs;
mod observe;
mod recover;
mod sdk;
mod shared;
mod spec;
mod start;
mod stop;
mod table;
mod task;
mod text_duration;
mod validate;

use std::sync::Arc;

use agent_api_driver::model::{Diagnostic, DriverName, Kind};
use agent_api_driver::{Build, DriverFactory, ObjectDriver, Result, async_trait};
use serde_json::Value;

pub use config::{Cgroups, ProcessConfig};
pub use driver::ProcessDriver;
pub use spec::{IoClass, IoPriority, ProcessSpec, RlimitSpec, RlimitValue, Stdin, Unlimited};
pub use table::ProcessDetails;

/// Builds [`ProcessDriver`]s. Register it with the agent to manage objects of kind `process`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessDriverFactory;

#[async_trait]
impl DriverFactory for ProcessDriverFactory {
    fn name(&self) -> DriverName {
        driver::name()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![driver::kind()]
    }

    fn config_schema(&self) -> Value {
        schemars::schema_for!(ProcessConfig).to_value()
    }

    fn check(&self, config: &Value) -> Vec<Diagnostic> {
        match ProcessConfig::parse(config) {
            Ok(config) => config.check(),
            Err(wrong) => vec![wrong],
        }
    }

    async fn build(&self, build: Build) -> Result<Arc<dyn ObjectDriver>> {
        Ok(Arc::new(ProcessDriver::build(&build)?))
    }
}
