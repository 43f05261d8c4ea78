//! When workloads are as their spec says.

use agent_api_driver::model::ExitStatus;

use super::details::ReplicaDetails;
use super::exit;
use super::readiness::{sentence, unseen};
use super::{Fields, Progress, Verdict};

/// The deployment controller keeps the number of the revision in force there.
const REVISION: &str = "deployment.kubernetes.io/revision";

pub(crate) fn deployment(seen: &Fields<'_>) -> Verdict {
    let wanted = seen.int("/spec/replicas").unwrap_or(1);
    let replicas = ReplicaDetails {
        desired: wanted,
        current: seen.count("/status/replicas"),
        updated: seen.count("/status/updatedReplicas"),
        ready: seen.count("/status/readyReplicas"),
        available: seen.count("/status/availableReplicas"),
    };
    let mut verdict = rollout(seen, &replicas);
    verdict.revision = seen
        .annotations
        .and_then(|annotations| annotations.get(REVISION))
        .cloned();
    verdict.replicas = Some(replicas);
    verdict
}

fn rollout(seen: &Fields<'_>, now: &ReplicaDetails) -> Verdict {
    if seen.flag("/spec/paused") {
        return Verdict::new(Progress::Paused, "the rollout is paused");
    }
    if seen.unseen_spec() || seen.int("/status/observedGeneration").is_none() {
        return unseen();
    }
    if let Some(c) = seen.condition("Progressing")
        && c.reason == "ProgressDeadlineExceeded"
    {
        return Verdict::new(Progress::Stalled, sentence(c.reason, c.message));
    }
    // A quota or an admission rule refuses its pods: nothing moves until that changes.
    let refused = seen
        .condition("ReplicaFailure")
        .filter(|c| c.status == "True")
        .map(|c| sentence(c.reason, c.message));
    let ReplicaDetails {
        desired,
        current,
        updated,
        available,
        ..
    } = *now;
    let waiting = if updated < desired {
        format!("{updated} of {desired} new replicas have been made")
    } else if current > updated {
        format!("{} old replicas are still to go", current - updated)
    } else if available < updated {
        format!("{available} of {updated} replicas are available")
    } else {
        return Verdict::current();
    };
    Verdict::waiting(match refused {
        Some(why) => format!("{waiting}; {why}"),
        None => waiting,
    })
}

pub(crate) fn stateful_set(seen: &Fields<'_>) -> Verdict {
    let desired = seen.int("/spec/replicas").unwrap_or(1);
    let replicas = ReplicaDetails {
        desired,
        current: seen.count("/status/replicas"),
        updated: seen.count("/status/updatedReplicas"),
        ready: seen.count("/status/readyReplicas"),
        // Older servers do not count it.
        available: seen
            .int("/status/availableReplicas")
            .unwrap_or_else(|| seen.count("/status/readyReplicas")),
    };
    let (running, newest) = (
        seen.text("/status/currentRevision"),
        seen.text("/status/updateRevision"),
    );
    let partition = seen.count("/spec/updateStrategy/rollingUpdate/partition");
    let by_hand = seen.text("/spec/updateStrategy/type") == "OnDelete";
    let mut verdict = if seen.unseen_spec() || seen.int("/status/observedGeneration").is_none() {
        unseen()
    } else if replicas.current < desired {
        Verdict::waiting(format!(
            "{} of {desired} replicas have been made",
            replicas.current
        ))
    } else if replicas.current > desired {
        Verdict::waiting(format!("{} replicas are still to go", replicas.current - desired))
    } else if replicas.ready < desired {
        Verdict::waiting(format!("{} of {desired} replicas are ready", replicas.ready))
    } else if !by_hand && partition > 0 && replicas.updated < desired - partition {
        Verdict::waiting(format!(
            "{} of {} replicas have been updated",
            replicas.updated,
            desired - partition
        ))
    } else if !by_hand && partition == 0 && running != newest {
        Verdict::waiting(format!(
            "{} of {desired} replicas have been updated",
            replicas.updated
        ))
    } else {
        Verdict::current()
    };
    verdict.revision = Some(newest.to_owned()).filter(|name| !name.is_empty());
    verdict.replicas = Some(replicas);
    verdict
}

