//! What the substrate shows, and what follows from an end.

use std::time::Duration;

use agent_api_driver::{ObjectState, ObjectStatus, Observed};
use agent_api_manager::WakeReason;
use agent_api_model::{
    Cause, Condition, DriftPolicy, Evidence, EvidenceSource, ExitStatus, LifecycleKind, OpId, Phase,
};
use agent_core_journal::Class;

use crate::drift;
use crate::lifecycle::Trigger;
use crate::line::{Line, Tag};
use crate::record::{Intent, State, Undo, What};
use crate::shared::count;
use crate::turn::Turn;

/// Takes what a driver saw.
pub(crate) fn observe(turn: &mut Turn<'_>, observed: Observed) {
    if observed.status.evidence.revision < turn.state.evidence.revision {
        count(&turn.shared.counters.stale_statuses);
        return;
    }
    // While the thing is being replaced a status may be of the old one or of the new one: the outcome tells which,
    // by its revision. The newest is looked at then.
    if turn
        .state
        .flight()
        .is_some_and(|flight| flight.intent.what.replaces())
        && turn.state.phase != Phase::Deleting
    {
        let deferred = &mut turn.state.busy().deferred;
        if deferred
            .as_ref()
            .is_none_or(|known| known.status.evidence.revision <= observed.status.evidence.revision)
        {
            *deferred = Some(Box::new(observed));
        }
        return;
    }
    if let Some(handle) = observed.handle
        && turn.state.handle.as_deref() != Some(&handle)
    {
        turn.state.handle = Some(handle.into());
        let mut line = Line::new(Tag::Observed, turn.object.guid, turn.now.wall);
        line.h = turn.state.handle.clone();
        turn.state.record = turn.shared.store.note(&mut line, Class::Reserved);
        turn.changed = true;
        if matches!(turn.state.phase, Phase::Running | Phase::Paused | Phase::Unknown) {
            turn.collect();
        }
    }
    let cause = Cause::Observed {
        source: observed.status.evidence.source,
        message: sentence(&observed.status),
    };
    show(turn, observed.status, cause);
    turn.advance();
}

/// Whether what a driver shows besides a state is known already.
pub(crate) fn shows(state: &State, observed: &Observed) -> bool {
    let status = &observed.status;
    if status.evidence.revision < state.evidence.revision {
        return true;
    }
    let (limits, conditions) = state.extra.as_ref().map_or((&[][..], &[][..]), |extra| {
        (extra.limits.as_slice(), extra.driver_conditions.as_slice())
    });
    let handle = observed.handle.as_ref();
    handle.is_none_or(|handle| state.handle.as_deref() == Some(handle))
        && status.details == state.details
        && status.limits == limits
        && same_conditions(&status.conditions, conditions)
        && status.exit.as_ref().is_none_or(|exit| {
            state.exit().is_some_and(|known| {
                (exit.code, &exit.signal, &exit.reason) == (known.code, &known.signal, &known.reason)
            })
        })
}

/// Whether conditions say the same, since whenever: a driver that looks anew may not know since when something is so.
pub(crate) fn same_conditions(one: &[Condition], other: &[Condition]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            (one.status, &one.kind, &one.reason, &one.message)
                == (other.status, &other.kind, &other.reason, &other.message)
        })
}

fn sentence(status: &ObjectStatus) -> String {
    match status.state {
        ObjectState::Starting => "seen starting".into(),
        ObjectState::Running => "seen running".into(),
        ObjectState::Paused => "seen held still".into(),
        ObjectState::Unknown => "the substrate does not say what it is".into(),
        ObjectState::Exited | ObjectState::Gone => String::new(),
    }
}

/// Takes a status and moves the object along; whether it was new enough.
pub(crate) fn show(turn: &mut Turn<'_>, status: ObjectStatus, cause: Cause) -> bool {
    let drifted = drift::said(&turn.state).is_some();
    if !turn.take_status(&status) {
        return false;
    }
    match status.state {
        ObjectState::Starting => turn.go(Trigger::SeenStarting, cause),
        ObjectState::Running => turn.go(Trigger::SeenRunning, cause),
        ObjectState::Paused => turn.go(Trigger::SeenPaused, cause),
        ObjectState::Unknown => turn.go(Trigger::NoEvidence, cause),
        ObjectState::Exited => {
            let exit = status.exit.unwrap_or_default();
            ended(turn, exit, &status.evidence);
            true
        }
        // Nobody can say how it ended. It counts as a failure.
        ObjectState::Gone => {
            let mut exit = status.exit.unwrap_or_default();
            exit.reason.get_or_insert_with(|| "gone".into());
            gone(turn, exit, &status.evidence);
            true
        }
    };
    if !drifted {
        drift::tell(turn);
    }
    true
}

/// It ended: what its restart policy says.
pub(crate) fn ended(turn: &mut Turn<'_>, exit: ExitStatus, evidence: &Evidence) {
    end(turn, exit, evidence, None);
}

