//! Health checks of an object.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to find out whether a running object is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What to try.
    #[serde(flatten)]
    pub probe: ProbeAction,
    /// How often; 10 s by default, at least 10 ms.
    #[serde(default = "default_interval", with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// How long one try may take; 1 s by default.
    #[serde(default = "default_timeout", with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long after the start the first try is made; none by default.
    #[serde(default, with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub initial_delay: Duration,
    /// So many good answers in a row make it healthy; 1 by default.
    #[serde(default = "default_healthy")]
    pub healthy_threshold: u32,
    /// So many bad answers in a row make it unhealthy; 3 by default.
    #[serde(default = "default_unhealthy")]
    pub unhealthy_threshold: u32,
    /// Whether an unhealthy object is restarted, under its restart policy's back-off; not by default.
    #[serde(default)]
    pub restart: bool,
}

/// One try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeAction {
    /// A command in the object's context; well is exit code 0.
    Exec(Vec<String>),
    /// A TCP connection to `host:port` can be made.
    Tcp(String),
    /// A GET of this `http://` address answers 200 to 399.
    Http(String),
}

/// What the health check says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Not decided yet.
    #[default]
    Starting,
    /// Enough good answers in a row.
    Healthy,
    /// Enough bad answers in a row.
    Unhealthy,
}

fn default_interval() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(1)
}

fn default_healthy() -> u32 {
    1
}

fn default_unhealthy() -> u32 {
    3
}
