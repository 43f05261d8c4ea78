//! A driver that writes down every call, and fails as it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, Control, ControlRequest, DeleteRequest, Deleted,
    DriverInfo, EventStream, Handle, KindSchema, Mark, Method, ObjectDriver, ObjectState, ObjectStatus,
    Observed, PlanRequest, Probe, ProbeOutcome, ProbeRequest, Recovered, RecoveredState, ShutdownMode,
    Target,
};
use agent_api_model::{
    Condition, ControlAction, Diagnostic, DriverName, DriverState, Error, ErrorKind, Evidence,
    EvidenceSource, ExitStatus, Guid, Kind, ObjectSpec, OpId, Plan, PlanAction, Result, TelemetryBatch,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;

/// How a call goes wrong.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// It is refused, nothing happens.
    Before(ErrorKind),
    /// It happens, and the answer is an error.
    After(ErrorKind),
    /// It happens, and there is no answer.
    HangAfter,
    /// Nothing happens, ever.
    Hang,
    Panic,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) guid: Guid,
    pub(super) op_id: OpId,
    pub(super) maybe_applied: bool,
    pub(super) generation: u64,
}

#[derive(Clone, Debug)]
struct Thing {
    id: u64,
    op_id: OpId,
    state: ObjectState,
    exit: Option<ExitStatus>,
    generation: u64,
}

#[derive(Default)]
struct Inner {
    /// What is on the substrate: survives the driver.
    things: BTreeMap<u64, (Guid, Thing)>,
    next: u64,
    /// What the driver remembers: gone when it is built anew.
    done: HashMap<(OpId, &'static str), u64>,
    revision: u64,
    calls: Vec<Call>,
    faults: HashMap<&'static str, VecDeque<Fault>>,
    probes: VecDeque<ProbeOutcome>,
    foreign: Vec<u64>,
    validate: Vec<Diagnostic>,
    /// What drifted; an apply brings it back, unless somebody keeps at it.
    drifted: BTreeSet<Guid>,
    stubborn: bool,
    /// What the next calls return as the spec; known to the substrate by operation.
    specs: VecDeque<ObjectSpec>,
    returned: HashMap<OpId, ObjectSpec>,
}

pub(super) struct Fake {
    info: DriverInfo,
    capabilities: Mutex<&'static Capabilities>,
    inner: Mutex<Inner>,
}

impl Fake {
    pub(super) fn new(name: &str) -> Arc<Self> {
        let mut capabilities = Capabilities::default();
        capabilities.pause = true;
        capabilities.signal = true;
        capabilities.resize = true;
        capabilities.restart = true;
        capabilities.probe = true;
        capabilities.ends = true;
        let method = Method {
            summary: "goes back".into(),
            arguments: json!({"type": "object"}),
        };
        capabilities.methods.insert("rollback".into(), method);
        capabilities.adoptable = true;
        capabilities.discoverable = true;
        Arc::new(Self {
            info: DriverInfo {
                name: DriverName::new(name).unwrap(),
                version: "0".into(),
                summary: "fake".into(),
                kinds: vec![Kind::new(name).unwrap()],
            },
            capabilities: Mutex::new(Box::leak(Box::new(capabilities))),
            inner: Mutex::default(),
        })
    }

    pub(super) fn can(&self, change: impl FnOnce(&mut Capabilities)) {
        let mut capabilities = self.capabilities.lock().clone();
        change(&mut capabilities);
        *self.capabilities.lock() = Box::leak(Box::new(capabilities));
    }

    pub(super) fn fault(&self, method: &'static str, fault: Fault) {
        self.inner
            .lock()
            .faults
            .entry(method)
            .or_default()
            .push_back(fault);
    }

    pub(super) fn no_faults(&self) {
        self.inner.lock().faults.clear();
    }

    pub(super) fn calls(&self, method: &str) -> Vec<Call> {
        let inner = self.inner.lock();
        inner
            .calls
            .iter()
            .filter(|call| call.method == method)
            .cloned()
            .collect()
    }

    pub(super) fn forget_calls(&self) {
        self.inner.lock().calls.clear();
    }

    pub(super) fn probes(&self, outcomes: impl IntoIterator<Item = ProbeOutcome>) {
        self.inner.lock().probes.extend(outcomes);
    }

    pub(super) fn refuses(&self, diagnostic: Diagnostic) {
        self.inner.lock().validate.push(diagnostic);
    }

