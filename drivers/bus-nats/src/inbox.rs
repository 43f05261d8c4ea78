//! Where replies come to: one subscription for all calls, and no trace of a call that was given up.

use std::collections::HashMap;
use std::sync::Arc;

use agent_api_model::{Error, ErrorKind, Result};
use async_nats::{HeaderMap, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Duration, MissedTickBehavior};

use crate::answer::WINDOW;
use crate::connection::Connection;
use crate::headers::STREAM;
use crate::subject::{CREDIT, LEAVE, Layout};

/// Farewells that wait to be sent; a stream whose farewell finds no room ends by itself when it hears no more.
const FAREWELLS: usize = 1_024;

/// The calls under way on one connection.
pub(crate) struct Inbox {
    prefix: String,
    layout: Layout,
    connection: Arc<Connection>,
    calls: Mutex<HashMap<String, Call>>,
    farewells: mpsc::Sender<(String, Subject)>,
}

struct Call {
    pieces: mpsc::Sender<Message>,
    /// Who sends a long reply.
    agent: Option<String>,
    /// Subjects for replies given out so far.
    turns: u64,
}

/// One call: its place for replies. Dropped before the end, the agent is told.
pub(crate) struct Ticket {
    inbox: Arc<Inbox>,
    token: String,
    reply: Subject,
    pieces: mpsc::Receiver<Message>,
    agent: Option<String>,
    finished: bool,
}

impl Inbox {
    /// Subscribes, and keeps long replies alive as long as somebody holds them.
    pub(crate) async fn open(
        connection: Arc<Connection>,
        layout: Layout,
        keep_alive: Duration,
    ) -> Result<Arc<Self>> {
        let prefix = connection.client.new_inbox();
        let replies = connection
            .client
            .subscribe(format!("{prefix}.>"))
            .await
            .map_err(|error| Error::internal("cannot subscribe to replies").with_source(error))?;
        let (farewells, said) = mpsc::channel(FAREWELLS);
        let inbox = Arc::new(Self {
            prefix,
            layout,
            connection: Arc::clone(&connection),
            calls: Mutex::default(),
            farewells,
        });
        connection
            .tasks
            .spawn(run(Arc::clone(&inbox), replies, said, keep_alive));
        Ok(inbox)
    }

    /// A place for the replies of one call to an agent; none where it is not known which one will answer.
    pub(crate) fn ticket(self: &Arc<Self>, agent: Option<&str>) -> Ticket {
        let token = format!("{:032x}", rand::random::<u128>());
        // Never full: the agent sends no more than it has credit for.
        let (sender, pieces) = mpsc::channel(WINDOW * 2 + 2);
        self.calls.lock().insert(
            token.clone(),
            Call {
                pieces: sender,
                agent: None,
                turns: 0,
            },
        );
        Ticket {
            reply: format!("{}.{token}.0", self.prefix).into(),
            inbox: Arc::clone(self),
            token,
            pieces,
            agent: agent.map(str::to_owned),
            finished: false,
        }
    }

    /// Tells the agent how a call goes on. Each word has a new subject for the pieces after it, because servers allow
    /// only so many replies to one.
    async fn steer(&self, agent: &str, what: &str, call: &Subject, payload: Bytes) {
        let reply = match self.calls.lock().get_mut(self.token(call)) {
            Some(known) => {
                known.turns += 1;
                format!("{}.{}.{}", self.prefix, self.token(call), known.turns)
            }
            None => call.as_str().to_owned(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(STREAM, call.as_str());
        let _ = self
            .connection
            .client
            .publish_with_reply_and_headers(self.layout.steer(agent, what), reply, headers, payload)
            .await;
    }

    /// The word of a reply's subject that names the call.
    fn token<'a>(&self, reply: &'a Subject) -> &'a str {
        let rest = reply.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        rest.split('.').nth(1).unwrap_or_default()
    }

    fn route(&self, message: Message) {
        if let Some(call) = self.calls.lock().get(self.token(&message.subject))
            && call.pieces.try_send(message).is_err()
        {
            self.connection.health.note(|state| state.slow += 1);
        }
    }

    fn held(&self) -> Vec<(String, Subject)> {
        let calls = self.calls.lock();
        calls
            .iter()
            .filter_map(|(token, call)| {
                let agent = call.agent.clone()?;
                Some((agent, format!("{}.{token}.0", self.prefix).into()))
            })
            .collect()
    }
}

async fn run(
    inbox: Arc<Inbox>,
    mut replies: Subscriber,
    mut said: mpsc::Receiver<(String, Subject)>,
    keep_alive: Duration,
) {
    let mut alive = tokio::time::interval(keep_alive);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = inbox.connection.closing.cancelled() => break,
            message = replies.next() => match message {
                Some(message) => inbox.route(message),
                None => break,
            },
            farewell = said.recv() => {
                if let Some((agent, reply)) = farewell {
                    inbox.steer(&agent, LEAVE, &reply, Bytes::new()).await;
                }
            }
            _ = alive.tick() => {
                for (agent, reply) in inbox.held() {
                    inbox.steer(&agent, CREDIT, &reply, Bytes::from_static(b"0")).await;
                }
            }
        }
    }
    // Nothing comes any more: whoever waits is told.
    inbox.calls.lock().clear();
}

impl Ticket {
    /// The subject for replies.
    pub(crate) fn reply(&self) -> Subject {
        self.reply.clone()
    }

    /// The next message; none when the connection was given up.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        self.pieces.recv().await
    }

    /// The reply is a long one of this agent: it is kept alive until the end.
    pub(crate) fn hold(&mut self, agent: &str) {
        self.agent = Some(agent.to_owned());
        if let Some(call) = self.inbox.calls.lock().get_mut(&self.token) {
            call.agent = Some(agent.to_owned());
        }
    }

    /// So many messages were read.
    pub(crate) async fn credit(&self, read: usize) {
        if let Some(agent) = &self.agent {
            let payload = read.to_string().into();
            self.inbox.steer(agent, CREDIT, &self.reply, payload).await;
        }
    }

    /// The whole reply was read.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inbox.calls.lock().remove(&self.token);
        if !self.finished
            && let Some(agent) = self.agent.take()
        {
            let _ = self.inbox.farewells.try_send((agent, self.reply.clone()));
        }
    }
}

/// The error where the connection was given up under a call.
pub(crate) fn given_up() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to the bus was closed").with_operation("bus.call")
}
