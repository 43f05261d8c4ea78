//! `kubernetes/manifest`: any objects, as they are written for `kubectl`.

use agent_api_driver::model::{Diagnostic, Error, ObjectSpec, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Place, RenderContext};
use crate::mark;

/// Objects of any kind that the cluster has, custom resources among them, as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestSpec {
    /// Where it goes.
    #[serde(flatten)]
    pub place: Place,
    /// The objects, each with `apiVersion`, `kind` and `metadata.name`. A `List` stands for its items. Namespaces and
    /// definitions of custom resources are applied first, whatever their place here.
    #[schemars(with = "Vec<Map<String, Value>>", length(min = 1))]
    pub objects: Vec<Value>,
}

/// Kinds whose number of copies is `spec.replicas`.
const SCALED: [&str; 4] = ["Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"];

impl ManifestSpec {
    /// The objects with their paths in the spec, lists taken apart.
    fn flat(&self) -> Vec<(String, &Value)> {
        let mut found = Vec::new();
        for (i, object) in self.objects.iter().enumerate() {
            let path = format!("spec.objects[{i}]");
            match (object["kind"].as_str(), object["items"].as_array()) {
                (Some(kind), Some(items)) if kind.ends_with("List") => {
                    found.extend(
                        items
                            .iter()
                            .enumerate()
                            .map(|(j, item)| (format!("{path}.items[{j}]"), item)),
                    );
                }
                _ => found.push((path, object)),
            }
        }
        found
    }

    /// What is wrong with it that its schema lets pass.
    pub(crate) fn check(&self, object: &ObjectSpec) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let flat = self.flat();
        if flat.is_empty() {
            found.push(Diagnostic::error("spec.objects", "must name at least one object"));
        }
        let mut places = std::collections::BTreeSet::new();
        for (path, item) in &flat {
            for field in ["apiVersion", "kind"] {
                if item[field].as_str().is_none_or(str::is_empty) {
                    found.push(Diagnostic::error(format!("{path}.{field}"), "is missing"));
                }
            }
            if item["metadata"]["name"].as_str().is_none_or(str::is_empty) {
                let hint = if item["metadata"]["generateName"].is_string() {
                    "is missing; generated names cannot be applied a second time"
                } else {
                    "is missing"
                };
                found.push(Diagnostic::error(format!("{path}.metadata.name"), hint));
            }
            for field in ["uid", "resourceVersion", "managedFields", "creationTimestamp"] {
                if !item["metadata"][field].is_null() {
                    found.push(Diagnostic::error(
                        format!("{path}.metadata.{field}"),
                        "belongs to the server; take it out",
                    ));
                }
            }
            let group = item["apiVersion"]
                .as_str()
                .and_then(|version| version.rsplit_once('/'));
            let place = (
                group.map_or("", |(group, _)| group),
                item["kind"].as_str(),
                item["metadata"]["namespace"].as_str(),
                item["metadata"]["name"].as_str(),
            );
            if !places.insert(place) {
                found.push(Diagnostic::error(
                    path.clone(),
                    "the same object stands here twice",
                ));
            }
        }
        let resources = &object.resources;
        let scaled = flat.iter().filter(|(_, item)| is_scaled(item)).count();
        if resources.replicas.is_some() && scaled != 1 {
            found.push(Diagnostic::error(
                "resources.replicas",
                format!("needs exactly one object with `spec.replicas` in the manifest; there are {scaled}"),
            ));
        }
        let others = [
            ("cpu", resources.cpu.is_some()),
            ("memory", resources.memory.is_some()),
            ("pids", resources.pids.is_some()),
            ("io", resources.io.is_some()),
            ("gpu", resources.gpu.is_some()),
        ];
        for (field, _) in others.iter().filter(|(_, set)| *set) {
            found.push(Diagnostic::error(
                format!("resources.{field}"),
                "a manifest has its limits in its own objects",
            ));
        }
        found
    }
}

fn is_scaled(item: &Value) -> bool {
    item["kind"].as_str().is_some_and(|kind| SCALED.contains(&kind)) || item["spec"]["replicas"].is_number()
}

pub(super) fn render(
    object: &ObjectSpec,
    spec: &ManifestSpec,
    context: &RenderContext<'_>,
) -> Result<Vec<Value>> {
    let mut rendered = Vec::new();
    for (path, item) in spec.flat() {
        let mut item = item.clone();
        if !item["metadata"].is_object() {
            return Err(Error::invalid(format!("{path}.metadata"), "must be a map"));
        }
        // Status belongs to the controllers.
        if let Some(map) = item.as_object_mut() {
            map.remove("status");
        }
        if let Some(template) = template(&mut item) {
            mark_template(template, context);
        }
        if let Some(replicas) = object.resources.replicas.filter(|_| is_scaled(&item)) {
            item["spec"]["replicas"] = json!(replicas);
        }
        rendered.push(item);
    }
    Ok(rendered)
}

/// The pod template of a workload; none in what has no pods.
fn template(item: &mut Value) -> Option<&mut Value> {
    let at = match item["kind"].as_str()? {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "ReplicationController" => {
            "/spec/template"
        }
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    item.pointer_mut(at).filter(|template| template.is_object())
}

fn mark_template(template: &mut Value, context: &RenderContext<'_>) {
    for (key, value) in mark::labels(context.agent, context.guid) {
        put(template, "labels", key, value);
    }
    if let Some(incarnation) = context.incarnation {
        put(
            template,
            "annotations",
            mark::INCARNATION.to_owned(),
            incarnation.to_string(),
        );
    }
}

/// Sets one label or annotation.
pub(super) fn put(object: &mut Value, of: &str, key: String, value: String) {
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    if !metadata[of].is_object() {
        metadata[of] = json!({});
    }
    metadata[of][key] = Value::String(value);
}
