//! One object in memory: what is known, what is wanted, what is under way.
//!
//! Compact, because there may be a hundred thousand of them and nearly all are idle: the spec is kept as text, the
//! view is built when somebody looks, and what only some objects have lies behind an `Option<Box<…>>`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use agent_api_driver::{Handle, Observed};
use agent_api_manager::Operation;
use agent_api_model::{
    Condition, ControlAction, DeleteRequest, Evidence, ExitStatus, Generation, Guid, HealthCheck,
    HealthState, Kind, Labels, LimitStatus, ObjectName, ObjectSpec, OpId, Phase, PlanAction, RequestId,
    Resources, Timestamp, Verb,
};
use parking_lot::Mutex;
use serde_json::Value;

use crate::drift::Repairs;
use crate::history::History;

/// One object. Written by its partition alone, read by everybody; the lock is held for a few hundred nanoseconds.
pub(crate) struct Object {
    pub(crate) guid: Guid,
    pub(crate) name: ObjectName,
    pub(crate) kind: Kind,
    pub(crate) created: Timestamp,
    facts: AtomicU8,
    pub(crate) state: Mutex<State>,
}

/// What others that depend on an object must know of it, readable without its lock: so no object ever waits for
/// the lock of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts(u8);

impl Facts {
    pub(crate) const READY: u8 = 1;
    pub(crate) const SUCCEEDED: u8 = 2;
    pub(crate) const DELETING: u8 = 4;
    /// Being deleted with all that depends on it.
    pub(crate) const CASCADE: u8 = 8;

    pub(crate) fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Built by [`crate::settle`] and friends; removed from the table.
    pub(crate) gone: bool,
    pub(crate) adopted: bool,
    /// Whether something may exist on the substrate although there is no handle.
    pub(crate) maybe_made: bool,
    pub(crate) since: Timestamp,
    pub(crate) generation: Generation,
    pub(crate) observed_generation: Generation,
    pub(crate) evidence: Evidence,
    /// The wanted spec as JSON. It was read once before it came here.
    pub(crate) spec: Arc<str>,
    pub(crate) labels: Arc<Labels>,
    pub(crate) handle: Option<Arc<Handle>>,
    pub(crate) details: Value,
    pub(crate) restarts: u32,
    /// Restarts in a row.
    pub(crate) row: u32,
    /// Where it is in its partition's list.
    pub(crate) slot: u32,
    /// Since when it runs, on the manager's clock.
    pub(crate) running_since: Duration,
    pub(crate) sequence: u64,
    /// The last journal record that concerns it.
    pub(crate) record: u64,
    pub(crate) history: History,
    pub(crate) busy: Option<Box<Busy>>,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What an object has to do.
#[derive(Default)]
pub(crate) struct Busy {
    /// The one operation under way.
    pub(crate) flight: Option<Flight>,
    /// What waits behind it, in order.
    pub(crate) queue: VecDeque<Intent>,
    /// The back-off before the next start lasts.
    pub(crate) held: bool,
    /// The dependency that the first start waits for, of several the first.
    pub(crate) waited: Option<ObjectName>,
    /// The newest status that came while the operation was under way that may outdate it.
    pub(crate) deferred: Option<Box<Observed>>,
}

/// What only some objects have.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) driver_conditions: Vec<Condition>,
    pub(crate) exit: Option<ExitStatus>,
    pub(crate) wanted: Resources,
    pub(crate) limits: Vec<LimitStatus>,
    pub(crate) health: Option<Health>,
    pub(crate) repairs: Repairs,
}

/// A health check and what it says.
pub(crate) struct Health {
    pub(crate) check: Arc<HealthCheck>,
    pub(crate) state: HealthState,
    pub(crate) good: u32,
    pub(crate) bad: u32,
    /// The probe in flight.
    pub(crate) probe: Option<OpId>,
}

