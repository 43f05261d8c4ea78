//! Buses as the daemon opens them.

use std::path::PathBuf;
use std::sync::Arc;

use agent_api_bus_in::BusIn;
use agent_api_bus_out::BusOut;
use agent_api_model::{Diagnostic, Result};
use serde_json::Value;

/// A bus that was built and is not open yet.
#[derive(Clone)]
pub struct Bus {
    /// Where requests come from.
    pub bus_in: Arc<dyn BusIn>,
    /// Where reports go; the first bus that has one gets them.
    pub bus_out: Option<Arc<dyn BusOut>>,
}

/// What a bus is built from.
#[derive(Clone, Debug)]
pub struct BusBuild {
    /// The agent's state directory.
    pub state_dir: PathBuf,
    /// Its part of the configuration; null where there is none.
    pub config: Value,
}

/// Builds a bus from its configuration. Opens nothing.
pub type BuildBus = Arc<dyn Fn(&BusBuild) -> Result<Bus> + Send + Sync>;

/// A bus that the binary knows.
#[derive(Clone)]
pub struct BusFactory {
    /// Its name and the key of its configuration.
    pub name: &'static str,
    /// Whether it is there without an entry in the configuration.
    pub on_by_default: bool,
    /// The feature that would compile it in, where it is not.
    pub missing_feature: Option<&'static str>,
    /// The JSON Schema of its configuration.
    pub config_schema: Value,
    /// What is wrong with a configuration, found offline.
    pub check: fn(&Value) -> Vec<Diagnostic>,
    /// Builds it. Opens nothing.
    pub build: BuildBus,
}
