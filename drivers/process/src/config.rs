//! The driver's part of the agent's configuration.

use std::path::PathBuf;
use std::time::Duration;

use agent_api_driver::model::{ByteQuantity, Diagnostic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sdk::logfile::Rotation;

/// Whether objects get control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cgroups {
    /// Where this host lets us.
    #[default]
    Auto,
    /// Never: limits are advisory, and a tree is followed by process group and mark.
    Off,
}

/// Configuration of the process driver. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// Whether objects get control groups.
    pub cgroups: Cgroups,
    /// The group below which objects get theirs, as a path in each hierarchy, for example `/system.slice/agent.service`;
    /// the agent's own group without.
    pub cgroup_root: Option<PathBuf>,
    /// Size of one log segment; the oldest are freed when `log_keep` whole ones lie before the current one.
    pub log_max_size: ByteQuantity,
    /// Whole log segments kept beside the one being written, for each of stdout and stderr.
    pub log_keep: u32,
    /// Logical size above which a restarted object begins a new file.
    pub log_fresh_over: ByteQuantity,
    /// Threads that start processes, 1 or 2; 2 by default, because each waits for the kernel most of the time.
    pub spawn_threads: u8,
    /// How long an object may take to end by itself, where neither its spec nor the request says.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub stop_grace: Duration,
    /// Descriptors kept open for sampling, three per object; half of the agent's limit of open files without. Objects beyond
    /// them are sampled by opening and closing.
    pub sample_descriptors: Option<usize>,
    /// Commands that may run at one time by `exec` and exec probes, over all objects.
    pub exec_sessions: usize,
    /// Whether TCP and HTTP probes may go to other hosts.
    pub probe_remote: bool,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            cgroups: Cgroups::Auto,
            cgroup_root: None,
            log_max_size: ByteQuantity::new(16 << 20),
            log_keep: 3,
            log_fresh_over: ByteQuantity::new(1 << 40),
            spawn_threads: 2,
            stop_grace: Duration::from_secs(10),
            sample_descriptors: None,
            exec_sessions: 64,
            probe_remote: false,
        }
    }
}

impl ProcessConfig {
    /// Reads a configuration, null standing for the defaults.
    pub(crate) fn parse(value: &Value) -> Result<Self, Diagnostic> {
        let value = if value.is_null() {
            Value::Object(serde_json::Map::new())
        } else {
            value.clone()
        };
        serde_json::from_value(value).map_err(|e| Diagnostic::error("", e.to_string()))
    }

    /// What is wrong with it.
    pub(crate) fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if self.log_max_size.get() < 64 * 1024 {
            found.push(Diagnostic::error("log_max_size", "must be at least 64Ki"));
        }
        if !(1..=2).contains(&self.spawn_threads) {
            found.push(Diagnostic::error(
                "spawn_threads",
                "must be 1 or 2: starting is bound by the kernel, more do not help",
            ));
        }
        if !(1..=1024).contains(&self.exec_sessions) {
            found.push(Diagnostic::error("exec_sessions", "must be from 1 to 1024"));
        }
        if self
            .cgroup_root
            .as_ref()
            .is_some_and(|root| !root.is_absolute() || root.to_str().is_none())
        {
            found.push(Diagnostic::error(
                "cgroup_root",
                "must be an absolute path in UTF-8, as /proc/self/cgroup writes it",
            ));
        }
        found
    }

    pub(crate) fn rotation(&self) -> Rotation {
        Rotation {
            max_size: self.log_max_size.get(),
            keep: self.log_keep,
            fresh_over: self.log_fresh_over.get(),
        }
    }
}
