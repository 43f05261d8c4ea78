//! Fields that a server drops because it does not know them: older ones do so without a word.

use kube::api::DynamicObject;
use serde_json::Value;

/// At most so many are named.
const NAMED: usize = 16;

/// The paths of what was wanted and is not in the server's answer, in the order of the spec.
pub(crate) fn dropped(wanted: &DynamicObject, live: &DynamicObject) -> Vec<String> {
    let mut found = Vec::new();
    // Values of Secrets come back as `data`, whatever they were written as.
    let skip = |field: &str| field == "stringData" || field == "status";
    if let (Some(wanted), live) = (wanted.data.as_object(), &live.data) {
        for (field, value) in wanted.iter().filter(|(field, _)| !skip(field)) {
            missing(field, value, live.get(field), &mut found);
        }
    }
    found.truncate(NAMED);
    found
}

fn missing(path: &str, wanted: &Value, live: Option<&Value>, found: &mut Vec<String>) {
    let empty = match wanted {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    match (wanted, live) {
        // What is empty may be left out of an answer without being unknown.
        _ if empty => {}
        (_, None) => found.push(path.to_owned()),
        (Value::Object(wanted), Some(Value::Object(live))) => {
            for (field, value) in wanted {
                missing(&format!("{path}.{field}"), value, live.get(field), found);
            }
        }
        (Value::Array(wanted), Some(Value::Array(live))) if wanted.len() == live.len() => {
            for (i, (value, live)) in wanted.iter().zip(live).enumerate() {
                missing(&format!("{path}[{i}]"), value, Some(live), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_what_the_server_does_not_know() {
        let object = |value| serde_json::from_value::<DynamicObject>(value).unwrap();
        let wanted = object(
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {
                "suspend": true, "completionMode": "", "template": {"spec": {"containers": [
                    {"name": "a", "resizePolicy": [{"resourceName": "cpu"}], "resources": {"limits": {"cpu": "0.5"}}},
                ]}},
            }}),
        );
        let live = object(
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {
                "parallelism": 1, "template": {"spec": {"containers": [
                    {"name": "a", "image": "", "resources": {"limits": {"cpu": "500m"}}},
                ]}},
            }}),
        );
        assert_eq!(
            dropped(&wanted, &live),
            ["spec.suspend", "spec.template.spec.containers[0].resizePolicy"]
        );
        assert!(dropped(&wanted, &wanted).is_empty());
    }
}
