//! Whether what we applied is still what is there.
//!
//! The server notes for each field who set it last by an apply (`metadata.managedFields`). The fields that are ours
//! and their values, hashed, are the fingerprint of what we applied: it changes when someone else takes a field, and
//! when someone changes a value in a way that the server does not note.

use kube::core::DynamicObject;
use serde_json::Value;

use crate::mark;

/// Annotations of ours that change with every operation.
const VOLATILE: [&str; 2] = [mark::GENERATION, mark::OP_ID];
/// So many fields are named in a message.
const FIELDS_NAMED: usize = 5;

/// A field that is ours: where, and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Field {
    path: u64,
    value: u64,
}

/// The fingerprint of what `manager` applied; none where it applied nothing to this object.
pub(crate) fn fingerprint(live: &DynamicObject, manager: &str) -> Option<u64> {
    fields(live, manager).map(|fields| fold(&fields))
}

/// The fields of `manager`, in order; none where it applied nothing.
pub(crate) fn fields(live: &DynamicObject, manager: &str) -> Option<Vec<Field>> {
    let mut ours = applied_by(live, manager).peekable();
    ours.peek()?;
    let meta = serde_json::to_value(&live.metadata).ok()?;
    let mut found = Vec::new();
    for set in ours {
        each_field(set, &mut |path| {
            if !is_volatile(path) {
                found.push(Field {
                    path: hash_path(path),
                    value: value_at(&meta, &live.data, path),
                });
            }
        });
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// The fingerprint of these fields.
pub(crate) fn fold(fields: &[Field]) -> u64 {
    let mut hash = Fnv::new();
    for field in fields {
        hash.write(&field.path.to_le_bytes());
        hash.write(&field.value.to_le_bytes());
    }
    hash.0
}

/// What differs from what we applied, one sentence: fields, and who has them now.
pub(crate) fn describe(live: &DynamicObject, manager: &str, before: Option<&[Field]>) -> String {
    let now = fields(live, manager).unwrap_or_default();
    let mut named: Vec<String> = Vec::new();
    let mut others: Vec<String> = Vec::new();
    let mut removed = 0;
    if let Some(before) = before {
        let known = |path: u64| before.iter().find(|field| field.path == path);
        for set in applied_by(live, manager) {
            each_field(set, &mut |path| {
                let hash = hash_path(path);
                let value = now.iter().find(|field| field.path == hash).map(|f| f.value);
                if let (Some(old), Some(value)) = (known(hash), value)
                    && old.value != value
                {
                    named.push(show(path));
                }
            });
        }
        let lost: Vec<u64> = before
            .iter()
            .map(|field| field.path)
            .filter(|path| !now.iter().any(|field| field.path == *path))
            .collect();
        let mut found = 0;
        for entry in live.metadata.managed_fields.iter().flatten() {
            let other = entry.manager.as_deref().unwrap_or("");
            let Some(set) = entry.fields_v1.as_ref().filter(|_| other != manager) else {
                continue;
            };
            each_field(&set.0, &mut |path| {
                if lost.contains(&hash_path(path)) {
                    named.push(show(path));
                    found += 1;
                    if !others.iter().any(|known| known == other) {
                        others.push(other.to_owned());
                    }
                }
            });
        }
        removed = lost.len().saturating_sub(found);
    }
    if others.is_empty() {
        others.extend(last_writer(live, manager));
    }
    named.sort_unstable();
    named.dedup();
    let what = match (named.len(), removed) {
        (0, 0) => "fields of the spec".to_owned(),
        (0, n) => format!("{n} fields of the spec, removed"),
        (n, _) if n > FIELDS_NAMED => {
            format!(
                "{} and {} more",
                named[..FIELDS_NAMED].join(", "),
                n - FIELDS_NAMED
            )
        }
        _ => named.join(", "),
    };
    match others.as_slice() {
        [] => format!("changed: {what}"),
        others => format!("changed by {}: {what}", others.join(", ")),
    }
}

/// Who wrote last, beside us and the controllers that only write the status.
fn last_writer(live: &DynamicObject, manager: &str) -> Option<String> {
    live.metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| ![Some(manager), Some("kube-controller-manager")].contains(&entry.manager.as_deref()))
        .filter(|entry| entry.subresource.as_deref().unwrap_or("") != "status")
        .filter(|entry| {
            // On servers that do not name the subresource.
            entry.fields_v1.as_ref().is_none_or(|set| {
                set.0
                    .as_object()
                    .is_none_or(|keys| keys.keys().any(|key| key != "f:status"))
            })
        })
        .max_by_key(|entry| entry.time.clone())
        .and_then(|entry| entry.manager.clone())
}

fn applied_by<'a>(live: &'a DynamicObject, manager: &'a str) -> impl Iterator<Item = &'a Value> {
    live.metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(move |entry| {
            entry.operation.as_deref() == Some("Apply")
                && entry.manager.as_deref() == Some(manager)
                && entry.subresource.as_deref().unwrap_or("").is_empty()
        })
        .filter_map(|entry| entry.fields_v1.as_ref().map(|set| &set.0))
}

/// Calls with the path of each field of a set in the form of `fieldsV1`.
fn each_field<'a>(set: &'a Value, found: &mut dyn FnMut(&[&'a str])) {
    fn walk<'a>(set: &'a Value, path: &mut Vec<&'a str>, found: &mut dyn FnMut(&[&'a str])) {
        let Some(keys) = set.as_object() else { return };
        for (key, below) in keys {
            path.push(key);
            if below.as_object().is_none_or(serde_json::Map::is_empty) {
                found(path);
            } else {
                walk(below, path, found);
            }
            path.pop();
        }
    }
    walk(set, &mut Vec::new(), found);
}