/// Something that was decided and is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) op_id: OpId,
    pub(crate) what: What,
    /// The journal position to wait for; 0 where it is known to be on disk.
    pub(crate) position: u64,
    /// Whether the journal was asked at all; only restarts by policy are decided before.
    pub(crate) recorded: bool,
    pub(crate) maybe_applied: bool,
    /// Who asked.
    pub(crate) request: Option<RequestId>,
    /// Under which key.
    pub(crate) key: Option<RequestId>,
    pub(crate) undo: Undo,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// Make it, or start it again after it ended.
    Start {
        /// For the first time: what it depends on must be so.
        first: bool,
        /// The wait before it, where a policy starts it again.
        delay: Option<Duration>,
    },
    /// Bring it to a new spec.
    Update {
        spec: Arc<str>,
        generation: Generation,
        action: PlanAction,
    },
    /// A control verb but restart; with the spec it makes.
    Control {
        action: ControlAction,
        next: Option<(Arc<str>, Generation)>,
    },
    /// Stop and start it.
    Restart { grace: Option<Duration> },
    /// Bring it back to the spec that is wanted already.
    Repair {
        why: String,
        /// The repair's number in a row, where it is for drift.
        number: Option<u32>,
    },
    /// Remove it.
    Delete(DeleteRequest),
    /// Wait until the intent of the same `op_id`, which cannot be done yet, is on disk.
    Commit,
}

impl What {
    pub(crate) fn verb(&self) -> Verb {
        match self {
            Self::Start { first: true, .. } | Self::Commit => Verb::Create,
            Self::Start { .. } | Self::Restart { .. } => Verb::Restart,
            Self::Update { .. } | Self::Repair { .. } => Verb::Update,
            Self::Control { action, .. } => action.verb(),
            Self::Delete(_) => Verb::Delete,
        }
    }

    /// Whether what the driver reports meanwhile may be of the thing before as well as of the one after.
    pub(crate) fn replaces(&self) -> bool {
        matches!(
            self,
            Self::Start { .. } | Self::Update { .. } | Self::Restart { .. } | Self::Repair { .. }
        )
    }
}

/// What to do when the journal could not take the record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Undo {
    /// Nothing was changed.
    Nothing,
    /// The object was made for it.
    Create,
    /// The spec before.
    Spec(Arc<str>, Generation),
    /// The phase before.
    Phase(Phase),
    /// It is the agent's own decision: it is recorded again.
    Again,
}

/// The one operation under way.
pub(crate) struct Flight {
    pub(crate) operation: Operation,
    pub(crate) intent: Intent,
    pub(crate) since: Timestamp,
    pub(crate) retries: u32,
    pub(crate) last_error: Option<String>,
    /// The phase before it was begun.
    pub(crate) before: Phase,
    /// The core has it; otherwise it waits for its next try.
    pub(crate) running: bool,
}

static NO_LABELS: LazyLock<Arc<Labels>> = LazyLock::new(Arc::default);

impl Object {
    pub(crate) fn new(guid: Guid, name: ObjectName, kind: Kind, created: Timestamp, state: State) -> Self {
        Self {
            guid,
            name,
            kind,
            created,
            facts: AtomicU8::new(0),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts(self.facts.load(Ordering::SeqCst))
    }

    /// The facts that follow from a replayed phase. Whether what was running still does is not known yet.
    pub(crate) fn publish_phase(&self, phase: Phase) {
        self.publish(match phase {
            Phase::Succeeded => Facts::SUCCEEDED,
            Phase::Deleting => Facts::DELETING,
            _ => 0,
        });
    }

    /// Publishes the facts; whether they changed.
    pub(crate) fn publish(&self, facts: u8) -> bool {
        self.facts.swap(facts, Ordering::SeqCst) != facts
    }
}

impl State {
    pub(crate) fn new(text: Arc<str>, spec: &ObjectSpec, generation: Generation, at: Timestamp) -> Self {
        let mut state = Self {
            phase: Phase::Pending,
            gone: false,
            adopted: false,
            maybe_made: false,
            since: at,
            generation,
            observed_generation: 0,
            evidence: Evidence {
                source: agent_api_model::EvidenceSource::Inferred,
                at,
                revision: 0,
            },
            spec: text.clone(),
            labels: NO_LABELS.clone(),
            handle: None,
            details: Value::Null,
            restarts: 0,
            row: 0,
            slot: 0,
            running_since: Duration::ZERO,
            sequence: 0,
            record: 0,
            history: History::default(),
            busy: None,
            extra: None,
        };
        state.set_spec(text, spec);
        state
    }

