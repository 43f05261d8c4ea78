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
    /// What the driver would make of the spec, for example Kubernetes manifests; null where the spec says it all.
    /// Holds no secret.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
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
            details: Value::Null,
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
        Self::between_shown(path, (from, from), (to, to))
    }

    /// The same with each value beside the one that is shown in its place, with secrets left out: a secret that changes
    /// is a change, and is not shown.
    #[must_use]
    pub fn between_shown(path: &str, from: (&Value, &Value), to: (&Value, &Value)) -> Vec<Self> {
        let mut changes = Vec::new();
        collect(path, from, to, &mut changes);
        changes
    }
}

/// A value of a field, and what is shown of it. What stands for a whole map stands for all in it.
fn field<'a>((value, shown): (&'a Value, &'a Value), key: &str) -> (&'a Value, &'a Value) {
    let value = value.get(key).unwrap_or(&Value::Null);
    match shown {
        Value::Object(map) => (value, map.get(key).unwrap_or(&Value::Null)),
        _ if value.is_null() => (value, value),
        stand_in => (value, stand_in),
    }
}

fn collect(
    path: &str,
    from @ (old, shown_old): (&Value, &Value),
    to @ (new, shown_new): (&Value, &Value),
    changes: &mut Vec<FieldChange>,
) {
    let empty = serde_json::Map::new();
    let map = |value: &Value| match value {
        Value::Object(map) => Some(map.clone()),
        Value::Null => Some(empty.clone()),
        _ => None,
    };
    match (map(old), map(new)) {
        _ if old == new => {}
        (Some(before), Some(after)) if old.is_object() || new.is_object() => {
            let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let at = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                collect(&at, field(from, key), field(to, key), changes);
            }
        }
        _ => changes.push(FieldChange {
            path: path.into(),
            from: shown_old.clone(),
            to: shown_new.clone(),
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

    #[test]
    fn secrets_are_changes_that_are_not_shown() {
        let changes = FieldChange::between_shown(
            "",
            (
                &json!({"a": 1, "token": "one", "data": {"k": "v"}, "gone": "secret"}),
                &json!({"a": 1, "token": "hidden", "data": "hidden", "gone": "hidden"}),
            ),
            (
                &json!({"a": 2, "token": "two", "data": {"k": "w", "l": "x"}}),
                &json!({"a": 2, "token": "hidden", "data": "hidden"}),
            ),
        );
        let lines: Vec<_> = changes
            .iter()
            .map(|change| format!("{} {} {}", change.path, change.from, change.to))
            .collect();
        assert_eq!(
            lines,
            [
                "a 1 2",
                r#"data.k "hidden" "hidden""#,
                r#"data.l null "hidden""#,
                r#"gone "hidden" null"#,
                r#"token "hidden" "hidden""#,
            ]
        );
        let made = FieldChange::between_shown(
            "",
            (&Value::Null, &Value::Null),
            (&json!({"token": "one"}), &json!({"token": "hidden"})),
        );
        assert_eq!((made.len(), &made[0].to), (1, &json!("hidden")));
    }
}
