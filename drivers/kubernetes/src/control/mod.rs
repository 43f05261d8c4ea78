//! Control verbs and the kinds' own methods.
//!
//! What the spec says (the number of copies, the template of a rollback) is changed by applying the changed spec as ever:
//! the fields stay ours, so that neither drift is seen nor anything is left to do for the next apply. What the spec does
//! not say (a pause) is set beside it under the same manager but not by an apply, so that no later apply takes it away.
//! Adopted objects are changed by patches of the field in question, which leave all else to its owner.
//!
//! | | deployment | job | pod | manifest | adopted | cluster |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | pause, resume | its rollout | suspended, from server 1.21 on | – | of its Deployments and Jobs | as its kind | – |
//! | scale | live | live: pods at one time | – | live, where one object has copies | `scale` subresource | – |
//! | restart | rollout | made anew | made anew | rollout; Pods and Jobs made anew | rollout | – |
//! | resize | rollout | made anew, by update | live with `pods/resize` (1.33); else made anew, by update | by update | pods with `pods/resize` | – |
//! | signal | first ready pod | as deployment | as deployment | as deployment | as deployment | – |
//! | methods | `rollback` | – | – | `rollback`, with one Deployment | `rollback` of a Deployment | `cordon`, `uncordon`, `drain` |
//!
//! What is not there is `Unsupported`, and the message says why. Signals are sent by the container's own shell to its first
//! process, which the kernel keeps from signals that it has no handler for: SIGKILL is therefore a deletion of the pod
//! without grace, and SIGSTOP is `Unsupported`.

mod drain;
mod node;
mod pause;
mod resize;
mod rollback;
mod signals;

#[cfg(test)]
mod newer_tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{ControlAction, Error, ErrorKind, Resources};
use agent_api_driver::{Applied, ApplyRequest, ControlRequest, Method, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::handle::{HandleData, ObjectRef, Propagation};
use crate::kinds::KubeKind;
use crate::put::has_ended;
use crate::shared::Shared;
use crate::status::fingerprint::fingerprint;
use crate::target::{Target, whole_seconds};
use crate::{exec, mark, pods};

/// Something of an object that runs, as it is now.
pub(super) struct Workload<'a> {
    pub target: Target<'a>,
    pub live: DynamicObject,
}

impl Workload<'_> {
    pub(super) fn kind(&self) -> &str {
        &self.target.place.kind
    }

    pub(super) fn spec(&self) -> &Value {
        &self.live.data["spec"]
    }

    /// Whether an operation has had its effect on it.
    fn is_by(&self, request: &ControlRequest<'_>) -> bool {
        mark::op_id(&self.live.metadata) == Some(request.op_id)
    }

    fn uid(&self) -> &str {
        self.live.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// Kinds that run pods.
fn is_workload(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "ReplicaSet"
            | "ReplicationController"
            | "Job"
            | "CronJob"
            | "Pod"
    )
}

/// Kinds whose pods are replaced when their template changes.
fn rolls(kind: &str) -> bool {
    matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet")
}

pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

/// The methods that only objects of this kind have.
pub(crate) fn methods(kind: KubeKind) -> BTreeMap<String, Method> {
    match kind {
        KubeKind::Deployment | KubeKind::Manifest | KubeKind::Adopted => rollback::methods(),
        KubeKind::Cluster => node::methods(),
        KubeKind::Job | KubeKind::Pod => BTreeMap::new(),
    }
}

impl Shared {
    /// See [`agent_api_driver::Control::control`].
    pub(crate) async fn control(self: &Arc<Self>, request: ControlRequest<'_>) -> Result<Applied> {
        let verb = request.action.verb().as_str();
        self.open(verb)?;
        self.control_one(&request)
            .await
            .map_err(|error| error.with_operation(verb).with_object(&request.spec.name))
    }

