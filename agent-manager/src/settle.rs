//! What becomes of operations.

use std::time::Duration;

use agent_api_driver::{Applied, Deleted, ObjectState};
use agent_api_manager::{Action, Effect, FollowUp, Outcome, WakeReason};
use agent_api_model::{Cause, Error, ErrorKind, EvidenceSource, LifecycleKind, Phase, Verb};
use agent_core_journal::Class;

use crate::lifecycle::{Trigger, attended};
use crate::line::{Line, Tag};
use crate::observe;
use crate::record::{Flight, Intent, Undo, What};
use crate::removal;
use crate::shared::count;
use crate::store;
use crate::turn::Turn;
use crate::wanted;

/// A start whose effect nobody can tell is tried so often before the object is `Unknown`.
const UNCERTAIN_TRIES: u32 = 5;
/// How soon a decision of the agent itself that the journal refused is recorded again.
const JOURNAL_AGAIN: Duration = Duration::from_millis(500);

/// Takes what became of an operation.
pub(crate) fn settle(turn: &mut Turn<'_>, outcome: Outcome) {
    let op_id = outcome.operation.op_id;
    if matches!(outcome.operation.action, Action::Probe(_)) {
        crate::health::probed(turn, op_id, outcome.result);
        return;
    }
    let expected = turn
        .state
        .flight()
        .is_some_and(|flight| flight.operation.op_id == op_id && flight.running);
    if !expected {
        return;
    }
    let Some(mut flight) = turn.state.busy().flight.take() else {
        return;
    };
    turn.changed = true;
    let mut update = None;
    match outcome.result {
        Err(error) if outcome.performed.is_none() && error.operation() == store::OPERATION => {
            undo(turn, flight.intent, flight.before, &error);
        }
        result => {
            if flight.intent.what == What::Commit {
                committed(turn, &flight.intent);
            } else {
                // Where it failed, it may have been the disk that took all the time: another try waits for it again.
                if result.is_ok() {
                    turn.shared.store.release(flight.operation.after);
                    flight.operation.after = 0;
                    flight.intent.position = 0;
                }
                let first = flight.retries == 0;
                update = (first && matches!(flight.intent.what, What::Update { .. }))
                    .then(|| flight.intent.clone());
                match result {
                    Ok(effect) => done(turn, flight, effect),
                    Err(error) => failed(turn, flight, &error, outcome.performed.is_some()),
                }
            }
        }
    }
    if let Some(update) = update {
        wanted::follow(turn, &update);
    }
    let deferred = turn
        .state
        .busy
        .as_mut()
        .filter(|busy| busy.flight.is_none())
        .and_then(|busy| busy.deferred.take());
    if let Some(observed) = deferred
        && observed.status.evidence.revision > turn.state.evidence.revision
    {
        observe::observe(turn, *observed);
    }
    turn.advance();
}

/// What waits at the front is on disk by now.
fn committed(turn: &mut Turn<'_>, commit: &Intent) {
    turn.shared.store.release(commit.position);
    for intent in &mut turn.state.busy().queue {
        if intent.op_id == commit.op_id {
            intent.position = 0;
        }
    }
}

fn done(turn: &mut Turn<'_>, flight: Flight, effect: Effect) {
    turn.clear("OperationFailed");
    turn.clear("Retrying");
    match effect {
        Effect::Deleted(deleted) => removed(turn, &flight, deleted),
        Effect::Nothing if removal::forgets(&flight.intent) => removed(turn, &flight, Deleted::default()),
        Effect::Applied(applied) => applied_now(turn, &flight, applied),
        Effect::Nothing | Effect::Probed(_) => {
            let applies = !matches!(
                turn.state.phase,
                Phase::Pending | Phase::Failed | Phase::Succeeded
            );
            if matches!(flight.intent.what, What::Update { .. }) && applies {
                turn.state.observed_generation =
                    turn.state.observed_generation.max(flight.operation.generation);
            }
            turn.note_settled(&flight.intent, None, None);
            turn.tell(
                LifecycleKind::Updated,
                Cause::Done {
                    verb: flight.intent.what.verb(),
                    op_id: flight.operation.op_id,
                },
            );
        }
    }
}

