//! One command that runs in a container.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, Result};
use agent_api_driver::{ExecInput, ExecOutput, InputStream};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, Stream, StreamExt};
use tokio::time::{Instant, interval_at, sleep_until};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::channel::{self, Incoming, Status};
use super::kill::Reaper;
use super::script::{self, Input};

/// How often an idle connection is pinged.
const PING: Duration = Duration::from_secs(30);
/// The largest piece of input in one message.
const PIECE: usize = 32 * 1024;
/// The longest first line of the script.
const FIRST_LINE: usize = 64;

/// A WebSocket, whatever lies below it.
pub(super) trait Socket:
    Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send
{
}

impl<S> Socket for S where S: Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send {}

/// A connection that runs a command.
pub(super) struct Link {
    pub socket: Pin<Box<dyn Socket>>,
    /// Whether standard input alone can be closed: v5.
    pub closes: bool,
}

/// How the command was started.
pub(super) struct Start {
    pub input: Input,
    /// Under the script, which says its process id first.
    pub wrapped: bool,
    pub deadline: Instant,
}

/// One command that runs.
pub(super) struct Session {
    incoming: SplitStream<Pin<Box<dyn Socket>>>,
    outgoing: SplitSink<Pin<Box<dyn Socket>>, Message>,
    closes: bool,
    kind: Input,
    /// Input goes in pieces, because standard input cannot be closed.
    pieces: bool,
    input: Option<InputStream>,
    outbox: VecDeque<Message>,
    unflushed: bool,
    ready: VecDeque<ExecOutput>,
    reaper: Arc<Reaper>,
    pid: Option<u32>,
    deadline: Instant,
    over: bool,
}

/// What came of a start.
pub(super) enum Started {
    Yes,
    /// There is no shell in the container.
    NoShell,
}

impl Session {
    pub(super) fn new(link: Link, start: &Start, reaper: Arc<Reaper>) -> Self {
        let (outgoing, incoming) = link.socket.split();
        let pieces = start.wrapped && start.input == Input::Stream && !link.closes;
        let mut outbox = VecDeque::new();
        if start.wrapped && start.input == Input::Stream {
            let mode: &[u8] = if pieces { b"f\n" } else { b"p\n" };
            outbox.push_back(Message::Binary(channel::stdin(mode)));
        }
        Self {
            incoming,
            outgoing,
            closes: link.closes,
            kind: start.input,
            pieces,
            input: None,
            outbox,
            unflushed: false,
            ready: VecDeque::new(),
            reaper,
            pid: None,
            deadline: start.deadline,
            over: false,
        }
    }

    /// From where input comes, once it has started.
    pub(super) fn feed(&mut self, input: InputStream) {
        self.input = Some(input).filter(|_| self.kind != Input::Empty && !self.over);
    }

    /// Waits until the script has said its process id, or that there is no such program.
    pub(super) async fn started(&mut self) -> Result<Started> {
        let mut said = Vec::new();
        loop {
            tokio::select! {
                biased;
                message = self.incoming.next() => match self.take(message)? {
                    Incoming::Stdout(piece) => {
                        said.extend_from_slice(&piece);
                        match script::pid(&said) {
                            Some(Ok((pid, length))) => {
                                self.pid = Some(pid);
                                if said.len() > length {
                                    let rest = Bytes::from(said.split_off(length));
                                    self.ready.push_front(ExecOutput::Stdout(rest));
                                }
                                return Ok(Started::Yes);
                            }
                            Some(Err(line)) if line == script::MISSING => {
                                return Err(channel::not_started("executable file not found in the container"));
                            }
                            Some(Err(_)) => return Err(strange(&said)),
                            None if said.len() > FIRST_LINE => return Err(strange(&said)),
                            None => {}
                        }
                    }
                    Incoming::Stderr(piece) => self.ready.push_back(ExecOutput::Stderr(piece)),
                    Incoming::Status(Status::Failed(message)) if channel::is_missing(&message, "sh") => {
                        return Ok(Started::NoShell);
                    }
                    Incoming::Status(Status::Failed(message)) => return Err(channel::not_started(&message)),
                    Incoming::Status(Status::Exit(_)) => return Err(strange(&said)),
                    Incoming::Nothing => {}
                },
                sent = send(&mut self.outgoing, &mut self.outbox, &mut self.unflushed), if self.unflushed || !self.outbox.is_empty() => sent.map_err(|e| cut(&e))?,
                () = sleep_until(self.deadline) => return Err(late()),
            }
        }
    }

