//! Finding processes of an earlier run of the agent.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use agent_api_driver::model::{ExitStatus, Guid, OpId, Timestamp};
use agent_api_driver::{Handle, Mark, Recovered, RecoveredState, Result, Target};

use rustix::process::Signal;

use crate::error;
use crate::handle::HandleData;
use crate::sdk::cgroup::{Applied as AppliedLimit, Controller, Wanted};
use crate::sdk::exit::{self, ExitKind, Reaped};
use crate::sdk::identity::{Found, Marked, marked};
use crate::sdk::procfs;
use crate::sdk::sweep::signal_group;
use crate::shared::Shared;
use crate::table::{exit_status, next_revision};

impl Shared {
    /// See [`agent_api_driver::ObjectDriver::recover`].
    pub(crate) async fn recover(self: &Arc<Self>, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.check_open()?;
        let targets: Vec<_> = targets
            .iter()
            .map(|t| (t.guid, HandleData::read(t.handle)))
            .collect();
        let shared = Arc::clone(self);
        let work = move |_: &mut crate::sdk::pool::Scratch| -> Vec<Recovered> {
            targets
                .into_iter()
                .map(|(guid, data)| Recovered {
                    guid,
                    state: match data {
                        Ok(data) => shared.recover_one(guid, data),
                        Err(e) => RecoveredState::Lost(e.message().to_owned()),
                    },
                })
                .collect()
        };
        self.pool.run(work).await.map_err(error::closed)
    }

    fn recover_one(&self, guid: Guid, data: HandleData) -> RecoveredState {
        let name = guid.to_string();
        let _one_at_a_time = self.start_lock(guid).lock();
        if let Some(entry) = self
            .table
            .lock()
            .objects
            .get(&guid)
            .filter(|e| e.data.identity == data.identity)
        {
            // Recovered before; the answer is the same.
            return match &entry.pidfd {
                Some(_) => RecoveredState::Adopted(entry.status(), None),
                None => RecoveredState::Exited(entry.status()),
            };
        }
        match data.identity.find(&name) {
            Ok(Found::Alive(pidfd)) if procfs::stat(data.identity.pid).is_ok_and(|s| s.is_dead()) => {
                // Ended, and nobody has waited for it: whatever it left behind goes, and perhaps its code can be had.
                let (pid, start_ticks) = (data.identity.pid, data.identity.start_ticks);
                self.host.existing(&name).kill();
                if let Err(error) = signal_group(pidfd.as_fd(), pid, start_ticks, Signal::KILL) {
                    tracing::warn!(%guid, %error, "cannot end what a process left behind");
                }
                match exit::reap(pidfd.as_fd()) {
                    Reaped::Done(kind) => {
                        let status = exit_status(kind, Some("ended while the agent was away"));
                        RecoveredState::Exited(self.ended_before(guid, data, status).status)
                    }
                    // Its parent is slow: the code comes as an event.
                    Reaped::NotYet | Reaped::Alive => self.adopt_or_lose(guid, data, pidfd),
                }
            }
            Ok(Found::Alive(pidfd)) => self.adopt_or_lose(guid, data, pidfd),
            Ok(Found::Ended(why)) => {
                // A restart whose handle was never stored.
                if let Some(run) = self.recorded(guid).filter(|run| run.identity != data.identity)
                    && let Ok(Found::Alive(pidfd)) = run.identity.find(&name)
                    && let Ok(applied) = self.adopt_found(guid, run, pidfd)
                {
                    return RecoveredState::Adopted(applied.status, Some(applied.handle));
                }
                // The first process has ended, so the object has; what it left behind goes with it.
                self.host.existing(&name).kill();
                RecoveredState::Exited(self.ended_before(guid, data, away(why)).status)
            }
            Ok(Found::Stranger(why)) => RecoveredState::Foreign(why),
            Err(e) => RecoveredState::Lost(format!("cannot look at the process: {e}")),
        }
    }

    fn adopt_or_lose(&self, guid: Guid, data: HandleData, pidfd: OwnedFd) -> RecoveredState {
        match self.adopt_found(guid, data, pidfd) {
            Ok(applied) => RecoveredState::Adopted(applied.status, None),
            Err(e) => RecoveredState::Lost(format!("it runs, but cannot be watched: {e}")),
        }
    }

    /// See [`agent_api_driver::ObjectDriver::discover`].
    pub(crate) async fn discover(self: &Arc<Self>) -> Result<Vec<(Mark, Handle)>> {
        self.check_open()?;
        let shared = Arc::clone(self);
        let found = self
            .pool
            .run(move |_| shared.discover_now())
            .await
            .map_err(error::closed)?;
        found.map_err(|e| {
            agent_api_driver::model::Error::new(
                agent_api_driver::model::ErrorKind::Unavailable,
                format!("cannot walk /proc: {e}"),
            )
        })
    }

