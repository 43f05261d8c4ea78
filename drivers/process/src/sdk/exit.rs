//! How a process ended, from whoever can tell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::sys;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitKind {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It has ended, and nobody can say how.
    Unknown,
}

/// What is known when a pidfd says that its process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// It ended like this and is gone.
    Done(ExitKind),
    /// It has ended; its parent has not waited for it yet, and only then will the kernel tell how.
    NotYet,
    /// It is alive after all.
    Alive,
}

/// Whether our own child has ended, without taking its entry away: until [`reap`] its pid, and its group's, stay its own.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::PidFd(pidfd), options), Ok(Some(_)) | Err(_))
}

/// Collects the exit of our own child, or of one that somebody else in this program waited for.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Reaped {
    match waitid(
        WaitId::PidFd(pidfd),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    ) {
        Ok(Some(status)) => Reaped::Done(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitKind::Code(code),
            (_, Some(signal)) => ExitKind::Signal(signal),
            _ => ExitKind::Unknown,
        }),
        Ok(None) => Reaped::Alive,
        // Not our child, or collected by other code in this process.
        Err(_) => ask(pidfd),
    }
}

/// Asks the kernel about a process that is not our child and whose pidfd is readable.
pub(crate) fn ask(pidfd: BorrowedFd<'_>) -> Reaped {
    match sys::pidfd_exit_status(pidfd.as_fd()) {
        Ok(Some(status)) => Reaped::Done(from_wait_status(status)),
        Ok(None) => Reaped::NotYet,
        // Before kernel 6.15 nobody tells; ESRCH from 6.13 on means that it is gone.
        Err(_) => Reaped::Done(ExitKind::Unknown),
    }
}

/// Whether the kernel tells how processes ended that were not our children (6.15 or newer).
pub(crate) fn kernel_tells() -> io::Result<bool> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    Ok(sys::pidfd_exit_status(own.as_fd()).is_ok())
}

fn from_wait_status(status: i32) -> ExitKind {
    match status & 0x7f {
        0 => ExitKind::Code((status >> 8) & 0xff),
        signal => ExitKind::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses() {
        assert_eq!(from_wait_status(0x700), ExitKind::Code(7));
        assert_eq!(from_wait_status(9), ExitKind::Signal(9));
        assert_eq!(from_wait_status(0x80 | 6), ExitKind::Signal(6));
    }
}
