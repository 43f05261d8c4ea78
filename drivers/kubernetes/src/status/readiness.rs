//! When things that are no workloads are as their spec says.

use super::{Fields, Progress, Verdict};

const UNSEEN: &str = "waiting for its controller to see the newest spec";

/// Anything that follows the conventions: `observedGeneration`, and the conditions `Reconciling`, `Stalled` and
/// `Ready`. What says nothing of itself is as it should be.
pub(crate) fn generic(seen: &Fields<'_>) -> Verdict {
    if seen.unseen_spec() {
        return Verdict::waiting(UNSEEN);
    }
    if let Some(stalled) = seen.condition("Stalled").filter(|c| c.status == "True") {
        return Verdict::new(Progress::Stalled, sentence(stalled.reason, stalled.message));
    }
    if let Some(busy) = seen.condition("Reconciling").filter(|c| c.status == "True") {
        return Verdict::waiting(sentence(busy.reason, busy.message));
    }
    match seen.condition("Ready") {
        Some(ready) if ready.status != "True" => Verdict::waiting(sentence(ready.reason, ready.message)),
        _ => Verdict::current(),
    }
}

pub(crate) fn volume_claim(seen: &Fields<'_>) -> Verdict {
    match seen.text("/status/phase") {
        "Bound" => Verdict::current(),
        "Lost" => Verdict::new(Progress::Stalled, "its volume was lost"),
        _ => Verdict::waiting("waiting for a volume"),
    }
}

pub(crate) fn service(seen: &Fields<'_>) -> Verdict {
    let balanced = seen.text("/spec/type") == "LoadBalancer"
        && seen.list("/spec/externalIPs").is_empty()
        && seen.list("/status/loadBalancer/ingress").is_empty();
    if balanced {
        Verdict::waiting("waiting for an address from the load balancer")
    } else {
        Verdict::current()
    }
}

/// One that is being deleted is `Terminating`; what holds it is said with the deletion.
pub(crate) fn namespace(seen: &Fields<'_>) -> Verdict {
    match seen.text("/status/phase") {
        "Terminating" => Verdict::waiting("the namespace is being deleted"),
        _ => Verdict::current(),
    }
}

pub(crate) fn node(seen: &Fields<'_>) -> Verdict {
    match seen.condition("Ready") {
        Some(ready) if ready.status == "True" && seen.flag("/spec/unschedulable") => {
            Verdict::new(Progress::Current, "cordoned: takes no new pods")
        }
        Some(ready) if ready.status == "True" => Verdict::current(),
        Some(ready) => Verdict::waiting(sentence(ready.reason, ready.message)),
        None => Verdict::waiting("the node has not reported yet"),
    }
}

pub(crate) fn disruption_budget(seen: &Fields<'_>) -> Verdict {
    if seen.unseen_spec() {
        return Verdict::waiting(UNSEEN);
    }
    let (healthy, wanted) = (
        seen.count("/status/currentHealthy"),
        seen.count("/status/desiredHealthy"),
    );
    if healthy < wanted {
        Verdict::waiting(format!("{healthy} of {wanted} pods are healthy: no budget"))
    } else {
        Verdict::current()
    }
}

pub(crate) fn resource_definition(seen: &Fields<'_>) -> Verdict {
    if let Some(names) = seen.condition("NamesAccepted").filter(|c| c.status == "False") {
        return Verdict::new(Progress::Stalled, sentence(names.reason, names.message));
    }
    match seen.condition("Established") {
        Some(c) if c.status == "True" => Verdict::current(),
        // "Installing" is on its way; anything else is not.
        Some(c) if c.status == "False" && c.reason != "Installing" => {
            Verdict::new(Progress::Stalled, sentence(c.reason, c.message))
        }
        _ => Verdict::waiting("waiting for the type to be served"),
    }
}

pub(crate) fn api_service(seen: &Fields<'_>) -> Verdict {
    match seen.condition("Available") {
        Some(c) if c.status == "True" => Verdict::current(),
        Some(c) => Verdict::waiting(sentence(c.reason, c.message)),
        None => Verdict::waiting("waiting for the API to be served"),
    }
}

/// Reason and message of a condition as one sentence.
pub(crate) fn sentence(reason: &str, message: &str) -> String {
    match (reason, message) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// Says that the newest spec was not seen.
pub(crate) fn unseen() -> Verdict {
    Verdict::waiting(UNSEEN)
}
