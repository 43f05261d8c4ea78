//! The kinds of objects, what a person writes of them and the Kubernetes objects they become.

mod adopted;
mod container;
mod deployment;
mod job;
mod manifest;
mod place;
mod pod;
mod spec;
#[cfg(test)]
mod tests;

use agent_api_driver::model::{AgentId, Error, Generation, Guid, Kind, ObjectSpec, OpId, Result};
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};

use crate::mark;

pub use adopted::{AdoptedSpec, ClusterSpec};
pub(crate) use container::CONTAINER;
pub use container::{ContainerSpec, Port, Protocol, PullPolicy, SecretKey};
pub use deployment::{DeploymentSpec, Strategy};
pub use job::JobSpec;
pub use manifest::ManifestSpec;
pub use place::Place;
pub use pod::{NodeRestart, PodSpec};
pub(crate) use spec::{REDACTED, Spec, redact, redact_value, schema, validate};

/// The kinds of this driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KubeKind {
    /// `kubernetes/manifest`.
    Manifest,
    /// `kubernetes/deployment`.
    Deployment,
    /// `kubernetes/job`.
    Job,
    /// `kubernetes/pod`.
    Pod,
    /// `kubernetes/adopted`.
    Adopted,
    /// `kubernetes/cluster`.
    Cluster,
}

impl KubeKind {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Manifest,
        Self::Deployment,
        Self::Job,
        Self::Pod,
        Self::Adopted,
        Self::Cluster,
    ];

    /// The second part of the kind.
    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Deployment => "deployment",
            Self::Job => "job",
            Self::Pod => "pod",
            Self::Adopted => "adopted",
            Self::Cluster => "cluster",
        }
    }

    /// The kind as the agent writes it.
    pub(crate) fn kind(self) -> Kind {
        Kind::new(format!("kubernetes/{}", self.type_name())).expect("two DNS labels")
    }

    /// Which kind a name stands for.
    pub(crate) fn find(kind: &Kind) -> Option<Self> {
        (kind.driver() == "kubernetes")
            .then(|| {
                Self::ALL
                    .into_iter()
                    .find(|known| Some(known.type_name()) == kind.type_name())
            })
            .flatten()
    }

    /// The kind of a spec.
    pub(crate) fn of(spec: &ObjectSpec) -> Result<Self> {
        Self::find(&spec.kind).ok_or_else(|| {
            Error::invalid(
                "kind",
                format!("the kubernetes driver does not know {}", spec.kind),
            )
        })
    }

    /// Whether the driver makes objects of this kind, and not only looks at what is there.
    pub(crate) const fn owned(self) -> bool {
        !matches!(self, Self::Adopted | Self::Cluster)
    }
}

/// What rendering needs beside the spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RenderContext<'a> {
    /// Whose agent.
    pub agent: &'a AgentId,
    /// Which object.
    pub guid: Guid,
    /// The generation of the spec.
    pub generation: Generation,
    /// The operation that applies it.
    pub op_id: OpId,
    /// The restart that its pods come from.
    pub incarnation: Option<OpId>,
    /// The namespace of what names none.
    pub namespace: &'a str,
}

/// The Kubernetes objects that a spec becomes, with our marks, in the order in which they are applied. Empty for kinds
/// that make nothing.
///
/// Objects of a manifest that name no namespace have none here either: whether they live in one is the server's to say.
pub(crate) fn render(object: &ObjectSpec, context: &RenderContext<'_>) -> Result<Vec<DynamicObject>> {
    let mut rendered = match Spec::parse(object)? {
        Spec::Manifest(spec) => manifest::render(object, &spec, context)?,
        Spec::Deployment(spec) => vec![deployment::render(object, &spec, context)?],
        Spec::Job(spec) => vec![job::render(object, &spec, context)],
        Spec::Pod(spec) => vec![pod::render(object, &spec, context)],
        Spec::Adopted(_) | Spec::Cluster(_) => Vec::new(),
    };
    let kind = KubeKind::of(object)?;
    for item in &mut rendered {
        for (key, value) in mark::labels(context.agent, context.guid) {
            manifest::put(item, "labels", key, value);
        }
        for (key, value) in mark::annotations(kind, context.generation, context.op_id, object.name.as_str()) {
            manifest::put(item, "annotations", key, value);
        }
    }
    rendered.sort_by_key(|item| rank(item["kind"].as_str().unwrap_or_default()));
    rendered
        .into_iter()
        .map(|item| serde_json::from_value(item).map_err(unreadable))
        .collect()
}

/// What must exist before what else: kinds of a lower rank are applied first and deleted last.
pub(crate) fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "PriorityClass" | "StorageClass" | "RuntimeClass" | "ServiceAccount" | "Secret" | "ConfigMap" => 2,
        "ClusterRole" | "Role" | "PersistentVolume" | "ResourceQuota" | "LimitRange" | "NetworkPolicy" => 3,
        "ClusterRoleBinding" | "RoleBinding" | "PersistentVolumeClaim" | "Service" => 4,
        // They act on all that comes after them.
        "APIService" | "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => 6,
        _ => 5,
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::invalid("spec", format!("is not a Kubernetes object: {error}"))
}
