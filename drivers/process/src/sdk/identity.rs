//! Which process it is. A pid alone says nothing: it is used again.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::procfs;

/// The environment variable that names the object a process belongs to.
pub(crate) const MARK_GUID: &str = "AGENT_GUID";
/// The environment variable that names the operation that started the process.
pub(crate) const MARK_OP: &str = "AGENT_OP_ID";
/// The environment variable that names the agent.
pub(crate) const MARK_AGENT: &str = "AGENT_ID";

/// A process beyond doubt: boot, pid namespace, pid and start time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub pid: i32,
    /// Ticks since boot, from `/proc/<pid>/stat`.
    pub start_ticks: u64,
    pub boot_id: String,
    /// The inode of the pid namespace the pid is of.
    #[serde(default)]
    pub pid_ns: u64,
}

/// The marks a process bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub guid: String,
    pub op_id: Option<String>,
    pub agent: Option<String>,
}

/// What became of a process that was known by its identity.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is there, pinned by the descriptor.
    Alive(OwnedFd),
    /// It has ended; the reason says how that is known.
    Ended(&'static str),
    /// The pid is that of another process now, which must not be touched.
    Stranger(String),
}

impl Identity {
    /// The identity of a child that has not been waited for, so that its pid cannot have been used again.
    pub(crate) fn of_child(pid: i32) -> io::Result<Self> {
        let stat = procfs::stat(pid)?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: procfs::boot_id().to_owned(),
            pid_ns: procfs::pid_namespace(),
        })
    }

    /// Looks for the process. Whoever signals it does so through the descriptor returned, or to its group while that is held.
    ///
    /// The descriptor is taken first and the start time read after: a process with that start time has held the pid all along,
    /// so the descriptor is its.
    pub(crate) fn find(&self, guid: &str) -> io::Result<Found> {
        if self.boot_id != procfs::boot_id() {
            return Ok(Found::Ended("the machine was booted since"));
        }
        if self.pid_ns != 0 && self.pid_ns != procfs::pid_namespace() {
            return Ok(Found::Ended("the pid namespace it lived in is not ours"));
        }
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.pid > 0) else {
            return Ok(Found::Ended("it has no pid"));
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => {
                return Ok(Found::Ended("no such process"));
            }
            Err(e) => return Err(e.into()),
        };
        match procfs::stat(self.pid) {
            Ok(stat) if stat.start_ticks != self.start_ticks => Ok(Found::Stranger(format!(
                "pid {} belongs to another process now (started at tick {}, ours at {})",
                self.pid, stat.start_ticks, self.start_ticks
            ))),
            // An ended one that nobody has waited for is watched like a living one: the notice comes at once.
            Ok(stat) => match self.settled_mark(&stat) {
                // A process may overwrite its environment; only a mark that is another object's speaks against it.
                Some(mark) if mark.guid != guid => Ok(Found::Stranger(format!(
                    "pid {} bears the mark of object {}",
                    self.pid, mark.guid
                ))),
                _ => Ok(Found::Alive(pidfd)),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
                Ok(Found::Ended("no such process"))
            }
            Err(e) => Err(e),
        }
    }
}

/// How long a program that has just begun may take until the kernel shows its environment.
const SETTLE: Duration = Duration::from_millis(50);

impl Identity {
    /// The mark, if it has one that we may read. A living process that shows an empty environment has begun its program this
    /// very moment (the start returns when the program has its memory, which is a little earlier): its mark is waited for,
    /// because to go by the pid alone would take one object for another.
    fn settled_mark(&self, stat: &procfs::Stat) -> Option<Mark> {
        let mut buffer = Vec::new();
        let begun = Instant::now();
        while !stat.is_dead() && begun.elapsed() < SETTLE {
            match procfs::read_into(&format!("/proc/{}/environ", self.pid), &mut buffer) {
                Ok([]) => std::thread::yield_now(),
                _ => break,
            }
        }
        mark_with(self.pid, &mut buffer)
    }
}

fn mark_with(pid: i32, buffer: &mut Vec<u8>) -> Option<Mark> {
    let environ = procfs::read_into(&format!("/proc/{pid}/environ"), buffer).ok()?;
    Some(Mark {
        guid: procfs::env_value(environ, MARK_GUID)?.to_owned(),
        op_id: procfs::env_value(environ, MARK_OP).map(str::to_owned),
        agent: procfs::env_value(environ, MARK_AGENT).map(str::to_owned),
    })
}

/// A process with a mark, found by walking `/proc`.
#[derive(Debug, Clone)]
pub(crate) struct Marked {
    pub identity: Identity,
    pub mark: Mark,
    /// It leads its session, as the first process of an object does.
    pub leader: bool,
}

/// All living processes that bear the mark of this agent and that we may look into. Costs about 20 µs for each process of the
/// machine, so it belongs on a thread that may block.
pub(crate) fn marked(agent: &str) -> io::Result<Vec<Marked>> {
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(8192);
    for pid in procfs::pids()? {
        let Some(mark) = mark_with(pid, &mut buffer).filter(|m| m.agent.as_deref() == Some(agent)) else {
            continue;
        };
        let Ok(stat) = procfs::stat(pid) else { continue };
        if stat.is_dead() {
            continue;
        }
        let identity = Identity {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: procfs::boot_id().to_owned(),
            pid_ns: procfs::pid_namespace(),
        };
        found.push(Marked {
            identity,
            mark,
            leader: stat.session == pid,
        });
    }
    Ok(found)
}
