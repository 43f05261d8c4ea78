//! What comes next for an object: beginning what was decided, one operation at a time, and handing it to the core.

use std::sync::Arc;
use std::time::Duration;

use agent_api_manager::{Action, FollowUp, Operation, WakeReason};
use agent_api_model::{
    Cause, ControlAction, Error, ErrorKind, Generation, LifecycleKind, ObjectSpec, OpId, Phase, PlanAction,
};
use agent_core_journal::Class;

use crate::lifecycle::Trigger;
use crate::line::{Line, Tag, Task, raw};
use crate::record::{Flight, Intent, What, parse};
use crate::shared::count;
use crate::turn::{Turn, driver_name};

/// How soon a record that the journal had no room for is tried again.
const JOURNAL_AGAIN: Duration = Duration::from_millis(500);

impl Turn<'_> {
    /// Begins what comes next, if nothing is under way and it can be begun.
    pub(crate) fn advance(&mut self) {
        while self.state.flight().is_none() && !self.state.gone {
            let Some(front) = self.state.busy.as_ref().and_then(|busy| busy.queue.front()) else {
                return crate::drift::look(self);
            };
            let begun = match &front.what {
                What::Start { first, .. } => {
                    let first = *first;
                    self.begin_start(first)
                }
                What::Restart { .. } => self.begin_restart(),
                What::Update { .. } => self.begin_update(),
                What::Control { .. } => self.begin_control(),
                What::Repair { .. } => self.begin_repair(),
                What::Delete(_) => self.begin_delete(),
                What::Commit => {
                    self.pop();
                    true
                }
            };
            if !begun {
                return;
            }
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Intent> {
        self.state.busy.as_mut()?.queue.pop_front()
    }

    fn front(&mut self) -> Option<&mut Intent> {
        self.state.busy.as_mut()?.queue.front_mut()
    }

    pub(crate) fn held(&self) -> bool {
        self.state.busy.as_ref().is_some_and(|busy| busy.held)
    }

    fn begin_start(&mut self, first: bool) -> bool {
        if !self.record_decision() || self.held() {
            return false;
        }
        let spec = self.spec();
        if first {
            let unmet = self.shared.unmet(&spec.depends_on);
            if let Some((name, _)) = unmet.first() {
                let name = name.clone();
                self.state.busy().waited = Some(name.clone());
                let sentences: Vec<_> = unmet.into_iter().map(|(_, why)| why).collect();
                if self.condition(
                    "Waiting",
                    "Dependency",
                    format!("waits for {}", sentences.join(", ")),
                ) {
                    self.tell(LifecycleKind::Updated, Cause::Dependency { name, met: None });
                }
                self.commit_front();
                return false;
            }
        }
        let Some(intent) = self.pop() else { return false };
        self.clear("Waiting");
        self.start(intent, spec);
        true
    }

    /// Makes it, or starts it again.
    fn start(&mut self, intent: Intent, spec: Arc<ObjectSpec>) {
        let met = self.met(&spec);
        let cause = met.unwrap_or_else(|| match (&intent.what, &intent.request) {
            (
                What::Start {
                    delay: Some(delay), ..
                },
                _,
            ) => Cause::Restart {
                attempt: self.state.row,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            },
            (what, Some(request_id)) => Cause::Request {
                verb: what.verb(),
                request_id: request_id.clone(),
            },
            (what, None) => Cause::Recovered {
                message: format!("{} goes on after a restart of the agent", what.verb()),
            },
        });
        let before = self.state.phase;
        self.go(Trigger::Start, cause);
        let generation = self.state.generation;
        // What an earlier start may have left must go first: nobody knows it by a handle.
        let action = if self.state.maybe_made && !intent.maybe_applied {
            Action::Replace
        } else {
            Action::Start
        };
        self.launch(intent, action, spec, generation, before);
    }

    /// The dependency that came true at last, where the object waited for one.
    fn met(&mut self, spec: &ObjectSpec) -> Option<Cause> {
        let name = self.state.busy().waited.take()?;
        let needed = spec.depends_on.iter().find(|needed| needed.name == name)?;
        Some(Cause::Dependency {
            met: Some(needed.condition),
            name,
        })
    }

    fn begin_restart(&mut self) -> bool {
        if !self.record_decision() || self.held() {
            return false;
        }
        let Some(intent) = self.pop() else { return false };
        let spec = self.spec();
        let before = self.state.phase;
        match before {
            Phase::Pending | Phase::Succeeded | Phase::Failed | Phase::Creating => self.start(intent, spec),
            Phase::Unknown if self.state.handle.is_none() => self.start(intent, spec),
            _ => {
                let cause = self.cause_of(&intent);
                self.go(Trigger::Change, cause);
                let grace = match &intent.what {
                    What::Restart { grace } => *grace,
                    _ => None,
                };
                let can = self
                    .shared
                    .capabilities(&self.object.kind)
                    .is_ok_and(|capabilities| capabilities.restart);
                let action = if can {
                    Action::Control(ControlAction::Restart { grace })
                } else {
                    Action::Replace
                };
                let generation = self.state.generation;
                self.launch(intent, action, spec, generation, before);
            }
        }
        true
    }

    fn begin_update(&mut self) -> bool {
        let Some(intent) = self.pop() else { return false };
        let What::Update {
            spec,
            generation,
            action,
        } = intent.what.clone()
        else {
            return true;
        };
        let spec = parse(&spec);
        let before = self.state.phase;
        if action == PlanAction::NoOp {
            self.launch(intent, Action::Update(action), spec, generation, before);
            return true;
        }
        match self.state.phase {
            Phase::Running | Phase::Paused | Phase::Updating | Phase::Unknown
                if self.state.handle.is_some() =>
            {
                let cause = self.cause_of(&intent);
                self.go(Trigger::Change, cause);
                self.launch(intent, Action::Update(action), spec, generation, before);
            }
            // It has a handle and is still being made: the driver is asked all the same.
            Phase::Creating if self.state.handle.is_some() => {
                self.launch(intent, Action::Update(action), spec, generation, before);
            }
            _ => {
                let spec = self.spec();
                self.start(intent, spec);
            }
        }
        true
    }

    fn begin_control(&mut self) -> bool {
        let Some(intent) = self.pop() else { return false };
        let What::Control { action, next } = intent.what.clone() else {
            return true;
        };
        let before = self.state.phase;
        let runs = matches!(
            before,
            Phase::Running | Phase::Paused | Phase::Creating | Phase::Updating
        );
        let (spec, generation) = match next {
            Some((spec, generation)) => (parse(&spec), generation),
            None => (self.spec(), self.state.generation),
        };
        if runs && self.state.handle.is_some() {
            self.launch(intent, Action::Control(action), spec, generation, before);
        } else if matches!(intent.what, What::Control { next: Some(_), .. }) {
            // It does not run: the new limits hold from its next start on.
            self.launch(intent, Action::Update(PlanAction::NoOp), spec, generation, before);
        } else {
            let error = Error::new(
                ErrorKind::Conflict,
                format!(
                    "it is {} by now, so {} is not possible",
                    self.state.phase,
                    action.verb()
                ),
            );
            // Whoever waits for the record gets their answer from the commit.
            self.shared.store.release(intent.position);
            self.operation_failed(&intent, &error);
            self.note_settled(&intent, Some(&error), None);
        }
        true
    }

    fn begin_delete(&mut self) -> bool {
        let waits: Vec<_> = self.shared.graph.lock().dependents(&self.object.name);
        if !waits.is_empty() {
            let names: Vec<_> = waits.iter().map(|(name, _)| name.as_str()).collect();
            self.condition(
                "Waiting",
                "Dependents",
                format!("waits until {} are gone", names.join(", ")),
            );
            self.commit_front();
            return false;
        }
        let Some(intent) = self.pop() else { return false };
        let What::Delete(request) = intent.what.clone() else {
            return true;
        };
        self.clear("Waiting");
        let spec = self.spec();
        let (generation, before) = (self.state.generation, self.state.phase);
        let action = match request.forget {
            true => Action::Update(PlanAction::NoOp),
            false => Action::Delete {
                grace: request.grace,
                orphan: request.orphan,
            },
        };
        self.launch(intent, action, spec, generation, before);
        true
    }

    /// Sees to it that what waits at the front is on disk, although nothing can be done about it yet.
    fn commit_front(&mut self) {
        let Some(front) = self.front() else { return };
        if front.position == 0 {
            return;
        }
        let mut intent = front.clone();
        intent.what = What::Commit;
        let spec = self.spec();
        let (generation, before) = (self.state.generation, self.state.phase);
        self.launch(intent, Action::Update(PlanAction::NoOp), spec, generation, before);
    }

    /// Writes the agent's own decision to start the object again or to repair it, before it is acted on. `false` where the journal
    /// has no room; then it is tried again.
    pub(crate) fn record_decision(&mut self) -> bool {
        let now = self.now.wall;
        let Some(front) = self.front() else { return false };
        if front.recorded {
            return true;
        }
        let mut line = Line::new(Tag::Observed, self.object.guid, now);
        let front = self.state.busy.as_ref().and_then(|busy| busy.queue.front());
        let Some(front) = front else { return false };
        line.o = Some(front.op_id);
        line.w = Some(match front.what {
            What::Restart { .. } => Task::Restart,
            What::Repair { .. } => Task::Repair,
            _ => Task::Start,
        });
        line.rs = Some((self.state.restarts, self.state.row));
        if self.state.phase == Phase::Pending {
            line.p = Some(Phase::Pending);
            line.x = self.state.exit().cloned();
            line.hg = self.state.handle.is_none();
        }
        match self.shared.store.append(&mut line, Class::Normal) {
            Ok(position) => {
                self.state.record = line.q;
                if let Some(front) = self.front() {
                    front.recorded = true;
                    front.position = position;
                }
                true
            }
            Err(error) => {
                self.condition("BackOff", "Journal", format!("not started again yet: {error}"));
                self.state.busy().held = true;
                self.wake(WakeReason::Retry, JOURNAL_AGAIN);
                false
            }
        }
    }

    pub(crate) fn cause_of(&self, intent: &Intent) -> Cause {
        match (&intent.request, &intent.what) {
            (Some(request_id), what) => Cause::Request {
                verb: what.verb(),
                request_id: request_id.clone(),
            },
            (None, What::Restart { .. }) if !intent.maybe_applied => Cause::Restart {
                attempt: self.state.row,
                delay_ms: 0,
            },
            (None, What::Repair { why, number }) if !intent.maybe_applied => Cause::Drift {
                message: why.clone(),
                repair: *number,
            },
            (None, what) => Cause::Recovered {
                message: format!("{} goes on after a restart of the agent", what.verb()),
            },
        }
    }

    /// Hands an operation to the core. `before` is the phase before it was begun.
    pub(crate) fn launch(
        &mut self,
        intent: Intent,
        action: Action,
        spec: Arc<ObjectSpec>,
        generation: Generation,
        before: Phase,
    ) {
        let operation = Operation {
            op_id: intent.op_id,
            guid: self.object.guid,
            name: self.object.name.clone(),
            driver: driver_name(self.object),
            lane: match action {
                _ if matches!(intent.what, What::Delete(_)) => agent_api_manager::Lane::Control,
                Action::Control(_) | Action::Replace => agent_api_manager::Lane::Control,
                _ => agent_api_manager::Lane::Ordinary,
            },
            deadline: self.deadline(&action),
            generation,
            spec,
            // Where a start is in doubt, the old handle does not lead to what it may have made: the driver looks for
            // the mark.
            handle: match action {
                Action::Delete { .. } | Action::Replace if self.state.maybe_made => None,
                _ => self.state.handle.clone(),
            },
            maybe_applied: intent.maybe_applied
                || (self.state.maybe_made && matches!(action, Action::Replace | Action::Delete { .. })),
            after: intent.position,
            action,
        };
        if matches!(operation.action, Action::Start | Action::Replace) {
            self.state.maybe_made = true;
        }
        let since = self.now.wall;
        let flight = Flight {
            operation: operation.clone(),
            intent,
            since,
            retries: 0,
            last_error: None,
            before,
            running: true,
        };
        self.state.busy().flight = Some(flight);
        self.changed = true;
        self.runs.push(FollowUp::Run(Box::new(operation)));
    }

    /// Tries the operation again, with the same `op_id`.
    pub(crate) fn launch_again(&mut self) {
        let Some(flight) = self.state.busy().flight.as_mut() else {
            return;
        };
        if flight.running {
            return;
        }
        flight.running = true;
        let operation = flight.operation.clone();
        count(&self.shared.counters.retries);
        self.changed = true;
        self.runs.push(FollowUp::Run(Box::new(operation)));
    }

    /// Hands a probe to the core. It takes no place in the queue.
    pub(crate) fn launch_probe(&mut self) {
        let (spec, handle) = (self.spec(), self.state.handle.clone());
        let generation = self.state.generation;
        let Some(health) = self.state.health() else { return };
        let op_id = OpId::generate();
        health.probe = Some(op_id);
        let check = health.check.clone();
        let operation = Operation {
            op_id,
            guid: self.object.guid,
            name: self.object.name.clone(),
            driver: driver_name(self.object),
            lane: agent_api_manager::Lane::Ordinary,
            deadline: check.timeout,
            action: Action::Probe(check),
            generation,
            spec,
            handle,
            maybe_applied: false,
            after: 0,
        };
        self.runs.push(FollowUp::Run(Box::new(operation)));
    }

    fn deadline(&self, action: &Action) -> Duration {
        let timeout = self
            .shared
            .capabilities(&self.object.kind)
            .map(|capabilities| capabilities.operation_timeout)
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(self.shared.config.operation_timeout);
        let grace = match action {
            Action::Delete { grace, .. } | Action::Control(ControlAction::Restart { grace }) => *grace,
            _ => None,
        };
        // A grace as long as it is asked for, and the usual time besides.
        timeout.saturating_add(grace.unwrap_or_default())
    }

    /// An operation has failed for good.
    pub(crate) fn operation_failed(&mut self, intent: &Intent, error: &Error) {
        count(&self.shared.counters.operations_failed);
        let verb = intent.what.verb();
        let message = error.to_string();
        self.condition(
            "OperationFailed",
            error.kind().as_str(),
            format!("{verb}: {message}"),
        );
        let cause = Cause::Error {
            verb,
            op_id: intent.op_id,
            message,
        };
        self.tell(LifecycleKind::OperationFailed, cause);
    }

    /// Notes the end of an operation in the journal. Lost, the operation is in doubt after a crash, and resumed.
    pub(crate) fn note_settled(
        &mut self,
        intent: &Intent,
        error: Option<&Error>,
        exit: Option<agent_api_model::ExitStatus>,
    ) {
        let mut line = self.settled(intent, error, exit);
        self.state.record = self.shared.store.note(&mut line, Class::Reserved);
    }

    /// As [`note_settled`](Self::note_settled), with the spec that the operation made. Not left to the next record: a
    /// call that changes what is wanted is better not repeated.
    pub(crate) fn note_kept(&mut self, intent: &Intent) {
        let text = self.state.spec.clone();
        let mut line = self.settled(intent, None, None);
        line.s = Some(raw(&text));
        line.n = self.state.generation;
        self.state.record = match self.shared.store.append(&mut line, Class::Reserved) {
            Ok(position) => {
                self.shared.store.release(position);
                position
            }
            Err(_) => self.shared.store.note(&mut line, Class::Reserved),
        };
    }

    fn settled(
        &self,
        intent: &Intent,
        error: Option<&Error>,
        exit: Option<agent_api_model::ExitStatus>,
    ) -> Line<'static> {
        let mut line = Line::new(Tag::Settled, self.object.guid, self.now.wall);
        line.o = Some(intent.op_id);
        line.p = Some(match self.state.phase {
            // Not worth remembering: the drivers are asked after a restart.
            Phase::Creating | Phase::Updating => Phase::Running,
            phase => phase,
        });
        line.u = self.state.maybe_made;
        line.b = self.state.observed_generation;
        line.h = self.state.handle.clone();
        line.x = exit;
        line.e = error.map(ToString::to_string);
        line
    }
}
