//! A manager without a journal that lets everything in and runs it at once, and a collector that only counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_core::Setup;
use agent_core::api::collector::{CollectorApi, CollectorStats};
use agent_core::api::driver::{
    ApplyRequest, ControlRequest, DeleteRequest, DriverSet, Handle, ObjectState, Observed, Recovered,
    RecoveredState, async_trait,
};
use agent_core::api::manager::{
    Action, Admission, Command, CommandBody, Effect, FollowUp, Lane, ManagerApi, ManagerStats, Now,
    Operation, Outcome, Partition, RecoveryReport, Wake, WakeReason,
};
use agent_core::api::model::{
    Accepted, DriverName, Error, ErrorKind, Explanation, Guid, Lease, LeaseId, ListRequest, ObjectName,
    ObjectSpec, ObjectView, OpId, Phase, Plan, PlanRequest, RequestId, ResourcesView, Result, ShardId,
    Target, Timestamp,
};
use parking_lot::Mutex;
use serde_json::Value;

use crate::fake_driver::evidence;

#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) view: Arc<ObjectView>,
    pub(crate) spec: Arc<ObjectSpec>,
}

/// What the fake manager's parts share, and what tests look at.
pub(crate) struct Book {
    pub(crate) shards: u16,
    pub(crate) drivers: DriverSet,
    pub(crate) objects: Mutex<BTreeMap<Guid, Kept>>,
    /// What happened, in order.
    pub(crate) log: Mutex<Vec<String>>,
    /// Errors of operations, by object.
    pub(crate) errors: Mutex<BTreeMap<String, Error>>,
}

impl Book {
    pub(crate) fn log(&self, line: impl Into<String>) {
        self.log.lock().push(line.into());
    }

    pub(crate) fn phase(&self, name: &str) -> Option<Phase> {
        self.view(name).map(|view| view.phase)
    }

    pub(crate) fn view(&self, name: &str) -> Option<Arc<ObjectView>> {
        self.objects
            .lock()
            .values()
            .find(|kept| kept.view.name.as_str() == name)
            .map(|kept| Arc::clone(&kept.view))
    }

    pub(crate) fn in_phase(&self, phase: Phase) -> usize {
        self.objects
            .lock()
            .values()
            .filter(|kept| kept.view.phase == phase)
            .count()
    }

    pub(crate) fn set(&self, guid: Guid, change: impl FnOnce(&mut ObjectView)) -> Option<Arc<ObjectView>> {
        let mut objects = self.objects.lock();
        let kept = objects.get_mut(&guid)?;
        let mut view = (*kept.view).clone();
        change(&mut view);
        kept.view = Arc::new(view);
        Some(Arc::clone(&kept.view))
    }
}

pub(crate) struct FakeManager(pub(crate) Arc<Book>);

impl FakeManager {
    pub(crate) fn new(setup: Setup) -> Self {
        Self(Arc::new(Book {
            shards: setup.shards,
            drivers: setup.drivers,
            objects: Mutex::default(),
            log: Mutex::default(),
            errors: Mutex::default(),
        }))
    }
}

#[async_trait]
impl ManagerApi for FakeManager {
    fn partition(&self, shard: ShardId) -> Box<dyn Partition> {
        Box::new(FakePartition {
            shard,
            book: Arc::clone(&self.0),
        })
    }

    fn shard_of(&self, guid: Guid) -> ShardId {
        ShardId(u16::try_from(guid.0.as_u128() % u128::from(self.0.shards)).unwrap())
    }

