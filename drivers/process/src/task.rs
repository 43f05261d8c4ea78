//! The driver's one task: ends of processes, and a tick for the log files.

use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::DriverEvent;
use agent_api_driver::model::{Condition, EvidenceSource, Guid};
use rustix::process::Signal;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::sdk::exit::{self, ExitKind, Reaped};
use crate::sdk::logfile::{Checked, LogFiles, Rotation, Stream};
use crate::sdk::sweep::signal_group;
use crate::sdk::watch::Ready;
use crate::shared::Shared;
use crate::table::Watched;

/// How often log files are looked at; those that do not grow up to eight times more rarely.
const TICK: Duration = Duration::from_secs(1);
/// How long the parent of a process that is not our child may take to wait for it before its exit code counts as unknown.
const REAP_WAIT: Duration = Duration::from_secs(5);
const LOG_PAUSE_MAX: u8 = 8;
/// The type of the condition that says how rotation works.
const LOG_ROTATION: &str = "LogRotation";

type Housekeeping = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs until the driver is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ready = Vec::with_capacity(256);
    // Ended, not yet waited for by their parents: (until, key), oldest first.
    let mut waiting: std::collections::VecDeque<(Instant, u64)> = std::collections::VecDeque::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut housekeeping: Option<Housekeeping> = None;
    loop {
        let next_wait = waiting.front().map(|(until, _)| *until);
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            result = shared.watch.ready(&mut ready) => {
                if let Err(error) = result {
                    // The next heartbeat finds what is missed now.
                    tracing::error!(%error, "cannot wait for the ends of processes");
                    shared.events.send(DriverEvent::Gap(None));
                    tokio::time::sleep(TICK).await;
                }
                for event in ready.drain(..) {
                    if shared.on_ready(event) {
                        waiting.push_back((Instant::now() + REAP_WAIT, event.key));
                    }
                }
                tokio::task::yield_now().await;
            }
            () = sleep_until(next_wait.unwrap_or_else(Instant::now)), if next_wait.is_some() => {
                if let Some((_, key)) = waiting.pop_front() {
                    shared.ended(key, ExitKind::Unknown, Some("it has ended, and its parent did not wait for it"));
                }
            }
            () = async { if let Some(work) = housekeeping.as_mut() { work.await } }, if housekeeping.is_some() => {
                housekeeping = None;
            }
            _ = tick.tick(), if housekeeping.is_none() => {
                housekeeping = Some(Box::pin(check_logs(Arc::clone(&shared))));
            }
        }
    }
}

impl Shared {
    /// A watched process has ended, or has been waited for by its parent. True where it must be waited for.
    fn on_ready(&self, event: Ready) -> bool {
        let (pidfd, leader) = {
            let mut table = self.table.lock();
            match table.watched.get(&event.key) {
                Some(Watched::Command(command)) => (Arc::clone(&command.pidfd), None),
                Some(Watched::Object(_)) => match table.by_key(event.key) {
                    Some((_, entry)) => match &entry.pidfd {
                        Some(pidfd) => {
                            let id = (entry.data.identity.pid, entry.data.identity.start_ticks);
                            (Arc::clone(pidfd), Some((id, entry.group.clone())))
                        }
                        None => return false,
                    },
                    None => return false,
                },
                None => return false,
            }
        };
        if !exit::has_ended(pidfd.as_fd()) {
            return false;
        }
        // The object is its whole tree: what its first process leaves behind ends with it. Before it is waited for, because
        // until then its group is its own.
        if let Some(((pid, start_ticks), group)) = leader {
            if group.holds_tree() {
                group.kill();
            }
            if let Err(error) = signal_group(pidfd.as_fd(), pid, start_ticks, Signal::KILL) {
                tracing::warn!(pid, %error, "cannot end what a process left behind");
            }
        } else if let Err(error) = signal_group(pidfd.as_fd(), 0, 0, Signal::KILL) {
            tracing::warn!(%error, "cannot end what a command left behind");
        }
        match exit::reap(pidfd.as_fd()) {
            Reaped::Alive => false,
            Reaped::Done(kind) => {
                let reason =
                    (kind == ExitKind::Unknown).then_some("it has ended; this kernel does not tell how");
                self.ended(event.key, kind, reason);
                false
            }
            Reaped::NotYet if event.reaped => {
                self.ended(
                    event.key,
                    ExitKind::Unknown,
                    Some("it has ended; the kernel does not tell how"),
                );
                false
            }
            Reaped::NotYet => {
                if let Err(error) = self.watch.until_reaped(pidfd.as_fd(), event.key) {
                    tracing::warn!(%error, "cannot wait for an exit code");
                    self.watch.remove(pidfd.as_fd());
                }
                true
            }
        }
    }
}

/// One look at the log files that are due, on a thread of the driver.
async fn check_logs(shared: Arc<Shared>) {
    let due: Vec<Guid> = {
        let mut table = shared.table.lock();
        table
            .objects
            .iter_mut()
            .filter_map(|(guid, entry)| {
                if entry.pidfd.is_none() {
                    // Once more after the end: what it wrote since the last look.
                    return (!std::mem::replace(&mut entry.logs.settled, true)).then_some(*guid);
                }
                entry.logs.left = entry.logs.left.saturating_sub(1);
                (entry.logs.left == 0).then_some(*guid)
            })
            .collect()
    };
    // Short pieces, so that starts do not wait behind them.
    for piece in due.chunks(64) {
        let rotation = shared.config.rotation();
        let files: Vec<_> = piece.iter().map(|guid| (*guid, shared.files(*guid))).collect();
        let work = move |_: &mut crate::sdk::pool::Scratch| -> Vec<_> {
            files
                .into_iter()
                .map(|(guid, files)| (guid, check_both(&files, &rotation)))
                .collect()
        };
        let Ok(results) = shared.pool.run(work).await else {
            return;
        };
        for (guid, result) in results {
            shared.note_logs(guid, result);
        }
    }
}

fn check_both(files: &LogFiles, rotation: &Rotation) -> std::io::Result<u64> {
    let mut size = 0;
    for stream in Stream::BOTH {
        let checked: Checked = files.check(stream, rotation)?;
        size += checked.size;
    }
    Ok(size)
}

impl Shared {
    fn note_logs(&self, guid: Guid, result: std::io::Result<u64>) {
        let mut table = self.table.lock();
        let Some(entry) = table.objects.get_mut(&guid) else {
            return;
        };
        match result {
            Ok(size) => {
                let logs = &mut entry.logs;
                logs.pause = if size > logs.size {
                    1
                } else {
                    (logs.pause.max(1) * 2).min(LOG_PAUSE_MAX)
                };
                logs.left = logs.pause;
                logs.size = size;
            }
            Err(error) => {
                entry.logs.left = LOG_PAUSE_MAX;
                if entry.conditions.iter().any(|c| c.kind == LOG_ROTATION) {
                    return;
                }
                let (reason, message) = match error.kind() {
                    std::io::ErrorKind::Unsupported => (
                        "Advisory",
                        "the file system of the state directory cannot free parts of a file: logs grow until a restart".to_owned(),
                    ),
                    _ => ("Failed", format!("the log files cannot be looked at: {error}")),
                };
                entry
                    .conditions
                    .push(Condition::new(LOG_ROTATION, false, reason, message));
                entry.changed(EvidenceSource::Poll);
                let observed = entry.observed(guid);
                drop(table);
                self.events.send(DriverEvent::Status(observed));
            }
        }
    }
}
