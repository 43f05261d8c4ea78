//! Stubs for drivers that were not compiled in.
#![cfg_attr(
    all(
        feature = "kubernetes",
        feature = "process",
        feature = "ray",
        feature = "simulated"
    ),
    allow(dead_code)
)]

use std::sync::Arc;

use agent_api_driver::model::{Diagnostic, DriverName, Error, ErrorKind, Kind, Result};
use agent_api_driver::{Build, DriverFactory, ObjectDriver, async_trait};
use serde_json::{Value, json};

/// A driver that was not compiled in.
#[derive(Debug)]
struct Missing {
    name: &'static str,
    kinds: &'static [&'static str],
}

/// The stub of a driver whose feature has its name.
pub(crate) fn driver(name: &'static str, kinds: &'static [&'static str]) -> Arc<dyn DriverFactory> {
    Arc::new(Missing { name, kinds })
}

impl Missing {
    fn sentence(&self) -> String {
        format!(
            "the driver {} is not compiled in; build with `--features {}`",
            self.name, self.name
        )
    }
}

#[async_trait]
impl DriverFactory for Missing {
    fn name(&self) -> DriverName {
        DriverName::new(self.name).expect("names of drivers are DNS labels")
    }

    fn kinds(&self) -> Vec<Kind> {
        self.kinds
            .iter()
            .map(|kind| Kind::new(kind).expect("kinds of drivers are kinds"))
            .collect()
    }

    fn config_schema(&self) -> Value {
        json!({"type": "object"})
    }

    fn check(&self, config: &Value) -> Vec<Diagnostic> {
        if config.is_null() {
            return Vec::new();
        }
        vec![Diagnostic::error("", self.sentence())]
    }

    async fn build(&self, _build: Build) -> Result<Arc<dyn ObjectDriver>> {
        Err(Error::new(ErrorKind::Unsupported, self.sentence()))
    }

    fn missing_feature(&self) -> Option<&'static str> {
        Some(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_says_which_feature_it_needs() {
        let stub = driver("process", &["process"]);
        assert_eq!(stub.missing_feature(), Some("process"));
        assert!(stub.check(&Value::Null).is_empty());
        assert!(stub.check(&json!({}))[0].message.contains("--features process"));
        assert_eq!(stub.kinds(), [Kind::new("process").unwrap()]);
    }
}