    /// How many things exist for an object, whatever became of them.
    pub(super) fn things(&self, guid: Guid) -> usize {
        self.inner
            .lock()
            .things
            .values()
            .filter(|(of, _)| *of == guid)
            .count()
    }

    pub(super) fn alive(&self) -> usize {
        let inner = self.inner.lock();
        inner.things.values().filter(|(_, thing)| running(thing)).count()
    }

    /// How many things were ever made.
    pub(super) fn made(&self) -> u64 {
        self.inner.lock().next
    }

    /// The driver is built anew; the substrate goes on. Its revisions begin anew too.
    pub(super) fn rebuilt(&self) {
        let mut inner = self.inner.lock();
        inner.done.clear();
        inner.revision = 0;
    }

    /// Somebody else's thing is under the reference of this object.
    pub(super) fn usurp(&self, guid: Guid) {
        let mut inner = self.inner.lock();
        let ids: Vec<u64> = inner
            .things
            .iter()
            .filter(|(_, (of, _))| *of == guid)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            inner.things.remove(&id);
            inner.foreign.push(id);
        }
    }

    pub(super) fn foreign(&self) -> usize {
        self.inner.lock().foreign.len()
    }

    /// Somebody changes the real thing; `stubborn`: again after each repair.
    pub(super) fn drifts(&self, guid: Guid, stubborn: bool) -> Observed {
        {
            let mut inner = self.inner.lock();
            inner.drifted.insert(guid);
            inner.stubborn = stubborn;
        }
        self.status(guid)
    }

    /// What was changed is changed back by whoever did it.
    pub(super) fn relents(&self, guid: Guid) -> Observed {
        self.inner.lock().drifted.remove(&guid);
        self.status(guid)
    }

    /// The next call makes this spec.
    pub(super) fn returns(&self, spec: ObjectSpec) {
        self.inner.lock().specs.push_back(spec);
    }

    pub(super) fn vanish(&self, guid: Guid) {
        self.inner.lock().things.retain(|_, (of, _)| *of != guid);
    }

    /// Something that bears our mark and belongs to no object.
    pub(super) fn leak(&self, guid: Guid) {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = inner.next;
        let thing = Thing {
            id,
            op_id: OpId::generate(),
            state: ObjectState::Running,
            exit: None,
            generation: 1,
        };
        inner.things.insert(id, (guid, thing));
    }

    pub(super) fn ends(&self, guid: Guid, code: i32) -> Observed {
        {
            let mut inner = self.inner.lock();
            let thing = inner
                .things
                .values_mut()
                .rev()
                .find(|(of, _)| *of == guid)
                .unwrap();
            thing.1.state = ObjectState::Exited;
            thing.1.exit = Some(ExitStatus::with_code(code));
        }
        self.status(guid)
    }

    pub(super) fn status(&self, guid: Guid) -> Observed {
        let mut inner = self.inner.lock();
        inner.revision += 1;
        let revision = inner.revision;
        let thing = inner.things.values().rev().find(|(of, _)| *of == guid);
        let status = match thing {
            Some((_, thing)) => status(thing, revision, inner.drifted.contains(&guid)),
            None => ObjectStatus::new(ObjectState::Gone, Evidence::now(EvidenceSource::Poll, revision)),
        };
        Observed {
            guid,
            handle: None,
            status,
        }
    }

    /// A status of this state with a revision.
    pub(super) fn seen(&self, guid: Guid, state: ObjectState, revision: u64) -> Observed {
        Observed {
            guid,
            handle: None,
            status: ObjectStatus::new(state, Evidence::now(EvidenceSource::Event, revision)),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.inner.lock().revision
    }

    /// Does what the script says before the call; the rest of the fault is for after it.
    async fn begin(&self, call: Call) -> Result<Option<Fault>> {
        let method = call.method;
        let fault = {
            let mut inner = self.inner.lock();
            inner.calls.push(call);
            inner.faults.get_mut(method).and_then(VecDeque::pop_front)
        };
        match fault {
            Some(Fault::Before(kind)) => Err(Error::new(kind, format!("{method} was told to fail"))),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Panic) => panic!("{method} was told to panic"),
            after => Ok(after),
        }
    }