    fn discover_now(&self) -> std::io::Result<Vec<(Mark, Handle)>> {
        let mut all: Vec<(Guid, OpId, Marked)> = marked(self.agent.as_str())?
            .into_iter()
            .filter_map(|m| {
                Some((
                    m.mark.guid.parse().ok()?,
                    m.mark.op_id.as_deref()?.parse().ok()?,
                    m,
                ))
            })
            .filter(|(guid, _, _)| !self.orphan_mark(*guid).exists())
            .collect();
        // One for each object: its first process, which leads its session, else the oldest.
        all.sort_by_key(|(guid, _, m)| (*guid, !m.leader, m.identity.start_ticks, m.identity.pid));
        all.dedup_by_key(|(guid, _, _)| *guid);
        // Those we watch are known to run, also where a program has just begun and shows no environment yet.
        let watched: Vec<(Guid, OpId, HandleData)> = {
            let table = self.table.lock();
            let live = table.objects.iter().filter(|(_, entry)| entry.pidfd.is_some());
            live.map(|(guid, entry)| (*guid, entry.data.op_id, entry.data.clone()))
                .collect()
        };
        let mut known: HashSet<Guid> = watched.iter().map(|(guid, _, _)| *guid).collect();
        // So are those of a run record, also where they have written over their environment.
        let recorded: Vec<(Guid, OpId, HandleData)> = std::fs::read_dir(&self.logs)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Guid>().ok())
            .filter(|guid| !known.contains(guid) && !self.orphan_mark(*guid).exists())
            .filter_map(|guid| self.recorded(guid).map(|run| (guid, run.op_id, run)))
            .filter(|(guid, _, run)| matches!(run.identity.find(&guid.to_string()), Ok(Found::Alive(_))))
            .collect();
        known.extend(recorded.iter().map(|(guid, _, _)| *guid));
        all.retain(|(guid, _, _)| !known.contains(guid));
        // Groups that nobody is in and no object has are of no use.
        for name in self.host.leftovers() {
            let guid = name.parse::<Guid>().ok();
            // A start makes the group before the object is known.
            let _no_start = guid.map(|guid| self.start_lock(guid).lock());
            if !guid.is_some_and(|guid| self.table.lock().objects.contains_key(&guid)) {
                let _in_use = self.host.existing(&name).remove();
            }
        }
        let unwatched = all
            .into_iter()
            .map(|(guid, op_id, m)| (guid, op_id, Self::data_of(&m)));
        let found = watched.into_iter().chain(recorded).chain(unwatched);
        Ok(found
            .map(|(guid, op_id, data)| {
                (
                    Mark {
                        agent: self.agent.clone(),
                        guid,
                        op_id,
                    },
                    data.write(),
                )
            })
            .collect())
    }

    /// What is known of a process by nothing but its mark.
    pub(crate) fn data_of(marked: &Marked) -> HandleData {
        let op_id = marked.mark.op_id.as_deref().and_then(|op| op.parse().ok());
        HandleData {
            identity: marked.identity.clone(),
            op_id: op_id.unwrap_or_else(OpId::generate),
            started_at: Timestamp::now(),
            revision: next_revision(0),
            restarts: 0,
            digest: 0,
            limits: crate::handle::LimitsData::default(),
            cgroups: Vec::new(),
            stop_signal: rustix::process::Signal::TERM.as_raw(),
            stop_grace_ms: None,
            used: crate::handle::Used::default(),
        }
    }

    /// The statuses of limits that an earlier run of the agent set.
    pub(crate) fn limits_in_force(&self, wanted: &Wanted) -> Vec<agent_api_driver::model::LimitStatus> {
        let applied: Vec<AppliedLimit> = Controller::LIMITS
            .into_iter()
            .filter(|controller| wanted.is_set(*controller))
            .map(|controller| AppliedLimit {
                controller,
                result: self
                    .host
                    .enforces(controller)
                    .map(|version| format!("cgroup v{version}, set before the agent restarted")),
            })
            .collect();
        Self::limit_statuses(&crate::spec::resources(wanted), &applied)
    }
}

/// An end that nobody saw.
pub(crate) fn away(why: &str) -> ExitStatus {
    let reason = format!("ended while the agent was away: {why}");
    ExitStatus {
        at: None,
        ..exit_status(ExitKind::Unknown, Some(&reason))
    }
}
