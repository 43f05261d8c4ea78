//! Letting deletes in, and taking dependents along.

use agent_api_manager::FollowUp;
use agent_api_model::{
    Accepted, Cause, DeleteRequest, Error, ErrorKind, EvidenceSource, LifecycleKind, OpId, Phase,
    RequestMeta, Result,
};
use agent_core_journal::Class;

use crate::admit::{acceptance, intent};
use crate::lifecycle::Trigger;
use crate::line::{Line, Tag, Task};
use crate::record::{Facts, Flight, Intent, Undo, What};
use crate::turn::Turn;

pub(crate) fn delete(
    turn: &mut Turn<'_>,
    meta: &RequestMeta,
    draft: Accepted,
    request: DeleteRequest,
) -> Result<(Accepted, u64)> {
    let name = turn.object.name.clone();
    let accepted = Accepted {
        generation: turn.state.generation,
        ..draft
    };
    if request.forget && request.orphan {
        let why =
            "with `orphan` the driver lets go of the real thing, with `forget` it is not asked: choose one";
        return Err(Error::invalid("forget", why).with_object(&name));
    }
    let first = pending_delete(turn);
    let again = turn.state.phase == Phase::Deleting;
    if again && (!request.forget || first.as_ref().is_some_and(|(_, forgets)| *forgets)) {
        return delete_again(turn, meta, accepted, first.map(|(op_id, _)| op_id));
    }
    let dependents = turn.shared.graph.lock().dependents(&name);
    let staying: Vec<_> = dependents
        .iter()
        .filter(|(name, _)| {
            turn.shared
                .facts(name)
                .is_some_and(|facts| !facts.has(Facts::DELETING))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if !request.cascade && !staying.is_empty() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("these depend on it: {}", staying.join(", ")),
        )
        .with_object(&name)
        .with_hint("delete them first, or all with --cascade"));
    }
    if request.orphan
        && turn
            .shared
            .capabilities(&turn.object.kind)
            .is_ok_and(|can| !can.orphan)
    {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("objects of kind {} cannot be left running", turn.object.kind),
        )
        .with_path("orphan")
        .with_object(&name));
    }
    let mut line = acceptance(meta, &accepted, Task::Delete, turn.now);
    line.d = Some(request.clone());
    line.rp = first.map(|(op_id, _)| op_id);
    let position = turn
        .shared
        .store
        .append(&mut line, Class::Reserved)
        .map_err(|error| error.with_object(&name))?;
    turn.state.record = line.q;
    let undo = match again {
        // The delete before goes on.
        true => Undo::Nothing,
        false => Undo::Phase(turn.state.phase),
    };
    let cause = Cause::Request {
        verb: agent_api_model::Verb::Delete,
        request_id: meta.id.clone(),
    };
    let intent = intent(meta, &accepted, What::Delete(request), position, undo);
    begin_delete(turn, intent, cause);
    Ok((accepted, position))
}

/// The object is to go: ahead of all that waits. What is under way is waited for, unless it only waits for its next
/// try, or the driver is not to be asked any more.
fn begin_delete(turn: &mut Turn<'_>, intent: Intent, cause: Cause) {
    let guid = turn.object.guid;
    let forgets = forgets(&intent);
    if turn.go(Trigger::Delete, cause.clone()) {
        turn.push(FollowUp::Withdraw(guid));
    } else {
        turn.tell(LifecycleKind::Updated, cause);
    }
    let busy = turn.state.busy();
    busy.queue.push_front(intent);
    busy.deferred = None;
    // A commit asks no driver.
    let given_up = |flight: &Flight| !flight.running || (forgets && flight.intent.what != What::Commit);
    if busy.flight.as_ref().is_some_and(given_up) {
        // Put back behind the delete: it goes on should the journal refuse the delete.
        if let Some(flight) = busy.flight.take() {
            let mut intent = flight.intent;
            intent.maybe_applied |= flight.operation.maybe_applied || flight.running;
            intent.position = flight.operation.after;
            busy.queue.insert(1, intent);
            if flight.running {
                turn.push(FollowUp::Cancel(flight.operation.op_id));
            }
        }
        turn.push(FollowUp::Unwake(guid, agent_api_manager::WakeReason::Retry));
    }
    turn.advance();
}

