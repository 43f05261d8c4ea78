//! The conditions of a status.

use agent_api_driver::ObjectStatus;
use agent_api_driver::model::Condition;

/// All parts of the object are as their specs say.
pub(crate) const READY: &str = "Ready";
/// Something does not get further by itself.
pub(crate) const STALLED: &str = "Stalled";
/// A pod does not work.
pub(crate) const POD_TROUBLE: &str = "PodTrouble";
/// Something of it is being deleted, and not by the agent.
pub(crate) const TERMINATING: &str = "Terminating";

/// Keeps the beginning of what holds already, so that equal statuses are equal.
pub(crate) fn keep_since(now: &mut [Condition], before: &[Condition]) {
    for condition in now {
        let known = before.iter().find(|known| known.kind == condition.kind);
        if let Some(known) = known
            && (known.status, &known.reason) == (condition.status, &condition.reason)
        {
            condition.since = known.since;
        }
    }
}

/// Whether two statuses say the same, whenever and however that was found out.
pub(crate) fn says_the_same(a: &ObjectStatus, b: &ObjectStatus) -> bool {
    a.state == b.state
        && a.exit == b.exit
        && a.limits == b.limits
        && a.conditions == b.conditions
        && a.details == b.details
}
