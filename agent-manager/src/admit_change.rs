//! Letting updates and control verbs in.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_driver::Method;
use agent_api_manager::FollowUp;
use agent_api_model::{
    Accepted, Cause, ControlAction, Error, ErrorKind, Generation, LifecycleKind, ObjectSpec, OpId, Phase,
    PlanAction, RequestMeta, Resources, Result,
};
use agent_core_journal::Class;
use serde_json::Value;

use crate::admit::{acceptance, check, intent, not_deleting, room};
use crate::line::{Task, raw};
use crate::record::{Undo, What, text};
use crate::turn::Turn;
use crate::wanted;

pub(crate) fn update(
    turn: &mut Turn<'_>,
    meta: &RequestMeta,
    draft: Accepted,
    next: &Arc<ObjectSpec>,
    action: PlanAction,
    against: Generation,
) -> Result<(Accepted, u64)> {
    let name = turn.object.name.clone();
    not_deleting(turn)?;
    check(turn.shared, next)?;
    if next.name != name || next.kind != turn.object.kind {
        return Err(Error::invalid("name", "kind and name of an object cannot change").with_object(&name));
    }
    if turn.state.generation != against {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "it has generation {} by now, not {against}",
                turn.state.generation
            ),
        )
        .with_object(&name)
        .with_hint("look at it again, and repeat the change if it still makes sense"));
    }
    match action {
        PlanAction::Infeasible => {
            return Err(
                Error::new(ErrorKind::Unsupported, "the driver can never make this change")
                    .with_object(&name),
            );
        }
        PlanAction::Deferred => {
            return Err(
                Error::new(ErrorKind::Conflict, "the driver cannot make this change now").with_object(&name),
            );
        }
        _ => {}
    }
    room(turn)?;
    let next_text = text(next);
    let action = if crate::replay::same_for_driver(&turn.state.spec, &next_text) {
        PlanAction::NoOp
    } else {
        action
    };
    let accepted = Accepted {
        generation: against + 1,
        ..draft
    };
    turn.shared.graph.lock().set(turn.object.guid, next)?;
    let mut line = acceptance(meta, &accepted, Task::Update, turn.now);
    line.s = Some(raw(&next_text));
    line.a = Some(action);
    let position = match turn.shared.store.append(&mut line, Class::Normal) {
        Ok(position) => position,
        Err(error) => {
            let before = turn.state.parse();
            // It was acyclic before, and no other shard can have changed that for this object.
            let _ = turn.shared.graph.lock().set(turn.object.guid, &before);
            return Err(error.with_object(&name));
        }
    };
    turn.state.record = line.q;
    let undo = Undo::Spec(turn.state.spec.clone(), turn.state.generation);
    wanted::take(turn, next_text.clone(), next);
    turn.state.generation = accepted.generation;
    // What has not been begun is begun with the new spec; the driver need not be asked apart from that.
    let unbegun = turn.state.busy.as_ref().and_then(|busy| {
        let at = busy
            .queue
            .iter()
            .position(|intent| matches!(intent.what, What::Start { .. }))?;
        (busy
            .flight
            .as_ref()
            .is_none_or(|flight| flight.intent.what == What::Commit)
            && turn.state.phase == Phase::Pending)
            .then_some(at)
    });
    let what = What::Update {
        spec: next_text,
        generation: accepted.generation,
        action: if unbegun.is_some() {
            PlanAction::NoOp
        } else {
            action
        },
    };
    let intent = intent(meta, &accepted, what, position, undo);
    let queue = &mut turn.state.busy().queue;
    match unbegun {
        Some(at) => queue.insert(at, intent),
        None => queue.push_back(intent),
    }
    requested(turn, meta, agent_api_model::Verb::Update);
    turn.clear("UpdateFailed");
    turn.advance();
    Ok((accepted, position))
}

/// Somebody asked for something that is no step by itself.
fn requested(turn: &mut Turn<'_>, meta: &RequestMeta, verb: agent_api_model::Verb) {
    let cause = Cause::Request {
        verb,
        request_id: meta.id.clone(),
    };
    turn.tell(LifecycleKind::Updated, cause);
}

