//! What all parts of the driver share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{
    AgentId, Enforcement, EvidenceSource, Guid, LimitStatus, OpId, ResourceField, Resources,
};
use agent_api_driver::{DriverEvent, ObjectState};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::ProcessConfig;
use crate::error;
use crate::events::Events;
use crate::sdk::cgroup::{Applied as AppliedLimit, Controller, Host};
use crate::sdk::exit::ExitKind;
use crate::sdk::logfile::LogFiles;
use crate::sdk::pool::Pool;
use crate::sdk::sample::{Kept, Sampler};
use crate::sdk::sweep;
use crate::sdk::watch::Watch;
use crate::table::{Table, Watched, exit_status};

/// What all parts of the driver share.
pub(crate) struct Shared {
    pub agent: AgentId,
    pub config: ProcessConfig,
    pub logs: PathBuf,
    /// One empty file for each object that was let go.
    pub orphans: PathBuf,
    pub host: Host,
    pub pool: Pool,
    pub watch: Watch,
    pub table: Mutex<Table>,
    /// One start at a time for each object; a stripe of objects shares a lock.
    pub starts: [Mutex<()>; 64],
    pub sampling: Mutex<Sampling>,
    pub events: Events,
    pub sweeps: Sweeps,
    pub commands: Arc<Semaphore>,
    pub closing: CancellationToken,
    /// Collections of logs so far.
    pub turns: AtomicUsize,
}

/// What sampling keeps between two passes.
pub(crate) struct Sampling {
    pub sampler: Sampler,
    pub kept: HashMap<Guid, Sampled>,
}

/// What sampling keeps of one object.
#[derive(Default)]
pub(crate) struct Sampled {
    pub start_ticks: u64,
    pub files: Option<Kept>,
    /// The last counters of this run: they never go back.
    pub used: crate::handle::Used,
}

impl Shared {
    pub(crate) fn files(&self, guid: Guid) -> LogFiles {
        LogFiles::new(&self.logs, &guid.to_string())
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() {
            Err(error::closed(crate::sdk::pool::Closed))
        } else {
            Ok(())
        }
    }

    pub(crate) fn start_lock(&self, guid: Guid) -> &Mutex<()> {
        let index = usize::from(guid.0.as_bytes()[15]) % self.starts.len();
        &self.starts[index]
    }

    pub(crate) fn orphan_mark(&self, guid: Guid) -> PathBuf {
        self.orphans.join(guid.to_string())
    }

