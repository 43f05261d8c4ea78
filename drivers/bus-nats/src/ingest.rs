//! Fast ingest: telemetry into a stream, acknowledged every hundred messages, and the server throttles the sender.

use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result};
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::publish::{Ready, refused};

/// The server acknowledges after so many messages.
const FLOW: u64 = 100;
/// So many acknowledgements may be outstanding.
const OUTSTANDING: u64 = 2;
/// A session that was not used for so long is ended, and the next message begins another; the server forgets idle ones.
const IDLE: Duration = Duration::from_secs(4);

const START: u8 = 0;
const APPEND: u8 = 1;
const END: u8 = 3;

/// Telemetry of one agent on its way into the stream. What is on its way is bounded, and counted as lost where it is
/// never acknowledged.
pub(crate) struct Ingest {
    connection: Arc<Connection>,
    session: Option<Session>,
}

struct Session {
    prefix: String,
    /// The subject of the last message.
    subject: String,
    replies: Subscriber,
    /// Which connection it was begun on: it does not outlive it.
    connects: u64,
    sent: u64,
    acknowledged: u64,
    flow: u64,
    used: Instant,
}

/// What the server says. The final word of a session has no type, as that of any publish.
#[derive(Debug, Deserialize)]
struct Word {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    last_seq: u64,
    #[serde(default)]
    msgs: u64,
    #[serde(default)]
    count: u64,
    error: Option<Fault>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    #[serde(default)]
    description: String,
}

impl Ingest {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            session: None,
        }
    }

    /// Sends a message. Waits while the server is behind.
    pub(crate) async fn send(&mut self, ready: Ready) -> Result<()> {
        let connects = self.connection.health.state().connects;
        if let Some(session) = &self.session {
            if session.connects != connects {
                self.give_up();
            } else if session.used.elapsed() > IDLE {
                self.end().await;
            }
        }
        let sent = match &mut self.session {
            Some(session) => session.send(&self.connection, ready, APPEND).await,
            None => {
                let mut session = Session::begin(&self.connection, connects).await?;
                let sent = session.send(&self.connection, ready, START).await;
                self.session = Some(session);
                sent
            }
        };
        if sent.is_err() {
            self.give_up();
        }
        sent
    }

    /// Ends the session and waits a little until all of it is acknowledged.
    pub(crate) async fn end(&mut self) {
        if let Some(session) = &mut self.session {
            let _ = tokio::time::timeout(Duration::from_secs(1), session.end(&self.connection)).await;
        }
        self.give_up();
    }

    fn give_up(&mut self) {
        if let Some(session) = self.session.take() {
            let lost = session.sent.saturating_sub(session.acknowledged);
            self.connection.health.note(|state| {
                state.lost += lost;
                state.stored += session.acknowledged;
            });
        }
    }
}

impl Session {
    async fn begin(connection: &Connection, connects: u64) -> Result<Self> {
        let prefix = connection.client.new_inbox();
        let replies = connection
            .client
            .subscribe(format!("{prefix}.>"))
            .await
            .map_err(|error| refused(&error))?;
        Ok(Self {
            prefix,
            subject: String::new(),
            replies,
            connects,
            sent: 0,
            acknowledged: 0,
            flow: FLOW,
            used: Instant::now(),
        })
    }

    async fn send(&mut self, connection: &Connection, ready: Ready, operation: u8) -> Result<()> {
        let reply = self.reply(self.sent + 1, operation);
        let mut headers = ready.headers;
        headers.insert("Nats-Msg-Id", ready.id);
        let within = connection.config.ack_timeout;
        let sent = connection.client.publish_with_reply_and_headers(
            ready.subject.clone(),
            reply,
            headers,
            ready.payload,
        );
        match tokio::time::timeout(within, sent).await {
            Ok(Ok(())) => self.sent += 1,
            Ok(Err(error)) => return Err(refused(&error)),
            Err(_) => return Err(connection.away("bus.publish")),
        }
        self.used = Instant::now();
        self.subject.clone_from(&ready.subject);
        if operation == START {
            let first = tokio::time::timeout(within, self.replies.next()).await;
            let first = first
                .ok()
                .flatten()
                .ok_or_else(|| connection.away("bus.publish"))?;
            return self.hear(&first, &ready.subject, connection);
        }
        while let Some(Some(message)) = self.replies.next().now_or_never() {
            self.hear(&message, &ready.subject, connection)?;
        }
        while self.sent - self.acknowledged > self.flow * OUTSTANDING {
            let message = tokio::time::timeout(within, self.replies.next()).await;
            let message = message
                .ok()
                .flatten()
                .ok_or_else(|| connection.away("bus.publish"))?;
            self.hear(&message, &ready.subject, connection)?;
        }
        Ok(())
    }

    async fn end(&mut self, connection: &Connection) {
        let reply = self.reply(self.sent + 1, END);
        let end = connection
            .client
            .publish_with_reply(self.subject.clone(), reply, Bytes::new());
        if end.await.is_err() {
            return;
        }
        while self.acknowledged < self.sent {
            let Some(message) = self.replies.next().await else {
                return;
            };
            if self.hear(&message, "", connection).is_err() {
                return;
            }
        }
    }

    fn reply(&self, number: u64, operation: u8) -> String {
        format!("{}.{FLOW}.ok.{number}.{operation}.$FI", self.prefix)
    }

    fn hear(&mut self, message: &Message, subject: &str, connection: &Connection) -> Result<()> {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(
                Error::new(ErrorKind::Unavailable, format!("no stream takes {subject}"))
                    .with_operation("bus.publish")
                    .with_hint("the streams of the bus are made once, by its setup"),
            );
        }
        if message.payload.is_empty() {
            return Ok(());
        }
        let word: Word = serde_json::from_slice(&message.payload)
            .map_err(|error| Error::internal("the server said something strange").with_source(error))?;
        if let Some(fault) = word.error {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the stream does not take telemetry: {}", fault.description),
            )
            .with_operation("bus.publish"));
        }
        match word.kind.as_str() {
            "gap" => {
                let lost = word.seq.saturating_sub(word.last_seq + 1);
                connection.health.note(|state| state.lost += lost);
            }
            "ack" => {
                self.acknowledged = self.acknowledged.max(word.seq);
                if word.msgs > 0 {
                    self.flow = word.msgs;
                }
            }
            _ => self.acknowledged = self.acknowledged.max(word.count),
        }
        Ok(())
    }
}
