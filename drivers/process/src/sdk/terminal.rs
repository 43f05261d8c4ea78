//! A terminal for a command that runs: a pair of pseudo terminals, the command on one, whoever asked for it on the other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::exec::{Input, Ours, Output, PIECE, Theirs};
use super::sys;

/// What the line discipline reads as the end of the input.
const END: &[u8] = b"\x04";

/// Our end of a terminal.
pub(crate) struct Terminal(AsyncFd<OwnedFd>);

/// Makes a terminal of this size. The command's end becomes its controlling terminal by
/// [`Launch::terminal`](super::spawn::Launch). All descriptors are close-on-exec; only ours does not block.
pub(crate) fn terminal(columns: u16, rows: u16) -> io::Result<(Ours, Theirs)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    // By the descriptor and not by its name, which may be another's in another view of the file system.
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    tcsetwinsize(&ours, winsize(columns, rows))?;
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    let ours = sys::async_fd(ours, Interest::READABLE | Interest::WRITABLE)?;
    let ours = Arc::new(Terminal(ours));
    let theirs = Theirs {
        stdin: theirs.try_clone()?,
        stdout: theirs.try_clone()?,
        stderr: theirs,
    };
    let ours = Ours {
        stdin: Input::Terminal(Arc::clone(&ours)),
        stdout: Output::terminal(ours),
        stderr: Output::none(),
    };
    Ok((ours, theirs))
}

fn winsize(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    /// The next piece of what the command writes; none once nobody has its end open any more. Cancelling by drop loses
    /// nothing.
    pub(crate) async fn read(&self) -> Option<Bytes> {
        let mut piece = BytesMut::zeroed(PIECE);
        // At the end, where a pipe has an end, a terminal has an error (EIO).
        let read = self
            .0
            .async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut piece[..])?))
            .await;
        match read {
            Ok(count) if count > 0 => {
                piece.truncate(count);
                Some(piece.freeze())
            }
            _ => None,
        }
    }

    /// Types something, as much as there is room for. Cancelling by drop loses nothing.
    pub(crate) async fn write(&self, bytes: &mut Bytes) -> io::Result<()> {
        let written = self
            .0
            .async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?))
            .await?;
        bytes.advance(written);
        Ok(())
    }

    /// Types the end of the input, which a command that reads lines sees as such.
    pub(crate) async fn close(&self) {
        let _ = self.write(&mut Bytes::from_static(END)).await;
    }

    /// Sets its size; the kernel tells the command.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        Ok(tcsetwinsize(self.0.get_ref(), winsize(columns, rows))?)
    }
}
