//! A driver whose calls do what the object's name says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agent_core::api::driver::{
    Applied, ApplyRequest, Build, Capabilities, CollectRequest, Control, ControlRequest, DeleteRequest,
    Deleted, DriverEvent, DriverFactory, DriverInfo, EventStream, Exec, ExecInput, ExecOutput, ExecRequest,
    ExecStream, Handle, InputStream, KindSchema, Method, ObjectDriver, ObjectState, ObjectStatus, Observed,
    PlanRequest, Recovered, RecoveredState, ShutdownMode, Target, async_trait,
};
use agent_core::api::model::{
    ControlAction, Diagnostic, DriverName, DriverState, Error, ErrorKind, Evidence, EvidenceSource,
    ExitStatus, Guid, Kind, ObjectSpec, Plan, PlanAction, Result, TelemetryBatch,
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

pub(crate) fn evidence(revision: u64) -> Evidence {
    Evidence::now(EvidenceSource::Event, revision)
}

/// What a test sees and steers of a driver.
pub(crate) struct Knobs {
    pub(crate) name: DriverName,
    pub(crate) max_in_flight: usize,
    /// Calls in flight now, and the most there were.
    pub(crate) now: AtomicUsize,
    pub(crate) most: AtomicUsize,
    /// Objects named `gate-…` wait for one of these.
    pub(crate) gate: Semaphore,
    /// Objects named `block-…` block their thread until this is set.
    pub(crate) release: AtomicBool,
    pub(crate) events: mpsc::Sender<DriverEvent>,
    events_out: Mutex<Option<mpsc::Receiver<DriverEvent>>>,
    /// What `observe` answers besides the default, by object.
    pub(crate) observed: Mutex<BTreeMap<Guid, ObjectStatus>>,
    pub(crate) observes: AtomicUsize,
    pub(crate) recovers: AtomicUsize,
    pub(crate) hang_observe: AtomicBool,
    pub(crate) hang_shutdown: AtomicBool,
    pub(crate) panic_everywhere: AtomicBool,
    pub(crate) shutdowns: Mutex<Vec<ShutdownMode>>,
    /// The actions of `control`.
    pub(crate) controlled: Mutex<Vec<ControlAction>>,
    /// Commands that run.
    pub(crate) commands: Arc<AtomicUsize>,
}

impl Knobs {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Self::with(name, 0)
    }

    pub(crate) fn with(name: &str, max_in_flight: usize) -> Arc<Self> {
        let (events, events_out) = mpsc::channel(1_024);
        Arc::new(Self {
            name: DriverName::new(name).unwrap(),
            max_in_flight,
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            release: AtomicBool::new(false),
            events,
            events_out: Mutex::new(Some(events_out)),
            observed: Mutex::default(),
            observes: AtomicUsize::new(0),
            recovers: AtomicUsize::new(0),
            hang_observe: AtomicBool::new(false),
            hang_shutdown: AtomicBool::new(false),
            panic_everywhere: AtomicBool::new(false),
            shutdowns: Mutex::default(),
            controlled: Mutex::default(),
            commands: Arc::default(),
        })
    }

    fn panics(&self) {
        assert!(!self.panic_everywhere.load(Ordering::Relaxed), "fake panic");
    }

    async fn act(&self, name: &str) -> Result<()> {
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.panics();
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        let _leave = Leave(&self.now);
        self.most.fetch_max(now, Ordering::Relaxed);
        match name.split('-').next().unwrap_or_default() {
            "hang" => std::future::pending().await,
            "panic" => panic!("fake panic"),
            "gate" => self.gate.acquire().await.unwrap().forget(),
            "block" => {
                while !self.release.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            }
            "fail" => return Err(Error::new(ErrorKind::Denied, "not this one")),
            _ => {}
        }
        Ok(())
    }
}

pub(crate) struct FakeFactory(pub(crate) Arc<Knobs>);

#[async_trait]
impl DriverFactory for FakeFactory {
    fn name(&self) -> DriverName {
        self.0.name.clone()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::new(self.0.name.as_str()).unwrap()]
    }

    fn config_schema(&self) -> Value {
        json!({})
    }

    fn check(&self, config: &Value) -> Vec<Diagnostic> {
        match config.get("wrong") {
            Some(_) => vec![Diagnostic::error("wrong", "is wrong")],
            None => Vec::new(),
        }
    }

    async fn build(&self, build: Build) -> Result<Arc<dyn ObjectDriver>> {
        match build.config.get("build").and_then(Value::as_str) {
            Some("fail") => return Err(Error::new(ErrorKind::Denied, "no right to the substrate")),
            Some("panic") => panic!("fake panic"),
            _ => {}
        }
        let kind = Kind::new(self.0.name.as_str()).unwrap();
        let mut capabilities = Capabilities::default();
        capabilities.signal = true;
        capabilities.resize = true;
        capabilities.exec = true;
        capabilities.terminal = self.0.name.as_str() != "plain";
        if self.0.name.as_str() == "fake" {
            let method = Method {
                summary: "goes back to an earlier revision".into(),
                arguments: json!({
                    "type": "object",
                    "properties": {"revision": {"type": "integer", "minimum": 1}},
                    "additionalProperties": false
                }),
            };
            capabilities.methods.insert("rollback".into(), method);
        }
        capabilities.max_in_flight = self.0.max_in_flight;
        Ok(Arc::new(FakeDriver {
            info: DriverInfo {
                name: self.0.name.clone(),
                version: "1".into(),
                summary: "does as it is told".into(),
                kinds: vec![kind],
            },
            schema: KindSchema {
                spec: json!({
                    "type": "object",
                    "properties": {"size": {"type": "integer"}, "token": {"type": "string"}},
                    "additionalProperties": false
                }),
                status: json!({}),
            },
            capabilities,
            knobs: Arc::clone(&self.0),
        }))
    }
}

