//! Starting processes, once per operation.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use agent_api_driver::Result;
use agent_api_driver::model::{
    Error, ErrorKind, EvidenceSource, ExitStatus, Guid, OpId, Resources, Timestamp,
};
use agent_api_driver::{Applied, DriverEvent};
use serde::{Deserialize, Serialize};

use crate::error;
use crate::handle::HandleData;
use crate::recover::away;
use crate::sdk::cgroup::Group;
use crate::sdk::identity::{Found, Identity};
use crate::sdk::logfile::Stream;
use crate::sdk::pool::Scratch;
use crate::sdk::spawn::{self, Descriptors, Spawned};
use crate::sdk::sweep::find_marked;
use crate::shared::Shared;
use crate::spec::{ProcessSpec, wanted};
use crate::table::{Entry, Watched, next_revision};

/// A start, with everything owned, because it runs on a thread of the driver whatever becomes of the call.
pub(crate) struct Start {
    pub guid: Guid,
    pub op_id: OpId,
    /// Look for what an earlier call of this operation may have made.
    pub maybe_applied: bool,
    pub spec: ProcessSpec,
    pub resources: Resources,
    /// The run before, where there was one.
    pub previous: Option<HandleData>,
}

/// What a start writes beside the logs right after the spawn, so that a call that is repeated after a crash finds what the
/// first one made, also when that has ended since. Between spawn and record the mark in the environment is what finds it.
#[derive(Serialize, Deserialize)]
struct RunRecord {
    run: HandleData,
}

impl Shared {
    /// Starts the process on a thread of the driver. Dropped, it has happened or has not; repeated with the same operation it
    /// happens once.
    pub(crate) async fn start(self: &Arc<Self>, start: Start) -> Result<Applied> {
        let shared = Arc::clone(self);
        self.pool
            .run(move |scratch| shared.start_now(start, scratch))
            .await
            .map_err(error::closed)?
    }

    fn start_now(&self, start: Start, scratch: &mut Scratch) -> Result<Applied> {
        let guid = start.guid;
        let _one_at_a_time = self.start_lock(guid).lock();
        self.check_open()?;
        if let Some(entry) = self.table.lock().objects.get(&guid) {
            if entry.data.op_id == start.op_id {
                return Ok(entry.applied());
            }
            if entry.pidfd.is_some() {
                return Err(Error::new(ErrorKind::Conflict, "it is running already").with_object(guid));
            }
        }
        if start.maybe_applied
            && let Some(applied) = self.find_operation(guid, start.op_id, &start)?
        {
            return Ok(applied);
        }
        let launch = start
            .spec
            .launch(self.mark(guid, start.op_id))
            .map_err(|(path, message)| Error::invalid(path, message))?;
        let files = self.files(guid);
        let is_new = !files.dir().exists();
        let mut group = Group::default();
        let made = self.prepare(guid, &start, &mut group).and_then(|(fds, limits)| {
            let spawned =
                spawn::spawn(&launch, fds, &mut scratch.stack).map_err(|e| error::spawn(&e, guid))?;
            Ok((spawned, limits))
        });
        match made {
            Ok((spawned, limits)) => self.register(&start, spawned, group, limits),
            Err(error) => {
                let mut left = Vec::new();
                if !group.remove() {
                    left.push("its cgroup");
                }
                if is_new && files.remove().is_err() {
                    left.push("its log directory");
                }
                Err(if left.is_empty() {
                    error
                } else {
                    error.with_context("left", left.join(", "))
                })
            }
        }
    }

    fn prepare(
        &self,
        guid: Guid,
        start: &Start,
        group: &mut Group,
    ) -> Result<(Descriptors, Vec<crate::sdk::cgroup::Applied>)> {
        let system = |what: &'static str| move |e: io::Error| error::system(&e, what, guid);
        let files = self.files(guid);
        files.create_dir().map_err(system("log directory"))?;
        let rotation = self.config.rotation();
        let stdout = files
            .open(Stream::Stdout, &rotation)
            .map_err(system("log file"))?;
        let stderr = files
            .open(Stream::Stderr, &rotation)
            .map_err(system("log file"))?;
        let name = guid.to_string();
        // A group of the run before would count what that did.
        let _still_used = self.host.existing(&name).remove();
        let limits = self
            .host
            .apply(&name, group, &wanted(&start.resources), &[])
            .map_err(system("cgroup"))?;
        let cgroup = group.directory().map_err(system("cgroup"))?;
        let cgroups = group.entries().map_err(system("cgroup"))?;
        Ok((
            Descriptors {
                stdin: None,
                stdout,
                stderr,
                cgroup,
                cgroups,
            },
            limits,
        ))
    }

    fn register(
        &self,
        start: &Start,
        spawned: Spawned,
        group: Group,
        limits: Vec<crate::sdk::cgroup::Applied>,
    ) -> Result<Applied> {
        let mut data = self.new_data(start, spawned.identity);
        data.cgroups = group.dirs();
        let limits = Self::limit_statuses(&start.resources, &limits);
        self.record(start.guid, &data);
        self.adopt(start.guid, data, spawned.pidfd, EvidenceSource::Event, |entry| {
            entry.group = group;
            entry.limits = limits;
        })
        .map_err(|e| error::system(&e, "cannot watch the process", start.guid))
    }

