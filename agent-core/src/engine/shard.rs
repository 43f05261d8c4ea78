//! A shard: the single writer of a part of the objects.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api::driver::{Observed, Recovered};
use agent_api::manager::{FollowUp, Outcome, Partition, WakeReason};
use agent_api::model::{Error, ErrorKind, Guid, ShardId, Timestamp, Verb};
use tokio::time::Instant;

use super::audit::{Audited, Audits};
use super::door::{Door, Inbox, Sighting, Submission, leaving, millis};
use super::follow::OwnMonitors;
use super::operations::{Ended, Operations, Returned};
use super::wheel::Wheel;
use crate::counters::count;
use crate::guard::Failure;
use crate::shared::Shared;

/// How much of each queue is taken in one turn, so that none holds the others up.
const BATCH: usize = 64;
const SIGHTINGS: usize = 256;
/// How often a shard turns at least: for the watchdog, and for calls past their deadline.
const PULSE: Duration = Duration::from_secs(1);
/// How long the shard's aborted calls may take to end.
const ABORT: Duration = Duration::from_millis(200);

/// What is in a shard's timer wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timer {
    Wake(Guid, WakeReason),
    Heartbeat,
    Pulse,
}

/// One shard: one task, one partition.
pub(crate) struct Shard {
    pub(super) id: ShardId,
    pub(super) shared: Arc<Shared>,
    door: Arc<Door>,
    pub(super) partition: Box<dyn Partition>,
    inbox: Inbox,
    pub(super) operations: Operations,
    audits: Audits,
    pub(super) wheel: Wheel<Timer>,
    /// Follow-ups that are still to be performed.
    pub(super) follow_ups: VecDeque<FollowUp>,
    pub(super) monitors: OwnMonitors,
    /// What audits found, taken a bounded number per turn.
    seen: VecDeque<Observed>,
    recovered: VecDeque<Recovered>,
    fired: Vec<Timer>,
    stopping: bool,
}

/// How a shard ended.
#[derive(Debug, Default)]
pub(crate) struct ShardEnd {
    /// Calls that were aborted, a sentence each.
    pub(crate) aborted: Vec<String>,
    /// Operations that were accepted and not begun.
    pub(crate) not_begun: usize,
    /// Calls that could not be ended: they block their thread.
    pub(crate) left_behind: bool,
}

impl Shard {
    pub(crate) fn new(id: ShardId, shared: Arc<Shared>, partition: Box<dyn Partition>, inbox: Inbox) -> Self {
        Self {
            operations: Operations::new(id, Arc::clone(&shared.manager), shared.drivers.clone()),
            door: Arc::clone(&shared.doors[usize::from(id.0)]),
            id,
            shared,
            partition,
            inbox,
            audits: Audits::default(),
            wheel: Wheel::new(),
            follow_ups: VecDeque::new(),
            monitors: OwnMonitors::default(),
            seen: VecDeque::new(),
            recovered: VecDeque::new(),
            fired: Vec::new(),
            stopping: false,
        }
    }

