//! Pipes between a command that runs and whoever asked for it.

use std::io;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// How much of a command's output is read at once.
const PIECE: usize = 32 * 1024;

/// Our ends of a command's standard streams.
pub(crate) struct Ours {
    pub stdin: pipe::Sender,
    pub stdout: Output,
    pub stderr: Output,
}

/// The command's ends.
pub(crate) struct Theirs {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Makes three pipes. All ends are close-on-exec; only ours do not block.
pub(crate) fn pipes() -> io::Result<(Ours, Theirs)> {
    let (stdin, our_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let ours = Ours {
        stdin: pipe::Sender::from_owned_fd(our_stdin)?,
        stdout: Output::new(our_stdout)?,
        stderr: Output::new(our_stderr)?,
    };
    Ok((
        ours,
        Theirs {
            stdin,
            stdout,
            stderr,
        },
    ))
}

/// What a command writes to one stream.
pub(crate) struct Output {
    pipe: Option<pipe::Receiver>,
}

impl Output {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: Some(pipe::Receiver::from_owned_fd(fd)?),
        })
    }

    /// Whether nobody writes any more and all was read.
    pub(crate) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }

    /// The next piece; `None` at the end, and for ever after. Cancelling by drop loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let pipe = self.pipe.as_mut()?;
        let mut piece = BytesMut::with_capacity(PIECE);
        match pipe.read_buf(&mut piece).await {
            Ok(count) if count > 0 => Some(piece.freeze()),
            _ => {
                self.pipe = None;
                None
            }
        }
    }
}
