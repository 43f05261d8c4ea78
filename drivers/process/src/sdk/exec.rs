//! Pipes or a terminal between a command that runs and whoever asked for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::terminal::Terminal;

/// How much of a command's output is read at once.
pub(crate) const PIECE: usize = 32 * 1024;

/// Our ends of a command's standard streams.
pub(crate) struct Ours {
    pub stdin: Input,
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
        stdin: Input::Pipe(pipe::Sender::from_owned_fd(our_stdin)?),
        stdout: Output::pipe(our_stdout)?,
        stderr: Output::pipe(our_stderr)?,
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

/// Where a command reads from.
pub(crate) enum Input {
    Pipe(pipe::Sender),
    Terminal(Arc<Terminal>),
}

impl Input {
    /// Writes some of it; an error where the command does not read any more. Cancelling by drop loses nothing.
    pub(crate) async fn write(&mut self, bytes: &mut Bytes) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_buf(bytes).await.map(drop),
            Self::Terminal(terminal) => terminal.write(bytes).await,
        }
    }
}

/// What a command writes to one stream.
pub(crate) struct Output(Source);

enum Source {
    Pipe(pipe::Receiver),
    Terminal(Arc<Terminal>),
    Closed,
}

impl Output {
    fn pipe(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(Source::Pipe(pipe::Receiver::from_owned_fd(fd)?)))
    }

    /// All that a command writes to its terminal.
    pub(crate) fn terminal(terminal: Arc<Terminal>) -> Self {
        Self(Source::Terminal(terminal))
    }

    /// A stream that the command has not.
    pub(crate) fn none() -> Self {
        Self(Source::Closed)
    }

    /// Whether nobody writes any more and all was read.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.0, Source::Closed)
    }

    /// The next piece; `None` at the end, and for ever after. Cancelling by drop loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let piece = match &mut self.0 {
            Source::Closed => None,
            Source::Terminal(terminal) => terminal.read().await,
            Source::Pipe(pipe) => {
                let mut piece = BytesMut::with_capacity(PIECE);
                let read = pipe.read_buf(&mut piece).await;
                read.is_ok_and(|count| count > 0).then(|| piece.freeze())
            }
        };
        if piece.is_none() {
            self.0 = Source::Closed;
        }
        piece
    }
}
