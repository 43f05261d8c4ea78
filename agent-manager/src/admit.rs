//! Letting commands in.

use std::sync::Arc;

use agent_api_manager::{Admission, Command, CommandBody, Commit, FollowUp, Now};
use agent_api_model::{
    Accepted, Cause, Error, ErrorKind, EvidenceSource, LifecycleKind, ObjectSpec, OpId, Phase, RequestMeta,
    Result,
};
use agent_core_journal::Class;

use crate::keys::{Found, Reservation};
use crate::line::{Line, Tag, Task, raw};
use crate::partition::Shard;
use crate::record::{Intent, Object, State, Undo, What, text};
use crate::shared::{Shared, count};
use crate::turn::Turn;
use crate::{admit_change, removal};

/// So many commands wait for an object's operation at most.
const MOST_WAITING: usize = 16;

pub(crate) fn admit(shard: &mut Shard, command: Command, now: Now) -> Result<Admission> {
    let shared = shard.shared.clone();
    let result = decide(shard, &shared, command, now);
    count(match &result {
        Ok(admission) if admission.accepted.repeated => &shared.counters.commands_repeated,
        Ok(_) => &shared.counters.commands_accepted,
        Err(_) => &shared.counters.commands_refused,
    });
    result
}

fn decide(shard: &mut Shard, shared: &Arc<Shared>, command: Command, now: Now) -> Result<Admission> {
    let Command { meta, guid, body } = command;
    let object = shard.find(guid);
    let name = match (&body, &object) {
        (CommandBody::Create(spec), _) => spec.name.clone(),
        (_, Some(object)) => object.name.clone(),
        (_, None) => match shared.keys.replied(meta.key()) {
            Some(accepted) => accepted.name,
            None => return Err(Error::new(ErrorKind::NotFound, "there is no such object").with_object(guid)),
        },
    };
    let draft = Accepted {
        guid,
        name: name.clone(),
        generation: 0,
        op_id: OpId::generate(),
        repeated: false,
    };
    let reservation = match shared.keys.begin(meta.key(), &draft, now.wall) {
        Found::Known(accepted, position) => {
            return Ok(Admission {
                accepted,
                commit: Box::pin(shared.store.durable_again(position)),
                follow_ups: Vec::new(),
            });
        }
        Found::Undecided => {
            return Err(Error::new(
                ErrorKind::Busy,
                "a request with the same idempotency key is being decided at this moment",
            )
            .with_object(&name));
        }
        Found::Reserved => Reservation::new(&shared.keys, meta.key().clone()),
    };
    if meta.deadline.is_some_and(|deadline| deadline < now.wall) {
        return Err(
            Error::new(ErrorKind::Expired, "its deadline had passed before it was let in").with_object(&name),
        );
    }
    let mut admitted = match (body, object) {
        (CommandBody::Create(spec), _) => create(shard, shared, &meta, draft, &spec, now)?,
        (_, None) => {
            return Err(Error::new(ErrorKind::NotFound, "there is no such object").with_object(&name));
        }
        (body, Some(object)) => {
            let mut turn = Turn::new(shared, &mut shard.counts, &object, now);
            if turn.state.gone {
                return Err(Error::new(ErrorKind::NotFound, "there is no such object").with_object(&name));
            }
            let (accepted, position) = match body {
                CommandBody::Delete(request) => removal::delete(&mut turn, &meta, draft, request)?,
                CommandBody::Update {
                    next,
                    action,
                    against,
                } => admit_change::update(&mut turn, &meta, draft, &next, action, against)?,
                CommandBody::Control(action) => admit_change::control(&mut turn, &meta, draft, action)?,
                CommandBody::Create(_) => {
                    return Err(Error::internal("a create was taken for something else"));
                }
            };
            Admitted {
                accepted,
                position,
                follow_ups: turn.finish(),
            }
        }
    };
    reservation.keep(&admitted.accepted, admitted.position, now.wall);
    admitted.accepted.repeated = false;
    let commit: Commit = Box::pin(shared.store.durable_again(admitted.position));
    Ok(Admission {
        accepted: admitted.accepted,
        commit,
        follow_ups: admitted.follow_ups,
    })
}

struct Admitted {
    accepted: Accepted,
    position: u64,
    follow_ups: Vec<FollowUp>,
}