    /// Takes a spec and what is derived from it.
    pub(crate) fn set_spec(&mut self, text: Arc<str>, spec: &ObjectSpec) {
        self.spec = text;
        if *self.labels != spec.labels {
            self.labels = if spec.labels.is_empty() {
                NO_LABELS.clone()
            } else {
                Arc::new(spec.labels.clone())
            };
        }
        if self.extra.is_some() || !spec.resources.is_empty() || spec.health.is_some() {
            let extra = self.extra.get_or_insert_default();
            extra.wanted = spec.resources.clone();
            match (&mut extra.health, &spec.health) {
                (Some(health), Some(check)) if *health.check == *check => {}
                (health, Some(check)) => {
                    *health = Some(Health {
                        check: Arc::new(check.clone()),
                        state: HealthState::Starting,
                        good: 0,
                        bad: 0,
                        probe: None,
                    });
                }
                (health, None) => *health = None,
            }
        }
    }

    /// The wanted spec.
    pub(crate) fn parse(&self) -> Arc<ObjectSpec> {
        parse(&self.spec)
    }

    pub(crate) fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    pub(crate) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(crate) fn flight(&self) -> Option<&Flight> {
        self.busy.as_ref()?.flight.as_ref()
    }

    pub(crate) fn health(&mut self) -> Option<&mut Health> {
        self.extra.as_mut()?.health.as_mut()
    }

    pub(crate) fn exit(&self) -> Option<&ExitStatus> {
        self.extra.as_ref()?.exit.as_ref()
    }

    /// Whether its first start has not been begun.
    pub(crate) fn waits_to_begin(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| {
            busy.queue
                .iter()
                .any(|intent| matches!(intent.what, What::Start { first: true, .. }))
        })
    }

    /// Gives back what an idle object does not need.
    pub(crate) fn trim(&mut self) {
        if self.busy.as_ref().is_some_and(|busy| {
            busy.flight.is_none() && busy.queue.is_empty() && !busy.held && busy.deferred.is_none()
        }) {
            self.busy = None;
        }
    }

    /// The phase the object will be in when all that is decided is done.
    pub(crate) fn expected_phase(&self) -> Phase {
        let Some(busy) = &self.busy else { return self.phase };
        let flight = busy.flight.iter().map(|flight| &flight.intent.what);
        flight
            .chain(busy.queue.iter().map(|intent| &intent.what))
            .fold(self.phase, |phase, what| match (what, phase) {
                (_, Phase::Deleting) | (What::Delete(_), _) => Phase::Deleting,
                // Not begun, and nobody knows when it will be.
                (What::Start { .. } | What::Restart { .. }, Phase::Pending) => Phase::Pending,
                (What::Start { .. } | What::Restart { .. }, _) => Phase::Running,
                (What::Update { .. } | What::Repair { .. }, Phase::Updating) => Phase::Running,
                (
                    What::Control {
                        action: ControlAction::Pause {},
                        ..
                    },
                    _,
                ) => Phase::Paused,
                (
                    What::Control {
                        action: ControlAction::Resume {},
                        ..
                    },
                    _,
                ) => Phase::Running,
                _ => phase,
            })
    }
}

/// Reads a spec that was read before.
pub(crate) fn parse(text: &str) -> Arc<ObjectSpec> {
    Arc::new(serde_json::from_str(text).expect("a spec is stored as it was written by serde"))
}

/// Writes a spec.
pub(crate) fn text(spec: &ObjectSpec) -> Arc<str> {
    serde_json::to_string(spec)
        .expect("a spec has only text keys and finite numbers")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_small() {
        assert!(size_of::<Object>() <= 320, "{}", size_of::<Object>());
    }
}
