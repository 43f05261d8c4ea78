//! Ending processes with all that they started.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{ExitStatus, Guid};
use agent_api_driver::{DeleteRequest, Deleted};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::error;
use crate::handle::HandleData;
use crate::sdk::cgroup::{Group, remove_dirs};
use crate::sdk::identity::Found;
use crate::sdk::sweep::{find_marked, signal_group};
use crate::shared::{Shared, left};

/// The time kept of a deadline for killing and cleaning up.
const RESERVE: Duration = Duration::from_secs(2);
/// How long a killed group may take to be empty before it is reported as left.
const EMPTY_RETRY: Duration = Duration::from_millis(5);

/// A process to signal, pinned.
pub(crate) struct Pinned {
    pub pidfd: Arc<std::os::fd::OwnedFd>,
    pub pid: i32,
    pub start_ticks: u64,
    pub group: Group,
    pub paused: bool,
}

impl Pinned {
    pub(crate) fn signal(&self, signal: Signal) -> std::io::Result<bool> {
        signal_group(self.pidfd.as_fd(), self.pid, self.start_ticks, signal)
    }

    /// Kills the whole tree as far as its cgroup or group reaches.
    pub(crate) fn kill(&self) -> std::io::Result<bool> {
        let by_cgroup = self.group.kill();
        // Also by group: a member may have been moved out of the cgroup.
        let by_group = self.signal(Signal::KILL)?;
        Ok(by_cgroup || by_group)
    }
}

impl Shared {
    /// The object's process, where it is not known to have ended.
    pub(crate) fn pinned(&self, guid: Guid) -> Option<Pinned> {
        let table = self.table.lock();
        let entry = table.objects.get(&guid)?;
        Some(Pinned {
            pidfd: Arc::clone(entry.pidfd.as_ref()?),
            pid: entry.data.identity.pid,
            start_ticks: entry.data.identity.start_ticks,
            group: entry.group.clone(),
            paused: entry.paused,
        })
    }

    /// Asks the process to end, kills its tree after the grace, and returns how it ended; at once where it has.
    ///
    /// `Timeout` where it is still there at the deadline. Dropped, the process has been asked or killed, or not yet.
    pub(crate) async fn stop(
        &self,
        guid: Guid,
        grace: Option<Duration>,
        deadline: Duration,
    ) -> Result<Option<ExitStatus>> {
        let begun = Instant::now();
        if let (Some(ended), Some(pinned)) = (self.wait_for_end(guid), self.pinned(guid)) {
            let (signal, own_grace) = {
                let table = self.table.lock();
                let data = table
                    .objects
                    .get(&guid)
                    .map(|e| (e.data.stop_signal(), e.data.stop_grace()));
                data.unwrap_or((Signal::TERM, None))
            };
            let reserve = RESERVE.min(deadline / 4);
            let grace = grace
                .or(own_grace)
                .unwrap_or(self.config.stop_grace)
                .min(deadline.saturating_sub(reserve));
            let failed = |e| error::system(&e, "cannot signal the process", guid);
            let mut ended = ended;
            let mut has_ended = false;
            if !grace.is_zero() {
                pinned.signal(signal).map_err(failed)?;
                if pinned.paused {
                    self.thaw(&pinned).map_err(failed)?;
                }
                has_ended = timeout(grace, &mut ended).await.is_ok();
            }
            if !has_ended {
                pinned.kill().map_err(failed)?;
                if pinned.paused {
                    self.thaw(&pinned).map_err(failed)?;
                }
                if timeout(left(deadline, begun), &mut ended).await.is_err() {
                    return Err(error::timeout(
                        guid,
                        "killing the process (it is perhaps waiting for a disk or a network file system)",
                    )
                    .with_context("pid", pinned.pid));
                }
            }
        }
        let (exit, holds_tree) = {
            let table = self.table.lock();
            table
                .objects
                .get(&guid)
                .map_or((None, true), |e| (e.exit.clone(), e.group.holds_tree()))
        };
        if !holds_tree {
            // What has left the process group is found by its mark.
            match timeout(left(deadline, begun), self.sweep(guid)).await {
                Ok(result) => result?,
                Err(_) => return Err(error::timeout(guid, "looking for what the process started")),
            }
        }
        Ok(exit)
    }

    /// Lets a paused tree go on.
    pub(crate) fn thaw(&self, pinned: &Pinned) -> std::io::Result<()> {
        pinned.group.freeze(false)?;
        pinned.signal(Signal::CONT)?;
        Ok(())
    }

