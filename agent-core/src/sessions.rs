//! Commands that run interactively: where their input goes, and whose they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_api::driver;
use agent_api::model::{Error, ErrorKind, ExecInput, ExecInputRequest, QueueInfo, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Sessions at once.
pub(crate) const MAX_SESSIONS: usize = 64;
/// Pieces of input that wait for a command to read them.
pub(crate) const QUEUE: usize = 16;
/// The most that one piece has, in bytes.
const MAX_PIECE: usize = 64 << 10;
/// How long input waits for room in the queue before its caller is told to come again.
const ROOM: Duration = Duration::from_secs(1);

/// The sessions of an agent.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Entry>>,
    refused: AtomicU64,
}

struct Entry {
    caller: String,
    /// None after the end of the input.
    input: Option<mpsc::Sender<driver::ExecInput>>,
}

/// A session that is open as long as this lives.
pub(crate) struct Session {
    pub(crate) id: String,
    sessions: Arc<Sessions>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.open.lock().remove(&self.id);
    }
}

impl Sessions {
    /// Opens a session of a caller. What it is sent comes out of the receiver, which ends with the input or the session.
    pub(crate) fn open(
        self: &Arc<Self>,
        caller: &str,
    ) -> Result<(Session, mpsc::Receiver<driver::ExecInput>)> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        // Whoever has it can type into the command: 128 bits that nobody guesses.
        let id = format!("{:032x}", rand::random::<u128>());
        let mut open = self.open.lock();
        if open.len() >= MAX_SESSIONS {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{MAX_SESSIONS} commands run interactively already, which is the limit"),
            )
            .retry_after(Duration::from_secs(1)));
        }
        let entry = Entry {
            caller: caller.to_owned(),
            input: Some(sender),
        };
        open.insert(id.clone(), entry);
        drop(open);
        let sessions = Arc::clone(self);
        Ok((Session { id, sessions }, receiver))
    }

    /// Does what [`AgentApi::exec_input`](agent_api::agent::AgentApi::exec_input) promises. Cancelled by drop, the input
    /// is in the queue or it is not.
    pub(crate) async fn feed(&self, caller: &str, request: &ExecInputRequest) -> Result<()> {
        let piece = piece(&request.input)?;
        let queue = {
            let mut open = self.open.lock();
            let entry = open
                .get_mut(&request.session)
                .filter(|entry| entry.caller == caller)
                .ok_or_else(no_session)?;
            if piece.is_none() {
                entry.input = None;
            }
            entry.input.clone()
        };
        let Some(piece) = piece else { return Ok(()) };
        let is_size = matches!(piece, driver::ExecInput::Resize(_));
        let Some(queue) = queue else {
            // A size is of no use any more; input would be lost.
            return if is_size { Ok(()) } else { Err(no_reader()) };
        };
        match timeout(ROOM, queue.reserve()).await {
            Ok(Ok(place)) => place.send(piece),
            Ok(Err(_)) if is_size => {}
            Ok(Err(_)) => return Err(no_reader()),
            Err(_) => {
                return Err(
                    Error::new(ErrorKind::Busy, "the command does not read what it was sent")
                        .with_operation("exec_input")
                        .retry_after(Duration::from_millis(50)),
                );
            }
        }
        Ok(())
    }

    pub(crate) fn queue(&self) -> QueueInfo {
        QueueInfo {
            length: self.open.lock().len(),
            capacity: MAX_SESSIONS,
            dropped: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// What goes to the driver; none for the end of the input.
fn piece(input: &ExecInput) -> Result<Option<driver::ExecInput>> {
    match input {
        ExecInput::Close {} => Ok(None),
        ExecInput::Resize { size } => Ok(Some(driver::ExecInput::Resize(*size))),
        ExecInput::Stdin { data } => {
            let refused = |message: &str| Err(Error::invalid("input.data", message));
            if data.len() > MAX_PIECE.div_ceil(3) * 4 {
                return refused("has more than 64 KiB; send it in pieces");
            }
            match STANDARD.decode(data) {
                Ok(bytes) if bytes.len() > MAX_PIECE => refused("has more than 64 KiB; send it in pieces"),
                Ok(bytes) => Ok(Some(driver::ExecInput::Stdin(bytes.into()))),
                Err(_) => refused("is not base64"),
            }
        }
    }
}

/// The same whether it never was, has ended, or is another caller's.
fn no_session() -> Error {
    Error::new(
        ErrorKind::NotFound,
        "there is no such session; its command may have ended",
    )
    .with_path("session")
    .with_operation("exec_input")
}

fn no_reader() -> Error {
    Error::new(ErrorKind::Conflict, "the command reads no more input").with_operation("exec_input")
}

#[cfg(test)]
mod tests {
    use agent_api::model::TerminalSize;

    use super::*;

    fn stdin(session: &Session, bytes: &[u8]) -> ExecInputRequest {
        ExecInputRequest {
            session: session.id.clone(),
            input: ExecInput::Stdin {
                data: STANDARD.encode(bytes),
            },
        }
    }

    async fn refusal(sessions: &Sessions, caller: &str, request: &ExecInputRequest) -> ErrorKind {
        sessions.feed(caller, request).await.unwrap_err().kind()
    }

    #[tokio::test(start_paused = true)]
    async fn input_arrives_in_order_and_ends() {
        let sessions = Arc::new(Sessions::default());
        let (session, mut receiver) = sessions.open("uid:1").unwrap();
        sessions.feed("uid:1", &stdin(&session, b"a\xff")).await.unwrap();
        let size = TerminalSize {
            columns: 80,
            rows: 24,
        };
        let resize = ExecInputRequest {
            session: session.id.clone(),
            input: ExecInput::Resize { size },
        };
        sessions.feed("uid:1", &resize).await.unwrap();
        let close = ExecInputRequest {
            session: session.id.clone(),
            input: ExecInput::Close {},
        };
        sessions.feed("uid:1", &close).await.unwrap();
        assert_eq!(
            receiver.recv().await,
            Some(driver::ExecInput::Stdin(b"a\xff".as_slice().into()))
        );
        assert_eq!(receiver.recv().await, Some(driver::ExecInput::Resize(size)));
        assert_eq!(receiver.recv().await, None);
        sessions
            .feed("uid:1", &close)
            .await
            .expect("a second end is the same");
        sessions
            .feed("uid:1", &resize)
            .await
            .expect("of no use, and no fault");
        assert_eq!(
            refusal(&sessions, "uid:1", &stdin(&session, b"b")).await,
            ErrorKind::Conflict
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_its_callers_and_ends_when_let_go() {
        let sessions = Arc::new(Sessions::default());
        let (session, _receiver) = sessions.open("uid:1").unwrap();
        assert_eq!(session.id.len(), 32, "128 bits");
        let request = stdin(&session, b"a");
        assert_eq!(refusal(&sessions, "uid:2", &request).await, ErrorKind::NotFound);
        sessions.feed("uid:1", &request).await.unwrap();
        drop(session);
        assert_eq!(refusal(&sessions, "uid:1", &request).await, ErrorKind::NotFound);
        assert_eq!(sessions.queue().length, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_and_their_input_are_bounded() {
        let sessions = Arc::new(Sessions::default());
        let (session, mut receiver) = sessions.open("uid:1").unwrap();
        for _ in 0..QUEUE {
            sessions.feed("uid:1", &stdin(&session, b"a")).await.unwrap();
        }
        let error = sessions.feed("uid:1", &stdin(&session, b"b")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.retry_delay().is_some());
        receiver.recv().await.unwrap();
        sessions.feed("uid:1", &stdin(&session, b"c")).await.unwrap();
        drop(receiver);
        assert_eq!(
            refusal(&sessions, "uid:1", &stdin(&session, b"d")).await,
            ErrorKind::Conflict
        );

        for (data, fits) in [
            (STANDARD.encode(vec![0; MAX_PIECE]), true),
            (STANDARD.encode(vec![0; MAX_PIECE + 1]), false),
            (STANDARD.encode(vec![0; MAX_PIECE * 4]), false),
            ("no base64!".into(), false),
        ] {
            let request = piece(&ExecInput::Stdin { data });
            assert_eq!(request.is_ok(), fits);
        }

        let _more: Vec<_> = (1..MAX_SESSIONS)
            .map(|_| sessions.open("uid:1").unwrap())
            .collect();
        let error = sessions.open("uid:1").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(
            (sessions.queue().length, sessions.queue().dropped),
            (MAX_SESSIONS, 1)
        );
        drop(session);
        assert!(sessions.open("uid:1").is_ok());
    }
}
