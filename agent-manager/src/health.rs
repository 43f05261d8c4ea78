//! Health checks. Probes take no place among an object's operations and leave no trace in the journal.

use agent_api_driver::ProbeOutcome;
use agent_api_manager::{Effect, WakeReason};
use agent_api_model::{Cause, Error, HealthState, LifecycleKind, OpId, Phase, Result};

use crate::observe;
use crate::record::What;
use crate::turn::Turn;

/// The checks begin anew: another thing runs under the same name.
pub(crate) fn begin(turn: &mut Turn<'_>) {
    let after = turn.state.health().map(|health| {
        health.state = HealthState::Starting;
        (health.good, health.bad) = (0, 0);
        health.check.initial_delay
    });
    if let Some(after) = after {
        turn.wake(WakeReason::Probe, after);
    }
}

/// The check is not wanted any more: nothing is left of it.
pub(crate) fn end(turn: &mut Turn<'_>) {
    turn.stop_probing();
    turn.clear("Unhealthy");
    turn.clear("ProbeFailed");
}

/// The next probe is due.
pub(crate) fn probe(turn: &mut Turn<'_>) {
    let runs = turn.state.phase == Phase::Running && turn.state.handle.is_some();
    let Some(health) = turn.state.health() else { return };
    if health.probe.is_some() {
        // Its outcome schedules the next.
        return;
    }
    let interval = health.check.interval;
    if runs {
        turn.launch_probe();
    } else if matches!(turn.state.phase, Phase::Paused | Phase::Updating | Phase::Unknown) {
        turn.wake(WakeReason::Probe, interval);
    }
}

/// A probe ended. One that could not be made counts neither way.
pub(crate) fn probed(turn: &mut Turn<'_>, op_id: OpId, result: Result<Effect, Error>) {
    let Some(health) = turn.state.health() else { return };
    if health.probe != Some(op_id) {
        return;
    }
    health.probe = None;
    let (check, before) = (health.check.clone(), health.state);
    let mut seen = String::new();
    match result {
        Ok(Effect::Probed(ProbeOutcome::Healthy)) => {
            (health.good, health.bad) = (health.good.saturating_add(1), 0);
            if health.good >= check.healthy_threshold {
                health.state = HealthState::Healthy;
            }
        }
        Ok(Effect::Probed(ProbeOutcome::Unhealthy(why))) => {
            (health.good, health.bad) = (0, health.bad.saturating_add(1));
            if health.bad >= check.unhealthy_threshold {
                health.state = HealthState::Unhealthy;
            }
            seen = why;
        }
        // Longer than its deadline: the object did not answer in time.
        Err(error) if error.kind() == agent_api_model::ErrorKind::Timeout => {
            (health.good, health.bad) = (0, health.bad.saturating_add(1));
            if health.bad >= check.unhealthy_threshold {
                health.state = HealthState::Unhealthy;
            }
            seen = format!("no answer within {} ms", check.timeout.as_millis());
        }
        Ok(_) => {}
        Err(error) => {
            turn.condition("ProbeFailed", error.kind().as_str(), error.to_string());
            turn.wake(WakeReason::Probe, check.interval);
            return;
        }
    }
    let (after, bad) = (health.state, health.bad);
    turn.clear("ProbeFailed");
    turn.wake(WakeReason::Probe, check.interval);
    if after != before {
        let message = match after {
            HealthState::Healthy => "is well".to_owned(),
            HealthState::Unhealthy => format!("is unwell after {bad} bad answers in a row: {seen}"),
            HealthState::Starting => "not decided".to_owned(),
        };
        if after == HealthState::Unhealthy {
            turn.condition("Unhealthy", "Probe", seen.clone());
        } else {
            turn.clear("Unhealthy");
        }
        turn.tell(LifecycleKind::Updated, Cause::Health { message });
    }
    if after == HealthState::Unhealthy && before != after && check.restart {
        restart(turn, &seen);
    }
}

/// Restarts an unhealthy object under its restart policy's back-off and maximum, whatever the policy says of ends.
fn restart(turn: &mut Turn<'_>, seen: &str) {
    let spec = turn.spec();
    let policy = &spec.restart;
    let ran = turn.now.elapsed.saturating_sub(turn.state.running_since);
    if ran >= policy.backoff.reset {
        turn.state.row = 0;
    }
    let under_way = turn.state.busy.as_ref().is_some_and(|busy| {
        busy.queue
            .iter()
            .chain(busy.flight.iter().map(|flight| &flight.intent))
            .any(|intent| intent.what.replaces())
    });
    if turn.state.phase != Phase::Running || under_way {
        return;
    }
    if policy.max.is_some_and(|max| turn.state.row >= max) {
        turn.condition(
            "Unhealthy",
            "Exhausted",
            format!(
                "{seen}; restarted {} times in a row, as often as may be",
                turn.state.row
            ),
        );
        return;
    }
    let delay = policy.backoff.delay(turn.state.row, rand::random());
    observe::schedule(turn, What::Restart { grace: None }, delay, "Unhealthy", seen);
}
