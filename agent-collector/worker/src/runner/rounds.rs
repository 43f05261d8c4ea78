//! Rounds: when one begins, and its calls.

use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{DriverName, Signal};
use tokio::time::Instant;

use super::{LEAST_LOG_BYTES, Runner};
use crate::job::{Job, Purpose};
use crate::layer::Layer;
use crate::plan::ClassKey;
use crate::wheel::Due;

/// Below this much room in the sink, calls wait a little for it to be written out.
const LITTLE_ROOM: f64 = 0.35;
/// How long calls wait for room at most, and how often they look.
const PATIENCE: Duration = Duration::from_millis(500);
const PATIENCE_STEP: Duration = Duration::from_millis(10);

impl Runner {
    pub(super) fn drivers_of(&self, class: ClassKey) -> Vec<DriverName> {
        self.plan
            .classes
            .get(&class)
            .map(|class| class.groups.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Does what is due.
    pub(super) fn fire(&mut self) {
        let now = Instant::now();
        while let Some((at, due)) = self.wheel.pop(now) {
            match due {
                Due::LeaseEnds(id) => {
                    if self.inbox.ended(id) {
                        self.end_lease(id);
                    }
                }
                Due::Tick(class) => self.tick(class, at, now),
                Due::Again(class, driver) => {
                    if let Some(group) = self.plan.group(class, &driver)
                        && group.again == Some(at)
                    {
                        group.again = None;
                        if group.outstanding == 0 {
                            self.again(class, &driver);
                        }
                    }
                }
                Due::Launch => {}
            }
        }
    }

    fn tick(&mut self, key: ClassKey, at: Instant, now: Instant) {
        let Some(class) = self.plan.classes.get_mut(&key) else {
            return;
        };
        if class.next != at {
            return;
        }
        // Intervals that were missed are skipped, and the rhythm is kept.
        let missed = (now - at).as_nanos() / key.interval.as_nanos().max(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        class.next = at + key.interval.saturating_mul(missed.saturating_add(1));
        self.wheel.add(class.next, Due::Tick(key));
        if class.leases.is_empty() {
            return;
        }
        self.plan.build(key, self.config.log_bytes);
        for driver in self.drivers_of(key) {
            let Some(group) = self.plan.group(key, &driver) else {
                continue;
            };
            if group.outstanding > 0 && (group.in_tick || group.tick_waits) {
                self.instruments.skipped();
                if !std::mem::replace(&mut group.failing, true) {
                    tracing::warn!(%driver, interval = ?key.interval, "the collection before has not ended; skipped");
                }
                continue;
            }
            group.tick_waits = true;
            self.advance(key, &driver);
        }
    }

    /// Begins the next round of a class on a driver, where there is something to do and none under way.
    pub(super) fn advance(&mut self, key: ClassKey, driver: &DriverName) {
        if self.stop.is_cancelled() {
            return;
        }
        let Some(group) = self.plan.group(key, driver) else {
            return;
        };
        if group.outstanding > 0 {
            return;
        }
        if std::mem::take(&mut group.tick_waits) {
            group.fresh_leases.clear();
            group.fresh_objects.clear();
            let layers = group.layers.clone();
            return self.begin(key, driver, vec![(Purpose::Tick, layers)]);
        }
        if !group.fresh_leases.is_empty() || !group.fresh_objects.is_empty() {
            let layers = self.plan.fresh_layers(key, driver);
            if !layers.is_empty() {
                return self.begin(key, driver, vec![(Purpose::Fresh, layers)]);
            }
        }
        let Some(group) = self.plan.group(key, driver) else {
            return;
        };
        if !group.last_lines.is_empty() && group.again.is_none() {
            let layers = self.plan.last_layers(key, driver, Instant::now());
            self.begin(key, driver, vec![(Purpose::LastLines, layers)]);
        }
    }

    /// Looks at the logs once more before the next tick.
    fn again(&mut self, key: ClassKey, driver: &DriverName) {
        let last = self.plan.last_layers(key, driver, Instant::now());
        if let Some(group) = self.plan.group(key, driver) {
            let layers = group.layers.clone();
            self.begin(
                key,
                driver,
                vec![(Purpose::Again, layers), (Purpose::LastLines, last)],
            );
        }
    }

    /// Begins a round: a call for each chunk of each layer, ready to be launched.
    fn begin(&mut self, key: ClassKey, driver: &DriverName, layers: Vec<(Purpose, Vec<Arc<Layer>>)>) {
        let Some(lane) = self.lanes.get_mut(driver) else {
            return;
        };
        let Some(group) = self.plan.group(key, driver) else {
            return;
        };
        group.in_tick = layers.iter().any(|(purpose, _)| *purpose == Purpose::Tick);
        group.rounds = group.rounds.wrapping_add(1);
        let all: Arc<[Signal]> = key.signals().into();
        let only_logs: Arc<[Signal]> = [Signal::Logs].into();
        for (purpose, layers) in layers {
            let signals = match purpose {
                Purpose::Tick | Purpose::Fresh => &all,
                Purpose::Again | Purpose::LastLines => &only_logs,
            };
            for layer in layers {
                let step = match layer.batch {
                    0 => self.config.batch_objects,
                    batch => batch.min(self.config.batch_objects),
                }
                .max(1);
                for start in (0..layer.members.len()).step_by(step) {
                    group.outstanding += 1;
                    lane.ready.push_back(Job {
                        class: key,
                        driver: driver.clone(),
                        purpose,
                        chunk: start..layer.members.len().min(start + step),
                        layer: layer.clone(),
                        signals: signals.clone(),
                        first: if key.has_logs() { group.rounds } else { 0 },
                        log_bytes: 0,
                        deadline: key
                            .interval
                            .clamp(self.config.timeout_min, self.config.timeout_max),
                        patience: Instant::now() + PATIENCE.min(key.interval / 2),
                    });
                }
            }
        }
    }

    /// Makes the calls that are ready, as many as each driver may have in flight.
    pub(super) fn launch(&mut self) {
        let now = Instant::now();
        for lane in self.lanes.values_mut() {
            while lane.in_flight < self.config.max_in_flight {
                let Some(job) = lane.ready.front() else { break };
                let room = self.sink.room();
                if room < LITTLE_ROOM && now < job.patience {
                    self.wheel
                        .add((now + PATIENCE_STEP).min(job.patience), Due::Launch);
                    break;
                }
                let Some(mut job) = lane.ready.pop_front() else {
                    break;
                };
                let mut cursors = Vec::new();
                if job.has_logs() {
                    let wanted = self
                        .plan
                        .group(job.class, &job.driver)
                        .map_or(0, |group| group.log_bytes);
                    let fits = (self.config.log_bytes as f64 * room) as usize;
                    job.log_bytes = wanted.min(fits).max(LEAST_LOG_BYTES.min(self.config.log_bytes));
                    let members = &job.layer.members[job.chunk.clone()];
                    cursors.extend(members.iter().map(|member| {
                        let lease = job.layer.leases(member).first()?;
                        self.plan.leases.get(lease)?.cursors.get(&member.guid).cloned()
                    }));
                }
                lane.in_flight += 1;
                let whose = (job.class, job.driver.clone());
                let driver = lane.driver.clone();
                let task = self.jobs.spawn(async move {
                    let outcome = job.run(driver, cursors).await;
                    (job, outcome)
                });
                self.running.insert(task.id(), whose);
            }
        }
    }
}
