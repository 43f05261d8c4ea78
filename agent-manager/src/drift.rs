//! Drift: somebody else changed the real thing, or took it away.
//!
//! A driver says of a change with the condition [`Condition::DRIFTED`]. As long as it says so, and nothing else is under
//! way or waits, the present spec is applied again: after a back-off, so that a fight with somebody who wants something
//! else goes on slowly. What was taken away is started again by [`observe`](crate::observe).

use std::time::Duration;

use agent_api_manager::{Action, WakeReason};
use agent_api_model::{
    Backoff, Cause, Condition, DriftPolicy, ExitStatus, LifecycleKind, OpId, Phase, PlanAction,
};

use crate::record::{Intent, State, Undo, What};
use crate::shared::count;
use crate::turn::Turn;

/// Repairs in a row are at least so far apart, also where restarts have no back-off.
const LEAST_DELAY: Duration = Duration::from_millis(100);

/// The repairs of an object.
#[derive(Default)]
pub(crate) struct Repairs {
    /// How many in a row.
    row: u32,
    /// When the last one began, on the manager's clock.
    last: Duration,
    /// When the next one is due.
    due: Option<Duration>,
}

/// The driver's word that somebody else changed the thing.
pub(crate) fn said(state: &State) -> Option<&Condition> {
    let conditions = &state.extra.as_ref()?.driver_conditions;
    conditions
        .iter()
        .find(|condition| condition.status && condition.kind == Condition::DRIFTED)
}

fn why(condition: &Condition) -> String {
    match condition.message.is_empty() {
        true => condition.reason.to_string(),
        false => condition.message.clone(),
    }
}

/// What is said of a thing that is not there any more.
pub(crate) fn taken_away(exit: &ExitStatus) -> String {
    format!(
        "it was taken away ({})",
        exit.reason.as_deref().unwrap_or("not there any more")
    )
}

/// The wait before the next repair after so many in a row.
pub(crate) fn delay(backoff: &Backoff, row: u32) -> Duration {
    let least = if row == 0 { Duration::ZERO } else { LEAST_DELAY };
    backoff.delay(row, rand::random()).max(least)
}

/// Reports a drift that was not there before.
pub(crate) fn tell(turn: &mut Turn<'_>) {
    let Some(message) = said(&turn.state).map(why) else {
        return;
    };
    count(&turn.shared.counters.drifts);
    turn.tell(
        LifecycleKind::Updated,
        Cause::Drift {
            message,
            repair: None,
        },
    );
}

/// Begins a repair that is due, and sees to it that one is begun when it is. Called where nothing is under way.
pub(crate) fn look(turn: &mut Turn<'_>) {
    let Some(why) = to_repair(turn) else {
        return rest(turn);
    };
    let spec = turn.spec();
    let now = turn.now.elapsed;
    let repairs = &mut turn.state.extra().repairs;
    if repairs.due.is_none() {
        let (policy, row) = (&spec.restart, &mut repairs.row);
        if now.saturating_sub(repairs.last) >= policy.backoff.reset {
            *row = 0;
        }
        let (before, wait) = (*row, delay(&policy.backoff, *row));
        if policy.max.is_some_and(|max| before >= max) {
            let message = format!("{why}; repaired {before} times in a row, as often as may be");
            turn.condition("NotRepaired", "Exhausted", message);
            return;
        }
        repairs.due = Some(now + wait);
        if !wait.is_zero() {
            let at = turn.now.wall.plus(wait);
            let message = format!("{why}; repair {} at {at}", before + 1);
            turn.condition("BackOff", Condition::DRIFTED, message);
        }
    }
    let repairs = &mut turn.state.extra().repairs;
    if let Some(due) = repairs.due
        && due > now
    {
        turn.wake(WakeReason::Retry, due - now);
        return;
    }
    repairs.due = None;
    repairs.last = now;
    repairs.row += 1;
    let number = Some(repairs.row);
    rest(turn);
    turn.state.busy().queue.push_back(repair(why, number));
    turn.advance();
}

/// Nothing is to be repaired, or it is being done.
fn rest(turn: &mut Turn<'_>) {
    let Some(extra) = &mut turn.state.extra else {
        return;
    };
    extra.repairs.due = None;
    let of_drift = |condition: &Condition| {
        condition.kind == "NotRepaired"
            || (condition.kind == "BackOff" && condition.reason == Condition::DRIFTED)
    };
    let before = extra.conditions.len();
    extra.conditions.retain(|condition| !of_drift(condition));
    turn.changed |= extra.conditions.len() != before;
}

/// Why the object is to be repaired, where it is.
fn to_repair(turn: &mut Turn<'_>) -> Option<String> {
    let why = said(&turn.state).map(why)?;
    let there = matches!(turn.state.phase, Phase::Creating | Phase::Running | Phase::Paused)
        && turn.state.handle.is_some();
    (there && turn.spec().drift == DriftPolicy::Repair).then_some(why)
}

/// The decision to apply the present spec again.
pub(crate) fn repair(why: String, number: Option<u32>) -> Intent {
    Intent {
        op_id: OpId::generate(),
        what: What::Repair { why, number },
        position: 0,
        recorded: false,
        maybe_applied: false,
        request: None,
        key: None,
        undo: Undo::Nothing,
    }
}

impl Turn<'_> {
    /// Applies the present spec to what is there.
    pub(crate) fn begin_repair(&mut self) -> bool {
        if !self.record_decision() || self.held() {
            return false;
        }
        let Some(intent) = self.pop() else { return false };
        let before = self.state.phase;
        let cause = self.cause_of(&intent);
        match before {
            Phase::Running | Phase::Paused | Phase::Updating | Phase::Unknown
                if self.state.handle.is_some() =>
            {
                self.go(crate::lifecycle::Trigger::Change, cause);
            }
            // It is still being made: the driver is asked all the same.
            Phase::Creating if self.state.handle.is_some() => self.tell(LifecycleKind::Updated, cause),
            _ => {
                // It ended meanwhile; its next start is of the present spec.
                self.shared.store.release(intent.position);
                self.note_settled(&intent, None, None);
                return true;
            }
        }
        count(&self.shared.counters.repairs);
        let (spec, generation) = (self.spec(), self.state.generation);
        let action = Action::Update(PlanAction::InPlace);
        self.launch(intent, action, spec, generation, before);
        true
    }
}
