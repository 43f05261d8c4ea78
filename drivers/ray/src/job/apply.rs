//! Submitting: the first attempt, the next one, and what became of a submission whose reply was lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    AgentId, Error, ErrorKind, EvidenceSource, Guid, ObjectSpec, OpId, Severity, Timestamp,
};
use agent_api_driver::{Applied, ApplyRequest, Result};
use tokio::time::Instant;

use super::data::{JobHandle, JobRecord, RecordState, TYPE, submission_id};
use super::spec::{JobSpec, MARKS, limits};
use super::state::Sight;
use super::table::Entry;
use super::{JobKind, is_ours, made_by, marked, quote};
use crate::head::Head;
use crate::records::Durability;
use crate::revision;
use crate::sdk::{JobInfo, Package, Submission};

/// How old the list of nodes may be that a submission is checked against.
const NODES_AGE: Duration = Duration::from_secs(30);
/// So often the number of an attempt may turn out to be taken.
const TRIES: u32 = 8;

/// One submission that is wanted.
pub(super) struct Wanted<'a> {
    pub guid: Guid,
    pub op_id: OpId,
    pub object: &'a ObjectSpec,
    pub spec: JobSpec,
    pub head: Arc<Head>,
    pub maybe_applied: bool,
    pub until: Instant,
}