    /// Without the script nothing says that the command runs: whether it does not exist is seen within this time.
    pub(super) async fn settled(&mut self, within: Duration) -> Result<()> {
        let until = (Instant::now() + within).min(self.deadline);
        loop {
            tokio::select! {
                biased;
                message = self.incoming.next() => match self.take(message)? {
                    Incoming::Stdout(piece) => {
                        self.ready.push_back(ExecOutput::Stdout(piece));
                        return Ok(());
                    }
                    Incoming::Stderr(piece) => {
                        self.ready.push_back(ExecOutput::Stderr(piece));
                        return Ok(());
                    }
                    Incoming::Status(Status::Failed(message)) => return Err(channel::not_started(&message)),
                    Incoming::Status(Status::Exit(code)) => {
                        self.ready.push_back(ExecOutput::Exit(channel::exit_status(code)));
                        return Ok(());
                    }
                    Incoming::Nothing => {}
                },
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    fn take(&self, message: Option<Result<Message, WsError>>) -> Result<Incoming> {
        match message {
            Some(Ok(Message::Binary(bytes))) => Ok(channel::parse(&bytes)),
            Some(Ok(Message::Close(_))) | None => Err(Error::new(
                ErrorKind::Lost,
                "the connection was closed before the command had ended",
            )),
            Some(Ok(_)) => Ok(Incoming::Nothing),
            Some(Err(e)) => Err(cut(&e)),
        }
    }

    /// The next output; `Exit` or an error last.
    pub(super) async fn next(&mut self) -> Option<Result<ExecOutput>> {
        let mut ping = interval_at(Instant::now() + PING, PING);
        loop {
            if let Some(output) = self.ready.pop_front() {
                if matches!(output, ExecOutput::Exit(_)) {
                    self.end();
                }
                return Some(Ok(output));
            }
            if self.over {
                return None;
            }
            tokio::select! {
                biased;
                message = self.incoming.next() => match self.take(message) {
                    Ok(Incoming::Stdout(piece)) => return Some(Ok(ExecOutput::Stdout(piece))),
                    Ok(Incoming::Stderr(piece)) => return Some(Ok(ExecOutput::Stderr(piece))),
                    Ok(Incoming::Status(Status::Exit(code))) => {
                        self.end();
                        return Some(Ok(ExecOutput::Exit(channel::exit_status(code))));
                    }
                    Ok(Incoming::Status(Status::Failed(message))) => {
                        self.end();
                        return Some(Err(channel::not_started(&message)));
                    }
                    Ok(Incoming::Nothing) => {}
                    Err(error) => {
                        self.over = true;
                        return Some(Err(error));
                    }
                },
                () = sleep_until(self.deadline) => {
                    self.over = true;
                    let left = match self.pid.take() {
                        Some(pid) => self.reaper.kill(pid).await.err(),
                        None => Some(Error::new(ErrorKind::Unsupported, "the container has no shell to end it with")),
                    };
                    return Some(Err(match left {
                        None => late(),
                        Some(error) => late().with_context("left", error),
                    }));
                }
                sent = send(&mut self.outgoing, &mut self.outbox, &mut self.unflushed), if self.unflushed || !self.outbox.is_empty() => {
                    if let Err(e) = sent {
                        // What was said before is still to be read; the end of it tells the rest.
                        tracing::debug!(error = %e, "input was not taken");
                        self.input = None;
                        self.outbox.clear();
                        self.unflushed = false;
                    }
                }
                item = next_of(&mut self.input), if self.outbox.is_empty() => self.put(item),
                _ = ping.tick() => self.outbox.push_back(Message::Ping(Bytes::new())),
            }
        }
    }

    /// The command has ended by itself: there is nothing to kill.
    fn end(&mut self) {
        self.over = true;
        self.pid = None;
        self.input = None;
    }

    fn put(&mut self, item: Option<ExecInput>) {
        match item {
            Some(ExecInput::Stdin(bytes)) => {
                for piece in bytes.chunks(PIECE) {
                    let message = match self.pieces {
                        true => channel::stdin(&script::piece(piece)),
                        false => channel::stdin(piece),
                    };
                    self.outbox.push_back(Message::Binary(message));
                }
            }
            Some(ExecInput::Resize(size)) if matches!(self.kind, Input::Terminal(_)) => {
                self.outbox.push_back(Message::Binary(channel::resize(size)));
            }
            Some(ExecInput::Resize(_)) => {}
            None => {
                self.input = None;
                let close = match (self.kind, self.pieces, self.closes) {
                    // The end of input as a person types it: closing would take the terminal away.
                    (Input::Terminal(_), ..) => channel::stdin(&[4]),
                    (_, true, _) => channel::stdin(b"0\n"),
                    (_, false, true) => channel::close_stdin(),
                    // No way to say it: the command's input stays open until the session ends.
                    (_, false, false) => return,
                };
                self.outbox.push_back(Message::Binary(close));
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.take() {
            Reaper::kill_later(&self.reaper, pid);
        }
    }
}

/// The next input; waits for ever where there is none.
async fn next_of(input: &mut Option<InputStream>) -> Option<ExecInput> {
    match input {
        Some(input) => input.next().await,
        None => std::future::pending().await,
    }
}

/// Sends what is in the outbox. Cancelling by drop loses nothing: a message leaves the outbox when it is taken.
async fn send<S>(sink: &mut S, outbox: &mut VecDeque<Message>, unflushed: &mut bool) -> Result<(), WsError>
where
    S: Sink<Message, Error = WsError> + Unpin,
{
    poll_fn(|cx| {
        while !outbox.is_empty() {
            ready!(Pin::new(&mut *sink).poll_ready(cx))?;
            if let Some(message) = outbox.pop_front() {
                *unflushed = true;
                Pin::new(&mut *sink).start_send(message)?;
            }
        }
        ready!(Pin::new(&mut *sink).poll_flush(cx))?;
        *unflushed = false;
        std::task::Poll::Ready(Ok(()))
    })
    .await
}

fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the command did not end in time")
}

fn cut(error: &WsError) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the connection to the command was cut: {error}"),
    )
}

fn strange(said: &[u8]) -> Error {
    let shown = String::from_utf8_lossy(&said[..said.len().min(FIRST_LINE)]).into_owned();
    Error::new(
        ErrorKind::Unavailable,
        "the shell of the container did not start the command",
    )
    .with_context("said", shown)
}