pub(crate) fn daemon_set(seen: &Fields<'_>) -> Verdict {
    let desired = seen.count("/status/desiredNumberScheduled");
    let replicas = ReplicaDetails {
        desired,
        current: seen.count("/status/currentNumberScheduled"),
        updated: seen.count("/status/updatedNumberScheduled"),
        ready: seen.count("/status/numberReady"),
        available: seen.count("/status/numberAvailable"),
    };
    let by_hand = seen.text("/spec/updateStrategy/type") == "OnDelete";
    let mut verdict = if seen.unseen_spec() || seen.int("/status/observedGeneration").is_none() {
        unseen()
    } else if replicas.current < desired {
        Verdict::waiting(format!("{} of {desired} nodes have its pod", replicas.current))
    } else if !by_hand && replicas.updated < desired {
        Verdict::waiting(format!(
            "{} of {desired} nodes have the newest pod",
            replicas.updated
        ))
    } else if replicas.available < desired {
        Verdict::waiting(format!("{} of {desired} pods are available", replicas.available))
    } else {
        Verdict::current()
    };
    verdict.replicas = Some(replicas);
    verdict
}

pub(crate) fn replica_set(seen: &Fields<'_>) -> Verdict {
    let desired = seen.int("/spec/replicas").unwrap_or(1);
    let current = seen.count("/status/replicas");
    let replicas = ReplicaDetails {
        desired,
        current,
        updated: current,
        ready: seen.count("/status/readyReplicas"),
        available: seen.count("/status/availableReplicas"),
    };
    let mut verdict = if seen.unseen_spec() || seen.int("/status/observedGeneration").is_none() {
        unseen()
    } else if let Some(c) = seen.condition("ReplicaFailure").filter(|c| c.status == "True") {
        Verdict::waiting(sentence(c.reason, c.message))
    } else if current < desired {
        Verdict::waiting(format!("{current} of {desired} replicas have been made"))
    } else if current > desired {
        Verdict::waiting(format!("{} replicas are still to go", current - desired))
    } else if replicas.available < desired {
        Verdict::waiting(format!(
            "{} of {desired} replicas are available",
            replicas.available
        ))
    } else {
        Verdict::current()
    };
    verdict.replicas = Some(replicas);
    verdict
}

/// A Job runs from its first pod on until `Complete` or `Failed`.
pub(crate) fn job(seen: &Fields<'_>) -> Verdict {
    if let Some(done) = seen.condition("Complete").filter(|c| c.status == "True") {
        let mut verdict = Verdict::new(Progress::Succeeded, "");
        verdict.exit = Some(ExitStatus {
            code: Some(0),
            at: exit::time(done.since),
            ..ExitStatus::default()
        });
        return verdict;
    }
    if let Some(failed) = seen.condition("Failed").filter(|c| c.status == "True") {
        let why = sentence(failed.reason, failed.message);
        let mut verdict = Verdict::new(Progress::Failed, why.clone());
        // The code is its pods' to tell.
        verdict.exit = Some(ExitStatus {
            reason: Some(why),
            at: exit::time(failed.since),
            ..ExitStatus::default()
        });
        return verdict;
    }
    if seen.flag("/spec/suspend") {
        return Verdict::new(Progress::Paused, "suspended");
    }
    let active = seen.count("/status/active");
    if active == 0 {
        return Verdict::waiting("waiting for its first pod");
    }
    // Counted by servers from 1.24 on; the pods say it otherwise.
    if seen.int("/status/ready") == Some(0) {
        return Verdict::waiting(format!("none of {active} pods is ready"));
    }
    Verdict::current()
}

pub(crate) fn cron_job(seen: &Fields<'_>) -> Verdict {
    if seen.flag("/spec/suspend") {
        Verdict::new(Progress::Paused, "suspended")
    } else {
        Verdict::current()
    }
}

pub(crate) fn pod(seen: &Fields<'_>) -> Verdict {
    match seen.text("/status/phase") {
        phase @ ("Succeeded" | "Failed") => {
            let exit = exit::of_pod_fields(seen);
            let progress = if phase == "Succeeded" {
                Progress::Succeeded
            } else {
                Progress::Failed
            };
            let mut verdict = Verdict::new(progress, exit.reason.clone().unwrap_or_default());
            verdict.exit = Some(exit);
            verdict
        }
        "Running" => match seen.condition("Ready") {
            Some(c) if c.status == "True" => Verdict::current(),
            Some(c) => Verdict::waiting(sentence(c.reason, c.message)),
            None => Verdict::waiting("not ready yet"),
        },
        // The node does not answer: nobody knows whether it runs.
        "Unknown" => Verdict::waiting("its node does not answer"),
        _ => match seen.condition("PodScheduled") {
            Some(c) if c.status == "False" => Verdict::waiting(sentence(c.reason, c.message)),
            _ => Verdict::waiting("its containers are being made"),
        },
    }
}