fn is_volatile(path: &[&str]) -> bool {
    match path {
        ["f:metadata", "f:annotations", key] => {
            key.strip_prefix("f:").is_some_and(|key| VOLATILE.contains(&key))
        }
        _ => false,
    }
}

/// The hash of what is at a path; a constant where only its existence is ours.
fn value_at(meta: &Value, data: &Value, path: &[&str]) -> u64 {
    let mut hash = Fnv::new();
    let mut at: Option<&Value> = None;
    for (depth, step) in path.iter().enumerate() {
        at = match (depth, step.strip_prefix("f:")) {
            (0, Some("metadata")) => Some(meta),
            (0, Some(name)) => data.get(name),
            (_, Some(name)) => at.and_then(|value| value.get(name)),
            (_, None) => match step.split_once(':') {
                // An item of a list, by its keys.
                Some(("k", keys)) => at.and_then(|value| item(value, keys)),
                // An item of a set.
                Some(("v", value)) => {
                    let wanted: Option<Value> = serde_json::from_str(value).ok();
                    at.and_then(|list| {
                        list.as_array()?
                            .iter()
                            .find(|item| Some(*item) == wanted.as_ref())
                    })
                }
                Some(("i", index)) => at.and_then(|list| list.get(index.parse::<usize>().ok()?)),
                // `.`: that it is there.
                _ => {
                    hash.write(if at.is_some() { b"there" } else { b"gone" });
                    return hash.0;
                }
            },
        };
    }
    match at {
        Some(value) => write_value(&mut hash, value),
        None => hash.write(b"gone"),
    }
    hash.0
}

fn item<'a>(list: &'a Value, keys: &str) -> Option<&'a Value> {
    let keys: Value = serde_json::from_str(keys).ok()?;
    let keys = keys.as_object()?;
    list.as_array()?
        .iter()
        .find(|item| keys.iter().all(|(key, value)| item.get(key) == Some(value)))
}

fn write_value(hash: &mut Fnv, value: &Value) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            hash.write(b"{");
            for key in keys {
                hash.write(key.as_bytes());
                hash.write(b"\0:");
                write_value(hash, &map[key]);
            }
            hash.write(b"}");
        }
        Value::Array(items) => {
            hash.write(b"[");
            for item in items {
                write_value(hash, item);
                hash.write(b",");
            }
            hash.write(b"]");
        }
        plain => hash.write(plain.to_string().as_bytes()),
    }
}

fn hash_path(path: &[&str]) -> u64 {
    let mut hash = Fnv::new();
    for step in path {
        hash.write(step.as_bytes());
        hash.write(b"\0");
    }
    hash.0
}

/// A path as people write it: `spec.replicas`, `spec.containers[name=main].image`.
fn show(path: &[&str]) -> String {
    let mut text = String::new();
    for step in path {
        match step.split_once(':') {
            Some(("f", name)) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Some(("k", keys)) => {
                let keys: Value = serde_json::from_str(keys).unwrap_or_default();
                let parts: Vec<String> = keys
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| match value {
                        Value::String(value) => format!("{key}={value}"),
                        other => format!("{key}={other}"),
                    })
                    .collect();
                text.push_str(&format!("[{}]", parts.join(",")));
            }
            Some((_, value)) => text.push_str(&format!("[{value}]")),
            None => {}
        }
    }
    text
}

/// FNV-1a of 64 bits: the same on every machine and in every release, as it is kept in handles.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
