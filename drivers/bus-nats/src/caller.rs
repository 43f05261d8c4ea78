//! The caller's end: what a client uses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, FrameStream, Incoming, Response};
use agent_api_bus_out::{BusReader, DeliveryStream, StartAt};
use agent_api_model::{AgentId, Error, ErrorKind, RequestId, Result, Timestamp, format_duration};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, Message, StatusCode};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::answer::{SILENCES, WINDOW};
use crate::config::ConnectConfig;
use crate::connection::Connection;
use crate::headers::{self, AGENT, ANSWER, CODE, CONTENT_TYPE, LABELS, LAST, PIECE, answers, get};
use crate::health::NatsState;
use crate::inbox::{Inbox, Ticket, given_up};
use crate::reader;
use crate::subject::{ANY, Layout, StreamName, UNKNOWN, token};

/// For so long nobody there is not believed: an agent may be reconnecting, a subscription on its way.
const BELIEVE: Duration = Duration::from_secs(1);
/// The wait between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest line of a streamed reply.
const LONGEST_LINE: usize = 64 << 20;
/// The largest answer.
const LARGEST_ANSWER: usize = 256 << 20;
/// The commands that may wait in a queue.
const QUEUED: [&str; 3] = ["create", "update", "delete"];

/// Whom a caller asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallTarget {
    /// One agent.
    Agent(AgentId),
    /// Any agent that takes the kind and has these labels.
    Any(BTreeMap<String, String>),
}

/// What became of a queued command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its number in the queue.
    pub sequence: u64,
    /// It had been queued before, with the same id.
    pub repeated: bool,
}

/// A caller and reader over NATS. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct NatsCaller {
    inner: Arc<Inner>,
    target: CallTarget,
}

struct Inner {
    connection: Arc<Connection>,
    inbox: Arc<Inbox>,
    layout: Layout,
    keep_alive: Duration,
}

impl Drop for Inner {
    /// The connection's tasks end with the last clone.
    fn drop(&mut self) {
        self.connection.closing.cancel();
    }
}

impl NatsCaller {
    /// A caller of this target. Returns when a server is there, or after a few seconds without one: it is tried on.
    ///
    /// # Errors
    ///
    /// `Invalid` for a wrong configuration, `Denied` where the credentials cannot be read or are refused.
    pub async fn connect(config: ConnectConfig, layout: Layout, target: CallTarget) -> Result<Self> {
        Self::connect_with(
            config,
            layout,
            target,
            crate::config::NatsLimits::default().keep_alive,
        )
        .await
    }

