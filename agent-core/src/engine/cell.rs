//! One driver as the engine sees it: its cap, its calls in flight, its health.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_api::driver::{Capabilities, ObjectDriver};
use agent_api::manager::{Action, Lane, Operation};
use agent_api::model::{DriverName, DriverState, ObjectName, ShardId, Verb};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::door::Door;
use crate::guard::guarded_now;

/// Objects in one `observe` where the driver names no bound.
const CHUNK: usize = 4_096;
/// A call that takes longer than this, and than the grace it was given, is a problem worth telling.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a delete without a grace of its own is given before it counts as slow.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// One driver of the agent. Shared by all shards.
pub(crate) struct DriverCell {
    pub(crate) name: DriverName,
    pub(crate) driver: Arc<dyn ObjectDriver>,
    /// At most so many operations in flight.
    max: usize,
    /// So many of them are kept for the control lane.
    reserve: usize,
    /// At most so many objects in one `observe` or `recover`.
    pub(crate) chunk: usize,
    doors: Arc<[Arc<Door>]>,
    gate: Mutex<Gate>,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Gate {
    /// Calls in flight, the oldest first.
    calls: BTreeMap<u64, Call>,
    serial: u64,
    /// Shards that wait for room, by lane.
    waiting: [VecDeque<ShardId>; 2],
}

struct Call {
    name: ObjectName,
    verb: Verb,
    since: Instant,
    patience: Duration,
}

struct Health {
    state: DriverState,
    /// Why its events are not heard any more.
    deaf: Option<String>,
    /// Why the last `observe` failed.
    blind: Option<String>,
}

/// Room for one call. Given back by drop.
pub(crate) struct Permit {
    cell: Arc<DriverCell>,
    serial: u64,
}

/// How busy a driver is.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) in_flight: usize,
    pub(crate) oldest: Option<OldestCall>,
    /// Calls that take longer than they should: the oldest one, and how many.
    pub(crate) slow: Option<(OldestCall, usize)>,
}

/// A call in flight.
#[derive(Clone)]
pub(crate) struct OldestCall {
    pub(crate) name: ObjectName,
    pub(crate) verb: Verb,
    pub(crate) age: Duration,
}

impl DriverCell {
    /// A cell with the driver's own cap, or with `default_max` where it names none.
    pub(crate) fn new(driver: Arc<dyn ObjectDriver>, default_max: usize, doors: Arc<[Arc<Door>]>) -> Self {
        let info = driver.info();
        // Of several kinds the strictest counts; 0 says nothing.
        let least = |number: fn(&Capabilities) -> usize| {
            info.kinds
                .iter()
                .filter_map(|kind| driver.capabilities(kind))
                .map(number)
                .filter(|number| *number > 0)
                .min()
        };
        let max = least(|capabilities| capabilities.max_in_flight)
            .unwrap_or(default_max)
            .max(1);
        Self {
            chunk: least(|capabilities| capabilities.batch_size).unwrap_or(CHUNK),
            name: info.name.clone(),
            max,
            reserve: if max > 1 { (max / 4).max(1) } else { 0 },
            doors,
            gate: Mutex::default(),
            health: Mutex::new(Health {
                state: health_of(&*driver),
                deaf: None,
                blind: None,
            }),
            driver,
        }
    }

    /// Asks for room for an operation; where there is none, the shard gets mail when there is. The permit is held until
    /// the call has truly ended.
    pub(crate) fn enter(self: &Arc<Self>, operation: &Operation, shard: ShardId) -> Option<Permit> {
        let mut gate = self.gate.lock();
        if gate.calls.len() >= self.limit(operation.lane) {
            let waiting = &mut gate.waiting[lane_index(operation.lane)];
            if !waiting.contains(&shard) {
                waiting.push_back(shard);
            }
            return None;
        }
        let serial = gate.serial;
        gate.serial += 1;
        gate.calls.insert(
            serial,
            Call {
                name: operation.name.clone(),
                verb: operation.action.verb(),
                since: Instant::now(),
                patience: patience(&operation.action),
            },
        );
        Some(Permit {
            cell: Arc::clone(self),
            serial,
        })
    }

    /// A shard has taken what room it needed: wakes the next one where there is some left.
    pub(crate) fn pass_on(&self) {
        let next = self.next_waiting(&mut self.gate.lock());
        self.wake(next);
    }

    fn limit(&self, lane: Lane) -> usize {
        match lane {
            Lane::Control => self.max,
            Lane::Ordinary => self.max - self.reserve,
        }
    }

