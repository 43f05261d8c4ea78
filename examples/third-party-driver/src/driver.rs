//! The driver: one directory per object, with the content and the mark in it.

use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_api_driver::model::{
    AgentId, Diagnostic, DriverState, Evidence, EvidenceSource, FieldChange, Guid, Kind, ObjectSpec, Plan,
    PlanAction, TelemetryBatch, Timestamp,
};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, DeleteRequest, Deleted, DriverFactory, DriverInfo,
    Error, ErrorKind, EventStream, Handle, KindSchema, Mark, ObjectDriver, ObjectState, ObjectStatus,
    Observed, PlanRequest, Recovered, RecoveredState, Result, ShutdownMode, Target, async_trait,
};
use futures_util::StreamExt;
use serde_json::json;
use tokio::fs;
use tokio::sync::watch;

use crate::{FileFactory, FileSpec};

/// Manages files.
pub struct FileDriver {
    agent: AgentId,
    root: PathBuf,
    info: DriverInfo,
    schema: KindSchema,
    capabilities: Capabilities,
    revision: AtomicU64,
    /// Turns true at the shutdown: ends the event stream and refuses later calls.
    closed: watch::Sender<bool>,
}

impl FileDriver {
    /// A driver whose files live in this directory, which is made when needed.
    #[must_use]
    pub fn new(agent: AgentId, root: PathBuf) -> Self {
        let mut capabilities = Capabilities::default();
        capabilities.adoptable = true;
        capabilities.discoverable = true;
        capabilities
            .fields
            .insert("spec.content".into(), agent_api_driver::FieldChangeMode::Live);
        Self {
            agent,
            root,
            info: DriverInfo {
                name: FileFactory.name(),
                version: env!("CARGO_PKG_VERSION").into(),
                summary: "files in a directory".into(),
                kinds: FileFactory.kinds(),
            },
            schema: KindSchema {
                spec: schemars::schema_for!(FileSpec).to_value(),
                status: json!({"type": "object", "properties": {"path": {"type": "string"}}}),
            },
            capabilities,
            // Grows over restarts of the agent too.
            revision: AtomicU64::new(u64::try_from(Timestamp::now().as_micros()).unwrap_or(1)),
            closed: watch::Sender::new(false),
        }
    }

    fn directory(&self, guid: Guid) -> PathBuf {
        self.root.join(guid.to_string())
    }

    fn handle(&self, guid: Guid) -> Handle {
        Handle::new(1, json!({ "file": guid.to_string() }))
    }

    /// Whether a handle is one that this driver wrote for this object.
    fn is_ours(&self, guid: Guid, handle: &Handle) -> bool {
        *handle == self.handle(guid)
    }

    fn open(&self) -> Result<()> {
        match *self.closed.borrow() {
            true => Err(Error::new(
                ErrorKind::Unavailable,
                "the file driver has been shut down",
            )),
            false => Ok(()),
        }
    }

    async fn status(&self, guid: Guid) -> ObjectStatus {
        let path = self.directory(guid).join("content");
        let state = match fs::metadata(&path).await {
            Ok(_) => ObjectState::Running,
            Err(error) if error.kind() == Io::NotFound => ObjectState::Gone,
            Err(_) => ObjectState::Unknown,
        };
        let revision = self.revision.fetch_add(1, Ordering::Relaxed);
        let mut status = ObjectStatus::new(state, Evidence::now(EvidenceSource::Poll, revision));
        status.details = json!({ "path": path });
        status
    }
}

/// An I/O error as the contract's: which operation, which path, and whether it may pass.
fn failed(operation: &str, path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        Io::PermissionDenied => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{}: {error}", path.display()))
        .with_operation(operation)
        .with_source(error)
}