    async fn end<T>(&self, fault: Option<Fault>, value: T) -> Result<T> {
        match fault {
            Some(Fault::After(kind)) => Err(Error::new(kind, "the answer was lost")),
            Some(Fault::HangAfter) => std::future::pending().await,
            _ => Ok(value),
        }
    }
}

fn running(thing: &Thing) -> bool {
    matches!(thing.state, ObjectState::Running | ObjectState::Paused)
}

fn status(thing: &Thing, revision: u64, drifted: bool) -> ObjectStatus {
    let mut status = ObjectStatus::new(thing.state, Evidence::now(EvidenceSource::Event, revision));
    status.exit.clone_from(&thing.exit);
    status.details = json!({"id": thing.id, "generation": thing.generation});
    if drifted {
        let condition = Condition::new(Condition::DRIFTED, true, "Changed", "the image is another");
        status.conditions.push(condition);
    }
    status
}

fn id(handle: &Handle) -> Option<u64> {
    handle.data.as_u64()
}

impl Inner {
    fn applied(&mut self, id: u64) -> Applied {
        self.revision += 1;
        let (guid, thing) = &self.things[&id];
        let drifted = self.drifted.contains(guid);
        Applied::new(Handle::new(1, json!(id)), status(thing, self.revision, drifted))
    }

    fn make(&mut self, guid: Guid, op_id: OpId, generation: u64) -> u64 {
        self.next += 1;
        let id = self.next;
        let thing = Thing {
            id,
            op_id,
            state: ObjectState::Running,
            exit: None,
            generation,
        };
        self.things.insert(id, (guid, thing));
        id
    }
}

#[async_trait]
impl ObjectDriver for Fake {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn schema(&self, _: &Kind) -> Option<&KindSchema> {
        None
    }

    fn capabilities(&self, kind: &Kind) -> Option<&Capabilities> {
        (self.info.kinds[0] == *kind).then(|| *self.capabilities.lock())
    }

    fn health(&self) -> DriverState {
        DriverState::Healthy
    }

    async fn validate(&self, _: &ObjectSpec) -> Vec<Diagnostic> {
        self.inner.lock().validate.clone()
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let action = match request.previous {
            None => PlanAction::Create,
            Some(previous)
                if previous.spec == request.next.spec && previous.resources == request.next.resources =>
            {
                PlanAction::NoOp
            }
            Some(_) => PlanAction::Restart,
        };
        Ok(Plan::new(action, Vec::new()))
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        let fault = self
            .begin(Call {
                method: "apply",
                guid: request.guid,
                op_id: request.op_id,
                maybe_applied: request.maybe_applied,
                generation: request.generation,
            })
            .await?;
        let applied = {
            let mut inner = self.inner.lock();
            let known = inner.done.get(&(request.op_id, "apply")).copied();
            // With `maybe_applied` the mark is looked for.
            let marked = request.maybe_applied.then(|| {
                inner
                    .things
                    .iter()
                    .find(|(_, (guid, thing))| *guid == request.guid && thing.op_id == request.op_id)
                    .map(|(id, _)| *id)
            });
            let old = request.handle.and_then(id);
            let id = match (known.or(marked.flatten()), old) {
                (Some(id), _) => id,
                (None, Some(old)) if inner.things.get(&old).is_some_and(|(_, thing)| running(thing)) => {
                    if let Some((_, thing)) = inner.things.get_mut(&old) {
                        thing.generation = request.generation;
                    }
                    old
                }
                (None, old) => {
                    if let Some(old) = old {
                        inner.things.remove(&old);
                    }
                    inner.make(request.guid, request.op_id, request.generation)
                }
            };
            inner.done.insert((request.op_id, "apply"), id);
            if !inner.stubborn {
                inner.drifted.remove(&request.guid);
            }
            inner.applied(id)
        };
        self.end(fault, applied).await
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        let fault = self
            .begin(Call {
                method: "delete",
                guid: request.guid,
                op_id: request.op_id,
                maybe_applied: request.handle.is_none(),
                generation: 0,
            })
            .await?;
        {
            let mut inner = self.inner.lock();
            match request.handle.and_then(id) {
                Some(id) => {
                    inner.things.remove(&id);
                }
                // The mark is looked for.
                None => inner.things.retain(|_, (guid, _)| *guid != request.guid),
            }
        }
        self.end(fault, Deleted::default()).await
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        let guid = Guid::generate();
        let fault = self
            .begin(Call {
                method: "recover",
                guid,
                op_id: OpId::generate(),
                maybe_applied: false,
                generation: targets.len() as u64,
            })
            .await?;
        let answers = targets
            .iter()
            .map(|target| {
                let mut inner = self.inner.lock();
                inner.revision += 1;
                let revision = inner.revision;
                let id = id(target.handle).unwrap_or(0);
                let drifted = inner.drifted.contains(&target.guid);
                let state = match inner.things.get(&id) {
                    _ if inner.foreign.contains(&id) => RecoveredState::Foreign("somebody else's".into()),
                    Some((_, thing)) if running(thing) => {
                        RecoveredState::Adopted(status(thing, revision, drifted), None)
                    }
                    Some((_, thing)) => RecoveredState::Exited(status(thing, revision, drifted)),
                    None => RecoveredState::Lost("not there any more".into()),
                };
                Recovered {
                    guid: target.guid,
                    state,
                }
            })
            .collect();
        self.end(fault, answers).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        let inner = self.inner.lock();
        Ok(inner
            .things
            .iter()
            .map(|(id, (guid, thing))| {
                let mark = Mark {
                    agent: agent_api_model::AgentId::new("test").unwrap(),
                    guid: *guid,
                    op_id: thing.op_id,
                };
                (mark, Handle::new(1, json!(id)))
            })
            .collect())
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        out.extend(targets.iter().map(|target| self.status(target.guid)));
        Ok(())
    }