    fn next_waiting(&self, gate: &mut Gate) -> Option<ShardId> {
        [Lane::Control, Lane::Ordinary].into_iter().find_map(|lane| {
            (gate.calls.len() < self.limit(lane))
                .then(|| gate.waiting[lane_index(lane)].pop_front())
                .flatten()
        })
    }

    fn wake(&self, shard: Option<ShardId>) {
        if let Some(door) = shard.and_then(|shard| self.doors.get(usize::from(shard.0))) {
            door.mail.room(&self.name);
        }
    }

    /// How busy it is now.
    pub(crate) fn load(&self) -> Load {
        let now = Instant::now();
        let gate = self.gate.lock();
        let shown = |call: &Call| OldestCall {
            name: call.name.clone(),
            verb: call.verb,
            age: now.saturating_duration_since(call.since),
        };
        let slow: Vec<_> = gate
            .calls
            .values()
            .filter(|call| now.saturating_duration_since(call.since) > call.patience)
            .collect();
        Load {
            in_flight: gate.calls.len(),
            oldest: gate.calls.values().next().map(shown),
            slow: slow.first().map(|call| (shown(call), slow.len())),
        }
    }

    /// Takes what the driver says of itself; `true` where it came back from being unavailable.
    pub(crate) fn set_state(&self, state: DriverState) -> bool {
        let mut health = self.health.lock();
        let was_away = matches!(health.state, DriverState::Unavailable { .. });
        let is_away = matches!(state, DriverState::Unavailable { .. });
        if health.state != state {
            match &state {
                DriverState::Healthy => tracing::info!(driver = %self.name, "driver is healthy"),
                DriverState::Degraded { reason } | DriverState::Unavailable { reason } => {
                    tracing::warn!(driver = %self.name, reason, "driver is not well");
                }
            }
            health.state = state;
        }
        was_away && !is_away
    }

    /// Asks the driver how it is, without waiting; `true` where it came back.
    pub(crate) fn refresh_state(&self) -> bool {
        self.set_state(health_of(&*self.driver))
    }

    /// Its events are not heard any more.
    pub(crate) fn set_deaf(&self, reason: String) {
        tracing::warn!(driver = %self.name, reason, "events of this driver are no longer heard");
        self.health.lock().deaf = Some(reason);
    }

    /// Its last `observe` failed so, or did not.
    pub(crate) fn set_blind(&self, reason: Option<String>) {
        let mut health = self.health.lock();
        if let Some(reason) = reason.as_ref().filter(|_| health.blind != reason) {
            tracing::warn!(driver = %self.name, reason, "objects of this driver cannot be observed");
        }
        health.blind = reason;
    }

    /// How it is, with what the engine knows besides. Waits for nobody.
    pub(crate) fn state(&self) -> DriverState {
        let health = self.health.lock();
        match (&health.state, &health.blind, &health.deaf) {
            (DriverState::Healthy, Some(reason), _) | (DriverState::Healthy, None, Some(reason)) => {
                DriverState::Degraded {
                    reason: reason.clone(),
                }
            }
            (state, ..) => state.clone(),
        }
    }

    /// What is wrong with it, a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.state() {
            DriverState::Healthy => {}
            DriverState::Degraded { reason } => {
                problems.push(format!("driver {} works in part: {reason}", self.name));
            }
            DriverState::Unavailable { reason } => {
                problems.push(format!("driver {} does not work: {reason}", self.name));
            }
        }
        let load = self.load();
        if let Some((call, others)) = load.slow {
            let others = match others - 1 {
                0 => String::new(),
                n => format!(", and {n} more calls that are slow"),
            };
            problems.push(format!(
                "driver {}: oldest call {} s ({} of {}){others}",
                self.name,
                call.age.as_secs(),
                call.verb,
                call.name,
            ));
        }
        problems
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut gate = self.cell.gate.lock();
            gate.calls.remove(&self.serial);
            self.cell.next_waiting(&mut gate)
        };
        self.cell.wake(next);
    }
}

fn patience(action: &Action) -> Duration {
    PATIENCE
        + match action {
            Action::Delete { grace, .. } => grace.unwrap_or(DEFAULT_GRACE),
            Action::Replace => DEFAULT_GRACE,
            _ => Duration::ZERO,
        }
}

fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Control => 0,
        Lane::Ordinary => 1,
    }
}

fn health_of(driver: &dyn ObjectDriver) -> DriverState {
    guarded_now(|| driver.health()).unwrap_or_else(|_| DriverState::Degraded {
        reason: "it panicked when asked how it is".into(),
    })
}