impl Wanted<'_> {
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl JobKind {
    /// Reads and checks a spec.
    pub(super) fn wanted<'a>(
        &self,
        guid: Guid,
        op_id: OpId,
        object: &'a ObjectSpec,
        maybe_applied: bool,
        deadline: Duration,
    ) -> Result<Wanted<'a>> {
        let spec = JobSpec::parse(object)?;
        if let Some(wrong) = spec
            .check(object)
            .into_iter()
            .find(|d| d.severity == Severity::Error)
        {
            return Err(Error::invalid(wrong.path, wrong.message));
        }
        let head = Arc::clone(self.shared.head(spec.cluster.as_deref())?);
        Ok(Wanted {
            guid,
            op_id,
            object,
            spec,
            head,
            maybe_applied,
            until: Instant::now() + deadline,
        })
    }

    /// See [`agent_api_driver::ObjectDriver::apply`].
    pub(super) async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        let wanted = self.wanted(
            request.guid,
            request.op_id,
            request.spec,
            request.maybe_applied,
            request.deadline,
        )?;
        let before = request.handle.map(JobHandle::read).transpose()?;
        match before {
            Some(before) if before.guid != request.guid => {
                Err(Error::new(ErrorKind::NotFound, "the handle is of another object"))
            }
            Some(before) => self.change(&wanted, before).await,
            None if wanted.spec.adopt.is_some() => self.adopt(&wanted).await,
            None => self.submit(&wanted, None, None).await,
        }
    }

    /// With the handle of an earlier operation: it is what is wanted, or it is replaced, or it has ended and is submitted again.
    async fn change(&self, wanted: &Wanted<'_>, before: JobHandle) -> Result<Applied> {
        if before.op_id == wanted.op_id {
            return self.present(wanted, before).await;
        }
        let record = self.record(wanted.guid).await?;
        if let Some(record) = &record
            && record.state == RecordState::Submitted
            && record.handle.op_id == wanted.op_id
        {
            // The answer of this operation was lost.
            return self.submit(wanted, None, None).await;
        }
        let head = self.head_of(&before)?;
        let info = head
            .client
            .job(&before.id, wanted.left())
            .await?
            .filter(|info| is_ours(info, &before));
        let running = info.as_ref().is_some_and(|info| !info.status.is_final());
        let same = before.digest == wanted.spec.digest(&wanted.object.resources);
        if running && same {
            return self.present(wanted, before).await;
        }
        if before.adopted || wanted.spec.adopt.is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                "a job that was adopted is neither changed nor started again; give its command to an object of its own",
            ));
        }
        if running {
            self.check_feasible(wanted).await?;
        }
        self.next(wanted, before, info).await
    }

    /// Ends an attempt where it has not ended, and submits the next one.
    pub(super) async fn next(
        &self,
        wanted: &Wanted<'_>,
        before: JobHandle,
        mut info: Option<JobInfo>,
    ) -> Result<Applied> {
        let head = self.head_of(&before)?;
        if info.as_ref().is_some_and(|info| !info.status.is_final()) {
            info = self.stop_and_wait(&head, &before, wanted.left()).await?;
        }
        let known = || {
            self.table
                .lock()
                .get(wanted.guid)
                .and_then(|entry| entry.info.clone())
        };
        let info = info.or_else(known);
        let applied = self.submit(wanted, Some(&before), info.as_ref()).await?;
        // The handle tells of it; the record on the head is of no use any more.
        self.remove_later(&before);
        Ok(applied)
    }

    /// What this operation made before.
    async fn present(&self, wanted: &Wanted<'_>, handle: JobHandle) -> Result<Applied> {
        let head = self.head_of(&handle)?;
        match head.client.job(&handle.id, wanted.left()).await? {
            Some(info) if is_ours(&info, &handle) => Ok(self.enter(&head, handle, Some(&info))),
            _ => {
                let version = head.version().await?;
                let sight = Sight::Absent {
                    session: &version.session_name,
                };
                Ok(self.enter_as(&head, handle, &sight))
            }
        }
    }

    async fn adopt(&self, wanted: &Wanted<'_>) -> Result<Applied> {
        let id = wanted.spec.adopt.clone().unwrap_or_default();
        let Some(info) = wanted.head.client.job(&id, wanted.left()).await? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the Ray cluster {} has no job {id}", wanted.head.name),
            ));
        };
        if info.submission_id.as_deref() != Some(id.as_str()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{id} connected to the cluster by itself: Ray lets nobody stop it, and keeps no log of it"
                ),
            ));
        }
        if marked(&info, "agent_guid").is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{id} is an object of an agent already"),
            ));
        }
        let mut handle = self.handle(wanted, id, 1, 0).await?;
        handle.adopted = true;
        self.keep(&handle, RecordState::Submitted).await?;
        Ok(self.enter(&wanted.head, handle, Some(&info)))
    }

    /// Submits an attempt that was not submitted yet, or finds the one that this operation submitted.
    pub(super) async fn submit(
        &self,
        wanted: &Wanted<'_>,
        before: Option<&JobHandle>,
        ended: Option<&JobInfo>,
    ) -> Result<Applied> {
        let record = self.record(wanted.guid).await?;
        let last = record.as_ref().map(|record| &record.handle);
        let revision = last
            .into_iter()
            .chain(before)
            .map(|handle| handle.revision)
            .max()
            .unwrap_or(0);
        let past = before.map(|before| before.past_with(ended));
        let (mut attempt, mut again) = match &record {
            Some(record) if record.handle.op_id == wanted.op_id && record.state == RecordState::Submitted => {
                (record.handle.attempt, true)
            }
            Some(record) => (
                record.handle.attempt.max(before.map_or(0, |b| b.attempt)) + 1,
                false,
            ),
            None if before.is_none() && wanted.maybe_applied => self.marked_attempt(wanted).await?,
            None => (before.map_or(0, |before| before.attempt) + 1, false),
        };
        if !again {
            self.check_feasible(wanted).await?;
        }
        let runtime_env = self.runtime_env(wanted).await?;
        for _ in 0..TRIES {
            let id = submission_id(wanted.object.name.as_str(), wanted.guid, attempt);
            let mut handle = self.handle(wanted, id, attempt, revision).await?;
            handle.past = match (&past, last.filter(|_| again)) {
                (Some(past), _) => past.clone(),
                (None, Some(last)) => last.past.clone(),
                (None, None) => Vec::new(),
            };
            if again && let Some(info) = wanted.head.client.job(&handle.id, wanted.left()).await? {
                if made_by(&info, wanted.guid, wanted.op_id) {
                    self.keep(&handle, RecordState::Submitted).await?;
                    return Ok(self.enter(&wanted.head, handle, Some(&info)));
                }
                (attempt, again) = (attempt + 1, false);
                continue;
            }
            self.keep(&handle, RecordState::Submitted).await?;
            let job = submission(&self.shared.agent, wanted, &handle, runtime_env.clone());
            let refused = match wanted.head.client.submit_job(&job, wanted.left()).await {
                Ok(()) => return Ok(self.enter(&wanted.head, handle, None)),
                Err(error) => error,
            };
            let found = match refused.kind() {
                ErrorKind::AlreadyExists => wanted.head.client.job(&handle.id, wanted.left()).await?,
                // It may have come through: its id tells.
                ErrorKind::Timeout | ErrorKind::Unavailable => {
                    let left = wanted.left().max(Duration::from_millis(500));
                    wanted.head.client.job(&handle.id, left).await.ok().flatten()
                }
                _ => None,
            };
            match found {
                Some(info) if made_by(&info, wanted.guid, wanted.op_id) => {
                    return Ok(self.enter(&wanted.head, handle, Some(&info)));
                }
                _ if refused.kind() == ErrorKind::AlreadyExists => attempt += 1,
                _ => return Err(self.not_submitted(wanted, &handle, refused).await),
            }
            again = false;
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the ids of its next attempts are all taken by other jobs",
        ))
    }

    /// The error of a submission that was refused, or whose fate is not known.
    async fn not_submitted(&self, wanted: &Wanted<'_>, handle: &JobHandle, refused: Error) -> Error {
        if matches!(
            refused.kind(),
            ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Busy
        ) {
            // The same operation goes on with the same id.
            return refused.with_context("submission_id", &handle.id).with_hint(
                "whether it was submitted is asked for by its id when the operation is tried again",
            );
        }
        let kept = if handle.attempt == 1 {
            self.shared.records.remove(wanted.guid).await
        } else {
            self.keep(handle, RecordState::Deleted).await
        };
        if let Err(error) = kept {
            tracing::warn!(guid = %wanted.guid, %error, "the record of a refused submission stays");
        }
        refused
    }

    /// With no record of it: the attempt that this operation submitted, or the one after the last. Asks for all jobs, because the state
    /// directory was lost.
    async fn marked_attempt(&self, wanted: &Wanted<'_>) -> Result<(u32, bool)> {
        let mut last = 0;
        for info in wanted.head.client.jobs().await? {
            if marked(&info, "agent_guid") != Some(wanted.guid.to_string().as_str()) {
                continue;
            }
            let attempt = marked(&info, "agent_attempt")
                .and_then(|n| n.parse().ok())
                .unwrap_or(1);
            if made_by(&info, wanted.guid, wanted.op_id) {
                return Ok((attempt, true));
            }
            last = last.max(attempt);
        }
        Ok((last + 1, false))
    }

    /// Refuses what no node can ever give. Where nodes are added when they are needed it is submitted, and a condition says so.
    async fn check_feasible(&self, wanted: &Wanted<'_>) -> Result<()> {
        let capacity = wanted.spec.capacity(&wanted.object.resources);
        if capacity.is_empty() || wanted.head.config.autoscaling {
            return Ok(());
        }
        for max_age in [NODES_AGE, Duration::ZERO] {
            let Ok(nodes) = wanted.head.nodes(max_age).await else {
                // The submission itself will tell.
                return Ok(());
            };
            match capacity.why_infeasible(&nodes) {
                None => return Ok(()),
                // A node may have joined since.
                Some(_) if !max_age.is_zero() => {}
                Some(why) => {
                    return Err(Error::new(ErrorKind::Conflict, why)
                        .with_hint("add a node that has it, or set `autoscaling` for this cluster"));
                }
            }
        }
        Ok(())
    }

    /// The runtime environment, with what is local packed and uploaded.
    async fn runtime_env(&self, wanted: &Wanted<'_>) -> Result<serde_json::Map<String, serde_json::Value>> {
        let mut uploaded = BTreeMap::new();
        for (field, path) in wanted.spec.local_paths() {
            let (place, most) = (path.to_owned(), wanted.head.config.max_package.get());
            let packed = tokio::task::spawn_blocking(move || Package::make(&place, most))
                .await
                .map_err(|e| Error::internal("packing was interrupted").with_source(e))?;
            let package = packed.map_err(|e| {
                Error::new(ErrorKind::Conflict, format!("{}: {}", e.path.display(), e.why)).with_path(&field)
            })?;
            wanted.head.client.upload(&package, wanted.left()).await?;
            uploaded.insert(path.to_string_lossy().into_owned(), package.uri());
        }
        let uri = |place: &str| uploaded.get(place).cloned().unwrap_or_else(|| place.to_owned());
        Ok(wanted.spec.runtime_env(uri))
    }

    async fn handle(
        &self,
        wanted: &Wanted<'_>,
        id: String,
        attempt: u32,
        revision: u64,
    ) -> Result<JobHandle> {
        let version = wanted.head.version().await?;
        Ok(JobHandle {
            guid: wanted.guid,
            cluster: wanted.head.name.clone(),
            id,
            attempt,
            op_id: wanted.op_id,
            revision: revision::after(revision),
            session: version.session_name,
            submitted_at: Timestamp::now(),
            digest: wanted.spec.digest(&wanted.object.resources),
            stop_signal: wanted.spec.stop_signal(),
            limits: limits(&wanted.object.resources),
            wanted: wanted.spec.capacity(&wanted.object.resources),
            adopted: false,
            stop: false,
            past: Vec::new(),
        })
    }

    pub(super) async fn record(&self, guid: Guid) -> Result<Option<JobRecord>> {
        self.shared.records.read(TYPE, guid).await
    }

    pub(super) async fn keep(&self, handle: &JobHandle, state: RecordState) -> Result<()> {
        let record = JobRecord {
            handle: handle.clone(),
            state,
            ended: None,
        };
        self.shared
            .records
            .write(TYPE, handle.guid, &record, Durability::Cached)
            .await
    }

    /// Puts a submission into the table as the head shows it; a new one waits to be started.
    pub(super) fn enter(&self, head: &Head, handle: JobHandle, info: Option<&JobInfo>) -> Applied {
        match info {
            Some(info) => self.enter_as(head, handle, &Sight::Job(info)),
            None => {
                let entry = Entry::new(handle);
                let applied = Applied::new(entry.handle.write(), entry.status.clone());
                self.table.lock().insert(entry);
                head.touch();
                self.changed.notify_waiters();
                applied
            }
        }
    }

    /// Puts a submission into the table, and takes what was seen of it. Where it is there already its status goes on.
    pub(super) fn enter_as(&self, head: &Head, handle: JobHandle, sight: &Sight<'_>) -> Applied {
        let (guid, id) = (handle.guid, handle.id.clone());
        let written = handle.write();
        {
            let mut table = self.table.lock();
            if table.get(guid).is_none_or(|entry| entry.handle.id != id) {
                table.insert(Entry::new(handle));
            }
        }
        head.touch();
        let status = self
            .learn(guid, &id, sight, EvidenceSource::Poll)
            .expect("it was put in above, and one operation at a time changes an object");
        self.changed.notify_waiters();
        Applied::new(written, status)
    }
}

fn submission(
    agent: &AgentId,
    wanted: &Wanted<'_>,
    handle: &JobHandle,
    runtime_env: serde_json::Map<String, serde_json::Value>,
) -> Submission {
    let mut metadata = wanted.spec.metadata.clone();
    let marks = [
        agent.to_string(),
        handle.guid.to_string(),
        handle.op_id.to_string(),
        handle.attempt.to_string(),
    ];
    metadata.extend(MARKS.map(str::to_owned).into_iter().zip(marks));
    let mut amounts = handle.wanted.amounts.clone();
    let memory = amounts.remove("memory");
    Submission {
        entrypoint: quote::entrypoint(&wanted.spec.command),
        submission_id: handle.id.clone(),
        metadata,
        runtime_env,
        entrypoint_num_cpus: amounts.remove("CPU"),
        entrypoint_num_gpus: amounts.remove("GPU"),
        entrypoint_memory: memory.and(wanted.object.resources.memory.map(|memory| memory.get())),
        entrypoint_resources: amounts,
        entrypoint_label_selector: handle.wanted.labels.clone(),
    }
}
