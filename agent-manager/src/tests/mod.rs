//! The manager in a plain loop: a fake driver, a journal that writes when somebody waits for it, a clock that is moved
//! by hand.

mod admission;
mod drift;
mod durability;
mod fake;
mod faulty_disk;
mod forget;
mod health;
mod many;
mod order;
mod recovery;
mod restarts;
mod saga;
mod settling;
mod wanted;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{DriverSet, Observed};
use agent_api_manager::{
    Admission, Command, CommandBody, FollowUp, ManagerApi, Now, Operation, Outcome, Partition,
    RecoveryReport, Wake, WakeReason,
};
use agent_api_model::{
    Accepted, AgentId, Change, ControlAction, DeleteRequest, Error, ErrorKind, Guid, Kind, LifecycleEvent,
    ObjectName, ObjectSpec, ObjectView, PlanAction, RequestId, RequestMeta, Result, ShardId, Target,
    Timestamp,
};
use agent_core_journal::{CommitMode, RealVfs, Vfs};
use futures_util::FutureExt;
use serde_json::json;

use crate::{Manager, ManagerConfig};
use fake::Fake;

/// What the core does, without the core.
struct World {
    dir: Arc<tempfile::TempDir>,
    vfs: Arc<dyn Vfs>,
    fakes: Vec<Arc<Fake>>,
    shards: u16,
    tune: fn(&mut ManagerConfig),
    manager: Arc<Manager>,
    parts: Vec<Box<dyn Partition>>,
    report: RecoveryReport,
    elapsed: Duration,
    runs: VecDeque<Operation>,
    /// Operations that the driver has and does not answer.
    hanging: Vec<Operation>,
    wakes: BTreeMap<(Guid, u8), (Duration, Wake)>,
    events: Vec<LifecycleEvent>,
    /// Names of the other follow-ups, with the object's name.
    others: Vec<String>,
    cancelled: usize,
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn spec(text: &str) -> ObjectSpec {
    ObjectSpec::new(Kind::new("fake").unwrap(), name(text))
}

fn spec_with(text: &str, fields: serde_json::Value) -> ObjectSpec {
    let spec = spec(text);
    crate::apply_change(&spec, &Change::Merge(fields)).unwrap()
}

fn meta(key: &str) -> RequestMeta {
    RequestMeta {
        id: RequestId::new(key).unwrap(),
        ..RequestMeta::local("test")
    }
}

impl World {
    fn new() -> Self {
        Self::with(1, Arc::new(RealVfs::new()), |_| {})
    }

    fn with(shards: u16, vfs: Arc<dyn Vfs>, tune: fn(&mut ManagerConfig)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let fakes = vec![Fake::new("fake"), Fake::new("other")];
        Self::open(dir, vfs, fakes, shards, tune)
    }

    fn open(
        dir: Arc<tempfile::TempDir>,
        vfs: Arc<dyn Vfs>,
        fakes: Vec<Arc<Fake>>,
        shards: u16,
        tune: fn(&mut ManagerConfig),
    ) -> Self {
        let manager = Self::manager(&dir, &vfs, &fakes, shards, tune);
        let mut world = Self {
            dir,
            vfs,
            fakes,
            shards,
            tune,
            manager,
            parts: Vec::new(),
            report: RecoveryReport::default(),
            elapsed: Duration::from_secs(1_000),
            runs: VecDeque::new(),
            hanging: Vec::new(),
            wakes: BTreeMap::new(),
            events: Vec::new(),
            others: Vec::new(),
            cancelled: 0,
        };
        world.start();
        world
    }

    fn manager(
        dir: &tempfile::TempDir,
        vfs: &Arc<dyn Vfs>,
        fakes: &[Arc<Fake>],
        shards: u16,
        tune: fn(&mut ManagerConfig),
    ) -> Arc<Manager> {
        let mut config = ManagerConfig::new(AgentId::new("test").unwrap(), dir.path());
        config.shards = shards;
        config.journal.mode = CommitMode::Inline;
        config.journal.segment_bytes = 2 << 20;
        config.journal.reserve_bytes = 2 << 20;
        config.retry.jitter = 0.0;
        tune(&mut config);
        let drivers = DriverSet::new(fakes.iter().map(|fake| fake.clone() as Arc<_>));
        Manager::open_on(vfs.clone(), config, drivers).unwrap()
    }

    fn start(&mut self) {
        self.parts = (0..self.shards)
            .map(|shard| self.manager.partition(ShardId(shard)))
            .collect();
        // Recovery needs a runtime for its tasks.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let manager = self.manager.clone();
        self.report = runtime.block_on(async move { manager.recover(Duration::from_secs(2)).await });
        let now = self.now();
        for shard in 0..self.shards {
            let out = self.parts[usize::from(shard)].recovered(now);
            self.perform(out);
        }
    }

