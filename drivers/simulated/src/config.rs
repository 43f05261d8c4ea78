//! The driver's configuration.

use agent_api_driver::model::{Diagnostic, Error};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::SimulatedSpec;

/// The driver's part of the agent's configuration. All fields are optional.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedConfig {
    /// Decides all chance, together with the names of the objects; 0 by default.
    pub seed: u64,
    /// What objects do where their own spec does not say.
    pub defaults: SimulatedSpec,
    /// How many events wait for a slow reader before a gap is reported; 16,384 by default.
    pub event_capacity: usize,
    /// How many operations may be in flight on the driver; 1,024 by default.
    pub max_in_flight: usize,
}

impl Default for SimulatedConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            defaults: SimulatedSpec::default(),
            event_capacity: 16_384,
            max_in_flight: 1_024,
        }
    }
}

impl SimulatedConfig {
    /// Reads and checks a configuration; null is the default one. All that is wrong, with paths.
    pub(crate) fn read(config: &Value) -> Result<Self, Vec<Diagnostic>> {
        if config.is_null() {
            return Ok(Self::default());
        }
        let config: Self = parse(config).map_err(|(path, message)| vec![Diagnostic::error(path, message)])?;
        let mut found: Vec<_> = config
            .defaults
            .problems()
            .into_iter()
            .map(|(path, message)| Diagnostic::error(format!("defaults.{path}"), message))
            .collect();
        if config.event_capacity == 0 {
            found.push(Diagnostic::error("event_capacity", "must be at least 1"));
        }
        if config.max_in_flight == 0 {
            found.push(Diagnostic::error("max_in_flight", "must be at least 1"));
        }
        if found.is_empty() { Ok(config) } else { Err(found) }
    }
}

/// Reads a spec; null is the empty one. All that is wrong, with paths below `spec`.
pub(crate) fn read_spec(spec: &Value) -> Result<SimulatedSpec, Vec<Diagnostic>> {
    if spec.is_null() {
        return Ok(SimulatedSpec::default());
    }
    let below = |path: String| {
        if path.is_empty() {
            "spec".to_string()
        } else {
            format!("spec.{path}")
        }
    };
    let spec: SimulatedSpec =
        parse(spec).map_err(|(path, message)| vec![Diagnostic::error(below(path), message)])?;
    let found: Vec<_> = spec
        .problems()
        .into_iter()
        .map(|(path, message)| Diagnostic::error(below(path), message))
        .collect();
    if found.is_empty() { Ok(spec) } else { Err(found) }
}

/// The first error as one that a call returns.
pub(crate) fn first_error(found: Vec<Diagnostic>) -> Error {
    match found.into_iter().next() {
        Some(found) => Error::invalid(found.path, found.message),
        None => Error::internal("refused without a reason"),
    }
}

fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    if !value.is_object() {
        // serde would take a list for a struct, field by field.
        return Err((String::new(), "must be a map".into()));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (
            if path == "." { String::new() } else { path },
            error.into_inner().to_string(),
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(found: Result<impl std::fmt::Debug, Vec<Diagnostic>>) -> String {
        let found = found.unwrap_err();
        found
            .iter()
            .map(|it| format!("{}: {}", it.path, it.message))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let texts = [
            said(read_spec(&json!({"latency": {"create": "soon"}}))),
            said(read_spec(&json!({"latency": {"cretae": "1ms"}}))),
            said(read_spec(&json!({"fail": {"create": 2}}))),
            said(read_spec(&json!({"colour": "red"}))),
            said(read_spec(&json!({"lifetime": {"min": "2s", "max": "1s"}}))),
            said(read_spec(&json!([]))),
            said(SimulatedConfig::read(&json!({"sed": 1}))),
            said(SimulatedConfig::read(
                &json!({"event_capacity": 0, "defaults": {"metrics": 100_000}}),
            )),
        ];
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(
            SimulatedConfig::read(&Value::Null).unwrap(),
            SimulatedConfig::default()
        );
        assert_eq!(
            SimulatedConfig::read(&json!({})).unwrap(),
            SimulatedConfig::default()
        );
        assert_eq!(read_spec(&Value::Null).unwrap(), SimulatedSpec::default());
    }
}
