//! The end of any of many processes: all their pidfds in one epoll instance, awaited by one task.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;

/// A process whose pidfd has something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The key it was added with.
    pub key: u64,
    /// Its parent has waited for it: the kernel can tell how it ended.
    pub reaped: bool,
}

/// The set. Adding and removing may be done from any thread.
pub(crate) struct Watch {
    epoll: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Needs a running Tokio runtime with I/O enabled.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: super::sys::async_readable(epoll::create(CreateFlags::CLOEXEC)?)?,
        })
    }

    /// Watches a process for its end. A process that has ended already is reported at once.
    pub(crate) fn add(&self, pidfd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        Ok(epoll::add(
            self.epoll.get_ref(),
            pidfd,
            EventData::new_u64(key),
            EventFlags::IN,
        )?)
    }

    /// From now on reports only that the process has been waited for by its parent.
    pub(crate) fn until_reaped(&self, pidfd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        Ok(epoll::modify(
            self.epoll.get_ref(),
            pidfd,
            EventData::new_u64(key),
            EventFlags::empty(),
        )?)
    }

    /// Ends the watch.
    pub(crate) fn remove(&self, pidfd: BorrowedFd<'_>) {
        // Not there (any more) is what is wanted.
        let _absent = epoll::delete(self.epoll.get_ref().as_fd(), pidfd);
    }

    /// Waits until there is something, and puts up to 256 into `out`. Cancelling by drop loses nothing: what is not removed or
    /// narrowed is reported again.
    pub(crate) async fn ready(&self, out: &mut Vec<Ready>) -> io::Result<()> {
        loop {
            let mut guard = self.epoll.readable().await?;
            let mut events = Vec::with_capacity(256);
            let no_wait = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            epoll::wait(
                self.epoll.get_ref(),
                rustix::buffer::spare_capacity(&mut events),
                Some(&no_wait),
            )?;
            if events.is_empty() {
                guard.clear_ready();
                continue;
            }
            out.extend(events.iter().map(|event| {
                // Packed: copied before use.
                let (flags, data) = (event.flags, event.data);
                Ready {
                    key: data.u64(),
                    reaped: flags.contains(EventFlags::HUP),
                }
            }));
            return Ok(());
        }
    }
}