/// Whether it takes the object out of the books without the driver.
pub(crate) fn forgets(intent: &Intent) -> bool {
    matches!(intent.what, What::Delete(DeleteRequest { forget: true, .. }))
}

/// The delete that is under way or waits, and whether it asks no driver.
fn pending_delete(turn: &Turn<'_>) -> Option<(OpId, bool)> {
    let busy = turn.state.busy.as_ref()?;
    let flight = busy.flight.iter().map(|flight| &flight.intent);
    flight
        .chain(&busy.queue)
        .find(|intent| matches!(intent.what, What::Delete(_)))
        .map(|intent| (intent.op_id, forgets(intent)))
}

/// A second delete is the same as the first; one that waits for its next try is tried at once.
fn delete_again(
    turn: &mut Turn<'_>,
    meta: &RequestMeta,
    accepted: Accepted,
    first: Option<OpId>,
) -> Result<(Accepted, u64)> {
    let accepted = Accepted {
        op_id: first.unwrap_or(accepted.op_id),
        ..accepted
    };
    // A record of its own, so that its key gets this reply after a restart too.
    let mut line = Line::new(Tag::Key, accepted.guid, turn.now.wall);
    line.k = Some(meta.key().clone());
    line.o = Some(accepted.op_id);
    line.n = accepted.generation;
    line.nm = Some(accepted.name.clone());
    let position = turn
        .shared
        .store
        .append_reply(&mut line, Class::Reserved)
        .map_err(|error| error.with_object(&accepted.name))?;
    turn.launch_again();
    Ok((accepted, position))
}

/// Something that this object waits for has changed.
pub(crate) fn dependency_changed(turn: &mut Turn<'_>) {
    if turn.state.phase != Phase::Deleting {
        let spec = turn.spec();
        let taken_along = spec.depends_on.iter().find(|needed| {
            turn.shared
                .facts(&needed.name)
                .is_some_and(|facts| facts.has(Facts::CASCADE))
        });
        if let Some(needed) = taken_along {
            let name = needed.name.clone();
            cascade(turn, name);
            return;
        }
    }
    turn.advance();
}

/// Deletes this object because one that it depends on is deleted with all that depends on it.
fn cascade(turn: &mut Turn<'_>, needed: agent_api_model::ObjectName) {
    let request = DeleteRequest {
        cascade: true,
        ..DeleteRequest::default()
    };
    let op_id = OpId::generate();
    let mut line = Line::new(Tag::Accepted, turn.object.guid, turn.now.wall);
    line.o = Some(op_id);
    line.w = Some(Task::Delete);
    line.n = turn.state.generation;
    line.d = Some(request.clone());
    let position = match turn.shared.store.append(&mut line, Class::Reserved) {
        Ok(position) => position,
        Err(error) => {
            turn.condition(
                "Waiting",
                "Journal",
                format!("to be deleted with {needed}, not yet: {error}"),
            );
            turn.wake(
                agent_api_manager::WakeReason::Retry,
                std::time::Duration::from_millis(500),
            );
            return;
        }
    };
    turn.state.record = line.q;
    let intent = Intent {
        op_id,
        what: What::Delete(request),
        position,
        recorded: true,
        maybe_applied: false,
        request: None,
        key: None,
        undo: Undo::Phase(turn.state.phase),
    };
    let cause = Cause::Observed {
        source: EvidenceSource::Inferred,
        message: format!("deleted with {needed}, which it depends on"),
    };
    begin_delete(turn, intent, cause);
}