/// What the bundle has in place of a driver that was not compiled in.
pub(crate) struct Stub;

#[async_trait]
impl DriverFactory for Stub {
    fn name(&self) -> DriverName {
        DriverName::new("stub").unwrap()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::new("stub/job").unwrap()]
    }

    fn config_schema(&self) -> Value {
        json!({})
    }

    fn check(&self, _: &Value) -> Vec<Diagnostic> {
        Vec::new()
    }

    async fn build(&self, _: Build) -> Result<Arc<dyn ObjectDriver>> {
        Err(Error::internal("never built"))
    }

    fn missing_feature(&self) -> Option<&'static str> {
        Some("stub")
    }
}

struct FakeDriver {
    info: DriverInfo,
    schema: KindSchema,
    capabilities: Capabilities,
    knobs: Arc<Knobs>,
}

fn applied(revision: u64) -> Applied {
    Applied::new(
        Handle::new(1, Value::Null),
        ObjectStatus::new(ObjectState::Running, evidence(revision)),
    )
}

#[async_trait]
impl ObjectDriver for FakeDriver {
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
        self.knobs.panics();
        DriverState::Healthy
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        self.knobs.panics();
        match spec.resources.replicas {
            Some(0) => vec![Diagnostic::error("resources.replicas", "must be at least 1")],
            _ => Vec::new(),
        }
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        self.knobs.panics();
        let action = match request.next.spec.get("size").and_then(Value::as_i64) {
            Some(size) if size < 0 => PlanAction::Infeasible,
            _ => PlanAction::InPlace,
        };
        Ok(Plan::new(action, Vec::new()))
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.knobs.act(request.spec.name.as_str()).await?;
        Ok(applied(request.generation))
    }

    async fn delete(&self, _: DeleteRequest<'_>) -> Result<Deleted> {
        self.knobs.panics();
        Ok(Deleted::default())
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.knobs.recovers.fetch_add(1, Ordering::Relaxed);
        Ok(targets
            .iter()
            .map(|target| Recovered {
                guid: target.guid,
                state: RecoveredState::Adopted(ObjectStatus::new(ObjectState::Running, evidence(9)), None),
            })
            .collect())
    }

    async fn discover(&self) -> Result<Vec<(agent_core::api::driver::Mark, Handle)>> {
        Ok(Vec::new())
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        self.knobs.observes.fetch_add(1, Ordering::Relaxed);
        self.knobs.panics();
        if self.knobs.hang_observe.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let other = self.knobs.observed.lock();
        out.extend(targets.iter().map(|target| {
            Observed {
                guid: target.guid,
                handle: None,
                status: other
                    .get(&target.guid)
                    .cloned()
                    .unwrap_or_else(|| ObjectStatus::new(ObjectState::Running, evidence(1))),
            }
        }));
        Ok(())
    }

    fn events(&self) -> EventStream {
        let receiver = self.knobs.events_out.lock().take().expect("called once");
        Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async {
            let event = receiver.recv().await?;
            match event {
                DriverEvent::Health(DriverState::Degraded { reason }) if reason == "panic" => {
                    panic!("fake panic")
                }
                DriverEvent::Health(DriverState::Degraded { reason }) if reason == "end" => None,
                event => Some((event, receiver)),
            }
        }))
    }

    async fn collect(
        &self,
        _: CollectRequest<'_>,
        _: &mut TelemetryBatch,
        _: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&self, mode: ShutdownMode, _: Duration) -> Result<()> {
        self.knobs.shutdowns.lock().push(mode);
        if self.knobs.hang_shutdown.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn redact(&self, spec: &mut ObjectSpec) {
        self.knobs.panics();
        if let Some(token) = spec.spec.get_mut("token") {
            *token = json!("hidden");
        }
    }

    fn control(&self) -> Option<&dyn Control> {
        Some(self)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }
}

/// A command: `copy` says what it reads and the sizes of its terminal, `hang` neither reads nor ends.
struct Command {
    input: InputStream,
    hangs: bool,
    over: bool,
    commands: Arc<AtomicUsize>,
}

impl Drop for Command {
    fn drop(&mut self) {
        self.commands.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Exec for FakeDriver {
    async fn exec(&self, _: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream> {
        self.knobs.commands.fetch_add(1, Ordering::Relaxed);
        let command = Command {
            input,
            hangs: request.command[0] == "hang",
            over: false,
            commands: Arc::clone(&self.knobs.commands),
        };
        Ok(Box::pin(futures_util::stream::unfold(
            command,
            async |mut command| {
                if command.over {
                    return None;
                }
                if command.hangs {
                    std::future::pending::<()>().await;
                }
                let output = match command.input.next().await {
                    Some(ExecInput::Stdin(bytes)) => ExecOutput::Stdout(bytes),
                    Some(ExecInput::Resize(size)) => {
                        ExecOutput::Stdout(format!("{}x{}", size.columns, size.rows).into())
                    }
                    None => {
                        command.over = true;
                        ExecOutput::Exit(ExitStatus::with_code(0))
                    }
                };
                Some((Ok(output), command))
            },
        )))
    }
}

#[async_trait]
impl Control for FakeDriver {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        self.knobs.panics();
        self.knobs.controlled.lock().push(request.action.clone());
        Ok(applied(request.generation))
    }
}