    async fn run(&self, operation: Operation) -> Outcome {
        let handle = Handle::new(1, Value::Null);
        self.0
            .log(format!("run {} {}", operation.action.verb(), operation.name));
        let driver = self.0.drivers.for_kind(&operation.spec.kind).unwrap();
        let result = match &operation.action {
            Action::Delete { grace, orphan } => driver
                .delete(DeleteRequest {
                    guid: operation.guid,
                    op_id: operation.op_id,
                    handle: Some(&handle),
                    grace: *grace,
                    orphan: *orphan,
                    deadline: operation.deadline,
                })
                .await
                .map(Effect::Deleted),
            Action::Control(action) => driver
                .control()
                .unwrap()
                .control(ControlRequest {
                    guid: operation.guid,
                    generation: operation.generation,
                    op_id: operation.op_id,
                    maybe_applied: false,
                    spec: &operation.spec,
                    handle: &handle,
                    action,
                    deadline: operation.deadline,
                })
                .await
                .map(Effect::Applied),
            _ => driver
                .apply(ApplyRequest {
                    guid: operation.guid,
                    generation: operation.generation,
                    op_id: operation.op_id,
                    maybe_applied: false,
                    spec: &operation.spec,
                    handle: None,
                    deadline: operation.deadline,
                })
                .await
                .map(Effect::Applied),
        };
        Outcome {
            operation,
            result,
            performed: None,
        }
    }

    async fn recover(&self, _: Duration) -> RecoveryReport {
        RecoveryReport::default()
    }

    fn resolve(&self, target: &Target) -> Option<Guid> {
        let objects = self.0.objects.lock();
        match target {
            Target::Guid(guid) => objects.contains_key(guid).then_some(*guid),
            Target::Name(name) => objects
                .iter()
                .find(|(_, kept)| kept.view.name == *name)
                .map(|(guid, _)| *guid),
        }
    }

    fn view(&self, guid: Guid) -> Option<Arc<ObjectView>> {
        self.0
            .objects
            .lock()
            .get(&guid)
            .map(|kept| Arc::clone(&kept.view))
    }

    fn shows(&self, observed: &Observed) -> bool {
        self.view(observed.guid).is_none_or(|view| {
            (&view.conditions, &view.details) == (&observed.status.conditions, &observed.status.details)
        })
    }

    fn spec(&self, guid: Guid) -> Option<Arc<ObjectSpec>> {
        self.0
            .objects
            .lock()
            .get(&guid)
            .map(|kept| Arc::clone(&kept.spec))
    }

    fn handle(&self, guid: Guid) -> Option<Arc<Handle>> {
        self.view(guid).map(|_| Arc::new(Handle::new(1, Value::Null)))
    }

