//! Going back to an earlier revision of a Deployment: the method `rollback`.

use std::collections::BTreeMap;

use agent_api_driver::model::{Error, ErrorKind, ObjectSpec};
use agent_api_driver::{Applied, ControlRequest, Method, Result};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Workload, unsupported};
use crate::handle::HandleData;
use crate::kinds::KubeKind;
use crate::mark;
use crate::shared::Shared;

/// The arguments of `rollback`.
#[derive(Clone, Copy, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// Which revision, as `describe` lists them; the one before the present one without.
    #[serde(default)]
    #[schemars(range(min = 1))]
    revision: Option<u64>,
}

/// The method, with its schema.
pub(super) fn methods() -> BTreeMap<String, Method> {
    let rollback = Method {
        summary: "Brings a Deployment back to an earlier revision.".to_owned(),
        arguments: schemars::schema_for!(Rollback).to_value(),
    };
    BTreeMap::from([("rollback".to_owned(), rollback)])
}

/// Annotation of the deployment controller: the revision.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Label of the deployment controller on templates of ReplicaSets.
const HASH: &str = "pod-template-hash";

fn revision(object: &DynamicObject) -> Option<u64> {
    object.metadata.annotations.as_ref()?.get(REVISION)?.parse().ok()
}

/// The ReplicaSet of a revision, of those that a Deployment has.
fn choose(sets: Vec<DynamicObject>, present: u64, wanted: Option<u64>) -> Result<DynamicObject> {
    let mut sets: Vec<_> = sets
        .into_iter()
        .filter_map(|set| Some((revision(&set)?, set)))
        .collect();
    sets.sort_by_key(|(revision, _)| *revision);
    let known: Vec<String> = sets.iter().map(|(revision, _)| revision.to_string()).collect();
    let found = match wanted {
        Some(wanted) => sets.into_iter().find(|(revision, _)| *revision == wanted),
        None => sets.into_iter().rev().find(|(revision, _)| *revision < present),
    };
    found.map(|(_, set)| set).ok_or_else(|| {
        let what = wanted.map_or("no earlier revision".into(), |wanted| {
            format!("no revision {wanted}")
        });
        let kept = known.join(", ");
        Error::new(
            ErrorKind::NotFound,
            format!("there is {what}; these are kept: {kept}"),
        )
        .with_path("arguments.revision")
    })
}

/// The template of a revision as its author wrote it: without the marks of the controller and ours.
fn template(set: &DynamicObject) -> Value {
    let mut template = set.data["spec"]["template"].clone();
    if let Some(labels) = template
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.retain(|key, _| key != HASH && key != mark::AGENT && key != mark::GUID);
    }
    if let Some(annotations) = template
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(mark::INCARNATION);
    }
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    template
}

/// The spec with what ran in an earlier one: its template and limits. The number of copies and all that is the
/// agent's own matter stay, as with `kubectl rollout undo`.
fn with_earlier(now: &ObjectSpec, earlier: ObjectSpec) -> ObjectSpec {
    let mut next = now.clone();
    next.spec = earlier.spec;
    next.resources = earlier.resources;
    next.resources.replicas = now.resources.replicas;
    next
}

/// The manifest with another template in its one Deployment.
fn with_template(now: &ObjectSpec, template: Value) -> Result<ObjectSpec> {
    let mut next = now.clone();
    let mut found = 0;
    for item in next.spec["objects"].as_array_mut().into_iter().flatten() {
        let items: Vec<&mut Value> = match item.get("items").is_some_and(Value::is_array) {
            true => item["items"].as_array_mut().into_iter().flatten().collect(),
            false => vec![item],
        };
        for item in items {
            if item["kind"] == "Deployment" {
                found += 1;
                item["spec"]["template"] = template.clone();
            }
        }
    }
    match found {
        1 => Ok(next),
        found => Err(unsupported(format!(
            "the manifest has {found} Deployments; only one alone can be rolled back"
        ))),
    }
}

