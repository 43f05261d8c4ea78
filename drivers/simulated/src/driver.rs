//! The driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    AgentId, Diagnostic, DriverState, Enforcement, Error, ErrorKind, EvidenceSource, ExitStatus, FieldChange,
    Guid, Kind, ObjectSpec, Plan, PlanAction, ResourceField, Resources, Result, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, Control, DeleteRequest, Deleted, DriverInfo,
    EventStream, Exec, FieldChangeMode, Handle, KindSchema, LimitCapability, Logs, Mark, ObjectDriver,
    Observed, PlanRequest, Probe, Recovered, ShutdownMode, StatusSource, Target, async_trait,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::behavior::{Behavior, Change, purpose};
use crate::config::{SimulatedConfig, first_error, read_spec};
use crate::draw::{Draw, key};
use crate::factory::NAME;
use crate::queue::EventQueue;
use crate::spec::Operation;
use crate::thing::{HANDLE_VERSION, Owner, SimulatedDetails, State, Thing};
use crate::world::{Miss, World};
use crate::{SimulatedSpec, Substrate};

/// How long an object that ignores the request to end has by default.
const GRACE: Duration = Duration::from_secs(10);

/// The simulated driver. Has one task, whatever the number of objects.
#[derive(Debug)]
pub(crate) struct SimulatedDriver {
    info: DriverInfo,
    schema: KindSchema,
    capabilities: Capabilities,
    pub(crate) agent: AgentId,
    pub(crate) owner: Owner,
    config: SimulatedConfig,
    pub(crate) substrate: Substrate,
    queue: Arc<EventQueue>,
    stop: CancellationToken,
    pump: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl SimulatedDriver {
    pub(crate) fn start(agent: AgentId, config: SimulatedConfig, substrate: Substrate) -> Self {
        let queue = EventQueue::new(config.event_capacity);
        let owner = substrate.with(|world, _| {
            let owner = world.owner(&agent);
            world.attach(owner, queue.clone());
            owner
        });
        let stop = CancellationToken::new();
        let pump = tokio::spawn(substrate.clone().pump(stop.clone()));
        let kind = Kind::new(NAME).expect("lower-case letters");
        Self {
            info: DriverInfo {
                name: agent_api_driver::model::DriverName::new(NAME).expect("lower-case letters"),
                version: env!("CARGO_PKG_VERSION").into(),
                summary: "Simulates objects and how a substrate misbehaves, for demos, load and tests."
                    .into(),
                kinds: vec![kind],
            },
            schema: KindSchema {
                spec: schemars::schema_for!(SimulatedSpec).to_value(),
                status: schemars::schema_for!(SimulatedDetails).to_value(),
            },
            capabilities: capabilities(&config),
            agent,
            owner,
            config,
            substrate,
            queue,
            stop,
            pump: Mutex::new(Some(AbortOnDropHandle::new(pump))),
        }
    }

    /// Refuses calls after the shutdown.
    pub(crate) fn open(&self, operation: &str) -> Result<()> {
        if self.stop.is_cancelled() {
            let message = "the simulated driver was shut down";
            return Err(Error::new(ErrorKind::Unavailable, message).with_operation(operation));
        }
        Ok(())
    }

    /// What the spec asks for.
    pub(crate) fn behavior(&self, spec: &ObjectSpec) -> Result<Arc<Behavior>> {
        let own = read_spec(&spec.spec).map_err(first_error)?;
        Ok(self.substrate.shared(Behavior::new(
            own.over(&self.config.defaults),
            spec.resources.clone(),
        )))
    }

    /// The key of the chance of an object with this behaviour and name.
    fn key(&self, behavior: &Behavior, spec: &ObjectSpec) -> u64 {
        let seed = behavior
            .spec
            .seed
            .map_or(self.config.seed, |seed| self.config.seed ^ crate::draw::mix(seed));
        key(seed, spec.name.as_str())
    }

    /// Why a call for one object finds nothing.
    pub(crate) fn missed(miss: Miss, guid: Guid) -> Error {
        match miss {
            Miss::Unreadable => Error::invalid("handle", "this is not a handle of a simulated object"),
            Miss::Foreign => Error::new(ErrorKind::NotFound, "what is there is not of this agent")
                .with_hint("it was made by another agent, or was left running by a delete with orphan"),
            Miss::Gone => Error::new(ErrorKind::NotFound, "there is no such simulated object"),
        }
        .with_object(guid)
    }

    async fn apply_one(&self, request: &ApplyRequest<'_>) -> Result<Applied> {
        let guid = request.guid;
        if request
            .handle
            .is_some_and(|handle| crate::thing::read_handle(handle).is_none())
        {
            return Err(Self::missed(Miss::Unreadable, guid));
        }
        let behavior = self.behavior(request.spec)?;
        let key = self.key(&behavior, request.spec);
        let fate = self
            .substrate
            .with(|world, now| world.fate_of_apply(guid, key, &behavior, now));
        fate.before().await?;
        self.open("apply")?;
        let applied = self.substrate.with(|world, now| {
            world.apply(guid, self.owner, request.op_id, key, &behavior, now)?;
            let thing = world
                .get(guid, now)
                .ok_or_else(|| Error::internal("it was applied and is not there"))?;
            let spoiled =
                Draw::new(thing.key, purpose::GARBAGE, thing.draws).happens(behavior.spec.garbage.handle.0);
            let handle = if spoiled {
                Handle::new(HANDLE_VERSION, serde_json::json!("a handle that cannot be read"))
            } else {
                thing.handle(guid)
            };
            Ok::<_, Error>(Applied::new(handle, thing.status(EvidenceSource::Event, now)))
        })?;
        fate.after()?;
        Ok(applied)
    }

    async fn delete_one(&self, request: &DeleteRequest<'_>) -> Result<Deleted> {
        let guid = request.guid;
        let fate = self.substrate.with(|world, now| {
            let thing = self.target(world, guid, request.handle, now)?;
            let asked = thing.behavior.spec.ignore_term == Some(true) && thing.state != State::Exited;
            Ok((World::fate(thing, Operation::Delete), asked && !request.orphan))
        });
        let (fate, ignores) = match fate {
            Ok(fate) => fate,
            Err(Miss::Unreadable) => return Err(Self::missed(Miss::Unreadable, guid)),
            Err(Miss::Foreign | Miss::Gone) => return Ok(Deleted::default()),
        };
        fate.before().await?;
        self.open("delete")?;
        if ignores {
            // Leaves a part of the deadline to end it by force.
            let grace = request.grace.unwrap_or(GRACE).min(request.deadline.mul_f64(0.8));
            self.until_ended(guid, grace).await;
            self.open("delete")?;
        }
        let deleted = self.substrate.with(|world, now| {
            let Ok(thing) = self.target(world, guid, request.handle, now) else {
                return Deleted::default();
            };
            if request.orphan {
                world.orphan(guid);
                return Deleted::default();
            }
            let left = thing.behavior.spec.leaves.clone();
            let exit = thing
                .exit
                .as_deref()
                .cloned()
                .unwrap_or_else(|| ExitStatus::with_signal(if ignores { "SIGKILL" } else { "SIGTERM" }));
            world.remove(guid);
            Deleted {
                exit: Some(exit),
                left,
            }
        });
        fate.after()?;
        Ok(deleted)
    }

    /// What this handle refers to; without one what bears the mark.
    fn target<'a>(
        &self,
        world: &'a mut World,
        guid: Guid,
        handle: Option<&Handle>,
        now: i64,
    ) -> Result<&'a mut Thing, Miss> {
        if let Some(handle) = handle {
            return world.ours(guid, handle, self.owner, now);
        }
        match world.get(guid, now) {
            Some(thing) if thing.owner == self.owner => Ok(thing),
            Some(_) => Err(Miss::Foreign),
            None => Err(Miss::Gone),
        }
    }

    /// Waits for an object that ignores the request to end, which may end by itself meanwhile.
    pub(crate) async fn until_ended(&self, guid: Guid, grace: Duration) {
        let end = self.substrate.with(|world, now| {
            let thing = world.get(guid, now)?;
            let (at, _) = thing.end()?;
            Some(Duration::from_micros(
                u64::try_from(at.saturating_sub(now)).unwrap_or(0),
            ))
        });
        tokio::time::sleep(end.map_or(grace, |end| end.min(grace))).await;
    }

    fn change(&self, previous: &ObjectSpec, next: &ObjectSpec) -> Result<(Change, Arc<Behavior>)> {
        let (old, new) = (self.behavior(previous)?, self.behavior(next)?);
        Ok((old.change_to(&new), new))
    }
}