    /// The agent dies and starts again; the drivers too, and what they made goes on.
    fn crash(&mut self) {
        self.runs.clear();
        self.hanging.clear();
        self.wakes.clear();
        self.events.clear();
        self.others.clear();
        self.parts.clear();
        for fake in &self.fakes {
            fake.rebuilt();
        }
        // The journal's lock goes with the last of its users.
        let (dir, vfs, fakes) = (self.dir.clone(), self.vfs.clone(), self.fakes.clone());
        let placeholder = tempfile::tempdir().unwrap();
        self.manager = Self::manager(
            &placeholder,
            &(Arc::new(RealVfs::new()) as Arc<dyn Vfs>),
            &[],
            1,
            |_| {},
        );
        self.manager = Self::manager(&dir, &vfs, &fakes, self.shards, self.tune);
        self.start();
    }

    fn now(&self) -> Now {
        Now {
            elapsed: self.elapsed,
            wall: Timestamp::now(),
        }
    }

    fn part(&mut self, guid: Guid) -> &mut dyn Partition {
        let shard = self.manager.shard_of(guid);
        &mut *self.parts[usize::from(shard.0)]
    }

    // ----- requests -----

    fn admit(&mut self, key: &str, guid: Guid, body: CommandBody) -> Result<Admission> {
        let meta = meta(key);
        let now = self.now();
        self.part(guid).admit(Command { meta, guid, body }, now)
    }

    /// Admits, performs, and gives the answer once it is on disk.
    fn ask(&mut self, key: &str, guid: Guid, body: CommandBody) -> Result<Accepted> {
        let mut admission = self.admit(key, guid, body)?;
        let follow_ups = std::mem::take(&mut admission.follow_ups);
        self.perform(follow_ups);
        let committed = admission
            .commit
            .now_or_never()
            .expect("an inline journal answers at once");
        committed.map(|()| admission.accepted)
    }

    fn create(&mut self, spec: ObjectSpec) -> Result<Accepted> {
        let key = format!("create-{}", spec.name);
        self.ask(&key, Guid::generate(), CommandBody::Create(Arc::new(spec)))
    }

    /// Creates it and lets all be done.
    fn made(&mut self, spec: ObjectSpec) -> Guid {
        let guid = self.create(spec).unwrap().guid;
        self.settle_all();
        guid
    }

    fn delete(&mut self, object: &str, cascade: bool) -> Result<Accepted> {
        let guid = self.guid(object);
        let request = DeleteRequest {
            cascade,
            ..DeleteRequest::default()
        };
        let key = format!("delete-{object}-{}", Guid::generate());
        self.ask(&key, guid, CommandBody::Delete(request))
    }

    fn control(&mut self, object: &str, action: ControlAction) -> Result<Accepted> {
        let guid = self.guid(object);
        let key = format!("{}-{object}-{}", action.verb(), Guid::generate());
        self.ask(&key, guid, CommandBody::Control(action))
    }

    fn update(&mut self, object: &str, patch: serde_json::Value) -> Result<Accepted> {
        let guid = self.guid(object);
        let next = crate::apply_change(&self.manager.spec(guid).unwrap(), &Change::Merge(patch))?;
        let against = self.view(object).generation;
        let key = format!("update-{object}-{}", Guid::generate());
        self.ask(
            &key,
            guid,
            CommandBody::Update {
                next: Arc::new(next),
                action: PlanAction::InPlace,
                against,
            },
        )
    }

    // ----- reads -----

    fn guid(&self, object: &str) -> Guid {
        self.manager
            .resolve(&Target::Name(name(object)))
            .unwrap_or_else(|| panic!("{object} is not there"))
    }

    fn view(&self, object: &str) -> Arc<ObjectView> {
        self.manager.view(self.guid(object)).unwrap()
    }

    fn phase(&self, object: &str) -> String {
        match self.manager.resolve(&Target::Name(name(object))) {
            Some(guid) => self.manager.view(guid).unwrap().phase.to_string(),
            None => "(gone)".into(),
        }
    }

    fn condition(&self, object: &str, kind: &str) -> Option<String> {
        self.view(object)
            .conditions
            .iter()
            .find(|condition| condition.kind == kind)
            .map(|condition| format!("{}: {}", condition.reason, condition.message))
    }

    fn history(&self, object: &str) -> Vec<String> {
        let explanation = self.manager.explain(self.guid(object)).unwrap();
        explanation
            .history
            .iter()
            .map(|step| {
                let phase = |phase: Option<agent_api_model::Phase>| {
                    phase.map_or("-".into(), |phase| phase.to_string())
                };
                format!(
                    "{} → {}: {}",
                    phase(step.from),
                    phase(step.to),
                    step.cause.sentence()
                )
            })
            .collect()
    }

