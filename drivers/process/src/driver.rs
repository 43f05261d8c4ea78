//! The driver: what it can do, and the contract's calls handed to the parts that do them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Diagnostic, DriverName, DriverState, Enforcement, Error, FieldChange, Guid, Kind, ObjectSpec, Plan,
    PlanAction, ResourceField, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Build, Capabilities, CollectRequest, Control, ControlRequest, DeleteRequest,
    Deleted, DriverInfo, EventStream, Exec, ExecRequest, ExecStream, FieldChangeMode, Handle, InputStream,
    KindSchema, LimitCapability, LogReadRequest, LogStreamOut, Logs, Mark, ObjectDriver, Observed,
    PlanRequest, Probe, ProbeOutcome, ProbeRequest, Recovered, Result, ShutdownMode, StatusSource, Target,
    async_trait,
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{Cgroups, ProcessConfig};
use crate::events::Events;
use crate::sdk::cgroup::{Controller, Host};
use crate::sdk::limits::raise_nofile;
use crate::sdk::pool::Pool;
use crate::sdk::sample::{Budget, Sampler};
use crate::sdk::watch::Watch;
use crate::shared::{Sampling, Shared, left};
use crate::spec::ProcessSpec;
use crate::table::{ProcessDetails, Table};
use crate::task;
use crate::validate::validate;

/// Starts that wait for a thread, beyond which callers wait.
const SPAWN_QUEUE: usize = 1024;
/// Objects in one `observe` or `collect`.
const BATCH: usize = 1000;
/// Objects that are stopped at one time at a shutdown.
const STOPS_AT_ONCE: usize = 4096;

/// Manages local processes. Made by [`ProcessDriverFactory`](crate::ProcessDriverFactory).
///
/// One task and one or two threads, whatever the number of objects; nothing stands between an object and its files.
pub struct ProcessDriver {
    shared: Arc<Shared>,
    info: DriverInfo,
    schema: KindSchema,
    capabilities: Capabilities,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The kind this driver manages.
pub(crate) fn kind() -> Kind {
    Kind::new("process").expect("a DNS label")
}

/// The driver's name.
pub(crate) fn name() -> DriverName {
    DriverName::new("process").expect("a DNS label")
}

impl ProcessDriver {
    pub(crate) fn build(build: &Build) -> Result<Self> {
        let config = ProcessConfig::parse(&build.config).map_err(|d| Error::invalid(d.path, d.message))?;
        if let Some(wrong) = config.check().into_iter().next() {
            return Err(Error::invalid(wrong.path, wrong.message));
        }
        let failed = |what: &str, e: &std::io::Error| {
            Error::internal(format!("cannot {what}: {e}")).with_operation("build")
        };
        let (logs, orphans) = (build.state_dir.join("logs"), build.state_dir.join("orphans"));
        for dir in [&logs, &orphans] {
            private_dir(dir).map_err(|e| failed(&format!("make {}", dir.display()), &e))?;
        }
        let (_, hard) = raise_nofile();
        let descriptors = config
            .sample_descriptors
            .unwrap_or_else(|| usize::try_from(hard.unwrap_or(1 << 20) / 2).unwrap_or(usize::MAX));
        let host = match config.cgroups {
            Cgroups::Auto => Host::detect(build.agent.as_str(), config.cgroup_root.as_deref()),
            Cgroups::Off => Host::none("control groups are switched off in the driver's configuration"),
        };
        let capabilities = capabilities(&host);
        let pool = Pool::start(usize::from(config.spawn_threads), SPAWN_QUEUE)
            .map_err(|e| failed("start threads", &e))?;
        let shared = Arc::new(Shared {
            agent: build.agent.clone(),
            logs,
            orphans,
            host,
            pool,
            watch: Watch::new().map_err(|e| failed("make an epoll instance", &e))?,
            table: Mutex::new(Table::default()),
            starts: std::array::from_fn(|_| Mutex::new(())),
            sampling: Mutex::new(Sampling {
                sampler: Sampler::new(Arc::new(Budget::new(descriptors))),
                kept: HashMap::new(),
            }),
            events: Events::new(),
            sweeps: crate::shared::Sweeps::default(),
            commands: Arc::new(Semaphore::new(config.exec_sessions)),
            closing: CancellationToken::new(),
            turns: std::sync::atomic::AtomicUsize::new(0),
            config,
        });
        if matches!(crate::sdk::exit::kernel_tells(), Ok(false)) {
            tracing::info!(
                "this kernel does not tell the exit codes of adopted processes (6.15 does): they count as unknown"
            );
        }
        let task = tokio::spawn(task::run(Arc::clone(&shared)));
        Ok(Self {
            shared,
            info: DriverInfo {
                name: name(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                summary: "Local processes, started without a shell and without a helper.".to_owned(),
                kinds: vec![kind()],
            },
            schema: KindSchema {
                spec: schemars::schema_for!(ProcessSpec).to_value(),
                status: schemars::schema_for!(ProcessDetails).to_value(),
            },
            capabilities,
            task: Mutex::new(Some(task)),
        })
    }
}

impl Drop for ProcessDriver {
    fn drop(&mut self) {
        // Without `shutdown`: the task ends by itself at its next turn, and holds the last reference until then.
        self.shared.closing.cancel();
        self.shared.events.close();
    }
}

fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn capabilities(host: &Host) -> Capabilities {
    let limit = |field, controller| {
        let (enforcement, by) = match host.enforces(controller) {
            Ok(version) => (Enforcement::Enforced, format!("cgroup v{version}")),
            Err(why) => (Enforcement::Advisory, why),
        };
        LimitCapability {
            field,
            enforcement,
            by,
            live: true,
        }
    };
    let mut can = Capabilities::default();
    can.pause = true;
    can.restart = true;
    can.signal = true;
    can.resize = true;
    can.exec = true;
    can.terminal = true;
    can.logs = true;
    can.probe = true;
    can.metrics = true;
    can.orphan = true;
    can.ends = true;
    can.adoptable = true;
    can.discoverable = true;
    can.status = StatusSource::Event;
    can.batch_size = BATCH;
    can.max_in_flight = STOPS_AT_ONCE;
    can.operation_timeout = Duration::from_secs(30);
    can.limits = vec![
        limit(ResourceField::Cpu, Controller::Cpu),
        limit(ResourceField::Memory, Controller::Memory),
        limit(ResourceField::Pids, Controller::Pids),
        limit(ResourceField::Io, Controller::Io),
    ];
    can.fields = BTreeMap::from([
        ("spec.stop_signal".to_owned(), FieldChangeMode::Live),
        ("spec.stop_grace".to_owned(), FieldChangeMode::Live),
    ]);
    can
}

#[async_trait]
impl ObjectDriver for ProcessDriver {
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
        if self.shared.closing.is_cancelled() {
            return DriverState::Unavailable {
                reason: "the driver has been shut down".to_owned(),
            };
        }
        DriverState::Healthy
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        let owned = spec.clone();
        let remote = self.shared.config.probe_remote;
        // Looks at files, which may hang on a network file system.
        match self.shared.pool.run(move |_| validate(&owned, remote)).await {
            Ok(found) => found,
            Err(e) => vec![Diagnostic::error("spec", e.to_string())],
        }
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let next = ProcessSpec::parse(request.next)?;
        let Some(before) = request.previous else {
            return Ok(Plan::new(PlanAction::Create, Vec::new()));
        };
        let previous = ProcessSpec::parse(before)?;
        let value = |v: &ProcessSpec| serde_json::to_value(v).unwrap_or_default();
        let limits = |s: &ObjectSpec| serde_json::to_value(&s.resources).unwrap_or_default();
        let mut changes = FieldChange::between("spec", &value(&previous), &value(&next));
        changes.extend(FieldChange::between(
            "resources",
            &limits(before),
            &limits(request.next),
        ));
        Ok(if changes.is_empty() {
            Plan::new(PlanAction::NoOp, changes)
        } else if previous.restart_digest() == next.restart_digest() {
            Plan::new(PlanAction::InPlace, changes)
        } else {
            Plan::new(PlanAction::Restart, changes)
                .because("a running program cannot be given these; it is stopped and started")
        })
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.shared.apply(request).await
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.shared
            .delete(request)
            .await
            .map_err(|e| e.with_operation("delete"))
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.shared.recover(targets).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.shared.discover().await
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        self.shared.observe(targets, out).await
    }