pub(crate) fn control(
    turn: &mut Turn<'_>,
    meta: &RequestMeta,
    draft: Accepted,
    action: ControlAction,
) -> Result<(Accepted, u64)> {
    let name = turn.object.name.clone();
    not_deleting(turn)?;
    let capabilities = turn.shared.capabilities(&turn.object.kind)?;
    let verb = action.verb();
    let can = capabilities.control_verbs();
    if !can.contains(&verb) {
        let can: Vec<_> = can.iter().map(|verb| verb.as_str()).collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "objects of kind {} cannot {verb}; they can {}",
                turn.object.kind,
                can.join(", ")
            ),
        )
        .with_object(&name));
    }
    if let ControlAction::Call { method, arguments } = &action {
        check_call(&capabilities.methods, method, arguments).map_err(|error| error.with_object(&name))?;
    }
    room(turn)?;
    let phase = turn.state.expected_phase();
    let fits = match action {
        ControlAction::Pause {} => phase == Phase::Running,
        ControlAction::Resume {} => phase == Phase::Paused,
        ControlAction::Signal { .. } | ControlAction::Call { .. } => {
            matches!(phase, Phase::Running | Phase::Paused)
        }
        ControlAction::Scale { .. } | ControlAction::Resize { .. } => phase != Phase::Unknown,
        _ => waits_for_nothing(turn),
    };
    if !fits {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("it is {phase}, so {verb} is not possible"),
        )
        .with_object(&name));
    }
    let next = resized(turn, &action)?;
    let accepted = Accepted {
        generation: turn.state.generation + u64::from(next.is_some()),
        ..draft
    };
    let is_restart = matches!(action, ControlAction::Restart { .. });
    let mut line = acceptance(
        meta,
        &accepted,
        if is_restart { Task::Restart } else { Task::Control },
        turn.now,
    );
    line.c = Some(action.clone());
    // A start that waits out its back-off gives way to the one that is asked for.
    let replaced = is_restart.then(|| held_start(turn)).flatten();
    line.rp = replaced;
    if let Some((next, _)) = &next {
        line.s = Some(raw(next));
    }
    let class = match action {
        ControlAction::Pause {} | ControlAction::Resume {} | ControlAction::Signal { .. } => Class::Reserved,
        _ => Class::Normal,
    };
    let position = turn
        .shared
        .store
        .append(&mut line, class)
        .map_err(|error| error.with_object(&name))?;
    turn.state.record = line.q;
    let undo = match &next {
        Some(_) => Undo::Spec(turn.state.spec.clone(), turn.state.generation),
        // The start that gave way is not lost: this one is recorded again then.
        None if replaced.is_some() => Undo::Again,
        None => Undo::Nothing,
    };
    let what = match action {
        ControlAction::Restart { grace } => What::Restart { grace },
        action => What::Control {
            action,
            next: next.as_ref().map(|(next, _)| (next.clone(), accepted.generation)),
        },
    };
    if let Some((next_text, spec)) = next {
        wanted::take(turn, next_text, &spec);
        turn.state.generation = accepted.generation;
    }
    if let Some(op_id) = replaced {
        let busy = turn.state.busy();
        busy.held = false;
        let mut released = 0;
        busy.queue.retain(|intent| {
            let stays = intent.op_id != op_id;
            if !stays {
                released = intent.position;
            }
            stays
        });
        turn.shared.store.release(released);
        turn.push(FollowUp::Unwake(
            turn.object.guid,
            agent_api_manager::WakeReason::Retry,
        ));
    }
    if is_restart {
        turn.state.row = 0;
    }
    let intent = intent(meta, &accepted, what, position, undo);
    turn.state.busy().queue.push_back(intent);
    turn.clear("OperationFailed");
    requested(turn, meta, verb);
    turn.advance();
    Ok((accepted, position))
}

/// Whether there is such a method, and the arguments are a map. What is in them is checked against the method's schema
/// before a command comes here.
fn check_call(methods: &BTreeMap<String, Method>, method: &str, arguments: &Value) -> Result<()> {
    if !methods.contains_key(method) {
        let known: Vec<_> = methods.keys().map(String::as_str).collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "it has no method {method:?}; its methods are {}",
                known.join(", ")
            ),
        )
        .with_path("method"));
    }
    if !arguments.is_null() && !arguments.is_object() {
        return Err(Error::invalid("arguments", "must be a map, or left out"));
    }
    Ok(())
}

/// Whether it was started once: what waits for a dependency cannot be restarted.
fn waits_for_nothing(turn: &Turn<'_>) -> bool {
    turn.state.phase != Phase::Pending
        || turn.state.busy.as_ref().is_none_or(|busy| {
            !busy
                .queue
                .iter()
                .any(|intent| matches!(intent.what, What::Start { first: true, .. }))
        })
}

fn held_start(turn: &Turn<'_>) -> Option<OpId> {
    let busy = turn.state.busy.as_ref()?;
    let front = busy.queue.front()?;
    (busy.flight.is_none()
        && busy.held
        && matches!(
            front.what,
            What::Start { first: false, .. } | What::Restart { .. }
        ))
    .then_some(front.op_id)
}

/// The spec that a scale or resize makes.
fn resized(turn: &mut Turn<'_>, action: &ControlAction) -> Result<Option<(Arc<str>, Arc<ObjectSpec>)>> {
    let mut spec = match action {
        ControlAction::Scale { .. } | ControlAction::Resize { .. } => (*turn.spec()).clone(),
        _ => return Ok(None),
    };
    match action {
        ControlAction::Scale { replicas } => spec.resources.replicas = Some(*replicas),
        ControlAction::Resize { resources } => {
            let Resources {
                cpu,
                memory,
                pids,
                io,
                gpu,
                replicas,
                priority,
            } = resources;
            let now = &mut spec.resources;
            now.cpu = cpu.or(now.cpu);
            now.memory = memory.or(now.memory);
            now.pids = pids.or(now.pids);
            now.io = io.or(now.io);
            now.gpu = gpu.or(now.gpu);
            now.replicas = replicas.or(now.replicas);
            now.priority = priority.or(now.priority);
        }
        _ => {}
    }
    spec.check()?;
    Ok(Some((text(&spec), Arc::new(spec))))
}