/// The record of an acceptance.
pub(crate) fn acceptance<'a>(meta: &RequestMeta, accepted: &Accepted, task: Task, now: Now) -> Line<'a> {
    let mut line = Line::new(Tag::Accepted, accepted.guid, now.wall);
    line.r = Some(meta.id.clone());
    line.k = meta.idempotency_key.clone();
    line.o = Some(accepted.op_id);
    line.w = Some(task);
    line.n = accepted.generation;
    line
}

pub(crate) fn intent(
    meta: &RequestMeta,
    accepted: &Accepted,
    what: What,
    position: u64,
    undo: Undo,
) -> Intent {
    Intent {
        op_id: accepted.op_id,
        what,
        position,
        recorded: true,
        maybe_applied: false,
        request: Some(meta.id.clone()),
        key: Some(meta.key().clone()),
        undo,
    }
}

/// What the manager itself has to say of a spec, whoever checked it before.
pub(crate) fn check(shared: &Shared, spec: &ObjectSpec) -> Result<()> {
    spec.check()?;
    let capabilities = shared
        .capabilities(&spec.kind)
        .map_err(|error| error.with_object(&spec.name))?;
    if spec.health.is_some() && !capabilities.probe {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("objects of kind {} cannot be probed", spec.kind),
        )
        .with_path("health")
        .with_object(&spec.name));
    }
    Ok(())
}

fn create(
    shard: &mut Shard,
    shared: &Arc<Shared>,
    meta: &RequestMeta,
    draft: Accepted,
    spec: &Arc<ObjectSpec>,
    now: Now,
) -> Result<Admitted> {
    check(shared, spec)?;
    let accepted = Accepted {
        generation: 1,
        ..draft
    };
    let guid = accepted.guid;
    let taken = || {
        Error::new(
            ErrorKind::AlreadyExists,
            format!("there is an object of the name {} already", spec.name),
        )
        .with_object(&spec.name)
        .with_hint("update or delete it, or choose another name")
    };
    if shared.table.named(&spec.name).is_some() || shared.table.get(guid).is_some() {
        return Err(taken());
    }
    let spec_text = text(spec);
    let mut state = State::new(spec_text.clone(), spec, 1, now.wall);
    // What the caller's kind and name point to is shared with nothing else; the driver's own is shared by all.
    let kind = shared
        .drivers
        .for_kind(&spec.kind)
        .and_then(|driver| driver.info().kinds.iter().find(|kind| **kind == spec.kind))
        .unwrap_or(&spec.kind)
        .clone();
    state.evidence.source = EvidenceSource::Inferred;
    let object = Arc::new(Object::new(guid, spec.name.clone(), kind, now.wall, state));
    // The name is taken before the record is written, so that no other shard can take it meanwhile.
    if !shared.table.insert(&object) {
        return Err(taken());
    }
    let written = shared.graph.lock().set(guid, spec).and_then(|()| {
        let mut line = acceptance(meta, &accepted, Task::Create, now);
        line.s = Some(raw(&spec_text));
        let position = shared.store.append(&mut line, Class::Normal)?;
        Ok((position, line.q))
    });
    let (position, record) = match written {
        Ok(written) => written,
        Err(error) => {
            object.state.lock().gone = true;
            shared.table.remove(&object);
            shared.graph.lock().remove(&spec.name);
            return Err(error.with_object(&spec.name));
        }
    };
    shard.own(object.clone());
    let mut turn = Turn::new(shared, &mut shard.counts, &object, now);
    turn.knows(spec);
    turn.state.record = record;
    let cause = Cause::Request {
        verb: agent_api_model::Verb::Create,
        request_id: meta.id.clone(),
    };
    turn.step(None, Some(Phase::Pending), cause, LifecycleKind::Created);
    let start = What::Start {
        first: true,
        delay: None,
    };
    let intent = intent(meta, &accepted, start, position, Undo::Create);
    turn.state.busy().queue.push_back(intent);
    turn.advance();
    Ok(Admitted {
        accepted,
        position,
        follow_ups: turn.finish(),
    })
}

pub(crate) fn room(turn: &Turn<'_>) -> Result<()> {
    let waiting = turn.state.busy.as_ref().map_or(0, |busy| busy.queue.len());
    if waiting >= MOST_WAITING {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("{waiting} operations wait already, as many as may"),
        )
        .with_object(&turn.object.name)
        .with_hint("`agent explain` says what they wait for"));
    }
    Ok(())
}

pub(crate) fn not_deleting(turn: &Turn<'_>) -> Result<()> {
    if turn.state.phase == Phase::Deleting {
        return Err(Error::new(ErrorKind::Conflict, "it is being deleted").with_object(&turn.object.name));
    }
    Ok(())
}
