//! The driver: the contract's calls handed to the kind that they are for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Diagnostic, DriverName, DriverState, Error, ErrorKind, Guid, Kind, ObjectSpec, Plan, TelemetryBatch,
};
use agent_api_driver::model::{Evidence, EvidenceSource};
use agent_api_driver::{
    Applied, ApplyRequest, Build, Capabilities, CollectRequest, CollectTarget, Control, ControlRequest,
    DeleteRequest, Deleted, DriverInfo, EventStream, Handle, KindSchema, LogReadRequest, LogStreamOut, Logs,
    Mark, ObjectDriver, ObjectState, ObjectStatus, Observed, PlanRequest, Recovered, RecoveredState, Result,
    ShutdownMode, Target, async_trait,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::RayConfig;
use crate::events::Events;
use crate::head::{self, Head};
use crate::kind::{KindDriver, kind};
use crate::metrics::Metrics;
use crate::records::Records;
use crate::shared::{Kinds, Shared};

/// Manages jobs, Serve applications and clusters of Ray. Made by [`RayDriverFactory`](crate::RayDriverFactory).
///
/// One task for each cluster, and one more where Ray posts its events to the agent; none for an object.
pub struct RayDriver {
    shared: Arc<Shared>,
    kinds: Kinds,
    info: DriverInfo,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The targets of one kind.
type OfKind<'k, 'a> = (&'k dyn KindDriver, Vec<Target<'a>>);

/// The driver's name.
pub(crate) fn name() -> DriverName {
    DriverName::new("ray").expect("a DNS label")
}

/// The types that this driver manages, known without building it.
pub(crate) const TYPES: [&str; 3] = ["cluster", "job", "serve"];

fn kinds_of(shared: &Arc<Shared>) -> Kinds {
    let jobs: Arc<dyn KindDriver> = crate::job::JobKind::new(Arc::clone(shared));
    let clusters = Arc::new(crate::cluster::ClusterKind::new(Arc::clone(shared)));
    let applications = Arc::new(crate::serve::ServeKind::new(Arc::clone(shared)));
    [jobs, clusters, applications].into()
}

impl RayDriver {
    pub(crate) fn build(build: &Build) -> Result<Self> {
        let config = RayConfig::parse(&build.config).map_err(|d| Error::invalid(d.path, d.message))?;
        if let Some(wrong) = config.check().into_iter().next() {
            return Err(Error::invalid(wrong.path, wrong.message));
        }
        let dir = build.state_dir.join("objects");
        let records = Records::open(dir.clone()).map_err(|e| {
            Error::internal(format!("cannot make {}: {e}", dir.display())).with_operation("build")
        })?;
        let mut heads = BTreeMap::new();
        for (name, cluster) in &config.clusters {
            heads.insert(name.clone(), Arc::new(Head::new(name, cluster)?));
        }
        let metrics = Metrics::new(heads.keys())?;
        let shared = Arc::new(Shared {
            agent: build.agent.clone(),
            heads,
            events: Events::new(),
            records,
            metrics,
            closing: CancellationToken::new(),
            said: Mutex::new(None),
            troubles: Mutex::default(),
        });
        let kinds = kinds_of(&shared);
        let mut tasks = Vec::new();
        for head in shared.heads.values() {
            let parts = || (Arc::clone(&shared), Arc::clone(&kinds), Arc::clone(head));
            let (of_task, of_kinds, of_head) = parts();
            tasks.push(tokio::spawn(head::run(of_task, of_kinds, of_head)));
            if let Some(config) = &head.config.events {
                let (of_task, of_kinds, of_head) = parts();
                tasks.push(tokio::spawn(head::listen(
                    of_task,
                    of_kinds,
                    of_head,
                    config.clone(),
                )));
            }
        }
        Ok(Self {
            info: DriverInfo {
                name: name(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                summary: "Jobs, Serve applications and clusters of Ray, over REST.".to_owned(),
                kinds: TYPES.map(kind).into(),
            },
            shared,
            kinds,
            tasks: Mutex::new(tasks),
        })
    }

    fn of_kind(&self, kind: &Kind) -> Result<&dyn KindDriver> {
        kind.type_name()
            .filter(|_| kind.driver() == "ray")
            .and_then(|name| self.of_type(name))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Unsupported,
                    format!("the Ray driver does not manage {kind}"),
                )
            })
    }

    fn of_type(&self, type_name: &str) -> Option<&dyn KindDriver> {
        self.kinds
            .iter()
            .find(|kind| kind.type_name() == type_name)
            .map(AsRef::as_ref)
    }

    fn of_handle(&self, handle: &Handle) -> Result<&dyn KindDriver> {
        let type_name = crate::handle::type_name(handle)?;
        self.of_type(type_name)
            .ok_or_else(|| Error::invalid("handle", format!("there is no kind ray/{type_name}")))
    }

    /// The kind of an object whose handle was never known: by its record, else by its mark.
    async fn unanswered(&self, guid: Guid) -> Result<Option<(&dyn KindDriver, Option<Handle>)>> {
        if let Some(type_name) = self.shared.records.type_of(guid).await? {
            return Ok(self.of_type(&type_name).map(|kind| (kind, None)));
        }
        for kind in self.kinds.iter() {
            if !kind.capabilities().discoverable {
                continue;
            }
            if let Some((_, handle)) = kind
                .discover()
                .await?
                .into_iter()
                .find(|(mark, _)| mark.guid == guid)
            {
                return Ok(Some((kind.as_ref(), Some(handle))));
            }
        }
        Ok(None)
    }

    /// The targets by kind; those whose handle cannot be read, with the reason.
    fn sorted<'a>(&self, targets: &[Target<'a>]) -> (Vec<OfKind<'_, 'a>>, Vec<(Guid, Error)>) {
        let mut by_kind: Vec<OfKind<'_, 'a>> = self
            .kinds
            .iter()
            .map(|kind| (kind.as_ref(), Vec::new()))
            .collect();
        let mut unreadable = Vec::new();
        for target in targets {
            match self.of_handle(target.handle) {
                Ok(kind) => {
                    if let Some((_, of_kind)) = by_kind
                        .iter_mut()
                        .find(|(k, _)| k.type_name() == kind.type_name())
                    {
                        of_kind.push(*target);
                    }
                }
                Err(error) => unreadable.push((target.guid, error)),
            }
        }
        by_kind.retain(|(_, targets)| !targets.is_empty());
        (by_kind, unreadable)
    }
}

