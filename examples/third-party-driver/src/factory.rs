//! How the driver is registered.

use std::sync::Arc;

use agent_api_driver::model::{Diagnostic, DriverName, Kind};
use agent_api_driver::{Build, DriverFactory, ObjectDriver, Result, async_trait};
use serde_json::{Value, json};

use crate::FileDriver;

/// Builds [`FileDriver`]s. It has no configuration: files live in the driver's state directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileFactory;

#[async_trait]
impl DriverFactory for FileFactory {
    fn name(&self) -> DriverName {
        DriverName::new("file").expect("a DNS label")
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::new("file").expect("a kind")]
    }

    fn config_schema(&self) -> Value {
        json!({"type": ["object", "null"], "additionalProperties": false})
    }

    fn check(&self, config: &Value) -> Vec<Diagnostic> {
        match config {
            Value::Null => Vec::new(),
            Value::Object(map) => map
                .keys()
                .map(|key| Diagnostic::error(key, "the file driver has no settings"))
                .collect(),
            _ => vec![Diagnostic::error("", "must be a map")],
        }
    }

    async fn build(&self, build: Build) -> Result<Arc<dyn ObjectDriver>> {
        Ok(Arc::new(FileDriver::new(build.agent, build.state_dir)))
    }
}
