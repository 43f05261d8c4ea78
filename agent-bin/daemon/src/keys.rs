//! Keys that a schema does not know, with a suggestion: a typing error must not pass in silence.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A key that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// Where it stands, for example `restart.backof`.
    pub path: String,
    /// The known key that is most like it.
    pub suggestion: Option<String>,
    /// All keys that are known there.
    pub known: Vec<String>,
}

impl UnknownKey {
    /// One sentence for people, without the path.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.suggestion {
            Some(suggestion) => format!("unknown field; did you mean `{suggestion}`?"),
            None if self.known.is_empty() => "unknown field; none is known here".into(),
            None => format!("unknown field; known here: {}", self.known.join(", ")),
        }
    }
}

/// The keys of a value that its JSON Schema does not know, in order.
#[must_use]
pub fn unknown_keys(schema: &Value, value: &Value) -> Vec<UnknownKey> {
    let mut unknown = Vec::new();
    walk(schema, schema, value, "", 0, &mut unknown);
    unknown
}

/// The word of `known` that is most like `word`, where one is.
#[must_use]
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// What a schema and the schemas it is made of say of the keys of a map.
#[derive(Default)]
struct Shape<'a> {
    properties: Vec<(&'a str, &'a Value)>,
    additional: Option<&'a Value>,
    open: bool,
    items: Option<&'a Value>,
}

fn walk(
    root: &Value,
    schema: &Value,
    value: &Value,
    path: &str,
    depth: usize,
    unknown: &mut Vec<UnknownKey>,
) {
    if depth > 32 {
        return;
    }
    let mut shape = Shape::default();
    gather(root, schema, &mut shape);
    match value {
        Value::Object(map) => walk_map(root, &shape, map, path, depth, unknown),
        Value::Array(list) => {
            if let Some(items) = shape.items {
                for (i, item) in list.iter().enumerate() {
                    walk(root, items, item, &format!("{path}[{i}]"), depth + 1, unknown);
                }
            }
        }
        _ => {}
    }
}

fn walk_map(
    root: &Value,
    shape: &Shape<'_>,
    map: &Map<String, Value>,
    path: &str,
    depth: usize,
    unknown: &mut Vec<UnknownKey>,
) {
    for (key, value) in map {
        let at = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let known = shape.properties.iter().find(|(name, _)| name == key);
        if let Some((_, schema)) = known {
            walk(root, schema, value, &at, depth + 1, unknown);
        } else if let Some(schema) = shape.additional {
            walk(root, schema, value, &at, depth + 1, unknown);
        } else if !shape.open {
            let names: BTreeSet<&str> = shape.properties.iter().map(|(name, _)| *name).collect();
            unknown.push(UnknownKey {
                path: at,
                suggestion: closest(key, names.iter().copied()).map(str::to_owned),
                known: names.into_iter().map(str::to_owned).collect(),
            });
        }
    }
}

/// Collects what a schema says, through references and alternatives. A map is open unless some part forbids more.
fn gather<'a>(root: &'a Value, schema: &'a Value, shape: &mut Shape<'a>) {
    let mut closed = false;
    collect(root, schema, shape, &mut closed, 0);
    shape.open = !closed;
}

fn collect<'a>(root: &'a Value, schema: &'a Value, shape: &mut Shape<'a>, closed: &mut bool, depth: usize) {
    let Some(map) = schema.as_object() else { return };
    if depth > 16 {
        return;
    }
    if let Some(target) = map
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|path| path.strip_prefix('#'))
        && let Some(schema) = root.pointer(target)
    {
        collect(root, schema, shape, closed, depth + 1);
    }
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        shape
            .properties
            .extend(properties.iter().map(|(name, schema)| (name.as_str(), schema)));
    }
    match map
        .get("additionalProperties")
        .or_else(|| map.get("unevaluatedProperties"))
    {
        Some(Value::Bool(false)) => *closed = true,
        Some(schema @ Value::Object(_)) => shape.additional = Some(schema),
        _ => {}
    }
    if let Some(items) = map.get("items") {
        shape.items = Some(items);
    }
    for word in ["allOf", "anyOf", "oneOf"] {
        for part in map.get(word).and_then(Value::as_array).into_iter().flatten() {
            collect(root, part, shape, closed, depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_api_model::ObjectSpec;
    use serde_json::json;

    fn paths(value: Value) -> Vec<String> {
        let schema = schemars::schema_for!(ObjectSpec).to_value();
        unknown_keys(&schema, &value)
            .into_iter()
            .map(|key| format!("{}: {}", key.path, key.sentence()))
            .collect()
    }

    #[test]
    fn finds_keys_at_every_depth() {
        assert_eq!(
            paths(
                json!({"kind": "process", "name": "a", "labels": {"any": "x"}, "restart": "always",
                "depends_on": [{"name": "b", "condition": "running"}],
                "health": {"tcp": "localhost:1", "interval": "1s"}, "spec": {"command": ["x"]}})
            ),
            Vec::<String>::new()
        );
        insta::assert_snapshot!(
            paths(json!({
                "kind": "process", "name": "a", "lables": {},
                "depends_on": [{"name": "b"}, {"nam": "c"}],
                "restart": {"policy": "always", "backoff": {"strat": "1s"}},
                "health": {"tcp": "localhost:1", "intervall": "1s"},
                "resources": {"io": {"read": 1, "wriet": 2}, "zzz": 1},
            }))
            .join("\n")
        );
    }

    #[test]
    fn suggests_only_what_is_like_it() {
        assert_eq!(closest("intervall", ["interval", "timeout"]), Some("interval"));
        assert_eq!(closest("color", ["interval", "timeout"]), None);
    }
}