    fn events(&self) -> EventStream {
        Box::pin(futures_util::stream::empty())
    }

    async fn collect(
        &self,
        _: CollectRequest<'_>,
        _: &mut TelemetryBatch,
        _: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&self, _: ShutdownMode, _: Duration) -> Result<()> {
        Ok(())
    }

    fn redact(&self, spec: &mut ObjectSpec) {
        if let Some(token) = spec.spec.get_mut("token") {
            *token = "hidden".into();
        }
    }

    fn control(&self) -> Option<&dyn Control> {
        Some(self)
    }

    fn probe(&self) -> Option<&dyn Probe> {
        Some(self)
    }
}

#[async_trait]
impl Control for Fake {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        let method = match request.action {
            ControlAction::Pause {} => "pause",
            ControlAction::Resume {} => "resume",
            ControlAction::Restart { .. } => "restart",
            ControlAction::Signal { .. } => "signal",
            ControlAction::Call { .. } => "call",
            _ => "resize",
        };
        let fault = self
            .begin(Call {
                method,
                guid: request.guid,
                op_id: request.op_id,
                maybe_applied: request.maybe_applied,
                generation: request.generation,
            })
            .await?;
        let applied = {
            let mut inner = self.inner.lock();
            let mut at = id(request.handle).unwrap_or(0);
            if let Some(done) = inner.done.get(&(request.op_id, "control")) {
                at = *done;
            } else if let Some(marked) = inner
                .things
                .iter()
                .find(|(_, (_, thing))| thing.op_id == request.op_id)
                .map(|(id, _)| *id)
            {
                at = marked;
            } else if method == "restart" {
                inner.things.remove(&at);
                at = inner.make(request.guid, request.op_id, request.generation);
            }
            let Some((_, thing)) = inner.things.get_mut(&at) else {
                return Err(Error::new(ErrorKind::NotFound, "it is not there"));
            };
            match method {
                "pause" => thing.state = ObjectState::Paused,
                "resume" => thing.state = ObjectState::Running,
                "resize" => thing.generation = request.generation,
                _ => {}
            }
            inner.done.insert((request.op_id, "control"), at);
            let mut applied = inner.applied(at);
            if method == "call" {
                if let Some(next) = inner.specs.pop_front() {
                    inner.returned.insert(request.op_id, next);
                }
                applied.spec = inner.returned.get(&request.op_id).cloned();
            }
            applied
        };
        self.end(fault, applied).await
    }
}

#[async_trait]
impl Probe for Fake {
    async fn probe(&self, request: ProbeRequest<'_>) -> Result<ProbeOutcome> {
        let fault = self
            .begin(Call {
                method: "probe",
                guid: request.target.guid,
                op_id: OpId::generate(),
                maybe_applied: false,
                generation: 0,
            })
            .await?;
        let outcome = self
            .inner
            .lock()
            .probes
            .pop_front()
            .unwrap_or(ProbeOutcome::Healthy);
        self.end(fault, outcome).await
    }
}
