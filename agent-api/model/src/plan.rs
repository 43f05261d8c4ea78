//! What a change would do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a driver says of a spec before it is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnostic {
    /// Whether it refuses the spec.
    pub severity: Severity,
    /// The field, for example `spec.command[0]`.
    pub path: String,
    /// One sentence.
    pub message: String,
}

impl Diagnostic {
    /// A reason to refuse the spec.
    #[must_use]
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            message: message.into(),
        }
    }

    /// Something to know; the spec is taken.
    #[must_use]
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            path: path.into(),
            message: message.into(),
        }
    }
}

/// How much a diagnostic weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The spec is refused.
    Error,
    /// The spec is taken; a person should know.
    Warning,
}

/// What a request would do, without doing it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// How the change is made.
    pub action: PlanAction,
    /// What changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// Why it is so, or why it cannot be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the driver has to say of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

impl Plan {
    /// A plan with an action and its changes.
    #[must_use]
    pub fn new(action: PlanAction, changes: Vec<FieldChange>) -> Self {
        Self {
            action,
            changes,
            reason: String::new(),
            diagnostics: Vec::new(),
        }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// How a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PlanAction {
    /// Nothing changes.
    NoOp,
    /// The object does not exist and is made.
    Create,
    /// The running object is changed.
    InPlace,
    /// The object is stopped and started; it stays the same object.
    Restart,
    /// The real thing is removed and made anew; the GUID stays.
    Recreate,
    /// It is removed.
    Delete,
    /// It can never be done.
    Infeasible,
    /// It can be done later.
    Deferred,
}

/// One field that changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldChange {
    /// The field, for example `resources.memory`.
    pub path: String,
    /// Its value now; null where it is not set.
    pub from: Value,
    /// Its value then; null where it is taken away.
    pub to: Value,
}

impl FieldChange {
    /// The differences of two JSON values, field by field; lists are compared as a whole.
    #[must_use]
    pub fn between(path: &str, from: &Value, to: &Value) -> Vec<Self> {
        let mut changes = Vec::new();
        collect(path, from, to, &mut changes);
        changes
    }
}

fn collect(path: &str, from: &Value, to: &Value, changes: &mut Vec<FieldChange>) {
    let empty = serde_json::Map::new();
    let map = |value: &Value| match value {
        Value::Object(map) => Some(map.clone()),
        Value::Null => Some(empty.clone()),
        _ => None,
    };
    match (map(from), map(to)) {
        _ if from == to => {}
        (Some(old), Some(new)) if from.is_object() || to.is_object() => {
            let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let at = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                collect(
                    &at,
                    old.get(key).unwrap_or(&Value::Null),
                    new.get(key).unwrap_or(&Value::Null),
                    changes,
                );
            }
        }
        _ => changes.push(FieldChange {
            path: path.into(),
            from: from.clone(),
            to: to.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_have_paths() {
        let changes = FieldChange::between(
            "spec",
            &json!({"command": ["a"], "env": {"A": "1", "B": "2"}}),
            &json!({"command": ["b"], "env": {"A": "1"}, "cwd": "/"}),
        );
        let paths: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["spec.command", "spec.cwd", "spec.env.B"]);
        assert_eq!(FieldChange::between("x", &json!({"a": 1}), &json!({"a": 1})), []);
    }
}
