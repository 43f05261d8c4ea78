//! The daemon's configuration: what can be set, and its defaults.

mod check;
mod difference;
mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use agent_api_driver::ShutdownMode;
use agent_api_model::AgentId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use check::part_config;
pub use check::{CheckPart, Known, check};
pub use difference::{Difference, differences};
pub use load::{ConfigError, Loaded, Sources, default_file, load};

/// The configuration of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who the agent is.
    pub agent: AgentConfig,
    /// Where the journal, the logs and the socket are; see [`default_state_dir`](crate::paths::default_state_dir).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// The agent's own log.
    pub log: LogConfig,
    /// Limits and times of the core.
    pub core: CoreConfig,
    /// How the agent ends.
    pub stop: StopConfig,
    /// Buses by name; `false` turns one off. Without an entry `http` listens on the socket in the state directory.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub buses: BTreeMap<String, Value>,
    /// Drivers by name; `false` turns one off. Without an entry each driver works with its defaults.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub drivers: BTreeMap<String, Value>,
    /// Object files and directories that are applied at every start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apply: Vec<PathBuf>,
}

/// Who the agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Its name, unique on its buses; the host's name by default. It must not change while objects exist: it is part
    /// of the mark they bear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<AgentId>,
}

/// The agent's own log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// What is logged: a level, or targets with levels (`info,agent_core=debug`). Can be changed by a reload.
    pub filter: String,
    /// How lines are written.
    pub format: LogFormat,
    /// Where to; standard error by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::default(),
            file: None,
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text, in colours on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// Limits and times of the core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CoreConfig {
    /// Number of shards; one per core by default, 1 to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u16>,
    /// Number of runtime threads; one per core by default, 1 to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u16>,
    /// How often all objects are checked against the substrate; 10 s by default, at least 100 ms. Can be changed by a
    /// reload.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub heartbeat: Duration,
    /// How long drivers may take to find their objects again at the start; 10 s by default.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub recovery: Duration,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            shards: None,
            threads: None,
            heartbeat: Duration::from_secs(10),
            recovery: Duration::from_secs(10),
        }
    }
}

/// How the agent ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopConfig {
    /// How long the ordered stop may take; 10 s by default. Can be changed by a reload.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub deadline: Duration,
    /// What becomes of the objects. Can be changed by a reload.
    pub objects: StopObjects,
}

impl Default for StopConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            objects: StopObjects::default(),
        }
    }
}

/// What becomes of the objects when the agent ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopObjects {
    /// They go on, and are adopted at the next start.
    #[default]
    Leave,
    /// They are stopped.
    Stop,
}

impl From<StopObjects> for ShutdownMode {
    fn from(objects: StopObjects) -> Self {
        match objects {
            StopObjects::Leave => Self::LeaveRunning,
            StopObjects::Stop => Self::StopObjects,
        }
    }
}

impl Config {
    /// The JSON Schema of the file.
    #[must_use]
    pub fn schema() -> Value {
        schemars::schema_for!(Self).to_value()
    }

    /// Checks what needs no driver or bus: ranges. The error is the field and a sentence.
    pub(crate) fn check_ranges(&self) -> Result<(), (&'static str, &'static str)> {
        if self.core.heartbeat < Duration::from_millis(100) {
            return Err(("core.heartbeat", "must be at least 100ms"));
        }
        if self.core.recovery.is_zero() {
            return Err(("core.recovery", "must be more than 0s"));
        }
        if self.stop.deadline.is_zero() {
            return Err(("stop.deadline", "must be more than 0s"));
        }
        for (field, number) in [
            ("core.shards", self.core.shards),
            ("core.threads", self.core.threads),
        ] {
            if number.is_some_and(|number| !(1..=64).contains(&number)) {
                return Err((field, "must lie between 1 and 64"));
            }
        }
        Ok(())
    }
}

/// Durations as text: `10s`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&agent_api_model::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        agent_api_model::parse_duration(&text).map_err(D::Error::custom)
    }
}