    fn list(&self, request: &ListRequest) -> Vec<Arc<ObjectView>> {
        let objects = self.0.objects.lock();
        let mut views: Vec<_> = objects
            .values()
            .map(|kept| Arc::clone(&kept.view))
            .filter(|view| request.selector.matches(&view.labels, &view.kind))
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    fn explain(&self, _: Guid) -> Option<Explanation> {
        None
    }

    fn dependents(&self, name: &ObjectName) -> Vec<ObjectName> {
        let objects = self.0.objects.lock();
        objects
            .values()
            .filter(|kept| kept.spec.depends_on.iter().any(|on| on.name == *name))
            .map(|kept| kept.view.name.clone())
            .collect()
    }

    fn replied(&self, _: &RequestId) -> Option<Accepted> {
        None
    }

    async fn plan(&self, _: &PlanRequest) -> Result<Plan> {
        Err(Error::internal("not here"))
    }

    fn stats(&self) -> ManagerStats {
        ManagerStats {
            objects: Phase::ALL
                .into_iter()
                .map(|phase| (phase, self.0.in_phase(phase)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            ..ManagerStats::default()
        }
    }

    async fn compact(&self) -> Result<()> {
        Ok(())
    }

    async fn seal(&self, _: Duration) -> Result<()> {
        self.0.log("seal");
        Ok(())
    }
}

struct FakePartition {
    shard: ShardId,
    book: Arc<Book>,
}

impl FakePartition {
    fn operation(
        &self,
        guid: Guid,
        spec: &Arc<ObjectSpec>,
        action: Action,
        generation: u64,
    ) -> Box<Operation> {
        let lane = match action {
            Action::Control(_) | Action::Delete { .. } => Lane::Control,
            _ => Lane::Ordinary,
        };
        Box::new(Operation {
            op_id: OpId::generate(),
            guid,
            name: spec.name.clone(),
            driver: DriverName::new(spec.kind.driver()).unwrap(),
            lane,
            action,
            generation,
            spec: Arc::clone(spec),
            handle: None,
            maybe_applied: false,
            // `quick` in a label makes deadlines short.
            deadline: match spec.labels.contains_key("quick") {
                true => Duration::from_millis(200),
                false => Duration::from_secs(30),
            },
            after: 0,
        })
    }
}

fn new_view(guid: Guid, spec: &ObjectSpec, now: Timestamp) -> ObjectView {
    ObjectView {
        guid,
        name: spec.name.clone(),
        kind: spec.kind.clone(),
        labels: Arc::new(spec.labels.clone()),
        phase: Phase::Creating,
        since: now,
        created: now,
        generation: 1,
        observed_generation: 0,
        evidence: evidence(0),
        resources: ResourcesView::default(),
        conditions: Vec::new(),
        details: Value::Null,
        restarts: 0,
        exit: None,
        health: None,
        operation: None,
        adopted: false,
    }
}

impl Partition for FakePartition {
    fn admit(&mut self, command: Command, now: Now) -> Result<Admission> {
        let guid = command.guid;
        let mut objects = self.book.objects.lock();
        let mut follow_ups = Vec::new();
        let (verb, action) = match command.body {
            CommandBody::Create(spec) => {
                let view = Arc::new(new_view(guid, &spec, now.wall));
                follow_ups.push(FollowUp::Changed(Arc::clone(&view)));
                objects.insert(guid, Kept { view, spec });
                ("create", Action::Start)
            }
            CommandBody::Update {
                next,
                action,
                against,
            } => {
                let kept = objects
                    .get_mut(&guid)
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, "gone"))?;
                if kept.view.generation != against {
                    return Err(Error::new(ErrorKind::Conflict, "changed meanwhile"));
                }
                let mut view = (*kept.view).clone();
                view.generation += 1;
                *kept = Kept {
                    view: Arc::new(view),
                    spec: next,
                };
                ("update", Action::Update(action))
            }
            CommandBody::Delete(request) => (
                "delete",
                Action::Delete {
                    grace: request.grace,
                    orphan: request.orphan,
                },
            ),
            CommandBody::Control(action) => (action.verb().as_str(), Action::Control(action)),
        };
        let kept = objects
            .get(&guid)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "gone"))?;
        drop(objects);
        self.book.log(format!("admit {verb} {}", kept.view.name));
        let operation = self.operation(guid, &kept.spec, action, kept.view.generation);
        let accepted = Accepted {
            guid,
            name: kept.view.name.clone(),
            generation: kept.view.generation,
            op_id: operation.op_id,
            repeated: false,
        };
        follow_ups.push(FollowUp::Run(operation));
        Ok(Admission {
            accepted,
            commit: Box::pin(async { Ok(()) }),
            follow_ups,
        })
    }

    fn settle(&mut self, outcome: Outcome, _: Now) -> Vec<FollowUp> {
        let operation = &outcome.operation;
        let how = match &outcome.result {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.kind().as_str().to_owned(),
        };
        self.book.log(format!(
            "settle {} {} {how}",
            operation.action.verb(),
            operation.name
        ));
        match outcome.result {
            Ok(Effect::Deleted(_)) => {
                let gone = self.book.objects.lock().remove(&operation.guid);
                gone.map(|kept| FollowUp::Gone(kept.view)).into_iter().collect()
            }
            Ok(_) => {
                let view = self.book.set(operation.guid, |view| {
                    view.phase = Phase::Running;
                    view.evidence = evidence(operation.generation);
                    view.observed_generation = operation.generation;
                });
                let Some(view) = view else { return Vec::new() };
                let handle = Arc::new(Handle::new(1, Value::Null));
                vec![
                    FollowUp::Changed(Arc::clone(&view)),
                    FollowUp::Collect { view, handle },
                ]
            }
            Err(error) => {
                self.book.errors.lock().insert(operation.name.to_string(), error);
                let view = self.book.set(operation.guid, |view| view.phase = Phase::Failed);
                view.map(FollowUp::Changed).into_iter().collect()
            }
        }
    }

    fn observe(&mut self, observed: Observed, _: Now) -> Vec<FollowUp> {
        self.book.log(format!("observe shard{}", self.shard.0));
        let view = self.book.set(observed.guid, |view| {
            view.evidence = observed.status.evidence.clone();
            view.conditions.clone_from(&observed.status.conditions);
            view.details.clone_from(&observed.status.details);
            view.phase = match observed.status.state {
                ObjectState::Running => Phase::Running,
                ObjectState::Exited => Phase::Succeeded,
                ObjectState::Paused => Phase::Paused,
                _ => Phase::Unknown,
            };
        });
        let Some(view) = view else { return Vec::new() };
        // An object that ended is looked at again in a second.
        let wake = (view.phase == Phase::Succeeded).then_some(FollowUp::Wake(Wake {
            guid: view.guid,
            reason: WakeReason::Retry,
            after: Duration::from_secs(1),
        }));
        std::iter::once(FollowUp::Changed(view)).chain(wake).collect()
    }

    fn wake(&mut self, guid: Guid, _: WakeReason, _: Now) -> Vec<FollowUp> {
        self.book.log("wake");
        let Some(kept) = self.book.objects.lock().get(&guid).cloned() else {
            return Vec::new();
        };
        vec![FollowUp::Run(self.operation(guid, &kept.spec, Action::Start, 1))]
    }

    fn dependency_changed(&mut self, _: Guid, _: Now) -> Vec<FollowUp> {
        Vec::new()
    }

    fn recovered(&mut self, _: Now) -> Vec<FollowUp> {
        self.book.log(format!("recovered shard{}", self.shard.0));
        Vec::new()
    }

    fn recovered_late(&mut self, answers: Vec<Recovered>, _: Now) -> Vec<FollowUp> {
        answers
            .into_iter()
            .filter_map(|answer| match answer.state {
                RecoveredState::Adopted(status, _) => self.book.set(answer.guid, |view| {
                    view.phase = Phase::Running;
                    view.evidence = status.evidence;
                    view.adopted = true;
                }),
                _ => None,
            })
            .map(FollowUp::Changed)
            .collect()
    }

    fn audit(&self, driver: &DriverName, chunk: usize) -> Vec<Vec<(Guid, Arc<Handle>)>> {
        let objects = self.book.objects.lock();
        let all: Vec<_> = objects
            .iter()
            .filter(|(guid, kept)| {
                guid.0.as_u128() % u128::from(self.book.shards) == u128::from(self.shard.0)
                    && kept.view.kind.driver() == driver.as_str()
                    && !matches!(kept.view.phase, Phase::Creating | Phase::Failed)
            })
            .map(|(guid, _)| (*guid, Arc::new(Handle::new(1, Value::Null))))
            .collect();
        all.chunks(chunk).map(<[_]>::to_vec).collect()
    }

    fn count(&self) -> Vec<(Phase, usize)> {
        Vec::new()
    }
}

/// Counts what it is told.
#[derive(Default)]
pub(crate) struct FakeCollector {
    pub(crate) objects: Mutex<std::collections::BTreeSet<Guid>>,
    pub(crate) leases: Mutex<BTreeMap<LeaseId, Lease>>,
}

#[async_trait]
impl CollectorApi for FakeCollector {
    fn add(&self, view: &Arc<ObjectView>, _: &Arc<Handle>) {
        self.objects.lock().insert(view.guid);
    }

    fn remove(&self, guid: Guid) {
        self.objects.lock().remove(&guid);
    }

    fn start(&self, lease: Lease) -> Result<()> {
        self.leases.lock().insert(lease.id, lease);
        Ok(())
    }

    fn stop(&self, id: LeaseId) -> bool {
        self.leases.lock().remove(&id).is_some()
    }

    fn retune(&self, _: LeaseId, _: Duration) -> bool {
        false
    }

    fn stats(&self) -> CollectorStats {
        CollectorStats::default()
    }

    async fn shutdown(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}