fn capabilities(config: &SimulatedConfig) -> Capabilities {
    let live = [
        "latency",
        "fail",
        "hang",
        "panic",
        "garbage",
        "ignore_term",
        "events",
        "limits",
        "capacity",
        "leaves",
        "logs",
        "metrics",
        "unhealthy",
    ];
    let mut fields: BTreeMap<_, _> = live
        .into_iter()
        .map(|field| (format!("spec.{field}"), FieldChangeMode::Live))
        .collect();
    fields.extend(
        ["spec.lifetime", "spec.exit_code", "spec.crash", "resources.gpu"]
            .map(|field| (field.to_string(), FieldChangeMode::Restart)),
    );
    fields.insert("spec.seed".into(), FieldChangeMode::Recreate);
    let limits = [
        ResourceField::Cpu,
        ResourceField::Memory,
        ResourceField::Pids,
        ResourceField::Io,
        ResourceField::Gpu,
        ResourceField::Replicas,
        ResourceField::Priority,
    ];
    for limit in limits.iter().filter(|limit| **limit != ResourceField::Gpu) {
        fields.insert(format!("resources.{limit}"), FieldChangeMode::Live);
    }
    let mut can = Capabilities::default();
    can.pause = true;
    can.restart = true;
    can.signal = true;
    can.scale = true;
    can.resize = true;
    can.exec = true;
    can.logs = true;
    can.probe = true;
    can.metrics = true;
    can.orphan = true;
    can.ends = true;
    can.adoptable = true;
    can.discoverable = true;
    can.status = StatusSource::Event;
    can.max_in_flight = config.max_in_flight;
    can.limits = limits
        .map(|field| LimitCapability {
            field,
            enforcement: Enforcement::Enforced,
            by: "simulated; `spec.limits` makes it advisory".into(),
            live: field != ResourceField::Gpu,
        })
        .into();
    can.fields = fields;
    can
}

