//! Finding processes of an earlier run of the agent.

use std::sync::Arc;

use agent_api_driver::model::{Guid, OpId, Timestamp};
use agent_api_driver::{Handle, Mark, Recovered, RecoveredState, Result, Target};

use crate::error;
use crate::handle::HandleData;
use crate::sdk::cgroup::{Applied as AppliedLimit, Controller, Wanted};
use crate::sdk::identity::{Found, Marked, marked};
use crate::shared::Shared;
use crate::table::next_revision;

impl Shared {
    /// See [`agent_api_driver::ObjectDriver::recover`].
    pub(crate) async fn recover(self: &Arc<Self>, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.check_open()?;
        let targets: Vec<_> = targets.iter().map(|t| (t.guid, HandleData::read(t.handle))).collect();
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
        if let Some(entry) = self.table.lock().objects.get(&guid).filter(|e| e.data.identity == data.identity) {
            // Recovered before; the answer is the same.
            return match &entry.pidfd {
                Some(_) => RecoveredState::Adopted(entry.status(), None),
                None => RecoveredState::Exited(entry.status()),
            };
        }
        match data.identity.find(&name) {
            Ok(Found::Alive(pidfd)) => match self.adopt_found(guid, data, pidfd) {
                Ok(applied) => RecoveredState::Adopted(applied.status, None),
                Err(e) => RecoveredState::Lost(format!("it runs, but cannot be watched: {e}")),
            },
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
                RecoveredState::Exited(self.ended_before(guid, data, why).status)
            }
            Ok(Found::Stranger(why)) => RecoveredState::Foreign(why),
            Err(e) => RecoveredState::Lost(format!("cannot look at the process: {e}")),
        }
    }

    /// See [`agent_api_driver::ObjectDriver::discover`].
    pub(crate) async fn discover(self: &Arc<Self>) -> Result<Vec<(Mark, Handle)>> {
        self.check_open()?;
        let shared = Arc::clone(self);
        let found = self.pool.run(move |_| shared.discover_now()).await.map_err(error::closed)?;
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
            .filter_map(|m| Some((m.mark.guid.parse().ok()?, m.mark.op_id.as_deref()?.parse().ok()?, m)))
            .filter(|(guid, _, _)| !self.orphan_mark(*guid).exists())
            .collect();
        // One for each object: its first process, which leads its session, else the oldest.
        all.sort_by_key(|(guid, _, m)| (*guid, !m.leader, m.identity.start_ticks, m.identity.pid));
        all.dedup_by_key(|(guid, _, _)| *guid);
        // Groups that nobody is in and no object has are of no use.
        for name in self.host.leftovers() {
            let known = name.parse().is_ok_and(|guid: Guid| self.table.lock().objects.contains_key(&guid));
            if !known {
                let _in_use = self.host.existing(&name).remove();
            }
        }
        let found = all.into_iter().map(|(guid, op_id, m)| {
            let table = self.table.lock();
            let known = table.objects.get(&guid).filter(|e| e.data.identity == m.identity).map(|e| e.data.clone());
            drop(table);
            let recorded = || self.recorded(guid).filter(|run| run.identity == m.identity);
            let data = known.or_else(recorded).unwrap_or_else(|| Self::data_of(&m));
            (Mark { agent: self.agent.clone(), guid, op_id }, data.write())
        });
        Ok(found.collect())
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
                result: self.host.enforces(controller).map(|version| format!("cgroup v{version}, set before the agent restarted")),
            })
            .collect();
        Self::limit_statuses(&crate::spec::resources(wanted), &applied)
    }
}
