//! What is kept of a thing that a watch has shown: little, as there are many.

use std::sync::Arc;

use agent_api_driver::model::{AgentId, Guid, OpId};
use k8s_openapi::api::core::v1::{Container, Event, Pod, PodSpec};
use kube::core::DynamicObject;

use crate::handle::ObjectRef;
use crate::mark;
use crate::status::fingerprint::{self, Field};
use crate::status::{Verdict, judge};

/// Where a thing is, among those of its resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub namespace: Option<Box<str>>,
    pub name: Box<str>,
}

impl Place {
    pub(crate) fn of(object: &DynamicObject) -> Self {
        Self {
            namespace: object.metadata.namespace.as_deref().map(Into::into),
            name: object.metadata.name.as_deref().unwrap_or("").into(),
        }
    }

    pub(crate) fn of_reference(reference: &ObjectRef) -> Self {
        Self {
            namespace: reference.namespace.as_deref().map(Into::into),
            name: reference.name.as_str().into(),
        }
    }
}

/// What is kept of a thing as it was shown last: what follows from it, and of pods what others want to know.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub uid: Box<str>,
    /// The object whose mark it bears.
    pub guid: Option<Guid>,
    /// The operation that applied it last, by its mark.
    pub op_id: Option<OpId>,
    pub verdict: Verdict,
    /// The fields that we applied.
    pub fields: Option<Arc<[Field]>>,
    pub fingerprint: Option<u64>,
    /// How it differs from what was applied last; empty where that was not asked.
    pub drift: Box<str>,
    pub pod: Option<Arc<Pod>>,
}

impl Thing {
    /// Makes it from what the server sent. `expected` is the fingerprint it should have, and the fields it had.
    pub(crate) fn new(
        object: DynamicObject,
        agent: &AgentId,
        manager: &str,
        expected: Option<(u64, Option<&[Field]>)>,
    ) -> Self {
        let verdict = judge(&object);
        let fields = fingerprint::fields(&object, manager);
        let fingerprint = fields.as_deref().map(fingerprint::fold);
        let drift = match expected {
            Some((wanted, before)) if fingerprint != Some(wanted) => {
                fingerprint::describe(&object, manager, before).into()
            }
            _ => Box::default(),
        };
        let guid = mark::guid(&object.metadata, agent);
        let op_id = mark::op_id(&object.metadata);
        let uid = object.metadata.uid.as_deref().unwrap_or("").into();
        Self {
            uid,
            guid,
            op_id,
            verdict,
            fields: fields.map(Into::into),
            fingerprint,
            drift,
            pod: is_kind(&object, "v1", "Pod").then(|| Arc::new(pod(object))),
        }
    }
}

/// The revision of the cluster in which an object is so.
pub(crate) fn revision(object: &DynamicObject) -> u64 {
    parse_revision(object.metadata.resource_version.as_deref())
}

/// Revisions are compared as numbers; 0 stands for one that is none, and is always news.
pub(crate) fn parse_revision(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_kind(object: &DynamicObject, api_version: &str, kind: &str) -> bool {
    object
        .types
        .as_ref()
        .is_some_and(|types| types.api_version == api_version && types.kind == kind)
}

fn pod(mut object: DynamicObject) -> Pod {
    let mut part = |key| {
        object
            .data
            .get_mut(key)
            .map(serde_json::Value::take)
            .unwrap_or_default()
    };
    let (spec, status) = (part("spec"), part("status"));
    let spec: Option<PodSpec> = serde_json::from_value(spec).ok();
    let mut metadata = object.metadata;
    metadata.annotations = None;
    metadata.managed_fields = None;
    Pod {
        metadata,
        spec: spec.map(lean),
        status: serde_json::from_value(status).ok(),
    }
}

/// What exec, logs and metrics need of a pod's spec: containers, node, and who restarts it.
fn lean(spec: PodSpec) -> PodSpec {
    let container = |full: Container| Container {
        name: full.name,
        image: full.image,
        resources: full.resources,
        tty: full.tty,
        stdin: full.stdin,
        restart_policy: full.restart_policy,
        ..Container::default()
    };
    PodSpec {
        containers: spec.containers.into_iter().map(container).collect(),
        init_containers: spec
            .init_containers
            .map(|all| all.into_iter().map(container).collect()),
        ephemeral_containers: spec.ephemeral_containers,
        node_name: spec.node_name,
        restart_policy: spec.restart_policy,
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        ..PodSpec::default()
    }
}

/// A Kubernetes Event, without what nobody reads.
pub(crate) fn event(object: DynamicObject) -> Option<Event> {
    let mut event: Event = object.try_parse().ok()?;
    event.metadata.managed_fields = None;
    Some(event)
}
