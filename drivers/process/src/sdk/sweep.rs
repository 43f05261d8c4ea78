//! Signalling whole trees, and finding what has left its group.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::identity::{self, MARK_AGENT, MARK_GUID};
use super::procfs;
use super::sys;

/// Signals the group of a process that leads one, and is known by its descriptor.
///
/// `Ok(false)` where the group is gone. Since kernel 6.9 the kernel finds the group by the descriptor; before, by its number, which is
/// the leader's pid and cannot be another's as long as the leader, dead or alive, has not been waited for. That is checked first.
pub(crate) fn signal_group(
    pidfd: BorrowedFd<'_>,
    pid: i32,
    start_ticks: u64,
    signal: Signal,
) -> io::Result<bool> {
    match sys::pidfd_signal_group(pidfd, signal.as_raw()) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            let same =
                procfs::stat(pid).is_ok_and(|stat| stat.start_ticks == start_ticks && stat.pgrp == pid);
            let Some(group) = Pid::from_raw(pid).filter(|_| same && pid > 1) else {
                return Ok(false);
            };
            match kill_process_group(group, signal) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::SRCH) => Ok(false),
                Err(e) => Err(e.into()),
            }
        }
        Err(e) => Err(e),
    }
}

/// Kills the group of a process that leads a session, then all others of the session: a shell with a terminal gives each of its
/// jobs a group of its own.
///
/// The session is named by the leader's pid, which is no other's as long as one of its processes is there.
pub(crate) fn kill_session(pidfd: BorrowedFd<'_>, pid: i32, start_ticks: u64) -> io::Result<bool> {
    const ROUNDS: usize = 8;
    let is_leader =
        procfs::stat(pid).is_ok_and(|stat| stat.start_ticks == start_ticks && stat.session == pid);
    let killed = signal_group(pidfd, pid, start_ticks, Signal::KILL)?;
    if !is_leader {
        return Ok(killed);
    }
    let is_member = |member: i32| {
        procfs::stat(member)
            .is_ok_and(|stat| stat.session == pid && stat.start_ticks >= start_ticks && !stat.is_dead())
    };
    for _ in 0..ROUNDS {
        let mut found = false;
        for member in procfs::pids()?.into_iter().filter(|member| is_member(*member)) {
            let pinned = Pid::from_raw(member).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            if let Some(pinned) = pinned
                && is_member(member)
            {
                found |= pidfd_send_signal(&pinned, Signal::KILL).is_ok();
            }
        }
        if !found {
            break;
        }
    }
    Ok(killed)
}

/// Kills every living process that bears one of these marks of this agent (GUID → the tick before which it was started), in one walk over
/// `/proc`; repeats while it finds some, because they may fork. Returns how many were found in all.
///
/// For hosts where no cgroup holds the tree. Each process is pinned by a descriptor before its mark is read, so the one that is
/// signalled is the one that bears it.
pub(crate) fn kill_marked(agent: &str, doomed: &HashMap<String, u64>) -> io::Result<usize> {
    const ROUNDS: usize = 8;
    let mut total = 0;
    let mut buffer = Vec::with_capacity(8192);
    for _ in 0..ROUNDS {
        let mut found = 0;
        for pid in procfs::pids()? {
            // A first look without a descriptor passes over most processes of the machine.
            if doomed_before(agent, doomed, pid, &mut buffer).is_none() {
                continue;
            }
            let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            else {
                continue;
            };
            // The look that counts: the process is pinned now.
            let Some(before) = doomed_before(agent, doomed, pid, &mut buffer) else {
                continue;
            };
            if procfs::stat(pid).is_ok_and(|stat| stat.start_ticks < before && !stat.is_dead())
                && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
            {
                found += 1;
            }
        }
        if found == 0 {
            break;
        }
        total += found;
    }
    Ok(total)
}

/// The tick before which the process must have been started to be killed, where it bears one of the marks.
fn doomed_before(agent: &str, doomed: &HashMap<String, u64>, pid: i32, buffer: &mut Vec<u8>) -> Option<u64> {
    let environ = procfs::read_into(&format!("/proc/{pid}/environ"), buffer).ok()?;
    let guid = procfs::env_value(environ, MARK_GUID)?;
    doomed
        .get(guid)
        .copied()
        .filter(|_| procfs::env_value(environ, MARK_AGENT) == Some(agent))
}

/// Ticks since boot, now: what a process started from here on has at least as its start time.
pub(crate) fn now_ticks() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let hertz = rustix::param::clock_ticks_per_second();
    let nanos_per_tick = 1_000_000_000 / hertz.max(1);
    (now.tv_sec as u64)
        .saturating_mul(hertz)
        .saturating_add(now.tv_nsec as u64 / nanos_per_tick)
}

/// The pid of a process started by an operation, found by its mark; the leader of its session first.
pub(crate) fn find_marked(
    agent: &str,
    guid: &str,
    op_id: Option<&str>,
) -> io::Result<Option<identity::Marked>> {
    let mut candidates: Vec<_> = identity::marked(agent)?
        .into_iter()
        .filter(|m| {
            m.mark.guid == guid
                && m.mark.op_id.is_some()
                && (op_id.is_none() || m.mark.op_id.as_deref() == op_id)
        })
        .collect();
    candidates.sort_by_key(|m| (!m.leader, m.identity.start_ticks, m.identity.pid));
    Ok(candidates.into_iter().next())
}
