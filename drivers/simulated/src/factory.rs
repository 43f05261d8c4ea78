//! How the driver is registered.

use std::sync::Arc;

use agent_api_driver::model::{Diagnostic, DriverName, Error, Kind, Result};
use agent_api_driver::{Build, DriverFactory, ObjectDriver, async_trait};
use serde_json::Value;

use crate::Substrate;
use crate::config::{SimulatedConfig, first_error};
use crate::driver::SimulatedDriver;

/// The driver's name and its one kind.
pub(crate) const NAME: &str = "simulated";

/// Builds simulated drivers.
#[derive(Clone, Debug, Default)]
pub struct SimulatedFactory {
    substrate: Option<Substrate>,
}

impl SimulatedFactory {
    /// Drivers with a substrate in the state directory, which outlives the agent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Drivers on this substrate, for tests and embedders; nothing is written to the state directory.
    #[must_use]
    pub fn with_substrate(substrate: Substrate) -> Self {
        Self {
            substrate: Some(substrate),
        }
    }
}

/// The factory to register.
#[must_use]
pub fn factory() -> Arc<dyn DriverFactory> {
    Arc::new(SimulatedFactory::new())
}

#[async_trait]
impl DriverFactory for SimulatedFactory {
    fn name(&self) -> DriverName {
        DriverName::new(NAME).expect("lower-case letters")
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::new(NAME).expect("lower-case letters")]
    }

    fn config_schema(&self) -> Value {
        schemars::schema_for!(SimulatedConfig).to_value()
    }

    fn check(&self, config: &Value) -> Vec<Diagnostic> {
        SimulatedConfig::read(config).err().unwrap_or_default()
    }

    async fn build(&self, build: Build) -> Result<Arc<dyn ObjectDriver>> {
        let config = SimulatedConfig::read(&build.config).map_err(first_error)?;
        let substrate = match &self.substrate {
            Some(substrate) => substrate.clone(),
            None => tokio::task::spawn_blocking(move || Substrate::open(&build.state_dir))
                .await
                .map_err(|error| Error::internal("the state file could not be read").with_source(error))?,
        };
        Ok(Arc::new(SimulatedDriver::start(build.agent, config, substrate)))
    }
}
