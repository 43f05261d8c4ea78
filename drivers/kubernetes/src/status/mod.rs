//! How things of a cluster are, by the rules that people know from `kubectl rollout status` and kstatus.
//!
//! Pure: from objects as the API server gives them to verdicts on each, and from those to the status of an agent's
//! object. Nothing here asks anyone.

pub(crate) mod aggregate;
pub(crate) mod conditions;
pub(crate) mod details;
pub(crate) mod exit;
pub(crate) mod fingerprint;
pub(crate) mod pod_trouble;
pub(crate) mod readiness;
pub(crate) mod workload;

#[cfg(test)]
mod tests;

use agent_api_driver::model::ExitStatus;
use kube::core::DynamicObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use details::{EventDetails, KubernetesDetails, PodDetails, ReplicaDetails, ThingDetails};

/// How far one thing in a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It is on its way to what its spec says.
    InProgress,
    /// It is what its spec says.
    Current,
    /// It is held by its own spec: a paused Deployment, a suspended Job.
    Paused,
    /// It does not get further by itself. It may still run.
    Stalled,
    /// It ended, and well.
    Succeeded,
    /// It ended, and not well.
    Failed,
    /// It is not there.
    NotFound,
}

impl Progress {
    /// Whether it has ended by itself.
    pub(crate) fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What one thing's own fields say of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub progress: Progress,
    /// One sentence; empty where there is nothing to say.
    pub message: String,
    /// How it ended, where it did.
    pub exit: Option<ExitStatus>,
    pub replicas: Option<ReplicaDetails>,
    /// The revision in force, of what has revisions.
    pub revision: Option<String>,
    /// What is still to be done by whom, where it is being deleted.
    pub terminating: Option<String>,
}

impl Verdict {
    pub(crate) fn new(progress: Progress, message: impl Into<String>) -> Self {
        Self {
            progress,
            message: message.into(),
            exit: None,
            replicas: None,
            revision: None,
            terminating: None,
        }
    }

    pub(crate) fn current() -> Self {
        Self::new(Progress::Current, "")
    }

    pub(crate) fn waiting(message: impl Into<String>) -> Self {
        Self::new(Progress::InProgress, message)
    }
}

/// What a thing does for the object that it is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It runs until it is taken away: a Deployment, a custom resource.
    Lasting,
    /// It runs and ends by itself: a Job, a pod.
    Ending,
    /// It does not run: a ConfigMap, a Service.
    Passive,
}

/// The role of a kind of things.
pub(crate) fn role(group: &str, kind: &str) -> Role {
    match (group, kind) {
        ("", "Pod") | ("batch", "Job") => Role::Ending,
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("", "ReplicationController" | "Node")
        | ("batch", "CronJob") => Role::Lasting,
        _ if is_builtin(group) => Role::Passive,
        _ => Role::Lasting,
    }
}

fn is_builtin(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

/// The group of a thing's type; empty for the core group.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// Judges one thing by its own fields.
pub(crate) fn judge(object: &DynamicObject) -> Verdict {
    let (group, kind) = object
        .types
        .as_ref()
        .map_or(("", ""), |t| (group_of(&t.api_version), t.kind.as_str()));
    let seen = Fields::new(object);
    let mut verdict = match (group, kind) {
        ("apps" | "extensions", "Deployment") => workload::deployment(&seen),
        ("apps", "StatefulSet") => workload::stateful_set(&seen),
        ("apps" | "extensions", "DaemonSet") => workload::daemon_set(&seen),
        ("apps" | "extensions", "ReplicaSet") | ("", "ReplicationController") => workload::replica_set(&seen),
        ("batch", "Job") => workload::job(&seen),
        ("batch", "CronJob") => workload::cron_job(&seen),
        ("", "Pod") => workload::pod(&seen),
        ("", "PersistentVolumeClaim") => readiness::volume_claim(&seen),
        ("", "Service") => readiness::service(&seen),
        ("", "Namespace") => readiness::namespace(&seen),
        ("", "Node") => readiness::node(&seen),
        ("policy", "PodDisruptionBudget") => readiness::disruption_budget(&seen),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => readiness::resource_definition(&seen),
        ("apiregistration.k8s.io", "APIService") => readiness::api_service(&seen),
        _ => readiness::generic(&seen),
    };
    verdict.terminating = terminating(object, &seen);
    verdict
}

/// What holds a thing that is being deleted.
fn terminating(object: &DynamicObject, seen: &Fields<'_>) -> Option<String> {
    let since = &object.metadata.deletion_timestamp.as_ref()?.0;
    let mut holders: Vec<String> = object
        .metadata
        .finalizers
        .iter()
        .flatten()
        .map(|name| format!("finalizer {name}"))
        .collect();
    holders.extend(
        seen.strings("/spec/finalizers")
            .into_iter()
            .map(|name| format!("finalizer {name}")),
    );
    // A namespace says in its conditions what is left in it.
    holders.extend(
        seen.conditions()
            .filter(|c| c.status == "True" && c.kind.starts_with("Namespace"))
            .map(|c| c.message.to_owned()),
    );
    Some(if holders.is_empty() {
        format!("being deleted since {since}")
    } else {
        format!("being deleted since {since}, held by {}", holders.join("; "))
    })
}

/// Reads fields of a thing that may not be there.
pub(crate) struct Fields<'a> {
    pub data: &'a Value,
    pub generation: Option<i64>,
    pub annotations: Option<&'a std::collections::BTreeMap<String, String>>,
}

/// One of `status.conditions`.
pub(crate) struct Known<'a> {
    pub kind: &'a str,
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
    pub since: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(object: &'a DynamicObject) -> Self {
        Self {
            data: &object.data,
            generation: object.metadata.generation,
            annotations: object.metadata.annotations.as_ref(),
        }
    }

    pub(crate) fn int(&self, path: &str) -> Option<i64> {
        self.data.pointer(path)?.as_i64()
    }

    /// A count: 0 where it is not there, as the servers leave zeros out.
    pub(crate) fn count(&self, path: &str) -> i64 {
        self.int(path).unwrap_or(0)
    }

    pub(crate) fn text(&self, path: &str) -> &'a str {
        self.data.pointer(path).and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn flag(&self, path: &str) -> bool {
        self.data.pointer(path).and_then(Value::as_bool).unwrap_or(false)
    }

    pub(crate) fn list(&self, path: &str) -> &'a [Value] {
        self.data
            .pointer(path)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    pub(crate) fn strings(&self, path: &str) -> Vec<&'a str> {
        self.list(path).iter().filter_map(Value::as_str).collect()
    }

    pub(crate) fn conditions(&self) -> impl Iterator<Item = Known<'a>> + use<'a> {
        self.list("/status/conditions").iter().map(|condition| {
            let text = |key| condition.get(key).and_then(Value::as_str).unwrap_or("");
            Known {
                kind: text("type"),
                status: text("status"),
                reason: text("reason"),
                message: text("message"),
                since: text("lastTransitionTime"),
            }
        })
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<Known<'a>> {
        self.conditions().find(|condition| condition.kind == kind)
    }

    /// Whether its controller has not seen the newest spec yet. What does not tell counts as seen.
    pub(crate) fn unseen_spec(&self) -> bool {
        match (self.generation, self.int("/status/observedGeneration")) {
            (Some(wanted), Some(seen)) => seen < wanted,
            _ => false,
        }
    }
}