    /// The mark of what an operation makes.
    pub(crate) fn mark(&self, guid: Guid, op_id: OpId) -> [(&'static str, String); 3] {
        use crate::sdk::identity::{MARK_AGENT, MARK_GUID, MARK_OP};
        [
            (MARK_AGENT, self.agent.to_string()),
            (MARK_GUID, guid.to_string()),
            (MARK_OP, op_id.to_string()),
        ]
    }

    /// Notes and reports the end of a watched process.
    pub(crate) fn ended(&self, key: u64, kind: ExitKind, reason: Option<&str>) {
        let mut table = self.table.lock();
        let Some(Watched::Object(_)) = table.watched.get(&key) else {
            if let Some(Watched::Command(mut command)) = table.watched.remove(&key) {
                self.watch.remove(std::os::fd::AsFd::as_fd(&*command.pidfd));
                if let Some(done) = command.done.take() {
                    // Nobody may be waiting any more: the command was dropped and killed.
                    let _dropped = done.send(kind);
                }
            }
            return;
        };
        let Some((guid, entry)) = table.by_key(key) else {
            return;
        };
        if let Some(pidfd) = entry.pidfd.take() {
            self.watch.remove(std::os::fd::AsFd::as_fd(&*pidfd));
        }
        let oom = matches!(kind, ExitKind::Signal(9)) && entry.group.was_oom_killed();
        entry.exit = Some(exit_status(kind, if oom { Some("oom-killed") } else { reason }));
        entry.paused = false;
        let known = kind != ExitKind::Unknown;
        entry.changed(if known {
            EvidenceSource::Event
        } else {
            EvidenceSource::Inferred
        });
        for waiter in entry.waiters.drain(..) {
            // Who waited may have given up.
            let _gave_up = waiter.send(());
        }
        let observed = entry.observed(guid);
        table.watched.remove(&key);
        drop(table);
        if let Some(sampled) = self.sampling.lock().kept.get_mut(&guid) {
            sampled.files = None;
        }
        self.events.send(DriverEvent::Status(observed));
    }

    /// A receiver that is told when the object's process has ended; `None` where it has.
    pub(crate) fn wait_for_end(&self, guid: Guid) -> Option<oneshot::Receiver<()>> {
        let mut table = self.table.lock();
        let entry = table.objects.get_mut(&guid)?;
        entry.pidfd.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        entry.waiters.push(sender);
        Some(receiver)
    }

    /// Whether the object's process is running as far as we know.
    pub(crate) fn is_running(&self, guid: Guid) -> bool {
        self.table
            .lock()
            .objects
            .get(&guid)
            .is_some_and(|e| e.state() != ObjectState::Exited)
    }

    /// Kills what bears the object's mark, where no cgroup holds the tree. Many callers share one walk over `/proc`.
    pub(crate) async fn sweep(&self, guid: Guid) -> Result<()> {
        let ticket = self.sweeps.ask(guid);
        let _turn = self.sweeps.turn.lock().await;
        if self.sweeps.state.lock().done >= ticket.number {
            return Ok(());
        }
        let (through, doomed) = {
            let state = self.sweeps.state.lock();
            (state.asked, state.doomed.clone())
        };
        let agent = self.agent.clone();
        let result = self
            .pool
            .run(move |_| sweep::kill_marked(agent.as_str(), &doomed))
            .await
            .map_err(error::closed)?;
        result.map_err(|e| error::system(&e, "cannot walk /proc", guid))?;
        self.sweeps.state.lock().done = through;
        drop(ticket);
        Ok(())
    }

    /// What became of limits, in the words of the contract: one entry for each that is wanted.
    pub(crate) fn limit_statuses(resources: &Resources, applied: &[AppliedLimit]) -> Vec<LimitStatus> {
        let mut statuses = Vec::new();
        let mut say = |field: ResourceField, value: String, controller: Controller| {
            let result = applied
                .iter()
                .find(|a| a.controller == controller)
                .map(|a| a.result.clone());
            let (enforcement, by) = match result {
                Some(Ok(by)) => (Enforcement::Enforced, by),
                Some(Err(why)) => (Enforcement::Advisory, why),
                None => (Enforcement::Advisory, String::new()),
            };
            statuses.push(LimitStatus {
                field,
                value,
                enforcement,
                by,
            });
        };
        if let Some(cpu) = resources.cpu {
            say(ResourceField::Cpu, cpu.to_string(), Controller::Cpu);
        }
        if let Some(memory) = resources.memory {
            say(ResourceField::Memory, memory.to_string(), Controller::Memory);
        }
        if let Some(pids) = resources.pids {
            say(ResourceField::Pids, pids.to_string(), Controller::Pids);
        }
        if let Some(io) = resources.io {
            let text = |b: Option<agent_api_driver::model::ByteQuantity>| {
                b.map_or("-".to_owned(), |b| b.to_string())
            };
            say(
                ResourceField::Io,
                format!("read {} write {}", text(io.read), text(io.write)),
                Controller::Io,
            );
        }
        if let Some(priority) = resources.priority {
            let by = "processes have `nice` and `ioprio` in their spec instead".to_owned();
            statuses.push(LimitStatus {
                field: ResourceField::Priority,
                value: priority.to_string(),
                enforcement: Enforcement::Advisory,
                by,
            });
        }
        statuses
    }
}

/// Walks over `/proc` that many callers share.
#[derive(Default)]
pub(crate) struct Sweeps {
    turn: tokio::sync::Mutex<()>,
    state: Mutex<SweepState>,
}

#[derive(Default)]
struct SweepState {
    asked: u64,
    done: u64,
    /// GUID → the tick before which its processes were started.
    doomed: HashMap<String, u64>,
}

/// Takes the object out of the doomed ones when its caller has what it wanted, or has gone.
struct Ticket<'a> {
    sweeps: &'a Sweeps,
    number: u64,
    guid: String,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.sweeps.state.lock().doomed.remove(&self.guid);
    }
}

impl Sweeps {
    fn ask(&self, guid: Guid) -> Ticket<'_> {
        let guid = guid.to_string();
        let mut state = self.state.lock();
        state.asked += 1;
        state
            .doomed
            .insert(guid.clone(), sweep::now_ticks().saturating_add(1));
        Ticket {
            sweeps: self,
            number: state.asked,
            guid,
        }
    }
}

/// What is left of `total` since `since`.
pub(crate) fn left(total: Duration, since: tokio::time::Instant) -> Duration {
    total.saturating_sub(since.elapsed())
}
