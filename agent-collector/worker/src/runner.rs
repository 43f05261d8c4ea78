//! The worker's task.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api_driver::{DriverSet, ObjectDriver};
use agent_api_model::{DriverName, Error, LeaseId, Result, Signal};
use agent_api_reporter::ReportSink;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::inbox::{Inbox, LeaseChange};
use crate::instruments::Instruments;
use crate::job::{Collected, Job, Purpose};
use crate::layer::Layer;
use crate::plan::{ClassKey, Object, Plan};
use crate::route::{Routed, route};
use crate::wheel::{Due, Wheel};

/// Less is never asked for: a line may be that long.
const LEAST_LOG_BYTES: usize = 64 << 10;
/// The first wait after the sink refused lines; it doubles.
const REFUSED_DELAY: Duration = Duration::from_millis(20);
/// The longest wait after the sink refused lines.
const REFUSED_DELAY_MAX: Duration = Duration::from_secs(1);
/// Below this much room in the sink, calls wait a little for it to be written out.
const LITTLE_ROOM: f64 = 0.35;
/// How long calls wait for room at most, and how often they look.
const PATIENCE: Duration = Duration::from_millis(500);
const PATIENCE_STEP: Duration = Duration::from_millis(10);

/// The calls of one driver.
struct Lane {
    driver: Arc<dyn ObjectDriver>,
    in_flight: usize,
    ready: VecDeque<Job>,
}

type Ended = (Job, Result<Collected>);

/// The worker's task.
pub(crate) struct Runner {
    config: WorkerConfig,
    sink: Arc<dyn ReportSink>,
    inbox: Arc<Inbox>,
    instruments: Arc<Instruments>,
    stop: CancellationToken,
    plan: Plan,
    wheel: Wheel,
    lanes: BTreeMap<DriverName, Lane>,
    jobs: JoinSet<Ended>,
    /// Leases that were ended and wait for last lines.
    ending: BTreeSet<LeaseId>,
    /// Whose a call is, should its task end without saying.
    running: HashMap<Id, (ClassKey, DriverName)>,
}

impl Runner {
    pub(crate) fn new(
        config: WorkerConfig,
        drivers: DriverSet,
        sink: Arc<dyn ReportSink>,
        inbox: Arc<Inbox>,
        instruments: Arc<Instruments>,
        stop: CancellationToken,
    ) -> Self {
        let lanes = drivers
            .iter()
            .map(|(name, driver)| {
                let lane = Lane {
                    driver: driver.clone(),
                    in_flight: 0,
                    ready: VecDeque::new(),
                };
                (name.clone(), lane)
            })
            .collect();
        Self {
            config,
            sink,
            inbox,
            instruments,
            stop,
            plan: Plan::new(drivers),
            wheel: Wheel::default(),
            lanes,
            jobs: JoinSet::new(),
            ending: BTreeSet::new(),
            running: HashMap::new(),
        }
    }