    /// The same with another time for keep-alives than the default; the agent's must be the same.
    ///
    /// # Errors
    ///
    /// As [`NatsCaller::connect`].
    pub async fn connect_with(
        config: ConnectConfig,
        layout: Layout,
        target: CallTarget,
        keep_alive: Duration,
    ) -> Result<Self> {
        let connection = Connection::begin(config).await?;
        let inbox = Inbox::open(Arc::clone(&connection), layout.clone(), keep_alive).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                connection,
                inbox,
                layout,
                keep_alive,
            }),
            target,
        })
    }

    /// The same connection for another target.
    #[must_use]
    pub fn to(&self, target: CallTarget) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            target,
        }
    }

    /// What the connection is now.
    #[must_use]
    pub fn state(&self) -> NatsState {
        self.inner.connection.health.state()
    }

    /// Gives the connection up, of all clones: what is under way ends with an error.
    pub async fn close(&self) {
        self.inner.connection.close().await;
    }

    /// Puts a create, update or delete into the agent's queue. It is done as soon as the agent is there, once, and the
    /// caller need not wait: the answer comes on the agent's `result` topic with the request's id.
    ///
    /// # Errors
    ///
    /// `Unsupported` for other verbs and for any agent, `Invalid` for what is too large, `Busy` for a full queue.
    /// `Timeout` by the deadline: it may have been queued, repeat it with the same id.
    pub async fn send(&self, mut request: Incoming, deadline: Duration) -> Result<Queued> {
        let CallTarget::Agent(agent) = &self.target else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "only one agent's queue takes commands",
            ));
        };
        if !QUEUED.contains(&request.verb.as_str()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{:?} cannot wait in a queue", request.verb),
            )
            .with_hint("create, update and delete can"));
        }
        let id = request
            .id
            .get_or_insert_with(|| RequestId::generate().to_string())
            .clone();
        let layout = &self.inner.layout;
        let subject = layout.queued(agent.as_str(), &request.verb, &kind_word(&request))?;
        let stream = layout.stream(StreamName::In);
        let headers = headers::of_request(&request, None);
        let end = Instant::now() + deadline;
        loop {
            let message = PublishMessage::build()
                .headers(headers.clone())
                .message_id(headers::encode(&id))
                .expected_stream(&stream)
                .payload(request.payload.clone());
            let sent = async {
                self.inner
                    .connection
                    .js
                    .send_publish(subject.clone(), message)
                    .await?
                    .await
            };
            let left = end.saturating_duration_since(Instant::now());
            let error = match tokio::time::timeout(left, sent).await {
                Ok(Ok(ack)) => {
                    return Ok(Queued {
                        sequence: ack.sequence,
                        repeated: ack.duplicate,
                    });
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(not_known(&id, "the queue did not answer", deadline)),
            };
            match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => return Err(too_large()),
                // The server's own word: a full queue, a stream of another name.
                PublishErrorKind::Other => {
                    return Err(
                        Error::new(ErrorKind::Busy, format!("the queue {stream} refuses: {error}"))
                            .with_operation("bus.send"),
                    );
                }
                _ => {}
            }
            if Instant::now() + PAUSE >= end {
                return Err(not_known(&id, &error.to_string(), deadline));
            }
            sleep(PAUSE * 2).await;
        }
    }

    /// Asks, and again where nobody was there yet or an agent had not the labels.
    async fn ask(&self, request: &Incoming, deadline: Duration) -> Result<Response> {
        let agent = match &self.target {
            CallTarget::Agent(agent) => Some(agent.as_str()),
            CallTarget::Any(_) => None,
        };
        let inner = &self.inner;
        let subject = inner
            .layout
            .request(agent.unwrap_or(ANY), &request.verb, &kind_word(request))?;
        let expires = Timestamp::now().plus(deadline);
        let mut headers = headers::of_request(request, Some(expires));
        if let CallTarget::Any(labels) = &self.target
            && !labels.is_empty()
        {
            headers.insert(LABELS, headers::encode(&headers::of_labels(labels)));
        }
        let room = inner.connection.client.max_payload();
        if room > 0 && request.payload.len() + 4_096 > room {
            return Err(too_large());
        }
        let started = Instant::now();
        let mut declined = false;
        loop {
            if !inner.connection.is_up() {
                if started.elapsed() >= BELIEVE {
                    return Err(inner.connection.away("bus.call"));
                }
                sleep(PAUSE).await;
                continue;
            }
            let mut ticket = inner.inbox.ticket(agent);
            inner
                .connection
                .client
                .publish_with_reply_and_headers(
                    subject.clone(),
                    ticket.reply(),
                    headers.clone(),
                    request.payload.clone(),
                )
                .await
                .map_err(|error| {
                    Error::new(ErrorKind::Unavailable, "the request cannot be sent").with_source(error)
                })?;
            let first = ticket.next().await.ok_or_else(given_up)?;
            let word = get(first.headers.as_ref(), ANSWER);
            if first.status == Some(StatusCode::NO_RESPONDERS) {
                ticket.finish();
            } else if word == Some(answers::DECLINED) {
                ticket.finish();
                declined = true;
            } else {
                return self.read(ticket, first).await;
            }
            if started.elapsed() >= BELIEVE {
                return Err(nobody(agent, &request.verb, declined));
            }
            sleep(PAUSE).await;
        }
    }

    async fn read(&self, mut ticket: Ticket, first: Message) -> Result<Response> {
        let headers = first.headers.clone().unwrap_or_default();
        if let Some(agent) = get(Some(&headers), AGENT) {
            ticket.hold(agent);
        }
        let pieces = Pieces {
            ticket,
            first: Some(first),
            expected: 0,
            unsaid: 0,
            ended: false,
            silence: self.inner.keep_alive * SILENCES,
        };
        match get(Some(&headers), ANSWER) {
            Some(answers::ONE) => Ok(Response::One {
                error: get(Some(&headers), CODE).map(code),
                body: pieces.whole().await?,
            }),
            Some(answers::TEXT) => Ok(Response::Text {
                content_type: content_type(&headers),
                body: pieces.whole().await?,
            }),
            Some(answers::STREAM) => {
                let keep = Arc::clone(&self.inner);
                let lines = pieces.lines().inspect(move |_| {
                    let _ = &keep;
                });
                Ok(Response::Stream(Box::pin(lines)))
            }
            Some(answers::STOPPING) => {
                drop(pieces.whole().await);
                Err(crate::answer::stopping())
            }
            _ => Err(Error::new(
                ErrorKind::Internal,
                "what answered on the bus is not an agent of this version",
            )
            .with_operation("bus.call")),
        }
    }
}

/// The pieces of one answer.
struct Pieces {
    ticket: Ticket,
    first: Option<Message>,
    expected: usize,
    /// Pieces read that the agent was not told of.
    unsaid: usize,
    ended: bool,
    silence: Duration,
}