impl Drop for RayDriver {
    fn drop(&mut self) {
        // Without `shutdown`: the tasks end by themselves at their next turn.
        self.shared.closing.cancel();
        self.shared.events.close();
    }
}

#[async_trait]
impl ObjectDriver for RayDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn schema(&self, kind: &Kind) -> Option<&KindSchema> {
        self.of_kind(kind).ok().map(KindDriver::schema)
    }

    fn capabilities(&self, kind: &Kind) -> Option<&Capabilities> {
        self.of_kind(kind).ok().map(KindDriver::capabilities)
    }

    fn health(&self) -> DriverState {
        self.shared.health()
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        match self.of_kind(&spec.kind) {
            Ok(kind) => kind.validate(spec).await,
            Err(error) => vec![Diagnostic::error("spec", error.message())],
        }
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        self.of_kind(&request.next.kind)?.plan(request).await
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.shared.check_open()?;
        let guid = request.guid;
        self.of_kind(&request.spec.kind)?
            .apply(request)
            .await
            .map_err(|e| named(e, guid, "apply"))
    }

    async fn delete(&self, mut request: DeleteRequest<'_>) -> Result<Deleted> {
        self.shared.check_open()?;
        let guid = request.guid;
        let began = Instant::now();
        let found;
        let kind = match request.handle {
            Some(handle) => self.of_handle(handle)?,
            None => match self
                .unanswered(guid)
                .await
                .map_err(|e| named(e, guid, "delete"))?
            {
                Some((kind, handle)) => {
                    found = handle;
                    request.handle = found.as_ref();
                    request.deadline = request.deadline.saturating_sub(began.elapsed());
                    kind
                }
                None => return Ok(Deleted::default()),
            },
        };
        kind.delete(request).await.map_err(|e| named(e, guid, "delete"))
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.shared.check_open()?;
        let (by_kind, unreadable) = self.sorted(targets);
        let mut all: Vec<Recovered> = unreadable
            .into_iter()
            .map(|(guid, error)| Recovered {
                guid,
                state: RecoveredState::Lost(error.to_string()),
            })
            .collect();
        for (kind, targets) in by_kind {
            all.extend(kind.recover(&targets).await);
        }
        Ok(all)
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.shared.check_open()?;
        let mut all = Vec::new();
        for kind in self.kinds.iter().filter(|kind| kind.capabilities().discoverable) {
            all.extend(kind.discover().await?);
        }
        Ok(all)
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        self.shared.check_open()?;
        let (by_kind, unreadable) = self.sorted(targets);
        out.extend(unreadable.into_iter().map(|(guid, _)| Observed {
            guid,
            handle: None,
            status: ObjectStatus::new(ObjectState::Unknown, Evidence::now(EvidenceSource::Inferred, 0)),
        }));
        for (kind, targets) in by_kind {
            kind.observe(&targets, out).await;
        }
        Ok(())
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
        self.shared.check_open()?;
        let began = Instant::now();
        for kind in self.kinds.iter() {
            let targets: Vec<CollectTarget<'_>> = request
                .targets
                .iter()
                .filter(|target| crate::handle::type_name(target.handle) == Ok(kind.type_name()))
                .copied()
                .collect();
            if targets.is_empty() {
                continue;
            }
            let spent: usize = out.logs.iter().map(|record| record.body.len()).sum();
            let of_kind = CollectRequest {
                targets: &targets,
                max_log_bytes: request.max_log_bytes.saturating_sub(spent),
                deadline: request.deadline.saturating_sub(began.elapsed()),
                ..request
            };
            kind.collect(of_kind, out, cursors).await;
        }
        Ok(())
    }

    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()> {
        let began = Instant::now();
        let reserve = Duration::from_millis(500).min(deadline / 4);
        if mode == ShutdownMode::StopObjects && !self.shared.closing.is_cancelled() {
            let within = deadline.saturating_sub(reserve);
            let stops = join_all(self.kinds.iter().map(|kind| kind.stop_all(within)));
            if timeout(within, stops).await.is_err() {
                tracing::warn!("not all Ray objects were stopped at the shutdown");
            }
        }
        self.shared.closing.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for mut task in tasks {
            let left = deadline.saturating_sub(began.elapsed()).max(reserve);
            if timeout(left, &mut task).await.is_err() {
                task.abort();
            }
        }
        self.shared.events.close();
        Ok(())
    }

    fn control(&self) -> Option<&dyn Control> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn handle_version(&self) -> u32 {
        crate::handle::VERSION
    }
}

#[async_trait]
impl Control for RayDriver {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        self.shared.check_open()?;
        let (guid, verb) = (request.guid, request.action.verb());
        self.of_kind(&request.spec.kind)?
            .control(request)
            .await
            .map_err(|e| named(e, guid, verb.as_str()))
    }
}

#[async_trait]
impl Logs for RayDriver {
    async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        self.shared.check_open()?;
        self.of_handle(target.handle)?.read_logs(target, request).await
    }
}

/// An error with object and operation, where it does not name them.
fn named(error: Error, guid: Guid, operation: &str) -> Error {
    let error = if error.object().is_none() {
        error.with_object(guid)
    } else {
        error
    };
    if error.operation().is_empty() {
        error.with_operation(operation)
    } else {
        error
    }
}