    fn events(&self) -> EventStream {
        self.shared.events.stream()
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        self.shared.collect(request, out, cursors).await
    }

    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()> {
        let begun = Instant::now();
        let reserve = Duration::from_millis(500).min(deadline / 4);
        if mode == ShutdownMode::StopObjects && !self.shared.closing.is_cancelled() {
            let guids: Vec<Guid> = self.shared.table.lock().objects.keys().copied().collect();
            let within = deadline.saturating_sub(reserve);
            futures_util::stream::iter(guids)
                .for_each_concurrent(STOPS_AT_ONCE, |guid| async move {
                    if let Err(error) = self.shared.stop(guid, None, left(within, begun)).await {
                        tracing::warn!(%guid, %error, "not stopped at the shutdown");
                    }
                })
                .await;
        }
        self.shared.closing.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let mut task = task;
            if timeout(left(deadline, begun).max(reserve), &mut task)
                .await
                .is_err()
            {
                task.abort();
            }
        }
        let shared = Arc::clone(&self.shared);
        let closed = tokio::task::spawn_blocking(move || shared.pool.close());
        if timeout(left(deadline, begun).max(reserve), closed).await.is_err() {
            return Err(Error::new(
                agent_api_driver::ErrorKind::Timeout,
                "a thread of the process driver is still busy, perhaps with a file system that hangs",
            ));
        }
        self.shared.events.close();
        // Groups that nobody is in: they are made again when they are needed.
        for name in self.shared.host.leftovers() {
            let _in_use = self.shared.host.existing(&name).remove();
        }
        self.shared.host.remove_if_empty();
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
        crate::handle::VERSION
    }
}

#[async_trait]
impl Control for ProcessDriver {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        self.shared.control(request).await
    }
}

#[async_trait]
impl Logs for ProcessDriver {
    async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        self.shared.read_logs(target, &request)
    }
}

#[async_trait]
impl Exec for ProcessDriver {
    async fn exec(&self, target: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream> {
        self.shared.exec(target, request, input).await
    }
}

#[async_trait]
impl Probe for ProcessDriver {
    async fn probe(&self, request: ProbeRequest<'_>) -> Result<ProbeOutcome> {
        self.shared.probe(request).await
    }
}
