//! From the things in the cluster to the status of the agent's object.

use std::sync::Arc;

use agent_api_driver::model::{Condition, Evidence, ExitStatus};
use agent_api_driver::{ObjectState, ObjectStatus};
use k8s_openapi::api::core::v1::{Event, Pod};

use super::conditions::{POD_TROUBLE, READY, STALLED, TERMINATING};
use super::details::{self, KubernetesDetails, ReplicaDetails, ThingDetails};
use super::{Progress, Role, Verdict, exit, group_of, role};
use crate::handle::{HandleData, ObjectRef};
use crate::status::pod_trouble::{self, Trouble};

/// One thing of the object, as it is known.
pub(crate) struct Part<'a> {
    pub reference: &'a ObjectRef,
    /// None: it is not there.
    pub verdict: Option<&'a Verdict>,
    /// Why it is not ours any more, where something of that name is there.
    pub replaced: bool,
    /// How it differs from what was applied.
    pub drift: Option<String>,
    /// How it ended before it was taken away (a Job with a time to live).
    pub ended: Option<&'a ExitStatus>,
}

/// All that is known of an object.
pub(crate) struct Known<'a> {
    pub data: &'a HandleData,
    pub parts: Vec<Part<'a>>,
    pub pods: Vec<Arc<Pod>>,
    pub events: &'a std::collections::VecDeque<Arc<Event>>,
    /// A namespace of it that is being deleted, and what holds it.
    pub namespace_ends: Option<String>,
    /// Whether it was said to have drifted before: then it is said when that is over.
    pub drifted_before: bool,
}

/// The status of an object.
pub(crate) fn status(known: &Known<'_>, evidence: Evidence) -> ObjectStatus {
    let trouble = known
        .pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| pod_trouble::of_pod(pod))
        .reduce(|a, b| if b.rank > a.rank { b } else { a });
    let (state, exit) = state(known);
    let mut status = ObjectStatus::new(state, evidence);
    status.exit = exit;
    status.limits.clone_from(&known.data.limits);
    status.conditions = conditions(known, state, trouble);
    if !known.data.dropped.is_empty() {
        let fields = known.data.dropped.join(", ");
        let message = format!("the server does not know these fields and dropped them: {fields}");
        status
            .conditions
            .push(Condition::new("FieldsDropped", true, "UnknownToServer", message));
    }
    status.details = serde_json::to_value(details(known)).unwrap_or_default();
    status
}

fn progress(part: &Part<'_>) -> Progress {
    match (part.verdict, part.ended) {
        (Some(verdict), _) if !part.replaced => verdict.progress,
        (_, Some(exit)) if exit.is_success() => Progress::Succeeded,
        (_, Some(_)) => Progress::Failed,
        _ => Progress::NotFound,
    }
}

fn part_role(part: &Part<'_>) -> Role {
    role(group_of(&part.reference.api_version), &part.reference.kind)
}

fn state(known: &Known<'_>) -> (ObjectState, Option<ExitStatus>) {
    if !known.parts.is_empty()
        && known
            .parts
            .iter()
            .all(|part| progress(part) == Progress::NotFound)
    {
        return (
            ObjectState::Gone,
            Some(ExitStatus {
                reason: missing(known),
                ..ExitStatus::default()
            }),
        );
    }
    let ending = || known.parts.iter().filter(|part| part_role(part) == Role::Ending);
    let lasting = known.parts.iter().any(|part| part_role(part) == Role::Lasting);
    if !lasting && ending().next().is_some() && ending().all(|part| progress(part).ended()) {
        return (ObjectState::Exited, Some(how_it_ended(known)));
    }
    let holds = |part: &&Part<'_>| part_role(part) != Role::Passive;
    let runs: Vec<_> = known.parts.iter().filter(holds).collect();
    if !runs.is_empty() && runs.iter().all(|part| progress(part) == Progress::Paused) {
        return (ObjectState::Paused, None);
    }
    let works = |part: &Part<'_>| match progress(part) {
        // An active Job runs when one of its pods does; a server that does not count them leaves that to us.
        Progress::Current if part.reference.kind == "Job" => {
            known.pods.is_empty() || known.pods.iter().any(|pod| has_run(pod))
        }
        Progress::Current | Progress::Paused => true,
        // A part that is done beside others that run.
        Progress::Succeeded => true,
        Progress::InProgress | Progress::Stalled | Progress::Failed | Progress::NotFound => false,
    };
    if known.parts.iter().all(works) {
        (ObjectState::Running, None)
    } else {
        (ObjectState::Starting, None)
    }
}

fn has_run(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| phase != "Pending")
}

/// The first failure, else the first success; the code of a Job is that of its failed pod.
fn how_it_ended(known: &Known<'_>) -> ExitStatus {
    let ends = || {
        known.parts.iter().filter_map(|part| {
            let own = part.verdict.filter(|_| !part.replaced);
            own.and_then(|v| v.exit.as_ref())
                .or(part.ended)
                .map(|e| (part, e))
        })
    };
    let Some((part, end)) = ends()
        .find(|(_, end)| !end.is_success())
        .or_else(|| ends().next())
    else {
        return ExitStatus::default();
    };
    let mut end = end.clone();
    if part.reference.kind == "Job" && end.code.is_none() {
        let mut failed: Vec<ExitStatus> = known
            .pods
            .iter()
            .filter_map(|pod| exit::of_failed_pod(pod))
            .collect();
        failed.sort_by_key(|exit| exit.at);
        if let Some(last) = failed.pop() {
            end.code = last.code;
            if let Some(why) = last.reason {
                end.reason = Some(match end.reason {
                    Some(reason) => format!("{reason}; last pod: {why}"),
                    None => why,
                });
            }
        }
    }
    end
}

