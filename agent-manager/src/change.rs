//! Changes of specs.

use agent_api_model::{Change, Error, ObjectSpec, Result};
use serde_json::Value;

/// What a spec is after a change: the whole new one, or the old one with a JSON merge patch (RFC 7386) on it.
///
/// Kind and name must stay; the result is [checked](ObjectSpec::check). Pure.
///
/// # Errors
/// `Invalid` with the path of the field that is to blame.
pub fn apply_change(spec: &ObjectSpec, change: &Change) -> Result<ObjectSpec> {
    let next = match change {
        Change::Replace(next) => (**next).clone(),
        Change::Merge(patch) => merged(spec, patch)?,
    };
    if next.kind != spec.kind {
        return Err(Error::invalid(
            "kind",
            format!("the object is a {} and cannot become a {}", spec.kind, next.kind),
        )
        .with_object(&spec.name)
        .with_hint("delete it and create it anew"));
    }
    if next.name != spec.name {
        return Err(Error::invalid(
            "name",
            format!("an object cannot be renamed, here to {}", next.name),
        )
        .with_object(&spec.name)
        .with_hint("delete it and create it anew"));
    }
    next.check()?;
    Ok(next)
}

fn merged(spec: &ObjectSpec, patch: &Value) -> Result<ObjectSpec> {
    if !patch.is_object() {
        return Err(
            Error::invalid("merge", "a merge patch is a map of the fields that change")
                .with_object(&spec.name),
        );
    }
    let mut value = serde_json::to_value(spec)
        .map_err(|error| Error::internal("the spec cannot be written").with_source(error))?;
    merge(&mut value, patch, 0)?;
    serde_json::from_value(value).map_err(|error| {
        Error::invalid("merge", format!("the object would not be valid: {error}")).with_object(&spec.name)
    })
}

/// Deeper than any spec is; serde's own reader stops at 128.
const DEEPEST: usize = 128;

fn merge(target: &mut Value, patch: &Value, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::invalid("merge", format!("deeper than {DEEPEST} levels")));
    }
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else {
        return Ok(());
    };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> ObjectSpec {
        serde_json::from_value(json!({
            "kind": "fake", "name": "a", "labels": {"app": "web", "tier": "1"},
            "resources": {"cpu": "500m"}, "spec": {"env": {"A": "1", "B": "2"}, "command": ["x", "y"]}
        }))
        .unwrap()
    }

    #[test]
    fn merges_by_rfc_7386() {
        // The cases of the RFC's appendix that an object can have.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let mut value = target;
            merge(&mut value, &patch, 0).unwrap();
            assert_eq!(value, result, "{patch}");
        }
        let next = apply_change(
            &spec(),
            &Change::Merge(json!({"labels": {"tier": null}, "spec": {"env": {"B": "3"}, "command": ["z"]}})),
        )
        .unwrap();
        assert_eq!(next.labels.len(), 1);
        assert_eq!(next.spec, json!({"env": {"A": "1", "B": "3"}, "command": ["z"]}));
    }

    #[test]
    fn kind_and_name_stay_and_the_result_is_valid() {
        for (patch, path) in [
            (json!({"kind": "other"}), "kind"),
            (json!({"name": "b"}), "name"),
            (json!({"name": null}), "merge"),
            (json!({"color": "red"}), "merge"),
            (json!({"resources": {"gpu": -1}}), "resources.gpu"),
            (json!([1]), "merge"),
        ] {
            let error = apply_change(&spec(), &Change::Merge(patch.clone())).unwrap_err();
            assert_eq!(error.path(), Some(path), "{patch}: {error}");
            assert_eq!(error.object(), Some("a"));
        }
        let mut other = spec();
        other.name = agent_api_model::ObjectName::new("b").unwrap();
        assert!(apply_change(&spec(), &Change::Replace(Box::new(other))).is_err());
    }
}
