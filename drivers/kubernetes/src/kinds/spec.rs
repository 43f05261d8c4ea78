//! Specs as they come in: read, checked and shown.

use agent_api_driver::KindSchema;
use agent_api_driver::model::{Diagnostic, Error, ObjectSpec, Result};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{AdoptedSpec, ClusterSpec, DeploymentSpec, JobSpec, KubeKind, ManifestSpec, Place, PodSpec};

/// The spec of an object by its kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spec {
    /// `kubernetes/manifest`
    Manifest(ManifestSpec),
    /// `kubernetes/deployment`
    Deployment(Box<DeploymentSpec>),
    /// `kubernetes/job`
    Job(Box<JobSpec>),
    /// `kubernetes/pod`
    Pod(Box<PodSpec>),
    /// `kubernetes/adopted`
    Adopted(AdoptedSpec),
    /// `kubernetes/cluster`
    Cluster(ClusterSpec),
}

impl Spec {
    /// Reads the spec of an object.
    pub(crate) fn parse(object: &ObjectSpec) -> Result<Self> {
        Ok(match KubeKind::of(object)? {
            KubeKind::Manifest => Self::Manifest(read(&object.spec)?),
            KubeKind::Deployment => Self::Deployment(read(&object.spec)?),
            KubeKind::Job => Self::Job(read(&object.spec)?),
            KubeKind::Pod => Self::Pod(read(&object.spec)?),
            KubeKind::Adopted => Self::Adopted(read(&object.spec)?),
            KubeKind::Cluster => Self::Cluster(read(&object.spec)?),
        })
    }

    /// Where its objects go; none for kinds that make nothing.
    pub(crate) fn place(&self) -> Option<&Place> {
        match self {
            Self::Manifest(spec) => Some(&spec.place),
            Self::Deployment(spec) => Some(&spec.place),
            Self::Job(spec) => Some(&spec.place),
            Self::Pod(spec) => Some(&spec.place),
            Self::Adopted(_) | Self::Cluster(_) => None,
        }
    }

    /// The cluster it names.
    pub(crate) fn cluster(&self) -> Option<&str> {
        match self {
            Self::Adopted(spec) => spec.cluster.as_deref(),
            Self::Cluster(spec) => spec.cluster.as_deref(),
            other => other.place().and_then(|place| place.cluster.as_deref()),
        }
    }

    /// The namespace it names.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Adopted(spec) => spec.namespace.as_deref(),
            Self::Cluster(_) => None,
            other => other.place().and_then(|place| place.namespace.as_deref()),
        }
    }
}

fn read<T: DeserializeOwned>(spec: &Value) -> Result<T> {
    let spec = match spec {
        Value::Null => json!({}),
        other => other.clone(),
    };
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => "spec".to_owned(),
            path => format!("spec.{path}"),
        };
        Error::invalid(path, error.into_inner().to_string())
    })
}

/// What is wrong with a spec, without asking the server.
pub(crate) fn validate(object: &ObjectSpec) -> Vec<Diagnostic> {
    let spec = match Spec::parse(object) {
        Ok(spec) => spec,
        Err(error) => return vec![Diagnostic::error(error.path().unwrap_or("spec"), error.message())],
    };
    let mut found = match &spec {
        Spec::Manifest(spec) => spec.check(object),
        Spec::Deployment(spec) => spec.container.check(object),
        Spec::Job(spec) => spec.container.check(object),
        Spec::Pod(spec) => {
            let mut found = spec.container.check(object);
            if object.resources.replicas.is_some_and(|replicas| replicas != 1) {
                found.push(Diagnostic::error(
                    "resources.replicas",
                    "a pod is one; `kubernetes/deployment` has copies",
                ));
            }
            found
        }
        Spec::Adopted(_) | Spec::Cluster(_) => nothing_wanted(object),
    };
    if let Spec::Adopted(spec) = &spec {
        for (field, text) in [("api_version", &spec.api_version), ("kind", &spec.kind)] {
            if text.is_empty() {
                found.push(Diagnostic::error(format!("spec.{field}"), "must not be empty"));
            }
        }
    }
    if spec.namespace().is_some_and(|name| !is_label(name)) {
        found.push(Diagnostic::error(
            "spec.namespace",
            "is up to 63 lower-case letters, digits and -",
        ));
    }
    found
}

/// Kinds that only look at what is there set no limits. The number of copies stands in the spec after a scale.
fn nothing_wanted(object: &ObjectSpec) -> Vec<Diagnostic> {
    let mut rest = object.resources.clone();
    rest.replicas = None;
    if rest.is_empty() {
        return Vec::new();
    }
    let message = "an object of this kind is not given limits: it is not made by the agent";
    vec![Diagnostic::error("resources", message)]
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The word that stands where a secret was.
pub(crate) const REDACTED: &str = "<redacted>";

/// Takes the values of Secrets out of a spec that is shown.
pub(crate) fn redact(object: &mut ObjectSpec) {
    if KubeKind::find(&object.kind) == Some(KubeKind::Manifest)
        && let Some(objects) = object.spec.get_mut("objects").and_then(Value::as_array_mut)
    {
        objects.iter_mut().for_each(redact_value);
    }
}

/// Takes the values of a Secret, or of the Secrets in a list, out of a manifest.
pub(crate) fn redact_value(item: &mut Value) {
    if let Some(items) = item.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(redact_value);
    }
    if item["kind"] != "Secret" {
        return;
    }
    for field in ["data", "stringData"] {
        if let Some(values) = item.get_mut(field).and_then(Value::as_object_mut) {
            values.values_mut().for_each(|value| *value = json!(REDACTED));
        }
    }
    // `kubectl apply` keeps the whole Secret in an annotation.
    if let Some(annotations) = item
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
        && let Some(last) = annotations.get_mut("kubectl.kubernetes.io/last-applied-configuration")
    {
        *last = json!(REDACTED);
    }
}

/// The JSON Schema of the spec of a kind, with the schema of its status.
pub(crate) fn schema(kind: KubeKind, status: Value) -> KindSchema {
    let spec = match kind {
        KubeKind::Manifest => schemars::schema_for!(ManifestSpec),
        KubeKind::Deployment => schemars::schema_for!(DeploymentSpec),
        KubeKind::Job => schemars::schema_for!(JobSpec),
        KubeKind::Pod => schemars::schema_for!(PodSpec),
        KubeKind::Adopted => schemars::schema_for!(AdoptedSpec),
        KubeKind::Cluster => schemars::schema_for!(ClusterSpec),
    };
    KindSchema {
        spec: spec.to_value(),
        status,
    }
}