    fn new_data(&self, start: &Start, identity: Identity) -> HandleData {
        let previous = start.previous.as_ref();
        let used = self.sampling.lock().kept.get(&start.guid).map(|s| s.used);
        HandleData {
            identity,
            op_id: start.op_id,
            started_at: Timestamp::now(),
            revision: next_revision(previous.map_or(0, |p| p.revision)),
            restarts: previous.map_or(0, |p| p.restarts + 1),
            digest: start.spec.restart_digest(),
            limits: wanted(&start.resources).into(),
            cgroups: Vec::new(),
            stop_signal: start.spec.stop_signal().as_raw(),
            stop_grace_ms: start
                .spec
                .stop_grace
                .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            used: used.or(previous.map(|p| p.used)).unwrap_or_default(),
        }
    }

    /// Puts a living process into the table and watches it. The descriptor is the process's beyond doubt.
    pub(crate) fn adopt(
        &self,
        guid: Guid,
        data: HandleData,
        pidfd: std::os::fd::OwnedFd,
        source: EvidenceSource,
        complete: impl FnOnce(&mut Entry),
    ) -> io::Result<Applied> {
        let pidfd = Arc::new(pidfd);
        let mut table = self.table.lock();
        let key = table.new_key();
        let mut entry = Entry::new(data, Some(Arc::clone(&pidfd)), key, source);
        complete(&mut entry);
        let (applied, observed) = (entry.applied(), entry.observed(guid));
        table.watched.insert(key, Watched::Object(guid));
        let before = table.objects.insert(guid, Box::new(entry));
        if let Err(e) = self.watch.add(pidfd.as_fd(), key) {
            table.watched.remove(&key);
            match before {
                Some(before) => table.objects.insert(guid, before),
                None => table.objects.remove(&guid),
            };
            if source == EvidenceSource::Event {
                // Started just now: what is not watched must not run on unnoticed.
                let _ended = rustix::process::pidfd_send_signal(&*pidfd, rustix::process::Signal::KILL);
                let _reaped = rustix::process::waitid(
                    rustix::process::WaitId::PidFd(pidfd.as_fd()),
                    rustix::process::WaitIdOptions::EXITED,
                );
            }
            return Err(e);
        }
        // While the table is locked, so that no later event of the object overtakes it.
        self.events.send(DriverEvent::Status(observed));
        drop(table);
        Ok(applied)
    }

    fn record(&self, guid: Guid, data: &HandleData) {
        let path = self.files(guid).dir().join("run.json");
        let text = serde_json::to_vec(&RunRecord { run: data.clone() }).unwrap_or_default();
        if let Err(error) = std::fs::write(&path, text) {
            // The mark still finds it while it runs.
            tracing::warn!(%guid, %error, "cannot record the run");
        }
    }

    /// The last run that was recorded for the object.
    pub(crate) fn recorded(&self, guid: Guid) -> Option<HandleData> {
        let text = std::fs::read(self.files(guid).dir().join("run.json")).ok()?;
        serde_json::from_slice::<RunRecord>(&text)
            .ok()
            .map(|record| record.run)
    }

    /// What an earlier call of this operation made, perhaps before a crash.
    fn find_operation(&self, guid: Guid, op_id: OpId, start: &Start) -> Result<Option<Applied>> {
        let name = guid.to_string();
        let failed = |e: io::Error| error::system(&e, "cannot look for an earlier start", guid);
        if let Some(run) = self.recorded(guid).filter(|run| run.op_id == op_id) {
            return match run.identity.find(&name).map_err(failed)? {
                Found::Alive(pidfd) => self.adopt_found(guid, run, pidfd).map(Some).map_err(failed),
                Found::Ended(why) => Ok(Some(self.ended_before(guid, run, away(why)))),
                // The pid is another's now, so ours has ended.
                Found::Stranger(why) => Ok(Some(self.ended_before(guid, run, away(&why)))),
            };
        }
        let marked = find_marked(self.agent.as_str(), &name, Some(&op_id.to_string())).map_err(failed)?;
        let Some(marked) = marked else { return Ok(None) };
        match marked.identity.find(&name).map_err(failed)? {
            Found::Alive(pidfd) => {
                let data = self.new_data(start, marked.identity);
                self.record(guid, &data);
                self.adopt_found(guid, data, pidfd).map(Some).map_err(failed)
            }
            Found::Ended(_) | Found::Stranger(_) => Ok(None),
        }
    }

    /// Adopts a process that an earlier run of the agent started.
    pub(crate) fn adopt_found(
        &self,
        guid: Guid,
        mut data: HandleData,
        pidfd: std::os::fd::OwnedFd,
    ) -> io::Result<Applied> {
        let group = self.host.existing(&guid.to_string());
        data.revision = next_revision(data.revision);
        let wanted = data.limits.into();
        let limits = self.limits_in_force(&wanted);
        let stopped = group.is_frozen().unwrap_or(false)
            || crate::sdk::procfs::stat(data.identity.pid).is_ok_and(|s| s.state == b'T');
        self.adopt(guid, data, pidfd, EvidenceSource::Poll, |entry| {
            entry.data.cgroups = group.dirs();
            entry.group = group;
            entry.limits = limits;
            entry.paused = stopped;
        })
    }

    /// An entry for a process that ended while nobody watched.
    pub(crate) fn ended_before(&self, guid: Guid, mut data: HandleData, exit: ExitStatus) -> Applied {
        data.revision = next_revision(data.revision);
        let mut table = self.table.lock();
        let key = table.new_key();
        let mut entry = Entry::new(data, None, key, EvidenceSource::Inferred);
        entry.exit = Some(exit);
        entry.group = self.host.existing(&guid.to_string());
        let applied = entry.applied();
        table.objects.insert(guid, Box::new(entry));
        applied
    }
}