    /// Removes the object; see [`agent_api_driver::ObjectDriver::delete`].
    pub(crate) async fn delete(self: &Arc<Self>, request: DeleteRequest<'_>) -> Result<Deleted> {
        let begun = Instant::now();
        let guid = request.guid;
        self.check_open()?;
        let data = request.handle.map(HandleData::read).transpose()?;
        let is_known = self.table.lock().objects.contains_key(&guid);
        if !is_known {
            let shared = Arc::clone(self);
            let orphan = request.orphan;
            // Adopts what the handle, the record or the mark finds; a stranger is not touched.
            self.pool
                .run(move |_| shared.find_for_delete(guid, data, orphan))
                .await
                .map_err(error::closed)??;
        }
        if request.orphan {
            return self.let_go(guid).await;
        }
        let exit = self.stop(guid, request.grace, request.deadline).await?;
        let removed = self.remove_all(guid, left(request.deadline, begun)).await?;
        Ok(Deleted { exit, left: removed })
    }

    fn find_for_delete(&self, guid: Guid, data: Option<HandleData>, orphan: bool) -> Result<()> {
        let failed = |e: std::io::Error| error::system(&e, "cannot look for the process", guid);
        let name = guid.to_string();
        let mut candidates: Vec<HandleData> = data.into_iter().chain(self.recorded(guid)).collect();
        candidates.dedup_by(|a, b| a.identity == b.identity);
        for data in candidates {
            if let Found::Alive(pidfd) = data.identity.find(&name).map_err(failed)? {
                self.adopt_found(guid, data, pidfd).map_err(failed)?;
                return Ok(());
            }
        }
        let mut group = self.host.existing(&name);
        if !orphan && !group.holds_tree() && self.orphan_mark(guid).exists() {
            // Let go before: no longer ours.
            group = Group::default();
        }
        if !orphan && !group.dirs().is_empty() {
            // The first process has ended; the others are in our group for this object.
            group.kill();
        }
        if let Some(marked) = find_marked(self.agent.as_str(), &name, None).map_err(failed)?
            && !self.orphan_mark(guid).exists()
            && let Found::Alive(pidfd) = marked.identity.find(&name).map_err(failed)?
        {
            let data = Self::data_of(&marked);
            self.adopt_found(guid, data, pidfd).map_err(failed)?;
        }
        Ok(())
    }

    /// Forgets the object and leaves its process; a file in the state says so at later starts.
    async fn let_go(&self, guid: Guid) -> Result<Deleted> {
        std::fs::write(self.orphan_mark(guid), b"")
            .map_err(|e| error::system(&e, "cannot note that it was let go", guid))?;
        self.forget(guid);
        Ok(Deleted::default())
    }

    /// Takes the object out of the table and the sampling.
    pub(crate) fn forget(&self, guid: Guid) {
        let mut table = self.table.lock();
        if let Some(entry) = table.objects.remove(&guid) {
            table.watched.remove(&entry.key);
            if let Some(pidfd) = entry.pidfd {
                self.watch.remove(pidfd.as_fd());
            }
        }
        drop(table);
        self.sampling.lock().kept.remove(&guid);
    }

    async fn remove_all(self: &Arc<Self>, guid: Guid, within: Duration) -> Result<Vec<String>> {
        let begun = Instant::now();
        let dirs = {
            let table = self.table.lock();
            let mut dirs = table
                .objects
                .get(&guid)
                .map(|e| e.group.dirs())
                .unwrap_or_default();
            dirs.extend(
                table
                    .objects
                    .get(&guid)
                    .map(|e| e.data.cgroups.clone())
                    .unwrap_or_default(),
            );
            dirs
        };
        let mut dirs = dirs;
        if dirs.is_empty() {
            dirs = self.host.existing(&guid.to_string()).dirs();
        }
        dirs.sort();
        dirs.dedup();
        let shared = Arc::clone(self);
        let logs = self
            .pool
            .run(move |_| shared.files(guid).remove())
            .await
            .map_err(error::closed)?;
        // A group is empty a moment after its last member has ended.
        let mut removed = remove_dirs(&dirs);
        while !removed && begun.elapsed() < within.min(RESERVE) {
            self.host.existing(&guid.to_string()).kill();
            sleep(EMPTY_RETRY).await;
            removed = remove_dirs(&dirs);
        }
        self.forget(guid);
        let mut left = Vec::new();
        if let Err(e) = logs {
            left.push(format!(
                "its log files in {}: {e}",
                self.files(guid).dir().display()
            ));
        }
        if !removed {
            let names: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
            left.push(format!("a cgroup that is not empty: {}", names.join(", ")));
        }
        Ok(left)
    }
}