    async fn control_one(self: &Arc<Self>, request: &ControlRequest<'_>) -> Result<Applied> {
        let data = HandleData::read(request.handle)?;
        if data.guid != request.guid {
            return Err(Error::new(ErrorKind::NotFound, "the handle is of another object"));
        }
        if data.kind == KubeKind::Cluster {
            return self.control_cluster(request, data).await;
        }
        let signal = match request.action {
            ControlAction::Signal { signal } => Some(signals::number(signal).ok_or_else(|| {
                Error::invalid(
                    "signal",
                    format!("{signal:?} is not a signal; write for example SIGHUP, HUP or 1"),
                )
            })?),
            _ => None,
        };
        let until = Instant::now() + request.deadline.mul_f64(0.95);
        let restarts = matches!(request.action, ControlAction::Restart { .. });
        let workloads = match self.workloads(&data).await {
            // A restart that was cut off may have removed it, and not made it anew yet.
            Err(error)
                if restarts && data.owned && request.maybe_applied && error.kind() == ErrorKind::NotFound =>
            {
                Vec::new()
            }
            other => other?,
        };
        if !restarts && !workloads.is_empty() && workloads.iter().all(|one| has_ended(&one.live)) {
            return Err(Error::new(ErrorKind::Conflict, "it has ended").with_hint("restart it"));
        }
        let _changing = self.watches.changing(request.guid);
        match request.action {
            ControlAction::Pause {} => self.pause(request, data.clone(), &workloads, true, until).await,
            ControlAction::Resume {} => self.pause(request, data.clone(), &workloads, false, until).await,
            ControlAction::Restart { grace } => {
                self.restart(request, data.clone(), &workloads, *grace, until)
                    .await
            }
            ControlAction::Scale { replicas } => {
                self.scale(request, data.clone(), &workloads, *replicas).await
            }
            ControlAction::Resize { resources } => {
                self.resize(request, data.clone(), &workloads, resources).await
            }
            ControlAction::Signal { .. } => {
                self.signal(request, data.clone(), &workloads, signal.unwrap_or_default())
                    .await
            }
            ControlAction::Call { method, arguments } if method == "rollback" => {
                self.rollback(request, data.clone(), &workloads, arguments).await
            }
            ControlAction::Call { method, .. } => Err(unsupported(format!(
                "{} has no method {method:?}",
                request.spec.kind
            ))),
            _ => Err(unsupported("the kubernetes driver does not know this verb")),
        }
    }