/// It is not there any more, and nobody saw it end. What never ends by itself was taken away, and so was that of which the
/// driver says so: what its drift policy says. The rest has ended.
pub(crate) fn gone(turn: &mut Turn<'_>, exit: ExitStatus, evidence: &Evidence) {
    let ends = turn
        .shared
        .capabilities(&turn.object.kind)
        .map_or(true, |can| can.ends);
    let taken_away = !ends || drift::said(&turn.state).is_some();
    let taken = taken_away.then(|| turn.spec().drift);
    end(turn, exit, evidence, taken);
}

fn end(turn: &mut Turn<'_>, exit: ExitStatus, evidence: &Evidence, taken: Option<DriftPolicy>) {
    match turn.state.phase {
        // It has ended before, and that was dealt with; or it is to go anyway.
        Phase::Pending | Phase::Succeeded | Phase::Failed | Phase::Deleting => return,
        Phase::Creating | Phase::Running | Phase::Paused | Phase::Updating | Phase::Unknown => {}
    }
    turn.state.extra().exit = Some(exit.clone());
    turn.changed = true;
    let spec = turn.spec();
    let policy = &spec.restart;
    let ran = turn.now.elapsed.saturating_sub(turn.state.running_since);
    if turn.state.phase != Phase::Creating && ran >= policy.backoff.reset {
        turn.state.row = 0;
    }
    let row = turn.state.row;
    let again = match taken {
        None => policy.restarts_after(&exit, row),
        Some(DriftPolicy::Repair) => policy.max.is_none_or(|max| row < max),
        Some(DriftPolicy::Report) => false,
    };
    let cause = match taken {
        None => {
            count(&turn.shared.counters.exits);
            Cause::Exited {
                source: evidence.source,
                exit: exit.clone(),
            }
        }
        Some(_) => {
            count(&turn.shared.counters.drifts);
            // What it led to is no more, and another thing may get the same reference.
            turn.state.handle = None;
            Cause::Drift {
                message: drift::taken_away(&exit),
                repair: again.then_some(row + 1),
            }
        }
    };
    // Somebody asked for a restart already, so the policy need not.
    let asked = turn.state.busy.as_ref().is_some_and(|busy| {
        busy.queue
            .iter()
            .any(|intent| matches!(intent.what, What::Start { .. } | What::Restart { .. }) && intent.recorded)
    });
    if asked {
        turn.go(Trigger::EndedRestart, cause);
        note_end(turn, &exit);
        return;
    }
    // A restart for the sake of its health that was not begun is overtaken.
    drop_unrecorded(turn);
    if again {
        turn.go(Trigger::EndedRestart, cause);
        let (delay, reason, why) = match taken {
            None => (
                policy.backoff.delay(row, rand::random()),
                "Exited",
                exit.to_string(),
            ),
            Some(_) => {
                count(&turn.shared.counters.repairs);
                let delay = drift::delay(&policy.backoff, row);
                (delay, Condition::DRIFTED, drift::taken_away(&exit))
            }
        };
        schedule(
            turn,
            What::Start {
                first: false,
                delay: Some(delay),
            },
            delay,
            reason,
            &why,
        );
        return;
    }
    let trigger = if policy.is_success(&exit) {
        Trigger::EndedWell
    } else {
        Trigger::EndedBadly
    };
    turn.clear("BackOff");
    turn.go(trigger, cause);
    note_end(turn, &exit);
}

fn drop_unrecorded(turn: &mut Turn<'_>) {
    if let Some(busy) = &mut turn.state.busy {
        let before = busy.queue.len();
        busy.queue.retain(|intent| intent.recorded);
        if busy.queue.len() != before {
            busy.held = false;
        }
    }
}

/// Writes the end down. With a restart that is done by [`Turn::advance`], in one record with it.
fn note_end(turn: &mut Turn<'_>, exit: &ExitStatus) {
    let mut line = Line::new(Tag::Observed, turn.object.guid, turn.now.wall);
    line.p = Some(turn.state.phase);
    line.x = Some(exit.clone());
    line.hg = turn.state.handle.is_none();
    turn.state.record = turn.shared.store.note(&mut line, Class::Reserved);
}

/// The object is started again by the agent's own decision, after a while.
pub(crate) fn schedule(turn: &mut Turn<'_>, what: What, delay: Duration, reason: &str, why: &str) {
    turn.state.restarts += 1;
    turn.state.row += 1;
    count(&turn.shared.counters.restarts);
    let number = turn.state.row;
    let intent = Intent {
        op_id: OpId::generate(),
        what,
        position: 0,
        recorded: false,
        maybe_applied: false,
        request: None,
        key: None,
        undo: Undo::Again,
    };
    let busy = turn.state.busy();
    busy.queue.push_front(intent);
    busy.held = !delay.is_zero();
    if delay.is_zero() {
        turn.clear("BackOff");
    } else {
        let at = turn.now.wall.plus(delay);
        turn.condition("BackOff", reason, format!("{why}; restart {number} at {at}"));
        turn.wake(WakeReason::Retry, delay);
        turn.tell(
            LifecycleKind::Updated,
            Cause::Restart {
                attempt: number,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            },
        );
    }
    turn.advance();
}

/// Evidence that follows from something else.
pub(crate) fn inferred(turn: &Turn<'_>) -> Evidence {
    Evidence {
        source: EvidenceSource::Inferred,
        at: turn.now.wall,
        revision: turn.state.evidence.revision,
    }
}