#[async_trait]
impl ObjectDriver for FileDriver {
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
        DriverState::Healthy
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        match FileSpec::of(spec) {
            Err(error) => vec![Diagnostic::error(error.path().unwrap_or("spec"), error.message())],
            Ok(_) => Vec::new(),
        }
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let Some(previous) = request.previous else {
            return Ok(Plan::new(PlanAction::Create, Vec::new()));
        };
        let (from, to) = (json!(FileSpec::of(previous)?), json!(FileSpec::of(request.next)?));
        let changes = FieldChange::between("spec", &from, &to);
        Ok(Plan::new(
            if changes.is_empty() {
                PlanAction::NoOp
            } else {
                PlanAction::InPlace
            },
            changes,
        ))
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.open()?;
        let file = FileSpec::of(request.spec)?;
        if request
            .handle
            .is_some_and(|handle| !self.is_ours(request.guid, handle))
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the handle is not one that this driver wrote for the object",
            ));
        }
        let directory = self.directory(request.guid);
        fs::create_dir_all(&directory)
            .await
            .map_err(|e| failed("apply", &directory, e))?;
        let mark = Mark {
            agent: self.agent.clone(),
            guid: request.guid,
            op_id: request.op_id,
        };
        // The content is renamed into place last: who sees it sees all of it, and the same call twice is the same file.
        for (name, bytes) in [
            (
                "mark",
                serde_json::to_vec(&mark).map_err(|e| Error::internal(e.to_string()))?,
            ),
            ("content", file.content.into_bytes()),
        ] {
            let (temporary, path) = (directory.join(format!("{name}.new")), directory.join(name));
            fs::write(&temporary, bytes)
                .await
                .map_err(|e| failed("apply", &temporary, e))?;
            fs::rename(&temporary, &path)
                .await
                .map_err(|e| failed("apply", &path, e))?;
        }
        Ok(Applied::new(
            self.handle(request.guid),
            self.status(request.guid).await,
        ))
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.open()?;
        if request
            .handle
            .is_some_and(|handle| !self.is_ours(request.guid, handle))
        {
            return Ok(Deleted::default());
        }
        let directory = self.directory(request.guid);
        match fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != Io::NotFound => Err(failed("delete", &directory, error)),
            _ => Ok(Deleted::default()),
        }
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.open()?;
        let mut recovered = Vec::with_capacity(targets.len());
        for target in targets {
            let state = if !self.is_ours(target.guid, target.handle) {
                RecoveredState::Lost("the handle is not one that the file driver wrote".into())
            } else {
                let status = self.status(target.guid).await;
                match status.state {
                    ObjectState::Gone => RecoveredState::Lost("the file is gone".into()),
                    _ => RecoveredState::Adopted(status, None),
                }
            };
            recovered.push(Recovered {
                guid: target.guid,
                state,
            });
        }
        Ok(recovered)
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.open()?;
        let mut found = Vec::new();
        let mut entries = match fs::read_dir(&self.root).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == Io::NotFound => return Ok(found),
            Err(error) => return Err(failed("discover", &self.root, error)),
        };
        while let Some(entry) = entries
            .next_entry()
            .await
            .map_err(|e| failed("discover", &self.root, e))?
        {
            let Ok(bytes) = fs::read(entry.path().join("mark")).await else {
                continue;
            };
            match serde_json::from_slice::<Mark>(&bytes) {
                Ok(mark) if mark.agent == self.agent => found.push((mark.clone(), self.handle(mark.guid))),
                _ => {}
            }
        }
        Ok(found)
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        self.open()?;
        for target in targets {
            let mut status = self.status(target.guid).await;
            if !self.is_ours(target.guid, target.handle) {
                status.state = ObjectState::Gone;
            }
            out.push(Observed {
                guid: target.guid,
                handle: None,
                status,
            });
        }
        Ok(())
    }

    /// Files do not tell of changes: the stream is silent until the shutdown, and the heartbeat looks.
    fn events(&self) -> EventStream {
        let mut closed = self.closed.subscribe();
        futures_util::stream::once(async move {
            let _ = closed.wait_for(|closed| *closed).await;
        })
        .filter_map(|()| async { None })
        .boxed()
    }

    async fn collect(
        &self,
        _: CollectRequest<'_>,
        _: &mut TelemetryBatch,
        _: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        self.open()
    }

    async fn shutdown(&self, mode: ShutdownMode, _: Duration) -> Result<()> {
        let first = !self.closed.send_replace(true);
        if first && mode == ShutdownMode::StopObjects {
            match fs::remove_dir_all(&self.root).await {
                Err(error) if error.kind() != Io::NotFound => {
                    return Err(failed("shutdown", &self.root, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