impl Pieces {
    /// The next piece; none after the last.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let message = match self.first.take() {
            Some(first) => first,
            None => match tokio::time::timeout(self.silence, self.ticket.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(given_up()),
                Err(_) => return Err(lost("the agent went silent in the middle of its answer")),
            },
        };
        let headers = message.headers.as_ref();
        let number = get(headers, PIECE).and_then(|text| text.parse::<usize>().ok());
        if number != Some(self.expected) {
            return Err(lost("a piece of the answer was lost"));
        }
        self.expected += 1;
        self.ended = get(headers, LAST).is_some();
        self.unsaid += 1;
        if self.ended {
            self.ticket.finish();
        } else if self.unsaid >= WINDOW / 2 {
            self.ticket.credit(self.unsaid).await;
            self.unsaid = 0;
        }
        Ok(Some(message.payload))
    }

    async fn whole(mut self) -> Result<Bytes> {
        let mut body = match self.next().await? {
            Some(piece) if self.ended => return Ok(piece),
            Some(piece) => BytesMut::from(&piece[..]),
            None => BytesMut::new(),
        };
        while let Some(piece) = self.next().await? {
            if body.len() + piece.len() > LARGEST_ANSWER {
                return Err(lost("the answer is larger than a caller takes"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    fn lines(self) -> FrameStream {
        let state = Some((self, BytesMut::new(), 0_usize));
        Box::pin(futures_util::stream::unfold(state, async |state| {
            let (mut pieces, mut buffer, mut searched) = state?;
            loop {
                if let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
                    let mut line = buffer.split_to(searched + end + 1);
                    line.truncate(line.len() - 1);
                    return Some((line.freeze(), Some((pieces, buffer, 0))));
                }
                searched = buffer.len();
                let piece = match pieces.next().await {
                    Ok(Some(_)) if buffer.len() > LONGEST_LINE => {
                        Err(lost("a message is larger than a caller takes"))
                    }
                    other => other,
                };
                match piece {
                    Ok(Some(piece)) => buffer.extend_from_slice(&piece),
                    Ok(None) => return None,
                    Err(error) => return Some((error.to_frame(), None)),
                }
            }
        }))
    }
}

#[async_trait]
impl BusCaller for NatsCaller {
    async fn call(&self, request: Incoming, deadline: Duration) -> Result<Response> {
        match tokio::time::timeout(deadline, self.ask(&request, deadline)).await {
            Ok(response) => response,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("no answer over the bus within {}", format_duration(deadline)),
            )
            .with_operation("bus.call")
            .with_hint("it may have been accepted; repeat it with the same id")),
        }
    }
}

#[async_trait]
impl BusReader for NatsCaller {
    async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream> {
        let keep = Arc::clone(&self.inner);
        let connection = Arc::clone(&keep.connection);
        let never = CancellationToken::new();
        let stream = reader::subscribe(connection, &keep.layout, pattern, &from, never).await?;
        Ok(Box::pin(stream.inspect(move |_| {
            let _ = &keep;
        })))
    }
}

/// The kind of a request as a word of its subject: that of the body, where it has one.
fn kind_word(request: &Incoming) -> String {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        kind: Option<std::borrow::Cow<'a, str>>,
    }
    if request.verb != "create" {
        return UNKNOWN.into();
    }
    serde_json::from_slice::<Body<'_>>(&request.payload)
        .ok()
        .and_then(|body| body.kind)
        .map_or_else(|| UNKNOWN.into(), |kind| token(&kind))
}

fn code(text: &str) -> ErrorKind {
    serde_json::from_value(text.into()).unwrap_or(ErrorKind::Internal)
}

fn content_type(headers: &HeaderMap) -> &'static str {
    match get(Some(headers), CONTENT_TYPE) {
        Some("text/plain; version=0.0.4") => "text/plain; version=0.0.4",
        Some("text/html; charset=utf-8") => "text/html; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    }
}

fn nobody(agent: Option<&str>, verb: &str, declined: bool) -> Error {
    let error = match (agent, declined) {
        (Some(agent), _) => Error::new(
            ErrorKind::Unavailable,
            format!("no agent {agent} listens on the bus"),
        )
        .with_hint("is it running, and connected? commands may wait for it in its queue"),
        (None, true) => Error::new(
            ErrorKind::Unavailable,
            format!("no agent that was asked to {verb} has the labels wanted"),
        ),
        (None, false) => Error::new(
            ErrorKind::Unavailable,
            format!("no agent on the bus takes a {verb} of this kind"),
        ),
    };
    error.with_operation("bus.call")
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "the request is larger than the server takes in one message (1 MiB by default)",
    )
    .with_operation("bus.call")
}

fn lost(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, message)
        .with_operation("bus.call")
        .with_hint("ask again; a change is safe to repeat with the same id")
}

fn not_known(id: &str, why: &str, within: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "whether the command was queued is not known after {}: {why}",
            format_duration(within)
        ),
    )
    .with_operation("bus.send")
    .with_hint(format!("repeat it with the same id, {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_a_word_of_the_subject() {
        let of = |verb: &str, body: &str| {
            kind_word(&Incoming {
                verb: verb.into(),
                payload: body.to_owned().into(),
                ..Incoming::default()
            })
        };
        assert_eq!(
            of("create", r#"{"name":"a","kind":"ray/job","spec":{"x":[1]}}"#),
            "ray_job"
        );
        assert_eq!(of("create", r#"{"kind":"a.b > *"}"#), "a_b____");
        assert_eq!(of("create", "no json"), UNKNOWN);
        assert_eq!(of("delete", r#"{"kind":"process"}"#), UNKNOWN);
        assert_eq!(code("storage_full"), ErrorKind::StorageFull);
        assert_eq!(code("new in a later version"), ErrorKind::Internal);
    }
}
