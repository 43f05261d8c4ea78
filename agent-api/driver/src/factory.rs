//! How drivers are registered.

use std::path::PathBuf;
use std::sync::Arc;

use agent_api_model::{AgentId, Diagnostic, DriverName, Kind, Result};
use async_trait::async_trait;
use serde_json::Value;

use crate::ObjectDriver;

/// What a driver is built from.
#[derive(Clone, Debug)]
pub struct Build {
    /// The agent it works for: part of the mark.
    pub agent: AgentId,
    /// A directory of its own, made by it when needed, that survives restarts.
    pub state_dir: PathBuf,
    /// Its part of the agent's configuration, checked by [`DriverFactory::check`]; null where there is none.
    pub config: Value,
}

/// Builds a driver. A value that a driver crate exports and the composing binary registers.
#[async_trait]
pub trait DriverFactory: Send + Sync + 'static {
    /// The driver's name: the first part of its kinds and the key of its configuration.
    fn name(&self) -> DriverName;

    /// The kinds it will manage, known without building it.
    fn kinds(&self) -> Vec<Kind>;

    /// The JSON Schema of its configuration.
    fn config_schema(&self) -> Value;

    /// What is wrong with a configuration, found offline: nothing is built, nothing reached.
    fn check(&self, config: &Value) -> Vec<Diagnostic>;

    /// Builds the driver.
    ///
    /// # Behavior
    ///
    /// - A substrate that cannot be reached is no error: the driver is `Unavailable` and recovers by itself.
    /// - Tasks are spawned on the runtime of the caller and end with [`ObjectDriver::shutdown`].
    async fn build(&self, build: Build) -> Result<Arc<dyn ObjectDriver>>;

    /// The feature that would compile it in: set only by the stubs of the bundle.
    fn missing_feature(&self) -> Option<&'static str> {
        None
    }
}