fn applied_now(turn: &mut Turn<'_>, flight: &Flight, mut applied: Applied) {
    let intent = &flight.intent;
    let made = matches!(flight.operation.action, Action::Start | Action::Replace);
    let restarted = matches!(intent.what, What::Restart { .. });
    let new_handle = turn.state.handle.as_deref() != Some(&applied.handle);
    if new_handle {
        turn.state.handle = Some(applied.handle.into());
    }
    turn.state.maybe_made = false;
    if !matches!(intent.what, What::Control { next: None, .. }) {
        turn.state.observed_generation = turn.state.observed_generation.max(flight.operation.generation);
        turn.clear("UpdateFailed");
    }
    let kept = applied
        .spec
        .take()
        .is_some_and(|next| wanted::keep(turn, intent, next));
    let cause = Cause::Done {
        verb: intent.what.verb(),
        op_id: intent.op_id,
    };
    let note = |turn: &mut Turn<'_>| match kept {
        true => turn.note_kept(intent),
        false => turn.note_settled(intent, None, None),
    };
    let ended = matches!(applied.status.state, ObjectState::Exited | ObjectState::Gone);
    if turn.state.phase == Phase::Deleting {
        turn.take_status(&applied.status);
        note(turn);
        return;
    }
    if ended {
        // First that it was begun, then that it ended.
        note(turn);
        observe::show(turn, applied.status, cause);
    } else {
        let before = turn.state.phase;
        if !observe::show(turn, applied.status, cause.clone())
            && matches!(before, Phase::Creating | Phase::Updating)
        {
            // Older than what was known of the thing before, and yet the driver says that it is there.
            turn.go(Trigger::SeenRunning, cause.clone());
        }
        if turn.state.phase == before {
            turn.tell(LifecycleKind::Updated, cause);
        }
        note(turn);
    }
    if made || restarted {
        if restarted {
            // It was in a phase in which it is attended all the time, and is another one now.
            crate::health::begin(turn);
            turn.state.running_since = turn.now.elapsed;
        }
        turn.register();
    }
    if (new_handle || kept) && attended(turn.state.phase) {
        turn.collect();
    }
}

fn removed(turn: &mut Turn<'_>, flight: &Flight, deleted: Deleted) {
    if !deleted.left.is_empty() {
        let message = format!("left behind: {}", deleted.left.join("; "));
        tracing::warn!(object = %turn.object.name, "{message}");
        turn.tell(
            LifecycleKind::OperationFailed,
            Cause::Error {
                verb: Verb::Delete,
                op_id: flight.operation.op_id,
                message,
            },
        );
    }
    if let Some(exit) = deleted.exit {
        turn.state.extra().exit = Some(exit);
    }
    let cause = match removal::forgets(&flight.intent) {
        true => Cause::Observed {
            source: EvidenceSource::Inferred,
            message: "forgotten without asking the driver; the real thing may go on".into(),
        },
        false => Cause::Done {
            verb: Verb::Delete,
            op_id: flight.operation.op_id,
        },
    };
    turn.go(Trigger::Deleted, cause);
    forget(turn);
    let mut line = Line::new(Tag::Gone, turn.object.guid, turn.now.wall);
    line.o = Some(flight.operation.op_id);
    turn.shared.store.note(&mut line, Class::Reserved);
}

/// Takes the object out of everything; the partition does the rest.
fn forget(turn: &mut Turn<'_>) {
    turn.stop_probing();
    turn.state.gone = true;
    if let Some(busy) = turn.state.busy.take() {
        for intent in busy.flight.iter().map(|flight| &flight.intent).chain(&busy.queue) {
            turn.shared.store.release(intent.position);
        }
    }
    let needed = turn.shared.graph.lock().remove(&turn.object.name);
    for name in needed {
        if let Some(object) = turn.shared.table.named(&name) {
            turn.push(FollowUp::Notify(object.guid));
        }
    }
    let view = crate::view::build(turn.object, &turn.state);
    turn.push(FollowUp::Gone(view));
}

/// Whether the driver may have done it although it says that it failed.
fn uncertain(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::Lost
    )
}