impl Shared {
    pub(super) async fn rollback(
        &self,
        request: &ControlRequest<'_>,
        data: HandleData,
        workloads: &[Workload<'_>],
        arguments: &Value,
    ) -> Result<Applied> {
        let arguments: Rollback = match arguments {
            Value::Null => Rollback::default(),
            other => serde_json::from_value(other.clone())
                .map_err(|e| Error::invalid("arguments", format!("are not those of rollback: {e}")))?,
        };
        let deployments: Vec<_> = workloads
            .iter()
            .filter(|one| one.kind() == "Deployment")
            .collect();
        let [one] = deployments.as_slice() else {
            return Err(unsupported(format!(
                "only one Deployment can be rolled back; of this object there are {}",
                deployments.len()
            )));
        };
        let source = match data.owned && one.is_by(request) {
            // Done already: what it was brought to is what it is.
            true => one.live.clone(),
            false => {
                let present = revision(&one.live).unwrap_or(u64::MAX);
                choose(self.replica_sets_of(one).await?, present, arguments.revision)?
            }
        };
        match data.kind {
            KubeKind::Deployment => {
                let text = source
                    .metadata
                    .annotations
                    .as_ref()
                    .and_then(|all| all.get(mark::SPEC))
                    .ok_or_else(|| {
                        Error::new(
                            ErrorKind::NotFound,
                            "that revision was not made by the agent: it bears no spec",
                        )
                    })?;
                let earlier = serde_json::from_str(text)
                    .map_err(|e| Error::internal(format!("the spec of that revision cannot be read: {e}")))?;
                self.roll_to(request, &data, with_earlier(request.spec, earlier))
                    .await
            }
            KubeKind::Manifest => {
                self.roll_to(request, &data, with_template(request.spec, template(&source))?)
                    .await
            }
            _ => self.roll_adopted(request, data, one, &source).await,
        }
    }

    async fn roll_to(
        &self,
        request: &ControlRequest<'_>,
        data: &HandleData,
        next: ObjectSpec,
    ) -> Result<Applied> {
        let applied = self.reapply_spec(request, data, &next).await?;
        Ok(Applied {
            spec: Some(next),
            ..applied
        })
    }

    async fn roll_adopted(
        &self,
        request: &ControlRequest<'_>,
        mut data: HandleData,
        one: &Workload<'_>,
        source: &DynamicObject,
    ) -> Result<Applied> {
        let mut template = template(source);
        template["$patch"] = json!("replace");
        let body = json!({"metadata": {"uid": one.uid()}, "spec": {"template": template}});
        let target = &one.target;
        let namespace = target.place.namespace.as_deref();
        let api = target.cluster.api(&target.resource, namespace);
        let params = PatchParams {
            field_manager: Some(target.cluster.manager().to_owned()),
            ..PatchParams::default()
        };
        let name = target.place.name.as_str();
        let patch = Patch::Strategic(&body);
        let call = target.cluster.call(
            "patch",
            &target.resource,
            namespace,
            name,
            api.patch(name, &params, &patch),
        );
        let mut live = call.await?;
        live.types
            .get_or_insert_with(|| crate::target::types(&target.resource));
        data.op_id = request.op_id;
        self.changed(data, request, &[live])
    }

    /// The ReplicaSets of a Deployment.
    async fn replica_sets_of(&self, one: &Workload<'_>) -> Result<Vec<DynamicObject>> {
        let cluster = one.target.cluster;
        let resource = cluster.resource("apps/v1", "ReplicaSet").await?;
        let namespace = one.target.place.namespace.as_deref();
        let labels = one.spec()["selector"]["matchLabels"].as_object();
        let selector: Vec<String> = labels
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
            .collect();
        let params = ListParams::default().labels(&selector.join(","));
        let api = cluster.api(&resource, namespace);
        let list = cluster
            .call("list", &resource, namespace, "", api.list(&params))
            .await?;
        let owned = |set: &DynamicObject| {
            let owners = set.metadata.owner_references.iter().flatten();
            owners
                .into_iter()
                .any(|owner| Some(&owner.uid) == one.live.metadata.uid.as_ref())
        };
        Ok(list.items.into_iter().filter(owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(revision: u64) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("web-{revision}"), "annotations": {REVISION: revision.to_string()}},
            "spec": {"template": {
                "metadata": {
                    "creationTimestamp": null,
                    "labels": {"app": "web", HASH: "1", mark::AGENT: "a", mark::GUID: "g"},
                    "annotations": {mark::INCARNATION: "x", "note": "y"},
                },
                "spec": {"containers": [{"name": "main", "image": format!("i:{revision}")}]},
            }},
        }))
        .unwrap()
    }

    #[test]
    fn revisions_are_chosen() {
        let sets = || vec![set(5), set(2), set(10), set(11)];
        let chosen = |present, wanted| choose(sets(), present, wanted).map(|set| revision(&set).unwrap());
        assert_eq!(chosen(11, None).unwrap(), 10);
        assert_eq!(chosen(11, Some(2)).unwrap(), 2);
        let error = chosen(11, Some(3)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "arguments.revision: there is no revision 3; these are kept: 2, 5, 10, 11"
        );
        assert_eq!(chosen(2, None).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn templates_come_back_as_they_were_written() {
        let expected = json!({
            "metadata": {"labels": {"app": "web"}, "annotations": {"note": "y"}},
            "spec": {"containers": [{"name": "main", "image": "i:5"}]},
        });
        assert_eq!(template(&set(5)), expected);
        let manifest = |objects: Value| -> ObjectSpec {
            serde_json::from_value(
                json!({"kind": "kubernetes/manifest", "name": "web", "spec": {"objects": objects}}),
            )
            .unwrap()
        };
        let one = manifest(
            json!([{"kind": "ConfigMap"}, {"kind": "List", "items": [{"kind": "Deployment", "spec": {"replicas": 2}}]}]),
        );
        let next = with_template(&one, template(&set(5))).unwrap();
        let deployment = &next.spec["objects"][1]["items"][0]["spec"];
        assert_eq!(
            (&deployment["replicas"], &deployment["template"]),
            (&json!(2), &expected)
        );
        let two = manifest(json!([{"kind": "Deployment"}, {"kind": "Deployment"}]));
        assert_eq!(
            with_template(&two, Value::Null).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }

    #[test]
    fn a_rollback_keeps_the_number_of_copies_and_the_agents_own_matters() {
        let spec = |text: &str| -> ObjectSpec { serde_json::from_str(text).unwrap() };
        let now = spec(
            r#"{"kind":"kubernetes/deployment","name":"web","labels":{"a":"b"},"resources":{"replicas":3,"cpu":"2"},"spec":{"image":"i:2"}}"#,
        );
        let earlier = spec(
            r#"{"kind":"kubernetes/deployment","name":"web","resources":{"replicas":1,"memory":"1Gi"},"spec":{"image":"i:1"}}"#,
        );
        let next = with_earlier(&now, earlier);
        assert_eq!(next.spec, json!({"image": "i:1"}));
        assert_eq!((next.resources.replicas, next.resources.cpu), (Some(3), None));
        assert!(next.resources.memory.is_some() && next.labels.contains_key("a"));
    }
}
