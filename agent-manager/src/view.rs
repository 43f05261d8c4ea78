//! What people see of an object, built when they look.

use std::sync::Arc;

use agent_api_model::{Explanation, ObjectView, OperationView, Phase, ResourcesView};

use crate::record::{Object, State};

/// The view of an object as it is.
pub(crate) fn build(object: &Object, state: &State) -> Arc<ObjectView> {
    let extra = state.extra.as_deref();
    Arc::new(ObjectView {
        guid: object.guid,
        name: object.name.clone(),
        kind: object.kind.clone(),
        labels: state.labels.clone(),
        phase: state.phase,
        since: state.since,
        created: object.created,
        generation: state.generation,
        observed_generation: state.observed_generation,
        evidence: state.evidence.clone(),
        resources: extra.map_or_else(ResourcesView::default, |extra| ResourcesView {
            wanted: extra.wanted.clone(),
            limits: extra.limits.clone(),
        }),
        conditions: extra.map_or_else(Vec::new, |extra| {
            let mut all = Vec::with_capacity(extra.conditions.len() + extra.driver_conditions.len());
            all.extend_from_slice(&extra.conditions);
            all.extend_from_slice(&extra.driver_conditions);
            all
        }),
        details: state.details.clone(),
        restarts: state.restarts,
        exit: state.exit().cloned(),
        health: extra
            .and_then(|extra| extra.health.as_ref())
            .map(|health| health.state),
        operation: state.flight().map(|flight| OperationView {
            op_id: flight.operation.op_id,
            verb: flight.intent.what.verb(),
            since: flight.since,
            retries: flight.retries,
            last_error: flight.last_error.clone(),
        }),
        adopted: state.adopted,
    })
}

/// The chain of events that led an object where it is.
pub(crate) fn explain(object: &Object, state: &State, waits_for: Vec<String>) -> Explanation {
    let mut waiting_for = waits_for;
    if let Some(flight) = state.flight() {
        let verb = flight.intent.what.verb();
        waiting_for.push(match (&flight.last_error, flight.running) {
            (None, _) => format!("the driver to finish {verb}, since {}", flight.since),
            (Some(error), true) => format!(
                "the driver to finish {verb}, since {}, try {}; the last one failed: {error}",
                flight.since,
                flight.retries + 1
            ),
            (Some(error), false) => format!(
                "the next try of {verb}, number {}; the last one failed: {error}",
                flight.retries + 1
            ),
        });
    }
    if let Some(extra) = &state.extra {
        waiting_for.extend(
            extra
                .conditions
                .iter()
                .filter(|condition| condition.status && matches!(condition.kind.as_str(), "BackOff"))
                .map(|condition| match state.phase {
                    Phase::Pending => format!("the next start: {}", condition.message),
                    _ => format!("the next try: {}", condition.message),
                }),
        );
    }
    Explanation {
        view: build(object, state),
        history: state.history.transitions(),
        waiting_for,
    }
}
