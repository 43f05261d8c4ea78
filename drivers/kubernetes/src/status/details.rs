//! What a view shows of an object, beside its phase and conditions.

use std::sync::Arc;

use agent_api_driver::model::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Progress;
use super::pod_trouble::of_pod;

/// So many pods are listed; the rest is counted.
const PODS_SHOWN: usize = 50;
/// So many of the last warnings are shown.
pub(crate) const EVENTS_SHOWN: usize = 5;

/// What a view shows of an object in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KubernetesDetails {
    /// The cluster, by its name in the configuration.
    pub cluster: String,
    /// The namespace, where all of it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What it consists of.
    pub objects: Vec<ThingDetails>,
    /// Its replicas, summed over its workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaDetails>,
    /// The revision in force, where it is of one workload that has revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Its pods: those in trouble first, then by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodDetails>,
    /// How many pods there are beside those listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_pods: usize,
    /// The cluster's last warnings about any of it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventDetails>,
}

/// One thing in the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThingDetails {
    /// For example `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace, where they are not all in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How far it is.
    pub status: Progress,
    /// Why, one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Copies of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaDetails {
    /// Wanted.
    pub desired: i64,
    /// There.
    pub current: i64,
    /// Of the newest revision.
    pub updated: i64,
    /// Ready.
    pub ready: i64,
    /// Ready for long enough.
    pub available: i64,
}

impl ReplicaDetails {
    pub(crate) fn add(&mut self, other: &Self) {
        self.desired += other.desired;
        self.current += other.current;
        self.updated += other.updated;
        self.ready += other.ready;
        self.available += other.available;
    }
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodDetails {
    /// Its name.
    pub name: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed`, or `Terminating`.
    pub phase: String,
    /// The node it is on; none before it was placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// How often its containers were restarted.
    pub restarts: i32,
    /// What is wrong with it, one word; none where it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A warning of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventDetails {
    /// One word, for example `FailedScheduling`.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// What it is about, for example `Pod/web-1`.
    pub about: String,
    /// When it was seen first.
    pub at: Timestamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The pods to show, and how many more there are.
pub(crate) fn pods(all: &[Arc<Pod>]) -> (Vec<PodDetails>, usize) {
    let mut shown: Vec<PodDetails> = all.iter().map(|pod| of(pod)).collect();
    shown.sort_by(|a, b| (a.reason.is_none(), &a.name).cmp(&(b.reason.is_none(), &b.name)));
    let more = shown.len().saturating_sub(PODS_SHOWN);
    shown.truncate(PODS_SHOWN);
    (shown, more)
}

fn of(pod: &Pod) -> PodDetails {
    let status = pod.status.as_ref();
    let phase = if pod.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else {
        status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
    };
    PodDetails {
        name: pod.metadata.name.clone().unwrap_or_default(),
        phase: phase.to_owned(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ready: is_ready(pod),
        restarts: status
            .into_iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .map(|c| c.restart_count)
            .sum(),
        reason: of_pod(pod).map(|trouble| trouble.reason),
    }
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The last warnings, oldest first. How often each came is left out: it would be news each time.
pub(crate) fn warnings<'a>(events: impl DoubleEndedIterator<Item = &'a Arc<Event>>) -> Vec<EventDetails> {
    let mut shown: Vec<EventDetails> = Vec::new();
    for event in events.rev() {
        if event.type_.as_deref() != Some("Warning") {
            continue;
        }
        let details = EventDetails {
            reason: event.reason.clone().unwrap_or_default(),
            message: event.message.clone().unwrap_or_default(),
            about: format!(
                "{}/{}",
                event.involved_object.kind.as_deref().unwrap_or(""),
                event.involved_object.name.as_deref().unwrap_or("")
            ),
            at: first_seen(event),
        };
        let known = |other: &EventDetails| {
            (&other.reason, &other.message, &other.about)
                == (&details.reason, &details.message, &details.about)
        };
        if !shown.iter().any(known) {
            shown.push(details);
        }
        if shown.len() == EVENTS_SHOWN {
            break;
        }
    }
    shown.reverse();
    shown
}

fn first_seen(event: &Event) -> Timestamp {
    let plain = event.first_timestamp.as_ref().map(|at| at.0);
    let micro = event.event_time.as_ref().map(|at| at.0);
    let made = event.metadata.creation_timestamp.as_ref().map(|at| at.0);
    plain
        .or(micro)
        .or(made)
        .map_or(Timestamp::EPOCH, |at| Timestamp::from_micros(at.as_microsecond()))
}