    /// What runs of an object. `NotFound` where it is not there any more, or is not ours.
    async fn workloads<'a>(&'a self, data: &HandleData) -> Result<Vec<Workload<'a>>> {
        let cluster = self.cluster_of(data)?;
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for place in &data.objects {
            if !is_workload(&place.kind) && data.kind != KubeKind::Adopted && data.objects.len() > 1 {
                continue;
            }
            let target = Target::of(cluster, place).await?;
            let live = target.get().await?.filter(|live| {
                let same = place.uid.is_none() || live.metadata.uid == place.uid;
                let ours = mark::guid(&live.metadata, &self.agent) == Some(data.guid);
                live.metadata.deletion_timestamp.is_none() && if data.owned { ours } else { same }
            });
            match live {
                Some(live) => found.push(Workload { target, live }),
                None => missing.push(place.to_string()),
            }
        }
        if found.is_empty() && !missing.is_empty() {
            let message = format!("nothing of that handle is there: {}", missing.join(", "));
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Ok(found)
    }

    /// The handle with what the server answered in it, and the status of that.
    fn changed(
        &self,
        mut data: HandleData,
        request: &ControlRequest<'_>,
        live: &[DynamicObject],
    ) -> Result<Applied> {
        let cluster = self.cluster_of(&data)?;
        for live in live {
            let place = ObjectRef::of(live);
            if let Some(known) = data.objects.iter_mut().find(|known| known.same_place(&place)) {
                known.uid.clone_from(&live.metadata.uid);
                if data.owned {
                    known.fingerprint = fingerprint(live, cluster.manager());
                }
            }
        }
        self.settled(request.guid, &data, live)
    }

    /// The same object with the spec of the request.
    async fn reapply(&self, request: &ControlRequest<'_>, data: &HandleData) -> Result<Applied> {
        self.reapply_spec(request, data, request.spec).await
    }

    async fn reapply_spec(
        &self,
        request: &ControlRequest<'_>,
        data: &HandleData,
        spec: &agent_api_driver::model::ObjectSpec,
    ) -> Result<Applied> {
        let handle = data.write();
        let apply = ApplyRequest {
            guid: request.guid,
            generation: request.generation,
            op_id: request.op_id,
            maybe_applied: request.maybe_applied,
            spec,
            handle: Some(&handle),
            deadline: request.deadline,
        };
        // Boxed: an apply is large.
        Box::pin(self.apply(apply)).await
    }

    /// Changes fields without an apply.
    pub(super) async fn patch(&self, one: &Workload<'_>, body: &Value) -> Result<DynamicObject> {
        let target = &one.target;
        let cluster = target.cluster;
        let mut body = body.clone();
        body["metadata"]["uid"] = json!(one.uid());
        let params = PatchParams {
            field_manager: Some(cluster.manager().to_owned()),
            ..PatchParams::default()
        };
        let namespace = target.place.namespace.as_deref();
        let api = cluster.api(&target.resource, namespace);
        let name = target.place.name.as_str();
        let patch = Patch::Merge(&body);
        let call = cluster.call(
            "patch",
            &target.resource,
            namespace,
            name,
            api.patch(name, &params, &patch),
        );
        let mut live = call.await?;
        live.types
            .get_or_insert_with(|| crate::target::types(&target.resource));
        Ok(live)
    }

    async fn scale(
        &self,
        request: &ControlRequest<'_>,
        data: HandleData,
        workloads: &[Workload<'_>],
        replicas: u32,
    ) -> Result<Applied> {
        match data.kind {
            KubeKind::Deployment | KubeKind::Job => return self.reapply(request, &data).await,
            KubeKind::Manifest => {
                let has_copies = |one: &&Workload<'_>| {
                    matches!(
                        one.kind(),
                        "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController"
                    )
                };
                return match workloads.iter().filter(has_copies).count() {
                    1 => self.reapply(request, &data).await,
                    count => Err(unsupported(format!(
                        "the manifest has {count} objects with copies; only one alone can be scaled"
                    ))),
                };
            }
            _ => {}
        }
        let [one] = workloads else {
            return Err(unsupported("nothing of it can be scaled"));
        };
        if data.kind == KubeKind::Pod || !one.target.resource.has("scale") {
            return Err(unsupported(format!("a {} has no copies", one.kind())));
        }
        let cluster = one.target.cluster;
        let place = &one.target.place;
        let api = cluster.api(&one.target.resource, place.namespace.as_deref());
        let params = PatchParams {
            field_manager: Some(cluster.manager().to_owned()),
            ..PatchParams::default()
        };
        let body = json!({"spec": {"replicas": replicas}});
        let patch = Patch::Merge(&body);
        let call = api.patch_scale(&place.name, &params, &patch);
        cluster
            .call(
                "patch the scale of",
                &one.target.resource,
                place.namespace.as_deref(),
                &place.name,
                call,
            )
            .await?;
        let live = one.target.get().await?.ok_or_else(|| gone(place))?;
        self.changed(data, request, &[live])
    }

    async fn restart(
        &self,
        request: &ControlRequest<'_>,
        mut data: HandleData,
        workloads: &[Workload<'_>],
        grace: Option<Duration>,
        until: Instant,
    ) -> Result<Applied> {
        if workloads.is_empty() && !request.maybe_applied {
            return Err(unsupported("nothing of it runs, so nothing can be restarted"));
        }
        if let Some(held) = workloads
            .iter()
            .find(|one| one.kind() == "Deployment" && one.spec()["paused"] == true)
        {
            let message = format!("the rollout of {} is paused", held.target.place);
            return Err(Error::new(ErrorKind::Conflict, message).with_hint("resume it first"));
        }
        if !data.owned {
            return self.restart_adopted(request, data, workloads).await;
        }
        for one in workloads {
            // Pods and Jobs cannot be started again: they are removed and made anew. Done already by this operation?
            let again = matches!(one.kind(), "Pod" | "Job") && !one.is_by(request);
            if !again {
                continue;
            }
            let uid = one.uid().to_owned();
            // Its pods are removed here, with this grace: the garbage collector takes its time.
            let pods = match one.kind() {
                "Job" => pods::of(self, request.guid, &data).await?,
                _ => Vec::new(),
            };
            let there = !one.target.delete(&uid, Propagation::Background, grace).await?;
            for pod in &pods {
                self.remove_pod(&data, pod, grace, until).await?;
            }
            if there {
                one.target.until_gone(&uid, until).await?;
            }
        }
        data.incarnation = Some(request.op_id);
        self.reapply(request, &data).await
    }

    async fn restart_adopted(
        &self,
        request: &ControlRequest<'_>,
        mut data: HandleData,
        workloads: &[Workload<'_>],
    ) -> Result<Applied> {
        let mut live = Vec::new();
        for one in workloads {
            if !rolls(one.kind()) {
                return Err(unsupported(format!(
                    "a {} that was adopted cannot be restarted: it would have to be made anew, by its owner",
                    one.kind()
                )));
            }
            let op_id = request.op_id.to_string();
            let template = json!({"metadata": {"annotations": {mark::INCARNATION: op_id}}});
            live.push(self.patch(one, &json!({"spec": {"template": template}})).await?);
        }
        data.incarnation = Some(request.op_id);
        data.op_id = request.op_id;
        self.changed(data, request, &live)
    }

    async fn signal(
        self: &Arc<Self>,
        request: &ControlRequest<'_>,
        data: HandleData,
        workloads: &[Workload<'_>],
        number: i32,
    ) -> Result<Applied> {
        match number {
            // The kernel keeps the first process of a container from signals that it has no handler for.
            signals::KILL => {
                let container = exec::container(self, request.guid, &data).await?;
                self.kill_pod(&data, &container).await?;
            }
            signals::STOP => {
                return Err(unsupported(
                    "the first process of a container cannot be stopped from within; no one else may signal it",
                ));
            }
            number => exec::signal(self, request.guid, &data, number).await?,
        }
        let mut live = Vec::new();
        for one in workloads {
            live.extend(one.target.get().await?);
        }
        self.changed(data, request, &live)
    }

    async fn remove_pod(
        &self,
        data: &HandleData,
        pod: &Pod,
        grace: Option<Duration>,
        until: Instant,
    ) -> Result<()> {
        let metadata = &pod.metadata;
        let (Some(uid), Some(name)) = (&metadata.uid, &metadata.name) else {
            return Ok(());
        };
        let place = pod_place(metadata.namespace.clone(), name.clone());
        let target = Target::of(self.cluster_of(data)?, &place).await?;
        match target.delete(uid, Propagation::Background, grace).await? {
            true => Ok(()),
            false => target.until_gone(uid, until).await,
        }
    }

    /// Nothing in a container can kill its first process: the pod is deleted without grace.
    async fn kill_pod(&self, data: &HandleData, container: &exec::Container) -> Result<()> {
        let place = pod_place(Some(container.namespace.clone()), container.pod.clone());
        let target = Target::of(self.cluster_of(data)?, &place).await?;
        let Some(live) = target.get().await? else {
            return Ok(());
        };
        let uid = live.metadata.uid.unwrap_or_default();
        target
            .delete(&uid, Propagation::Background, Some(Duration::ZERO))
            .await
            .map(drop)
    }
}

fn pod_place(namespace: Option<String>, name: String) -> ObjectRef {
    ObjectRef {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace,
        name,
        uid: None,
        fingerprint: None,
    }
}

fn gone(place: &ObjectRef) -> Error {
    Error::new(ErrorKind::NotFound, format!("{place} is not there any more"))
}

/// The limits that a change names.
pub(super) fn is_unchanged(resources: &Resources) -> bool {
    resources.cpu.is_none() && resources.memory.is_none()
}

/// Whole seconds of an optional wait.
pub(super) fn seconds(grace: Option<Duration>) -> Option<u32> {
    grace.map(whole_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_each_kind() {
        let table: Vec<String> = KubeKind::ALL
            .map(|kind| {
                let all = methods(kind);
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                format!("{}: {}", kind.type_name(), names.join(" "))
            })
            .into();
        assert_eq!(
            table,
            [
                "manifest: rollback",
                "deployment: rollback",
                "job: ",
                "pod: ",
                "adopted: rollback",
                "cluster: cordon drain uncordon",
            ]
        );
        let drain = &methods(KubeKind::Cluster)["drain"].arguments;
        assert_eq!(drain["required"], json!(["node"]));
        assert_eq!(drain["additionalProperties"], false);
        assert_eq!(
            methods(KubeKind::Deployment)["rollback"].arguments["type"],
            "object"
        );
    }
}