fn failed(turn: &mut Turn<'_>, mut flight: Flight, error: &Error, performed: bool) {
    // Where the core ended the call, or it panicked, nobody says whether the driver was called.
    let ended_by_core = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Internal);
    if uncertain(error) && (performed || ended_by_core) {
        flight.operation.maybe_applied = true;
    }
    if matches!(flight.operation.action, Action::Start | Action::Replace)
        && !flight.operation.maybe_applied
        && performed
    {
        turn.state.maybe_made = false;
    }
    let deleting = turn.state.phase == Phase::Deleting;
    let delete = matches!(flight.intent.what, What::Delete(_));
    if deleting && !delete {
        // The delete that waits behind it is what is wanted now.
        turn.operation_failed(&flight.intent, error);
        let mut intent = flight.intent;
        intent.maybe_applied |= flight.operation.maybe_applied;
        // Should the journal refuse the delete, it goes on; so it stays behind it.
        if flight.operation.maybe_applied || error.is_retryable() {
            let at = turn.state.busy().queue.len().min(1);
            turn.state.busy().queue.insert(at, intent);
        } else {
            turn.note_settled(&intent, Some(error), None);
        }
        return;
    }
    if tries_again(turn, &flight, error) {
        again(turn, flight, error);
        return;
    }
    turn.shared.store.release(flight.operation.after);
    turn.clear("Retrying");
    turn.operation_failed(&flight.intent, error);
    let cause = Cause::Error {
        verb: flight.intent.what.verb(),
        op_id: flight.intent.op_id,
        message: error.to_string(),
    };
    match (&flight.intent.what, &flight.operation.action) {
        (_, Action::Start | Action::Replace) => {
            let trigger = if flight.operation.maybe_applied {
                Trigger::Uncertain
            } else {
                Trigger::StartRefused
            };
            if turn.state.phase == Phase::Updating && trigger == Trigger::StartRefused {
                // A replacement: the old one was removed, or it was not; the next look at the substrate tells.
                turn.go(Trigger::Uncertain, cause);
            } else {
                turn.go(trigger, cause);
            }
        }
        (What::Update { .. } | What::Control { next: Some(_), .. }, _) => {
            turn.condition("UpdateFailed", error.kind().as_str(), error.to_string());
            turn.go(Trigger::ChangeRefused, cause);
        }
        (What::Restart { .. } | What::Repair { .. }, _) => {
            turn.go(Trigger::ChangeRefused, cause);
        }
        _ => {}
    }
    turn.note_settled(&flight.intent, Some(error), None);
}

/// Whether the operation is tried again: with the same `op_id`.
fn tries_again(turn: &Turn<'_>, flight: &Flight, error: &Error) -> bool {
    let tries = flight.retries + 1;
    match &flight.intent.what {
        // Nothing else can be done with what is to go.
        What::Delete(_) => true,
        // A repair that does not get through gives way to what is asked for; the drift is looked at again.
        What::Control { .. } | What::Repair { .. } => {
            error.is_retryable() && tries < turn.shared.config.control_tries
        }
        _ if error.is_retryable() => true,
        // A panic, or a driver that lost its way: what it did is not known, and the same `op_id` finds out.
        What::Start { .. } | What::Restart { .. } => {
            flight.operation.maybe_applied
                && matches!(error.kind(), ErrorKind::Internal | ErrorKind::Lost)
                && tries < UNCERTAIN_TRIES
        }
        _ => false,
    }
}

fn again(turn: &mut Turn<'_>, mut flight: Flight, error: &Error) {
    let delay = turn
        .shared
        .config
        .retry
        .delay(flight.retries, rand::random())
        .max(error.retry_delay().unwrap_or_default());
    flight.retries += 1;
    flight.last_error = Some(error.to_string());
    flight.running = false;
    let verb = flight.intent.what.verb();
    if flight.retries == 1 || matches!(flight.intent.what, What::Delete(_)) && !error.is_retryable() {
        turn.tell(
            LifecycleKind::OperationFailed,
            Cause::Error {
                verb,
                op_id: flight.intent.op_id,
                message: error.to_string(),
            },
        );
    }
    let kind = if matches!(flight.intent.what, What::Delete(_)) && !error.is_retryable() {
        "DeleteFailed"
    } else {
        "Retrying"
    };
    turn.condition(kind, error.kind().as_str(), format!("{verb}: {error}"));
    turn.state.busy().flight = Some(flight);
    turn.wake(WakeReason::Retry, delay);
}

