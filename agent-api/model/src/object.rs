//! What is wanted of an object.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, HealthCheck, Kind, ObjectName, Resources, RestartPolicy, Result, Signal};

/// The longest object, agent and driver name, in bytes: a DNS label.
pub const MAX_NAME_LENGTH: usize = 63;
/// The most labels of one object.
pub const MAX_LABELS: usize = 64;
/// The longest label key or value, in bytes.
pub const MAX_LABEL_LENGTH: usize = 253;

/// Labels: what selectors choose by.
pub type Labels = BTreeMap<String, String>;

/// One object as a person writes it: one document of an object file.
///
/// ```
/// let spec: agent_api_model::ObjectSpec = serde_json::from_str(
///     r#"{"kind": "process", "name": "web", "spec": {"command": ["sleep", "60"]}}"#,
/// )?;
/// assert_eq!(spec.kind.driver(), "process");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectSpec {
    /// What it is: `process`, `simulated`, `ray/job` …
    pub kind: Kind,
    /// Its name, unique in the agent.
    pub name: ObjectName,
    /// What selectors choose by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What must be so before it is created. It is deleted before what it depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    /// When it is started again after it ended.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_default")]
    pub restart: RestartPolicy,
    /// How to find out whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// What is done when someone else changed the real thing.
    #[serde(default, skip_serializing_if = "DriftPolicy::is_default")]
    pub drift: DriftPolicy,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Telemetry that is reported from the start, without a monitor request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<MonitorSpec>,
    /// The driver's part, by the schema of the kind (`agent schema KIND`).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub spec: Value,
}

/// What must be so of another object first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// The other object, on any driver of the same agent; it may be created later.
    pub name: ObjectName,
    /// What must be so of it.
    #[serde(default)]
    pub condition: DependencyCondition,
}

/// What must be so of the object depended on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// It runs, and is healthy where it has a health check.
    #[default]
    Running,
    /// It has succeeded.
    Succeeded,
}

/// What is done when the substrate shows something else than the spec wants, or the real thing was taken away behind
/// the agent's back. Drivers that can tell say so with the condition [`Condition::DRIFTED`](crate::Condition::DRIFTED).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftPolicy {
    /// It is brought back to the spec, under the back-off of the restart policy.
    #[default]
    Repair,
    /// It is left as it is; the condition and the phase tell of it.
    Report,
}

impl DriftPolicy {
    /// Whether it is the default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Telemetry that is reported from the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MonitorSpec {
    /// What to report; metrics by default.
    #[serde(default = "default_signals")]
    pub signals: Vec<Signal>,
    /// How often metrics are read; 10 s by default, at least 10 ms.
    #[serde(default = "default_interval", with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Where to; the agent's own topic by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

fn default_signals() -> Vec<Signal> {
    vec![Signal::Metrics]
}

fn default_interval() -> Duration {
    Duration::from_secs(10)
}

impl ObjectSpec {
    /// A spec with a kind and a name and nothing else.
    #[must_use]
    pub fn new(kind: Kind, name: ObjectName) -> Self {
        Self {
            kind,
            name,
            labels: Labels::new(),
            depends_on: Vec::new(),
            restart: RestartPolicy::default(),
            health: None,
            drift: DriftPolicy::default(),
            resources: Resources::default(),
            monitor: None,
            spec: Value::Null,
        }
    }

    /// Checks all that needs no driver: labels, dependencies on itself, back-off, intervals, amounts.
    pub fn check(&self) -> Result<()> {
        self.check_labels()
            .and_then(|()| self.check_rest())
            .map_err(|error| error.with_object(&self.name))
    }

    fn check_labels(&self) -> Result<()> {
        if self.labels.len() > MAX_LABELS {
            return Err(Error::invalid(
                "labels",
                format!("{} labels; at most {MAX_LABELS} are allowed", self.labels.len()),
            ));
        }
        for (key, value) in &self.labels {
            if key.is_empty() || !label_text(key) || !label_text(value) {
                return Err(Error::invalid(
                    format!("labels[{:?}]", key.chars().take(80).collect::<String>()),
                    format!(
                        "keys and values are up to {MAX_LABEL_LENGTH} letters, digits and . _ - /, keys not empty"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn check_rest(&self) -> Result<()> {
        for (i, dependency) in self.depends_on.iter().enumerate() {
            if dependency.name == self.name {
                return Err(Error::invalid(
                    format!("depends_on[{i}].name"),
                    "an object cannot depend on itself",
                ));
            }
            if self.depends_on[..i]
                .iter()
                .any(|earlier| earlier.name == dependency.name)
            {
                return Err(Error::invalid(
                    format!("depends_on[{i}].name"),
                    format!("{} is named twice", dependency.name),
                ));
            }
        }
        self.restart
            .backoff
            .check()
            .map_err(|(field, message)| Error::invalid(format!("restart.backoff.{field}"), message))?;
        if self
            .resources
            .gpu
            .is_some_and(|gpu| !(gpu >= 0.0 && gpu.is_finite()))
        {
            return Err(Error::invalid("resources.gpu", "must be 0 or more"));
        }
        let shortest = Duration::from_millis(10);
        if let Some(health) = &self.health {
            if health.interval < shortest {
                return Err(Error::invalid("health.interval", "must be at least 10ms"));
            }
            if health.timeout.is_zero() {
                return Err(Error::invalid("health.timeout", "must be more than 0s"));
            }
            if health.healthy_threshold == 0 || health.unhealthy_threshold == 0 {
                return Err(Error::invalid("health", "thresholds must be at least 1"));
            }
        }
        if self
            .monitor
            .as_ref()
            .is_some_and(|monitor| monitor.interval < shortest)
        {
            return Err(Error::invalid("monitor.interval", "must be at least 10ms"));
        }
        if !(self.spec.is_null() || self.spec.is_object()) {
            return Err(Error::invalid("spec", "must be a map"));
        }
        Ok(())
    }
}

fn label_text(text: &str) -> bool {
    text.len() <= MAX_LABEL_LENGTH
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: &str) -> String {
        let spec: Result<ObjectSpec, _> = serde_json::from_str(json);
        match spec {
            Err(error) => format!("does not parse: {error}"),
            Ok(spec) => spec
                .check()
                .err()
                .map_or("fine".into(), |error| error.to_string()),
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let checks = [
            r#"{"kind":"process","name":"a"}"#,
            r#"{"kind":"process","name":"a","labels":{"x y":"1"}}"#,
            r#"{"kind":"process","name":"a","depends_on":[{"name":"a"}]}"#,
            r#"{"kind":"process","name":"a","restart":{"backoff":{"factor":0.5}}}"#,
            r#"{"kind":"process","name":"a","health":{"tcp":"localhost:1","interval":"1ms"}}"#,
            r#"{"kind":"process","name":"a","spec":[1]}"#,
            r#"{"kind":"process","name":"a","color":"red"}"#,
            r#"{"kind":"process","name":"A"}"#,
            r#"{"kind":"process","name":"a","resources":{"memory":"lots"}}"#,
        ]
        .map(checked)
        .join("\n");
        insta::assert_snapshot!(checks);
    }

    #[test]
    fn writes_only_what_was_set() {
        let spec: ObjectSpec =
            serde_json::from_str(r#"{"kind":"process","name":"a","restart":"always"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&spec).unwrap(),
            r#"{"kind":"process","name":"a","restart":{"policy":"always"}}"#
        );
    }
}
