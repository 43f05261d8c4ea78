//! What the rest of the agent sees of a shard: its queues.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use agent_api::driver::Observed;
use agent_api::manager::{Command, Commit};
use agent_api::model::{Accepted, DriverName, Error, ErrorKind, Guid, QueueInfo, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

/// A command on its way to a shard.
pub(crate) struct Submission {
    pub(crate) command: Command,
    pub(crate) reply: oneshot::Sender<Result<(Accepted, Commit)>>,
}

/// What a driver's pump tells a shard.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are `Seen`, and a box would cost each of them"
)]
pub(crate) enum Sighting {
    /// The status of one object.
    Seen(Observed),
    /// Ask the driver for one object: some of its events were lost.
    Recheck(Guid),
    /// Ask a driver for all its objects.
    RecheckAll(DriverName),
}

/// The senders of a shard's queues and what the shard tells of itself.
pub(crate) struct Door {
    control: mpsc::Sender<Submission>,
    ordinary: mpsc::Sender<Submission>,
    pub(crate) sightings: mpsc::Sender<Sighting>,
    pub(crate) mail: Mail,
    refused: AtomicU64,
    /// Milliseconds of the agent's clock when the shard last turned.
    turned: AtomicU64,
    ended: AtomicBool,
    /// Operations in flight and waiting.
    pub(crate) operations: AtomicUsize,
}

/// The receivers of a shard's queues.
pub(crate) struct Inbox {
    pub(crate) control: mpsc::Receiver<Submission>,
    pub(crate) ordinary: mpsc::Receiver<Submission>,
    pub(crate) sightings: mpsc::Receiver<Sighting>,
}

/// Notes from other shards and from drivers' gates. Equal notes are one, so it is bounded by the number of objects and
/// drivers, and its sender never waits.
#[derive(Default)]
pub(crate) struct Mail {
    notes: Mutex<Notes>,
    pub(crate) arrived: Notify,
}

#[derive(Default)]
pub(crate) struct Notes {
    /// Something these objects wait for has changed.
    pub(crate) dependencies: HashSet<Guid>,
    /// These drivers have room for another call.
    pub(crate) room: HashSet<DriverName>,
    /// The heartbeat interval has changed.
    pub(crate) heartbeat: bool,
}

impl Mail {
    pub(crate) fn dependency_changed(&self, guid: Guid) {
        self.notes.lock().dependencies.insert(guid);
        self.arrived.notify_one();
    }

    pub(crate) fn room(&self, driver: &DriverName) {
        self.notes.lock().room.insert(driver.clone());
        self.arrived.notify_one();
    }

    pub(crate) fn heartbeat(&self) {
        self.notes.lock().heartbeat = true;
        self.arrived.notify_one();
    }

    pub(crate) fn take(&self) -> Option<Notes> {
        let mut notes = self.notes.lock();
        if notes.dependencies.is_empty() && notes.room.is_empty() && !notes.heartbeat {
            return None;
        }
        Some(std::mem::take(&mut *notes))
    }
}

impl Door {
    pub(crate) fn new(capacity: usize) -> (Self, Inbox) {
        let capacity = capacity.max(1);
        let (control, control_out) = mpsc::channel(capacity);
        let (ordinary, ordinary_out) = mpsc::channel(capacity);
        let (sightings, sightings_out) = mpsc::channel(capacity);
        let door = Self {
            control,
            ordinary,
            sightings,
            mail: Mail::default(),
            refused: AtomicU64::new(0),
            turned: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            operations: AtomicUsize::new(0),
        };
        let inbox = Inbox {
            control: control_out,
            ordinary: ordinary_out,
            sightings: sightings_out,
        };
        (door, inbox)
    }

    /// Hands a command in, or refuses it where there is no room. Never waits.
    pub(crate) fn submit(&self, control: bool, submission: Submission) -> Result<()> {
        let queue = if control { &self.control } else { &self.ordinary };
        queue.try_send(submission).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Error::new(
                    ErrorKind::Busy,
                    format!(
                        "{} requests wait already; nothing was taken in",
                        queue.max_capacity()
                    ),
                )
                .with_operation("submit")
                .retry_after(Duration::from_millis(50))
            }
            mpsc::error::TrySendError::Closed(_) => leaving(),
        })
    }

    pub(crate) fn queue(&self, control: bool) -> QueueInfo {
        let queue = if control { &self.control } else { &self.ordinary };
        QueueInfo {
            length: queue.max_capacity() - queue.capacity(),
            capacity: queue.max_capacity(),
            dropped: if control {
                0
            } else {
                self.refused.load(Ordering::Relaxed)
            },
        }
    }

    pub(crate) fn sighting_queue(&self) -> QueueInfo {
        QueueInfo {
            length: self.sightings.max_capacity() - self.sightings.capacity(),
            capacity: self.sightings.max_capacity(),
            dropped: 0,
        }
    }

    pub(crate) fn turn(&self, now: Duration) {
        self.turned.store(millis(now), Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// How long ago the shard turned; `None` where it has ended.
    pub(crate) fn silent(&self, now: Duration) -> Option<Duration> {
        (!self.ended.load(Ordering::Relaxed))
            .then(|| Duration::from_millis(millis(now).saturating_sub(self.turned.load(Ordering::Relaxed))))
    }
}

/// The refusal of an agent that stops.
pub(crate) fn leaving() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the agent is draining and takes no more changes",
    )
    .with_operation("submit")
    .with_hint("send it to another agent, or wait until this one has started again")
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