fn missing(known: &Known<'_>) -> Option<String> {
    let gone: Vec<String> = known
        .parts
        .iter()
        .filter(|part| progress(part) == Progress::NotFound)
        .map(|part| {
            if part.replaced {
                format!("{} was replaced by another of that name", part.reference)
            } else {
                format!("{} was deleted", part.reference)
            }
        })
        .collect();
    match gone.as_slice() {
        [] => None,
        [first, rest @ ..] if rest.len() > 3 => Some(format!("{first} and {} more", rest.len())),
        all => Some(all.join("; ")),
    }
}

fn conditions(known: &Known<'_>, state: ObjectState, trouble: Option<Trouble>) -> Vec<Condition> {
    let mut all = Vec::new();
    let waits = known
        .parts
        .iter()
        .find_map(|part| match (part.verdict, progress(part)) {
            (Some(v), Progress::InProgress | Progress::Stalled | Progress::Failed) => {
                Some((part.reference, v))
            }
            _ => None,
        });
    match (state, waits) {
        (ObjectState::Running, _) => all.push(Condition::new(READY, true, "AsSpecified", "")),
        (ObjectState::Starting, Some((reference, v))) => all.push(Condition::new(
            READY,
            false,
            "InProgress",
            about(reference, &v.message),
        )),
        (ObjectState::Starting, None) => all.push(Condition::new(
            READY,
            false,
            "InProgress",
            missing(known).unwrap_or_default(),
        )),
        _ => {}
    }
    for part in &known.parts {
        if let Some(v) = part.verdict.filter(|_| progress(part) == Progress::Stalled) {
            let text = about(part.reference, &v.message);
            all.push(Condition::new(STALLED, true, "NoProgress", text));
            break;
        }
    }
    if let Some(trouble) = trouble
        && !matches!(state, ObjectState::Gone)
    {
        all.push(Condition::new(
            POD_TROUBLE,
            true,
            &trouble.reason,
            trouble.message,
        ));
    }
    let ends = known.parts.iter().find_map(|part| {
        let why = part.verdict.filter(|_| !part.replaced)?.terminating.as_ref()?;
        Some(about(part.reference, why))
    });
    if let Some(why) = ends.or_else(|| known.namespace_ends.clone()) {
        all.push(Condition::new(TERMINATING, true, "Deleting", why));
    }
    all.extend(drift(known));
    all
}

fn drift(known: &Known<'_>) -> Option<Condition> {
    let gone = missing(known).filter(|_| known.data.owned);
    let changed: Vec<String> = known
        .parts
        .iter()
        .filter_map(|part| Some(format!("{} was {}", part.reference, part.drift.as_ref()?)))
        .collect();
    match (gone, changed.as_slice()) {
        (Some(gone), _) => Some(Condition::new(Condition::DRIFTED, true, "Deleted", gone)),
        (None, []) if known.drifted_before => Some(Condition::new(
            Condition::DRIFTED,
            false,
            "AsApplied",
            "all is as it was applied",
        )),
        (None, []) => None,
        (None, changed) => Some(Condition::new(
            Condition::DRIFTED,
            true,
            "Changed",
            changed.join("; "),
        )),
    }
}

fn about(reference: &ObjectRef, message: &str) -> String {
    if message.is_empty() {
        reference.to_string()
    } else {
        format!("{reference}: {message}")
    }
}

fn details(known: &Known<'_>) -> KubernetesDetails {
    let mut namespaces = known.data.objects.iter().filter_map(|o| o.namespace.as_deref());
    let first = namespaces.next();
    let one = first.filter(|first| namespaces.all(|other| other == *first));
    let mut replicas: Option<ReplicaDetails> = None;
    for counted in known
        .parts
        .iter()
        .filter_map(|part| part.verdict?.replicas.as_ref())
    {
        replicas.get_or_insert_default().add(counted);
    }
    let mut revisions = known
        .parts
        .iter()
        .filter_map(|part| part.verdict?.revision.as_ref());
    let revision = revisions.next().filter(|_| revisions.next().is_none()).cloned();
    let (pods, more_pods) = details::pods(&known.pods);
    KubernetesDetails {
        cluster: known.data.cluster.clone(),
        namespace: one.map(str::to_owned),
        objects: known
            .parts
            .iter()
            .map(|part| ThingDetails {
                kind: part.reference.kind.clone(),
                name: part.reference.name.clone(),
                namespace: part.reference.namespace.clone().filter(|_| one.is_none()),
                status: progress(part),
                message: part
                    .verdict
                    .filter(|_| !part.replaced)
                    .map(|v| v.message.clone())
                    .unwrap_or_default(),
            })
            .collect(),
        replicas,
        revision,
        pods,
        more_pods,
        events: details::warnings(known.events.iter()),
    }
}
