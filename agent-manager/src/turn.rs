//! One decision about one object: takes the object's lock, changes its state, gathers what is to be done, and at the
//! end shows the new view. All partition methods are made of this.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::ObjectStatus;
use agent_api_manager::{FollowUp, Now, Wake, WakeReason};
use agent_api_model::{
    Cause, Condition, DeleteRequest, HealthState, LifecycleEvent, LifecycleKind, ObjectSpec, Phase,
    Transition,
};
use parking_lot::MutexGuard;

use crate::lifecycle::{Act, Next, Trigger, transition};
use crate::partition::Counts;
use crate::record::{Facts, Object, State, What};
use crate::shared::{Shared, count};
use crate::view;

pub(crate) struct Turn<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) counts: &'a mut Counts,
    pub(crate) object: &'a Arc<Object>,
    pub(crate) state: MutexGuard<'a, State>,
    pub(crate) now: Now,
    /// The wanted spec, once it was read.
    known: Option<(Arc<str>, Arc<ObjectSpec>)>,
    /// Driver calls, which go first.
    pub(crate) runs: Vec<FollowUp>,
    rest: Vec<FollowUp>,
    pub(crate) changed: bool,
    collect: bool,
    register: bool,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(shared: &'a Shared, counts: &'a mut Counts, object: &'a Arc<Object>, now: Now) -> Self {
        Self {
            shared,
            counts,
            object,
            state: object.state.lock(),
            now,
            known: None,
            runs: Vec::new(),
            rest: Vec::new(),
            changed: false,
            collect: false,
            register: false,
        }
    }

    /// The end of the decision: what is to be done.
    pub(crate) fn finish(mut self) -> Vec<FollowUp> {
        self.publish_facts();
        self.state.trim();
        let mut out = self.runs;
        if self.changed || self.collect || self.register {
            let view = view::build(self.object, &self.state);
            if !self.state.gone && self.changed {
                self.rest.push(FollowUp::Changed(view.clone()));
            }
            if self.register {
                self.rest.push(FollowUp::Register(view.clone()));
            }
            if self.collect
                && let Some(handle) = self.state.handle.clone()
            {
                self.rest.push(FollowUp::Collect { view, handle });
            }
        }
        out.append(&mut self.rest);
        out
    }

    /// The wanted spec.
    pub(crate) fn spec(&mut self) -> Arc<ObjectSpec> {
        match &self.known {
            Some((text, spec)) if Arc::ptr_eq(text, &self.state.spec) => spec.clone(),
            _ => {
                let spec = self.state.parse();
                self.known = Some((self.state.spec.clone(), spec.clone()));
                spec
            }
        }
    }

    /// The wanted spec is this one, so that it need not be read.
    pub(crate) fn knows(&mut self, spec: &Arc<ObjectSpec>) {
        self.known = Some((self.state.spec.clone(), spec.clone()));
    }

    pub(crate) fn push(&mut self, follow_up: FollowUp) {
        self.rest.push(follow_up);
    }

    /// Collection begins, or goes on under a new handle, at the end of this decision.
    pub(crate) fn collect(&mut self) {
        self.collect = true;
    }

    /// The object's methods are registered at the end of this decision.
    pub(crate) fn register(&mut self) {
        self.register = true;
    }

    // ----- phases -----

    /// Moves the object along, if the trigger says so; whether it did.
    pub(crate) fn go(&mut self, trigger: Trigger, cause: Cause) -> bool {
        let (next, act) = transition(self.state.phase, trigger);
        match next {
            Next::Stay => false,
            Next::Illegal => {
                tracing::error!(
                    object = %self.object.name, phase = %self.state.phase, ?trigger,
                    "a step that cannot be was asked for; it is not taken"
                );
                debug_assert!(false, "{trigger:?} in {}", self.state.phase);
                false
            }
            Next::Gone => {
                self.step(Some(self.state.phase), None, cause, LifecycleKind::Deleted);
                self.state.gone = true;
                true
            }
            Next::To(to) => {
                self.enter(to, cause);
                match act {
                    Act::Attend => self.attend(),
                    Act::Leave | Act::StartAgain => self.leave(),
                    Act::Nothing | Act::Forget => {}
                }
                true
            }
        }
    }

    /// Enters a phase without asking: for undoing what the journal did not take.
    pub(crate) fn enter(&mut self, to: Phase, cause: Cause) {
        let from = self.state.phase;
        self.counts.moved(from, to);
        let state = &mut *self.state;
        state.phase = to;
        state.since = self.now.wall;
        if to == Phase::Running {
            self.clear("BackOff");
            self.clear("Waiting");
        }
        self.step(Some(from), Some(to), cause, LifecycleKind::PhaseChanged);
    }

    /// Notes a step in the history and reports it.
    pub(crate) fn step(&mut self, from: Option<Phase>, to: Option<Phase>, cause: Cause, kind: LifecycleKind) {
        let transition = Transition {
            at: self.now.wall,
            from,
            to,
            cause,
        };
        self.state
            .history
            .push(transition.clone(), self.shared.config.history);
        self.report(kind, transition);
    }

    /// Reports something that is no step from phase to phase.
    pub(crate) fn tell(&mut self, kind: LifecycleKind, cause: Cause) {
        let phase = Some(self.state.phase);
        let transition = Transition {
            at: self.now.wall,
            from: phase,
            to: phase,
            cause,
        };
        self.report(kind, transition);
    }

    fn report(&mut self, kind: LifecycleKind, transition: Transition) {
        self.changed = true;
        self.state.sequence += 1;
        self.rest.push(FollowUp::Publish(Box::new(LifecycleEvent {
            kind,
            guid: self.object.guid,
            name: self.object.name.clone(),
            object_kind: self.object.kind.clone(),
            generation: self.state.generation,
            transition,
            sequence: self.state.sequence,
        })));
    }

    /// It can be collected from and probed.
    fn attend(&mut self) {
        self.state.running_since = self.now.elapsed;
        self.collect();
        crate::health::begin(self);
    }

    fn leave(&mut self) {
        self.collect = false;
        self.push(FollowUp::StopCollecting(self.object.guid));
        self.stop_probing();
    }

    pub(crate) fn stop_probing(&mut self) {
        let guid = self.object.guid;
        if let Some(health) = self.state.health() {
            let probe = health.probe.take();
            health.state = HealthState::Starting;
            self.push(FollowUp::Unwake(guid, WakeReason::Probe));
            if let Some(op_id) = probe {
                self.push(FollowUp::Cancel(op_id));
            }
        }
    }

    // ----- conditions -----

    /// Sets a condition; whether that is news.
    pub(crate) fn condition(&mut self, kind: &str, reason: &str, message: impl Into<String>) -> bool {
        let message = message.into();
        let now = self.now.wall;
        let conditions = &mut self.state.extra().conditions;
        match conditions.iter_mut().find(|condition| condition.kind == kind) {
            Some(condition) if condition.reason == reason && condition.message == message => return false,
            Some(condition) => {
                condition.reason = reason.into();
                condition.message = message;
                condition.since = now;
            }
            None => conditions.push(Condition {
                kind: kind.into(),
                status: true,
                reason: reason.into(),
                message,
                since: now,
            }),
        }
        self.changed = true;
        true
    }

    pub(crate) fn clear(&mut self, kind: &str) {
        if let Some(extra) = &mut self.state.extra {
            let before = extra.conditions.len();
            extra.conditions.retain(|condition| condition.kind != kind);
            self.changed |= extra.conditions.len() != before;
        }
    }

    // ----- others -----

    /// Tells those that depend on this object what has changed for them.
    fn publish_facts(&mut self) {
        let state = &*self.state;
        let healthy = state
            .extra
            .as_ref()
            .and_then(|extra| extra.health.as_ref())
            .is_none_or(|health| health.state == HealthState::Healthy);
        let mut facts = 0;
        match state.phase {
            Phase::Running if healthy => facts |= Facts::READY,
            Phase::Succeeded => facts |= Facts::SUCCEEDED,
            Phase::Deleting => facts |= Facts::DELETING,
            _ => {}
        }
        if state.phase == Phase::Deleting && self.cascades() {
            facts |= Facts::CASCADE;
        }
        if self.object.publish(facts) || state.gone {
            let dependents = self.shared.graph.lock().dependents(&self.object.name);
            self.rest
                .extend(dependents.into_iter().map(|(_, guid)| FollowUp::Notify(guid)));
        }
    }

    /// Whether its delete, which is on disk, takes what depends on it along.
    fn cascades(&self) -> bool {
        self.state.busy.as_ref().is_some_and(|busy| {
            busy.queue.front().is_some_and(|intent| {
                intent.position == 0
                    && matches!(&intent.what, What::Delete(DeleteRequest { cascade: true, .. }))
            })
        })
    }

    pub(crate) fn wake(&mut self, reason: WakeReason, after: Duration) {
        self.push(FollowUp::Wake(Wake {
            guid: self.object.guid,
            reason,
            after,
        }));
    }

    // ----- what the substrate shows -----

    /// Takes a status unless it is older than what is known; whether it was taken.
    pub(crate) fn take_status(&mut self, status: &ObjectStatus) -> bool {
        if status.evidence.revision < self.state.evidence.revision {
            count(&self.shared.counters.stale_statuses);
            return false;
        }
        let state = &mut *self.state;
        state.evidence = status.evidence.clone();
        if state.details != status.details {
            state.details = status.details.clone();
            self.changed = true;
        }
        let news = state.extra.is_some()
            || !status.limits.is_empty()
            || !status.conditions.is_empty()
            || status.exit.is_some();
        if news {
            let extra = state.extra();
            if extra.limits != status.limits {
                extra.limits.clone_from(&status.limits);
                self.changed = true;
            }
            if !crate::observe::same_conditions(&extra.driver_conditions, &status.conditions) {
                extra.driver_conditions.clone_from(&status.conditions);
                self.changed = true;
            }
            if status.exit.is_some() && extra.exit != status.exit {
                extra.exit.clone_from(&status.exit);
                self.changed = true;
            }
        }
        true
    }
}

pub(crate) fn driver_name(object: &Object) -> agent_api_model::DriverName {
    agent_api_model::DriverName::new(object.kind.driver())
        .expect("the first part of a kind is a driver's name")
}
