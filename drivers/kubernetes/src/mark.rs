//! What everything bears that this driver makes, so that it can be found from outside.
//!
//! Labels are constant over the life of an object, so that they can stand in pod templates without causing a rollout;
//! what changes with each operation is in annotations, on the objects themselves only.

use std::collections::BTreeMap;

use agent_api_driver::Mark;
use agent_api_driver::model::{AgentId, Generation, Guid, OpId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::kinds::KubeKind;

/// Label: the agent's id.
pub(crate) const AGENT: &str = "agent/id";
/// Label: the object's GUID.
pub(crate) const GUID: &str = "agent/guid";
/// Annotation: the generation of the spec that was applied.
pub(crate) const GENERATION: &str = "agent/generation";
/// Annotation: the operation that applied it.
pub(crate) const OP_ID: &str = "agent/op-id";
/// Annotation: the object's name in the agent.
pub(crate) const NAME: &str = "agent/name";
/// Annotation: the kind of the object, without the driver.
pub(crate) const KIND: &str = "agent/kind";
/// Annotation of Deployments of kind `kubernetes/deployment`: the spec as JSON. The deployment controller copies it to
/// the ReplicaSet of each revision, where a rollback finds it.
pub(crate) const SPEC: &str = "agent/spec";
/// Annotation of pod templates: the restart that the pods come from.
pub(crate) const INCARNATION: &str = "agent/incarnation";

/// The labels of all that belongs to an object.
pub(crate) fn labels(agent: &AgentId, guid: Guid) -> BTreeMap<String, String> {
    BTreeMap::from([
        (AGENT.to_owned(), agent.to_string()),
        (GUID.to_owned(), guid.to_string()),
    ])
}

/// The annotations of what one operation applied.
pub(crate) fn annotations(
    kind: KubeKind,
    generation: Generation,
    op_id: OpId,
    name: &str,
) -> BTreeMap<String, String> {
    BTreeMap::from([
        (KIND.to_owned(), kind.type_name().to_owned()),
        (GENERATION.to_owned(), generation.to_string()),
        (OP_ID.to_owned(), op_id.to_string()),
        (NAME.to_owned(), name.to_owned()),
    ])
}

/// A label selector for all that this agent made.
pub(crate) fn selector_of_agent(agent: &AgentId) -> String {
    format!("{AGENT}={agent}")
}

/// A label selector for all that belongs to one object.
pub(crate) fn selector_of_object(agent: &AgentId, guid: Guid) -> String {
    format!("{AGENT}={agent},{GUID}={guid}")
}

/// Whose a thing is: the GUID where it bears the mark of this agent.
pub(crate) fn guid(meta: &ObjectMeta, agent: &AgentId) -> Option<Guid> {
    let labels = meta.labels.as_ref()?;
    (labels.get(AGENT)? == agent.as_str())
        .then(|| labels.get(GUID)?.parse().ok())
        .flatten()
}

/// The operation that applied a thing last.
pub(crate) fn op_id(meta: &ObjectMeta) -> Option<OpId> {
    meta.annotations.as_ref()?.get(OP_ID)?.parse().ok()
}

/// The generation that was applied last.
pub(crate) fn generation(meta: &ObjectMeta) -> Option<Generation> {
    meta.annotations.as_ref()?.get(GENERATION)?.parse().ok()
}

/// The kind of the object that a thing is a part of.
pub(crate) fn kind(meta: &ObjectMeta) -> Option<KubeKind> {
    let name = meta.annotations.as_ref()?.get(KIND)?;
    KubeKind::ALL.into_iter().find(|kind| kind.type_name() == name)
}

/// Whether a controller made it from something else. Controllers copy annotations to what they make.
pub(crate) fn is_derived(meta: &ObjectMeta) -> bool {
    meta.owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true))
}

/// The labels and annotations that mark an object, for taking them away.
pub(crate) const LABELS: [&str; 2] = [AGENT, GUID];
/// See [`LABELS`].
pub(crate) const ANNOTATIONS: [&str; 5] = [GENERATION, OP_ID, NAME, KIND, SPEC];

/// The whole mark of a thing of this agent.
pub(crate) fn mark(meta: &ObjectMeta, agent: &AgentId) -> Option<Mark> {
    Some(Mark {
        agent: agent.clone(),
        guid: guid(meta, agent)?,
        op_id: op_id(meta)?,
    })
}
