//! Checking a spec against the schema of its kind, and arguments against their method's, with field paths and suggestions.

use agent_api::model::{Error, ErrorKind, Result};
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value};

/// The compiled schema of a part of a request.
pub(crate) struct PartSchema {
    /// The name of the part, with which the paths of its fields begin.
    part: &'static str,
    schema: Value,
    validator: Validator,
}

struct Finding {
    path: String,
    message: String,
    hint: Option<String>,
}

impl PartSchema {
    /// Compiles a schema; a driver with one that does not compile is at fault itself.
    pub(crate) fn compile(part: &'static str, schema: Value) -> Result<Self> {
        let validator = jsonschema::draft202012::options()
            .build(&schema)
            .map_err(|error| Error::internal(format!("the schema does not compile: {}", error.masked())))?;
        Ok(Self {
            part,
            schema,
            validator,
        })
    }

    /// Checks a value; `null` is checked as `{}`. The error names the first field that is wrong and says how many more.
    pub(crate) fn check(&self, value: &Value) -> Result<()> {
        let empty = Value::Object(Map::new());
        let value = if value.is_null() { &empty } else { value };
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let mut findings: Vec<_> = self
            .validator
            .iter_errors(value)
            .take(20)
            .map(|error| self.finding(&error))
            .collect();
        if findings.is_empty() {
            return Ok(());
        }
        let others = findings.split_off(1);
        let first = findings.remove(0);
        let mut error = Error::new(ErrorKind::Invalid, first.message).with_path(first.path);
        if let Some(hint) = first.hint {
            error = error.with_hint(hint);
        }
        for other in others {
            error = error.with_context(other.path, other.message);
        }
        Err(error)
    }

    fn finding(&self, error: &ValidationError<'_>) -> Finding {
        let error = most_telling(error);
        let at = field_path(self.part, error.instance_path());
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let field = unexpected.first().map_or("", String::as_str);
                let known = self.properties_beside(error.schema_path());
                Finding {
                    path: format!("{at}.{}", cut(field)),
                    message: match known.is_empty() {
                        true => "this field is not known".into(),
                        false => format!("this field is not known; known are {}", known.join(", ")),
                    },
                    hint: closest(field, known.iter().copied()).map(|near| format!("did you mean {near}?")),
                }
            }
            ValidationErrorKind::Required { property } => Finding {
                path: format!("{at}.{}", property.as_str().unwrap_or_default()),
                message: "is missing".into(),
                hint: None,
            },
            // Masked: a value may be a secret.
            _ => Finding {
                path: at,
                message: error.masked_with("the value").to_string(),
                hint: None,
            },
        }
    }

    /// The names of the properties that stand beside a keyword of the schema.
    fn properties_beside(&self, keyword: &Location) -> Vec<&str> {
        let pointer = keyword.as_str();
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.schema
            .pointer(parent)
            .and_then(|schema| schema.get("properties"))
            .and_then(Value::as_object)
            .map(|properties| properties.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }
}

/// Of a choice that does not fit, the branch that came farthest says more than the choice.
fn most_telling<'a>(error: &'a ValidationError<'a>) -> &'a ValidationError<'a> {
    let branches = match error.kind() {
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => context,
        _ => return error,
    };
    let depth = |error: &ValidationError<'_>| error.instance_path().segments().count();
    branches
        .iter()
        .flatten()
        .max_by_key(|inner| depth(inner))
        .filter(|inner| depth(inner) > depth(error))
        .map_or(error, |inner| most_telling(inner))
}

fn field_path(part: &str, location: &Location) -> String {
    let mut path = String::from(part);
    for segment in location {
        match segment {
            LocationSegment::Property(name) => {
                path.push('.');
                path.push_str(&cut(&name));
            }
            LocationSegment::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// Names come from the caller and may be long or hold control characters.
fn cut(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

/// The known name that was most likely meant.
pub(crate) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 80 {
        return None;
    }
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> PartSchema {
        PartSchema::compile("spec", json!({
            "type": "object",
            "properties": {
                "command": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "env": {"type": "object", "additionalProperties": {"type": "string"}},
                "logs": {"$ref": "#/$defs/logs"},
                "stdin": {"anyOf": [{"type": "null"}, {
                    "type": "object", "properties": {"file": {"type": "string"}}, "additionalProperties": false
                }]},
            },
            "required": ["command"],
            "additionalProperties": false,
            "$defs": {"logs": {
                "type": "object", "properties": {"keep": {"type": "integer"}}, "additionalProperties": false
            }},
        }))
        .unwrap()
    }

    fn refusal(spec: Value) -> (String, String, Option<String>) {
        let error = schema().check(&spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        (
            error.path().unwrap_or_default().to_owned(),
            error.message().to_owned(),
            error.hint().map(str::to_owned),
        )
    }

    #[test]
    fn names_the_field_and_suggests() {
        assert!(schema().check(&json!({"command": ["a"]})).is_ok());
        let (path, message, _) = refusal(Value::Null);
        assert_eq!((path.as_str(), message.as_str()), ("spec.command", "is missing"));
        let (path, _, hint) = refusal(json!({"command": ["a"], "comand": ["b"]}));
        assert_eq!(
            (path.as_str(), hint.as_deref()),
            ("spec.comand", Some("did you mean command?"))
        );
        let (path, message, _) = refusal(json!({"command": ["a", 7]}));
        assert_eq!(path, "spec.command[1]");
        assert!(message.contains("string"), "{message}");
        let (path, _, hint) = refusal(json!({"command": ["a"], "logs": {"kep": 1}}));
        assert_eq!(
            (path.as_str(), hint.as_deref()),
            ("spec.logs.kep", Some("did you mean keep?"))
        );
        let (path, ..) = refusal(json!({"command": ["a"], "stdin": {"file": 3}}));
        assert_eq!(path, "spec.stdin.file");
    }

    #[test]
    fn never_shows_a_value() {
        let (path, message, _) = refusal(json!({"command": ["a"], "env": {"TOKEN": ["hunter2"]}}));
        assert_eq!(path, "spec.env.TOKEN");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
