//! How the driver is registered.

use std::sync::Arc;

use agent_api_driver::model::{Diagnostic, DriverName, Error, Kind, Result, Severity};
use agent_api_driver::{Build, DriverFactory, ObjectDriver, async_trait};
use serde_json::Value;

use crate::config::KubernetesConfig;
use crate::driver::KubernetesDriver;
use crate::kinds::KubeKind;

/// The driver's name, the first part of its kinds.
pub(crate) const NAME: &str = "kubernetes";

/// Builds Kubernetes drivers. Register it with the agent to manage objects of the kinds `kubernetes/…`.
#[derive(Clone, Copy, Debug, Default)]
pub struct KubernetesDriverFactory;

pub(crate) fn name() -> DriverName {
    DriverName::new(NAME).expect("lower-case letters")
}

#[async_trait]
impl DriverFactory for KubernetesDriverFactory {
    fn name(&self) -> DriverName {
        name()
    }

    fn kinds(&self) -> Vec<Kind> {
        KubeKind::ALL.map(KubeKind::kind).into()
    }

    fn config_schema(&self) -> Value {
        schemars::schema_for!(KubernetesConfig).to_value()
    }

    fn check(&self, config: &Value) -> Vec<Diagnostic> {
        match KubernetesConfig::parse(config) {
            Ok(config) => config.check(),
            Err(wrong) => vec![wrong],
        }
    }

    async fn build(&self, build: Build) -> Result<Arc<dyn ObjectDriver>> {
        let config = KubernetesConfig::parse(&build.config)
            .map_err(|wrong| Error::invalid(wrong.path, wrong.message))?;
        let wrong = config
            .check()
            .into_iter()
            .find(|found| found.severity == Severity::Error);
        if let Some(wrong) = wrong {
            return Err(Error::invalid(wrong.path, wrong.message));
        }
        Ok(Arc::new(KubernetesDriver::start(build, config).await?))
    }
}
