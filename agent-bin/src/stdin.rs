//! Standard input as it comes.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::stdin;
use tokio::sync::mpsc;

/// The most that is read at once, in bytes.
const PIECE: usize = 32 << 10;

/// Reads standard input on a thread of its own, which ends with this; pieces that nobody takes hold it up.
///
/// Not by way of the runtime: a terminal read through its descriptor would not block for whoever shares it, and a read
/// that blocks would keep the program from ending until a key is pressed.
pub(crate) struct Stdin {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Stdin {
    /// Begins to read.
    pub(crate) fn read() -> io::Result<Self> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let (sender, pieces) = mpsc::channel(4);
        let thread = std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || read_all(&stopped, &sender))?;
        Ok(Self {
            pieces,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The next piece; none at the end. Cancelling by drop loses nothing.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.pieces.recv().await
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.pieces.close();
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_all(stopped: &OwnedFd, sender: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(stdin(), PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => {
                let _ = sender.blocking_send(Err(error.into()));
                return;
            }
        }
        let piece = match rustix::io::read(stdin(), &mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(buffer[..count].to_vec()),
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(error) => Err(error.into()),
        };
        let failed = piece.is_err();
        if sender.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}