    fn fake(&self) -> &Fake {
        &self.fakes[0]
    }

    // ----- the core's part -----

    fn perform(&mut self, follow_ups: Vec<FollowUp>) {
        for follow_up in follow_ups {
            match follow_up {
                FollowUp::Run(operation) => self.runs.push_back(*operation),
                FollowUp::Cancel(op_id) => {
                    let before = self.runs.len() + self.hanging.len();
                    self.runs.retain(|operation| operation.op_id != op_id);
                    self.hanging.retain(|operation| operation.op_id != op_id);
                    self.cancelled += before - self.runs.len() - self.hanging.len();
                }
                FollowUp::Wake(wake) => {
                    self.wakes
                        .insert((wake.guid, wake.reason as u8), (self.elapsed + wake.after, wake));
                }
                FollowUp::Unwake(guid, reason) => {
                    self.wakes.remove(&(guid, reason as u8));
                }
                FollowUp::Publish(event) => self.events.push(*event),
                FollowUp::Notify(guid) => {
                    let now = self.now();
                    let out = self.part(guid).dependency_changed(guid, now);
                    self.perform(out);
                }
                FollowUp::Gone(view) => {
                    self.wakes.retain(|(guid, _), _| *guid != view.guid);
                    self.others.push(format!("gone {}", view.name));
                }
                FollowUp::Collect { view, .. } => self.others.push(format!("collect {}", view.name)),
                FollowUp::StopCollecting(guid) => self.note("stop", guid),
                FollowUp::Register(view) => self.others.push(format!("register {}", view.name)),
                FollowUp::Withdraw(guid) => self.note("withdraw", guid),
                FollowUp::Changed(_) => {}
            }
        }
    }

    fn note(&mut self, what: &str, guid: Guid) {
        let name = self
            .manager
            .view(guid)
            .map_or("?".into(), |view| view.name.to_string());
        self.others.push(format!("{what} {name}"));
    }

    /// Runs one operation and settles it; what hangs is kept.
    fn run_one(&mut self) -> bool {
        let Some(operation) = self.runs.pop_front() else {
            return false;
        };
        let called = std::panic::AssertUnwindSafe(self.manager.run(operation.clone()))
            .catch_unwind()
            .now_or_never();
        let outcome = match called {
            None => {
                self.hanging.push(operation);
                return true;
            }
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Outcome {
                operation,
                result: Err(Error::internal("the driver panicked")),
                performed: None,
            },
        };
        self.settle(outcome);
        true
    }

    fn settle(&mut self, outcome: Outcome) {
        let now = self.now();
        let out = self.part(outcome.operation.guid).settle(outcome, now);
        self.perform(out);
    }

    fn settle_all(&mut self) {
        for _ in 0..10_000 {
            if !self.run_one() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// What hangs has passed its deadline.
    fn time_out(&mut self) {
        for operation in std::mem::take(&mut self.hanging) {
            self.settle(Outcome {
                operation,
                result: Err(Error::new(ErrorKind::Timeout, "no answer in time")),
                performed: None,
            });
        }
    }

    /// Moves the clock, fires what falls due, and lets all be done.
    fn pass(&mut self, duration: Duration) {
        let until = self.elapsed + duration;
        for _ in 0..100_000 {
            let next = self
                .wakes
                .iter()
                .min_by_key(|(_, (due, _))| *due)
                .map(|(key, (due, _))| (*key, *due));
            match next {
                Some((key, due)) if due <= until => {
                    self.elapsed = self.elapsed.max(due);
                    let (_, wake) = self.wakes.remove(&key).unwrap();
                    let now = self.now();
                    let out = self.part(wake.guid).wake(wake.guid, wake.reason, now);
                    self.perform(out);
                    self.settle_all();
                }
                _ => {
                    self.elapsed = until;
                    return;
                }
            }
        }
        panic!("wakes never end");
    }

    fn wake_in(&self, object: &str, reason: WakeReason) -> Option<Duration> {
        let guid = self.guid(object);
        self.wakes
            .get(&(guid, reason as u8))
            .map(|(due, _)| *due - self.elapsed)
    }

    fn observe(&mut self, observed: Observed) {
        let now = self.now();
        let out = self.part(observed.guid).observe(observed, now);
        self.perform(out);
    }

    /// The real thing ends by itself, and the driver says so.
    fn exits(&mut self, object: &str, code: i32) {
        let guid = self.guid(object);
        let observed = self.fake().ends(guid, code);
        self.observe(observed);
        self.settle_all();
    }
}

fn restart_policy(policy: &str, start: &str) -> serde_json::Value {
    json!({"restart": {"policy": policy, "backoff": {"start": start, "jitter": 0.0}}})
}