    /// Works until it is told to stop, then finishes the calls in flight. Dropping it drops them.
    pub(crate) async fn run(mut self) {
        loop {
            self.take_in();
            self.fire();
            self.end_those_without_last_lines();
            self.launch();
            let next = self.wheel.next();
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.inbox.changed() => {}
                Some(ended) = self.jobs.join_next_with_id(), if !self.jobs.is_empty() => self.ended(ended),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        for lane in self.lanes.values_mut() {
            lane.ready.clear();
        }
        while let Some(ended) = self.jobs.join_next_with_id().await {
            self.ended(ended);
        }
    }

    /// Takes in what changed.
    fn take_in(&mut self) {
        let changes = self.inbox.take();
        if changes.objects.is_empty() && changes.leases.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut touched = BTreeSet::new();
        for (guid, change) in changes.objects {
            if let Some((view, handle)) = change.latest {
                touched.extend(self.plan.add(Object { view, handle }));
            }
            if change.removed {
                touched.extend(self.plan.remove(guid, now + self.config.last_lines));
            }
        }
        self.instruments
            .objects
            .store(self.plan.objects.len(), Ordering::Relaxed);
        let mut begun = Vec::new();
        for (id, change) in changes.leases {
            match change {
                LeaseChange::Start(lease, ends) => begun.extend(self.start(*lease, ends)),
                LeaseChange::Retune(interval) => {
                    if let Some(held) = self.plan.leases.get(&id) {
                        let (mut lease, ends) = ((*held.lease).clone(), held.ends);
                        lease.interval = interval;
                        self.start(lease, ends);
                    }
                }
                LeaseChange::Stop => self.end_lease(id),
            }
        }
        for (class, id) in begun {
            self.plan.build(class, self.config.log_bytes);
            if let Some(class) = self.plan.classes.get_mut(&class) {
                for group in class.groups.values_mut() {
                    group.fresh_leases.insert(id);
                }
            }
            touched.insert(class);
        }
        for class in touched {
            self.plan.build(class, self.config.log_bytes);
            for driver in self.drivers_of(class) {
                self.advance(class, &driver);
            }
        }
    }

    /// Begins with a lease or renews it; says where it is new.
    fn start(&mut self, lease: agent_api_model::Lease, ends: Option<Instant>) -> Option<(ClassKey, LeaseId)> {
        let id = lease.id;
        self.ending.remove(&id);
        let before = self.plan.leases.get(&id).map(|held| (held.class, held.ends));
        if let Some((_, Some(at))) = before {
            self.wheel.remove(at, Due::LeaseEnds(id));
        }
        let (class, begins) = self.plan.start(lease, ends, Instant::now());
        if let Some(at) = ends {
            self.wheel.add(at, Due::LeaseEnds(id));
        }
        if let Some(next) = self.plan.classes.get(&class).map(|class| class.next) {
            self.wheel.add(next, Due::Tick(class));
        }
        if let Some((before, _)) = before
            && before != class
        {
            self.let_go(before);
        }
        begins.then_some((class, id))
    }

    /// Ends a lease; where last lines are still to be collected for it, after them.
    fn end_lease(&mut self, id: LeaseId) {
        if self.plan.end_after_last_lines(id) {
            self.ending.insert(id);
            return;
        }
        self.ending.remove(&id);
        if let Some(held) = self.plan.stop(id) {
            if let Some(at) = held.ends {
                self.wheel.remove(at, Due::LeaseEnds(id));
            }
            self.let_go(held.class);
        }
        self.sink.end(id);
    }

    fn end_those_without_last_lines(&mut self) {
        let done: Vec<_> = self
            .ending
            .iter()
            .copied()
            .filter(|id| !self.plan.has_last_lines(*id))
            .collect();
        for id in done {
            self.end_lease(id);
        }
    }

    fn let_go(&mut self, class: ClassKey) {
        if let Some(next) = self.plan.let_go(class) {
            self.wheel.remove(next, Due::Tick(class));
        }
    }

    fn drivers_of(&self, class: ClassKey) -> Vec<DriverName> {
        self.plan
            .classes
            .get(&class)
            .map(|class| class.groups.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Does what is due.
    fn fire(&mut self) {
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
    fn advance(&mut self, key: ClassKey, driver: &DriverName) {
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
    fn launch(&mut self) {
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

    /// A call has ended.
    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((key, driver)) = self.running.remove(&id) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&driver) {
            lane.in_flight -= 1;
        }
        match ended {
            Ok((_, (job, Ok(collected)))) => self.collected(&job, collected),
            Ok((_, (job, Err(error)))) => self.failed(&job, &error),
            Err(error) => {
                self.instruments.skipped();
                tracing::error!(%driver, %error, "a collection ended by itself");
            }
        }
        let Some(group) = self.plan.group(key, &driver) else {
            return;
        };
        group.outstanding -= 1;
        if group.outstanding == 0 {
            group.in_tick = false;
            self.advance(key, &driver);
            self.let_go(key);
        }
    }

    fn collected(&mut self, job: &Job, collected: Collected) {
        self.instruments.collected();
        let routed = route(job, collected, &mut self.plan.leases, &*self.sink);
        if let Some(group) = self.plan.group(job.class, &job.driver) {
            group.failing = false;
        }
        if !job.has_logs() {
            return;
        }
        if job.purpose == Purpose::LastLines {
            self.forget_last_lines(job, |lease, guid| routed.had_lines.contains(&(lease, guid)));
        }
        self.pace_logs(job, &routed);
    }

    /// How much is read next, and when.
    fn pace_logs(&mut self, job: &Job, routed: &Routed) {
        let most = self.config.log_bytes;
        let Some(class) = self.plan.classes.get_mut(&job.class) else {
            return;
        };
        let next = class.next;
        let Some(group) = class.groups.get_mut(&job.driver) else {
            return;
        };
        let now = Instant::now();
        let at = if routed.refused {
            group.log_bytes = (group.log_bytes / 2).max(LEAST_LOG_BYTES.min(most));
            group.again_delay = (group.again_delay * 2).clamp(REFUSED_DELAY, REFUSED_DELAY_MAX);
            now + group.again_delay
        } else {
            group.again_delay = Duration::ZERO;
            if routed.log_bytes * 2 >= job.log_bytes {
                // There is more than one call brings.
                group.log_bytes = (group.log_bytes * 2).min(most);
                now
            } else if group.last_lines.is_empty() {
                return;
            } else {
                now + REFUSED_DELAY
            }
        };
        if at >= next && group.last_lines.is_empty() {
            return;
        }
        if let Some(known) = group.again {
            if known <= at {
                return;
            }
            self.wheel
                .remove(known, Due::Again(job.class, job.driver.clone()));
        }
        group.again = Some(at);
        self.wheel.add(at, Due::Again(job.class, job.driver.clone()));
    }

    fn failed(&mut self, job: &Job, error: &Error) {
        self.instruments.skipped();
        if job.purpose == Purpose::LastLines {
            self.forget_last_lines(job, |_, _| false);
        }
        if let Some(group) = self.plan.group(job.class, &job.driver)
            && !std::mem::replace(&mut group.failing, true)
        {
            tracing::warn!(driver = %job.driver, interval = ?job.class.interval, %error, "cannot collect");
        }
    }

    /// Forgets the last lines that a call was for, but for those it says to keep.
    fn forget_last_lines(&mut self, job: &Job, keep: impl Fn(LeaseId, agent_api_model::Guid) -> bool) {
        for member in &job.layer.members[job.chunk.clone()] {
            for lease in job.layer.leases(member) {
                if keep(*lease, member.guid) {
                    continue;
                }
                if let Some(group) = self.plan.group(job.class, &job.driver) {
                    group
                        .last_lines
                        .retain(|last| last.lease != *lease || last.object.view.guid != member.guid);
                }
                // Where it came back meanwhile, its cursor goes on.
                if !self.plan.objects.contains_key(&member.guid)
                    && let Some(held) = self.plan.leases.get_mut(lease)
                {
                    held.cursors.remove(&member.guid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_api_model::{Lease, Selector, TelemetryBatch};

    use super::*;

    struct Sink;

    impl ReportSink for Sink {
        fn offer(&self, _: &Lease, _: TelemetryBatch) -> bool {
            true
        }

        fn room(&self) -> f64 {
            1.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lease_nothing_is_on_the_wheel() {
        let inbox = Arc::new(Inbox::default());
        let mut runner = Runner::new(
            WorkerConfig::default(),
            DriverSet::default(),
            Arc::new(Sink),
            inbox.clone(),
            Arc::new(Instruments::new()),
            CancellationToken::new(),
        );
        let lease = |ttl: Option<u64>| Lease {
            id: LeaseId::generate(),
            guid: None,
            selector: Selector::everything(),
            signals: vec![Signal::Logs],
            interval: Duration::from_secs(1),
            topic: String::new(),
            json: false,
            expires: None,
            ttl: ttl.map(Duration::from_secs),
        };
        let (stopped, retuned) = (lease(None), lease(Some(100)));
        inbox.start(stopped.clone(), 10).unwrap();
        inbox.start(retuned.clone(), 10).unwrap();
        inbox.start(lease(Some(2)), 10).unwrap();
        runner.take_in();
        assert_eq!((runner.plan.leases.len(), runner.plan.classes.len()), (3, 1));
        // Renewing and retuning leave no stale entries behind.
        inbox.start(retuned.clone(), 10).unwrap();
        runner.take_in();
        assert!(inbox.retune(retuned.id, Duration::from_secs(5)));
        runner.take_in();
        assert_eq!(runner.plan.classes.len(), 2);
        assert!(inbox.stop(stopped.id) && inbox.stop(retuned.id));
        runner.take_in();
        tokio::time::advance(Duration::from_secs(3)).await;
        runner.fire();
        assert!(runner.plan.leases.is_empty() && runner.plan.classes.is_empty());
        assert_eq!(runner.wheel.next(), None);
    }
}