#[async_trait]
impl ObjectDriver for SimulatedDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn schema(&self, kind: &Kind) -> Option<&KindSchema> {
        self.info.kinds.contains(kind).then_some(&self.schema)
    }

    fn capabilities(&self, kind: &Kind) -> Option<&Capabilities> {
        self.info.kinds.contains(kind).then_some(&self.capabilities)
    }

    fn health(&self) -> DriverState {
        match self.open("health") {
            Ok(()) => self.substrate.health(),
            Err(error) => DriverState::Unavailable {
                reason: error.message().into(),
            },
        }
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        read_spec(&spec.spec).err().unwrap_or_default()
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        self.open("plan")?;
        let Some(previous) = request.previous else {
            let behavior = self.behavior(request.next)?;
            return Ok(match behavior.over_capacity() {
                Some((path, why)) => {
                    Plan::new(PlanAction::Infeasible, Vec::new()).because(format!("{path}: {why}"))
                }
                None => Plan::new(PlanAction::Create, Vec::new()),
            });
        };
        let (change, behavior) = self.change(previous, request.next)?;
        let json = |resources: &Resources| serde_json::to_value(resources).unwrap_or_default();
        let mut changes = FieldChange::between("spec", &previous.spec, &request.next.spec);
        changes.extend(FieldChange::between(
            "resources",
            &json(&previous.resources),
            &json(&request.next.resources),
        ));
        if change != Change::None
            && let Some((path, why)) = behavior.over_capacity()
        {
            return Ok(Plan::new(PlanAction::Infeasible, changes).because(format!("{path}: {why}")));
        }
        Ok(match change {
            Change::None => Plan::new(PlanAction::NoOp, Vec::new()),
            Change::InPlace => Plan::new(PlanAction::InPlace, changes),
            Change::Restart => Plan::new(PlanAction::Restart, changes)
                .because("how long it lives and how it ends is set at its start"),
            Change::Recreate => {
                Plan::new(PlanAction::Recreate, changes).because("another seed makes it another thing")
            }
        })
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.open("apply")?;
        self.apply_one(&request)
            .await
            .map_err(|error| error.with_operation("apply").with_object(&request.spec.name))
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.open("delete")?;
        self.delete_one(&request)
            .await
            .map_err(|error| error.with_operation("delete").with_object(request.guid))
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.open("recover")?;
        self.recover_all(targets).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.open("discover")?;
        Ok(self.substrate.with(|world, _| {
            let ours = world.things().filter(|(_, thing)| thing.owner == self.owner);
            ours.map(|(guid, thing)| {
                (
                    Mark {
                        agent: self.agent.clone(),
                        guid,
                        op_id: thing.op_id,
                    },
                    thing.handle(guid),
                )
            })
            .collect()
        }))
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        self.open("observe")?;
        self.observe_all(targets, out).await
    }

    fn events(&self) -> EventStream {
        Box::pin(self.queue.read())
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        self.open("collect")?;
        self.collect_all(request, out, cursors).await
    }

    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()> {
        if !self.stop.is_cancelled() {
            // From here on calls are refused, so that nothing runs again after it was stopped.
            self.stop.cancel();
            self.substrate.with(|world, now| {
                if mode == ShutdownMode::StopObjects {
                    let ours: Vec<_> = world
                        .things()
                        .filter(|(_, it)| it.owner == self.owner)
                        .map(|(guid, _)| guid)
                        .collect();
                    for guid in ours {
                        world.end(guid, ExitStatus::with_signal("SIGTERM"), now);
                    }
                }
                world.detach(self.owner, &self.queue);
            });
            self.queue.close();
        }
        let pump = self.pump.lock().take();
        if let Some(mut pump) = pump
            && tokio::time::timeout(deadline, &mut pump).await.is_err()
        {
            pump.abort();
            return Err(Error::new(
                ErrorKind::Timeout,
                "the simulated driver's task did not end in time",
            ));
        }
        Ok(())
    }

    fn control(&self) -> Option<&dyn Control> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn probe(&self) -> Option<&dyn Probe> {
        Some(self)
    }

    fn handle_version(&self) -> u32 {
        HANDLE_VERSION
    }
}

impl Drop for SimulatedDriver {
    fn drop(&mut self) {
        self.stop.cancel();
        self.substrate
            .with(|world, _| world.detach(self.owner, &self.queue));
        self.queue.close();
    }
}
