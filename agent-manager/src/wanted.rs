//! What is wanted, where it changes: by a request, by a driver call (a rollback, for example), or back to what was
//! wanted before.

use std::sync::Arc;

use agent_api_manager::{Effect, Operation};
use agent_api_model::{Error, ObjectSpec, Phase, Result};

use crate::drift::repair;
use crate::lifecycle::attended;
use crate::record::{Intent, Undo, What, parse, text};
use crate::turn::Turn;

/// From now on this spec is wanted. Its health check counts at once: another one begins anew, and one that is not
/// wanted any more ends.
pub(crate) fn take(turn: &mut Turn<'_>, text: Arc<str>, next: &Arc<ObjectSpec>) {
    let same = turn.state.health().map(|health| &*health.check) == next.health.as_ref();
    if !same {
        crate::health::end(turn);
    }
    turn.state.set_spec(text, next);
    turn.knows(next);
    if !same && attended(turn.state.phase) {
        crate::health::begin(turn);
    }
}

/// An update came to an end other than that it could not be written down. Its labels and its `monitor` part are no
/// matter of the driver: what is collected follows them, whatever the driver answered.
pub(crate) fn follow(turn: &mut Turn<'_>, update: &Intent) {
    if let (What::Update { .. }, Undo::Spec(before, _)) = (&update.what, &update.undo) {
        let (before, next) = (parse(before), turn.spec());
        collect_where_needed(turn, &before, &next);
    }
}

/// The spec before is wanted again.
pub(crate) fn take_back(turn: &mut Turn<'_>, before: &Arc<str>) -> Arc<ObjectSpec> {
    let (undone, spec) = (turn.spec(), parse(before));
    take(turn, before.clone(), &spec);
    collect_where_needed(turn, &undone, &spec);
    spec
}

/// What is collected depends on the labels and on the object's own telemetry: it is told anew where they changed.
fn collect_where_needed(turn: &mut Turn<'_>, before: &ObjectSpec, next: &ObjectSpec) {
    if (before.labels != next.labels || before.monitor != next.monitor) && attended(turn.state.phase) {
        turn.collect();
    }
}

/// Whether the spec that a call returned can be one of its object. One that says nothing new is left out.
pub(crate) fn check(mut effect: Effect, operation: &Operation) -> Result<Effect> {
    let Effect::Applied(applied) = &mut effect else {
        return Ok(effect);
    };
    let Some(next) = &applied.spec else {
        return Ok(effect);
    };
    let (kind, name) = (&operation.spec.kind, &operation.name);
    if next.kind != *kind || next.name != *name {
        return Err(Error::internal(format!(
            "the driver {} did it, and returned a spec of {} {} for {kind} {name}",
            operation.driver, next.kind, next.name
        )));
    }
    next.check().map_err(|error| {
        let driver = &operation.driver;
        Error::internal(format!(
            "the driver {driver} did it, and returned a spec that is wrong"
        ))
        .with_source(error)
    })?;
    if *next == *operation.spec {
        applied.spec = None;
    }
    Ok(effect)
}

/// Keeps the spec that a call returned as a new generation, which is applied already; whether it did.
pub(crate) fn keep(turn: &mut Turn<'_>, intent: &Intent, mut next: ObjectSpec) -> bool {
    let later = turn.state.busy.as_ref().is_some_and(|busy| {
        busy.queue.iter().any(|intent| {
            matches!(
                intent.what,
                What::Update { .. } | What::Control { next: Some(_), .. }
            )
        })
    });
    if later {
        // That was asked for later, so it counts. What it does not touch, this call has changed: so at last all of
        // what is wanted is applied.
        if turn.state.phase != Phase::Deleting {
            let why = format!("{} changed it while a later change waited", intent.what.verb());
            turn.state.busy().queue.push_back(repair(why, None));
        }
        return false;
    }
    let before = turn.spec();
    {
        let mut graph = turn.shared.graph.lock();
        if let Err(error) = graph.set(turn.object.guid, &next) {
            tracing::warn!(object = %turn.object.name, %error, "the driver's new dependencies are left out");
            next.depends_on.clone_from(&before.depends_on);
            // It was acyclic before, and no other shard can have changed that for this object.
            let _ = graph.set(turn.object.guid, &next);
        }
    }
    let next = Arc::new(next);
    take(turn, text(&next), &next);
    turn.state.generation += 1;
    turn.state.observed_generation = turn.state.generation;
    true
}