    /// Turns until the agent stops. In each turn: control verbs and deletes, calls that returned, what drivers saw,
    /// ordinary requests, timers; a bounded number of each.
    pub(crate) async fn run(mut self) -> ShardEnd {
        let recovered = self.partition.recovered(self.shared.clock.now());
        self.perform(recovered);
        self.set_timer(Timer::Pulse, PULSE);
        self.set_timer(Timer::Heartbeat, self.shared.heartbeat());
        let shared = Arc::clone(&self.shared);
        let door = Arc::clone(&self.door);
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            self.turn();
            if self.stopping && self.operations.in_flight() == 0 {
                break;
            }
            let due = self
                .wheel
                .next()
                .map_or_else(|| Instant::now() + PULSE, |at| shared.clock.at(at));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                () = shared.stages.shards_now.cancelled() => break,
                () = shared.stages.shards.cancelled(), if !self.stopping => self.stop(),
                Some(submission) = self.inbox.control.recv() => self.admit(submission),
                returned = self.operations.next() => self.returned(returned),
                () = door.mail.arrived.notified() => {}
                Some(sighting) = self.inbox.sightings.recv() => self.sighted(sighting),
                Some(audited) = self.audits.next() => self.audited(audited),
                Some(submission) = self.inbox.ordinary.recv() => self.admit(submission),
                () = timer.as_mut() => {}
                () = tokio::task::yield_now(), if self.has_more() => {}
            }
        }
        self.end().await
    }

    /// Takes what is there, without waiting.
    fn turn(&mut self) {
        for _ in 0..BATCH {
            let Ok(submission) = self.inbox.control.try_recv() else {
                break;
            };
            self.admit(submission);
        }
        for _ in 0..BATCH {
            let Some(returned) = self.operations.try_next() else {
                break;
            };
            self.returned(returned);
        }
        self.take_mail();
        for _ in 0..SIGHTINGS {
            let Ok(sighting) = self.inbox.sightings.try_recv() else {
                break;
            };
            self.sighted(sighting);
        }
        self.take_audited();
        for _ in 0..BATCH {
            // Whoever asks for control meanwhile goes first.
            if let Ok(submission) = self.inbox.control.try_recv() {
                self.admit(submission);
            }
            let Ok(submission) = self.inbox.ordinary.try_recv() else {
                break;
            };
            self.admit(submission);
        }
        self.fire();
        let operations = self.operations.len();
        self.door.operations.store(operations, Ordering::Release);
        if operations == 0 && self.shared.is_draining() {
            self.shared.idle.notify_waiters();
        }
        self.door.turn(self.shared.clock.elapsed());
    }

    fn has_more(&self) -> bool {
        !self.seen.is_empty() || !self.recovered.is_empty()
    }

    fn admit(&mut self, submission: Submission) {
        let Submission { command, reply } = submission;
        if reply.is_closed() {
            // The caller has left: nothing was taken in, and a repeat will find that out.
            return;
        }
        let now = self.shared.clock.now();
        let refusal = if self.stopping {
            Some(leaving())
        } else {
            expired(command.meta.deadline, now.wall)
        };
        if let Some(error) = refusal {
            // The caller may leave at any moment; then nobody wants the answer.
            let _ = reply.send(Err(error));
            return;
        }
        match self.partition.admit(command, now) {
            Ok(admission) => {
                let _ = reply.send(Ok((admission.accepted, admission.commit)));
                self.perform(admission.follow_ups);
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn returned(&mut self, returned: Returned) {
        if let Some(ended) = self.operations.ended(returned) {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Ended) {
        let counters = &self.shared.counters;
        let outcome = match (&ended.failure, &ended.outcome.result) {
            (Some(Failure::TimedOut(_)), _) => {
                count(&counters.operations_timed_out);
                "timeout"
            }
            (Some(Failure::Panicked(_)), _) => {
                count(&counters.operations_panicked);
                "panic"
            }
            (None, Err(_)) => {
                count(&counters.operations_failed);
                "error"
            }
            (None, Ok(_)) => {
                count(&counters.operations_done);
                "ok"
            }
        };
        let operation = &ended.outcome.operation;
        let verb = operation.action.verb();
        self.shared
            .metrics
            .operation(operation.driver.as_str(), verb, outcome, ended.took);
        if let Err(error) = &ended.outcome.result
            && verb != Verb::Health
        {
            tracing::warn!(
                object = %operation.name, driver = %operation.driver, op_id = %operation.op_id, %verb, %error,
                "operation failed"
            );
        }
        self.settle(ended.outcome);
    }

    fn settle(&mut self, outcome: Outcome) {
        let follow_ups = self.partition.settle(outcome, self.shared.clock.now());
        self.perform(follow_ups);
    }

    fn take_mail(&mut self) {
        let Some(notes) = self.door.mail.take() else {
            return;
        };
        if notes.heartbeat {
            self.set_timer(Timer::Heartbeat, self.shared.heartbeat());
        }
        for driver in notes.room {
            self.operations.room(&driver);
        }
        for guid in notes.dependencies {
            let follow_ups = self.partition.dependency_changed(guid, self.shared.clock.now());
            self.perform(follow_ups);
        }
    }

    fn sighted(&mut self, sighting: Sighting) {
        match sighting {
            Sighting::Seen(observed) => self.observe(observed),
            Sighting::Recheck(guid) => self.audits.one(&self.shared, &*self.partition, guid),
            Sighting::RecheckAll(driver) => self.audits.all(&self.shared, &*self.partition, &driver),
        }
    }

    fn observe(&mut self, observed: Observed) {
        let follow_ups = self.partition.observe(observed, self.shared.clock.now());
        self.perform(follow_ups);
    }

    fn audited(&mut self, audited: Audited) {
        self.seen.extend(audited.seen);
        self.recovered.extend(audited.recovered);
        self.audits.ended(&self.shared, &*self.partition, &audited.driver);
    }

    fn take_audited(&mut self) {
        for _ in 0..SIGHTINGS {
            let Some(observed) = self.seen.pop_front() else {
                break;
            };
            count(&self.shared.counters.heartbeat_corrected);
            self.observe(observed);
        }
        let some = self.recovered.len().min(SIGHTINGS);
        if some > 0 {
            let answers = self.recovered.drain(..some).collect();
            let follow_ups = self.partition.recovered_late(answers, self.shared.clock.now());
            self.perform(follow_ups);
        }
    }

    fn set_timer(&mut self, timer: Timer, after: Duration) {
        let due = self.shared.clock.elapsed() + after;
        // Rounded up: never before its time.
        self.wheel.insert(timer, millis(due) + 1);
    }

    pub(super) fn wake_later(&mut self, guid: Guid, reason: WakeReason, after: Duration) {
        self.set_timer(Timer::Wake(guid, reason), after);
    }

    fn fire(&mut self) {
        let now = millis(self.shared.clock.elapsed());
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(now, SIGHTINGS, &mut fired);
        for timer in fired.drain(..) {
            match timer {
                Timer::Wake(guid, reason) => self.wake(guid, reason),
                Timer::Pulse => {
                    for ended in self.operations.overdue() {
                        self.ended(ended);
                    }
                    self.set_timer(Timer::Pulse, PULSE);
                }
                Timer::Heartbeat => {
                    if !self.stopping {
                        self.audits.walk(&self.shared, &*self.partition);
                    }
                    self.set_timer(Timer::Heartbeat, self.shared.heartbeat());
                }
            }
        }
        self.fired = fired;
    }

    pub(super) fn wake(&mut self, guid: Guid, reason: WakeReason) {
        let follow_ups = self.partition.wake(guid, reason, self.shared.clock.now());
        self.perform(follow_ups);
    }

    /// Begins no more operations; refuses what still comes.
    fn stop(&mut self) {
        self.stopping = true;
        self.operations.stop();
        self.inbox.control.close();
        self.inbox.ordinary.close();
    }

    async fn end(mut self) -> ShardEnd {
        self.stop();
        // Refuses what is left in the inbox.
        while let Ok(submission) = self.inbox.control.try_recv() {
            self.admit(submission);
        }
        while let Ok(submission) = self.inbox.ordinary.try_recv() {
            self.admit(submission);
        }
        let end = ShardEnd {
            aborted: self.operations.describe(),
            not_begun: self.operations.waiting(),
            left_behind: false,
        };
        let until = Instant::now() + ABORT;
        let calls = self.operations.abort(until).await;
        let audits = self.audits.abort(until).await;
        ShardEnd {
            left_behind: !(calls && audits),
            ..end
        }
    }
}

impl Drop for Shard {
    /// Also where it panicked: then the agent is not alive any more, and its watchdog sees that.
    fn drop(&mut self) {
        self.door.operations.store(0, Ordering::Release);
        self.door.end();
    }
}

/// The refusal of a request that is past its deadline.
pub(crate) fn expired(deadline: Option<Timestamp>, now: Timestamp) -> Option<Error> {
    let deadline = deadline.filter(|deadline| *deadline < now)?;
    Some(
        Error::new(
            ErrorKind::Expired,
            format!("the request's deadline {deadline} has passed; nothing was done"),
        )
        .with_operation("submit"),
    )
}