/// A back-off is over: of an operation, or before a start.
pub(crate) fn retry(turn: &mut Turn<'_>) {
    let busy = turn.state.busy();
    busy.held = false;
    if busy.flight.is_some() {
        turn.launch_again();
        return;
    }
    removal::dependency_changed(turn);
}

/// The journal could not take the record: what was changed for it is changed back.
fn undo(turn: &mut Turn<'_>, intent: Intent, before: Phase, error: &Error) {
    count(&turn.shared.counters.rolled_back);
    let cause = Cause::Error {
        verb: intent.what.verb(),
        op_id: intent.op_id,
        message: format!("not done, as it could not be written down: {error}"),
    };
    // A commit stands for the intent that waits.
    let (op_id, is_commit) = (intent.op_id, intent.what == What::Commit);
    if is_commit {
        turn.state.busy().queue.retain(|waiting| waiting.op_id != op_id);
    }
    if let Some(key) = &intent.key {
        turn.shared.keys.drop_key(key);
    }
    match &intent.undo {
        Undo::Nothing => {}
        Undo::Create => {
            turn.push(FollowUp::Withdraw(turn.object.guid));
            let from = turn.state.phase;
            turn.step(Some(from), None, cause.clone(), LifecycleKind::Deleted);
            forget(turn);
        }
        Undo::Spec(before, generation) => undo_spec(turn, &intent, before, *generation),
        Undo::Phase(phase) => {
            // What waits behind the delete goes on.
            turn.clear("Waiting");
            let phase = match phase {
                Phase::Creating | Phase::Updating if turn.state.flight().is_none() => match turn.state.handle
                {
                    Some(_) => Phase::Unknown,
                    None => Phase::Pending,
                },
                phase => *phase,
            };
            turn.enter(phase, cause.clone());
            turn.register();
            if matches!(phase, Phase::Running | Phase::Paused | Phase::Unknown) {
                turn.collect();
                crate::health::begin(turn);
            }
        }
        Undo::Again => {
            let mut intent = intent.clone();
            intent.recorded = false;
            intent.position = 0;
            let busy = turn.state.busy();
            busy.queue.push_front(intent);
            busy.held = true;
            turn.condition("BackOff", "Journal", format!("not started again yet: {error}"));
            match turn.state.phase {
                Phase::Creating => turn.enter(Phase::Pending, cause.clone()),
                Phase::Updating => turn.enter(Phase::Running, cause.clone()),
                _ => {}
            }
            turn.wake(WakeReason::Retry, JOURNAL_AGAIN);
        }
    }
    if !turn.state.gone && matches!(intent.undo, Undo::Nothing | Undo::Spec(..)) {
        // It may have ended meanwhile, or is to be deleted: that stays.
        if before != turn.state.phase && matches!(turn.state.phase, Phase::Creating | Phase::Updating) {
            turn.enter(before, cause.clone());
        }
        turn.tell(LifecycleKind::OperationFailed, cause);
    }
    turn.shared.store.release(intent.position);
}

fn undo_spec(turn: &mut Turn<'_>, intent: &Intent, before: &std::sync::Arc<str>, generation: u64) {
    let made = match &intent.what {
        What::Update { generation, .. }
        | What::Control {
            next: Some((_, generation)),
            ..
        } => *generation,
        _ => generation + 1,
    };
    if turn.state.generation == made {
        let spec = wanted::take_back(turn, before);
        turn.state.generation = generation;
        if let Err(error) = turn.shared.graph.lock().set(turn.object.guid, &spec) {
            tracing::warn!(%error, "the dependencies before cannot be restored");
        }
    } else {
        // A later change stands on this one; should it fail too, it falls back to what was before both.
        for later in &mut turn.state.busy().queue {
            if let Undo::Spec(text, at) = &mut later.undo
                && *at == made
            {
                *text = before.clone();
                *at = generation;
            }
        }
    }
}
