//! The caller's end: asks an agent, and reads its topics.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, FrameStream, Incoming, Response};
use agent_api_bus_out::{BusReader, Delivery, DeliveryStream, StartAt};
use agent_api_model::{Error, ErrorKind, Result, Retry, format_duration};
use agent_bus_memory::check_pattern;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request};
use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};

use crate::events::EventReader;
use crate::reply::kind_of;
use crate::request::{DEADLINE, ID, KEY, TRACE};
use crate::route::encode;
use crate::service::{EVENTS, LINES};
use crate::wire::{Failed, Socket, Whole, Wire};

/// Connections kept for the next request.
const IDLE: usize = 16;
/// The largest answer: a list of more than 100,000 objects.
const LARGEST: usize = 256 << 20;
/// The longest line of a stream.
const LONGEST_LINE: usize = 32 << 20;
/// How long subscribing may take.
const SUBSCRIBE: Duration = Duration::from_secs(10);

/// Asks an agent over its Unix socket or loopback port. Cheap to clone; clones share connections.
///
/// There is no task: a connection is driven by the call that waits for its answer, and a stream's by its reader.
#[derive(Clone)]
pub struct HttpCaller {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    idle: Mutex<Vec<Wire>>,
}

enum Endpoint {
    Unix(PathBuf),
    Tcp {
        address: SocketAddr,
        authorization: Option<HeaderValue>,
    },
}

impl fmt::Debug for HttpCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpCaller({})", self.inner.endpoint.place())
    }
}

impl HttpCaller {
    /// Asks the agent on this Unix socket. Connects with the first request.
    #[must_use]
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Self::new(Endpoint::Unix(socket.into()))
    }

    /// Asks the agent on this loopback port, with its token (see [`crate::read_token`]).
    ///
    /// # Errors
    ///
    /// `Invalid` for a token with other than visible ASCII characters.
    pub fn tcp(address: SocketAddr, token: &str) -> Result<Self> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| Error::invalid("token", "has other than visible ASCII characters"))?;
        authorization.set_sensitive(true);
        Ok(Self::new(Endpoint::Tcp {
            address,
            authorization: Some(authorization),
        }))
    }

    fn new(endpoint: Endpoint) -> Self {
        Self {
            inner: Arc::new(Inner {
                endpoint,
                idle: Mutex::default(),
            }),
        }
    }
}

impl Endpoint {
    fn place(&self) -> String {
        match self {
            Self::Unix(path) => path.display().to_string(),
            Self::Tcp { address, .. } => format!("http://{address}"),
        }
    }

    async fn connect(&self) -> Result<Wire> {
        let socket = match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
            Self::Tcp { address, .. } => TcpStream::connect(address).await.map(|stream| {
                let _ = stream.set_nodelay(true);
                Socket::Tcp(stream)
            }),
        };
        let socket = socket.map_err(|error| self.nobody(error))?;
        Wire::over(socket).await.map_err(|error| self.went_away(error))
    }

    fn nobody(&self, error: io::Error) -> Error {
        let place = self.place();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::new(ErrorKind::Unavailable, format!("no agent is running at {place}"))
                    .with_hint("start one with `agent run`")
                    .with_retry(Retry::Never)
            }
            io::ErrorKind::PermissionDenied => Error::new(
                ErrorKind::Denied,
                format!("the agent at {place} belongs to another user"),
            )
            .with_hint("ask as that user, or as root"),
            _ => Error::new(
                ErrorKind::Unavailable,
                format!("cannot reach the agent at {place}: {error}"),
            ),
        }
        .with_operation("bus.connect")
    }

    fn went_away(&self, error: hyper::Error) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("the agent at {} went away in the middle", self.place()),
        )
        .with_hint("the request may have been accepted; repeat it with the same id")
        .with_operation("bus.call")
        .with_source(error)
    }

    fn strange(&self, what: &str) -> Error {
        Error::internal(format!(
            "what answers at {} is not an agent: {what}",
            self.place()
        ))
        .with_operation("bus.call")
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let builder = Request::builder().method(method).uri(path);
        match self {
            Self::Unix(_) => builder.header(header::HOST, "localhost"),
            Self::Tcp {
                address,
                authorization,
            } => {
                let builder = builder.header(header::HOST, address.to_string());
                match authorization {
                    Some(authorization) => builder.header(header::AUTHORIZATION, authorization),
                    None => builder,
                }
            }
        }
    }
}

impl Inner {
    /// Sends over a connection that is kept, or a new one.
    async fn send(
        &self,
        mut request: Request<Whole>,
    ) -> Result<(Wire, hyper::Response<hyper::body::Incoming>)> {
        loop {
            let kept = self.idle.lock().pop();
            let mut wire = match kept {
                Some(mut wire) => {
                    if !wire.is_ready().await {
                        continue;
                    }
                    wire
                }
                None => self.endpoint.connect().await?,
            };
            match wire.send(request).await {
                Ok(response) => return Ok((wire, response)),
                Err(Failed::NotSent(again)) => request = *again,
                Err(Failed::Broken(error)) => return Err(self.endpoint.went_away(error)),
            }
        }
    }

    async fn whole(&self, mut wire: Wire, body: hyper::body::Incoming) -> Result<Bytes> {
        let bytes = wire
            .whole(body, LARGEST)
            .await
            .map_err(|error| self.endpoint.went_away(error))?
            .ok_or_else(|| {
                self.endpoint
                    .strange(&format!("its answer is longer than {LARGEST} bytes"))
            })?;
        if wire.is_ready().await {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE {
                idle.push(wire);
            }
        }
        Ok(bytes)
    }

    async fn call(&self, request: Incoming) -> Result<Response> {
        let path = match &request.object {
            Some(object) => format!("/v1/objects/{}/{}", encode(object), encode(&request.verb)),
            None => format!("/v1/call/{}", encode(&request.verb)),
        };
        let mut builder = self.endpoint.request(Method::POST, &path);
        for (name, value) in [
            (ID, &request.id),
            (KEY, &request.idempotency_key),
            (DEADLINE, &request.deadline),
            (TRACE, &request.traceparent),
        ] {
            if let Some(value) = value {
                builder = builder.header(name, value);
            }
        }
        if !request.payload.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, crate::service::JSON);
        }
        let http = builder.body(Whole::new(request.payload)).map_err(|error| {
            Error::new(ErrorKind::Invalid, "the request cannot be sent over HTTP").with_source(error)
        })?;
        let (wire, response) = self.send(http).await?;
        let (head, body) = response.into_parts();
        let kind = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if kind == LINES {
            return Ok(Response::Stream(self.lines(wire, body)));
        }
        let is_json = kind == crate::service::JSON;
        let is_text = kind.starts_with("text/plain");
        let status = head.status;
        let body = self.whole(wire, body).await?;
        match (is_json, is_text) {
            (true, _) if status.is_success() => Ok(Response::One { error: None, body }),
            (true, _) => match kind_of(&body) {
                Some(kind) => Ok(Response::One {
                    error: Some(kind),
                    body,
                }),
                None => Err(self
                    .endpoint
                    .strange(&format!("it answered {status} without a reason"))),
            },
            (_, true) if status.is_success() => Ok(Response::Text {
                content_type: "text/plain; version=0.0.4",
                body,
            }),
            _ => Err(self.endpoint.strange(&format!("it answered {status}"))),
        }
    }

    fn lines(&self, wire: Wire, body: hyper::body::Incoming) -> FrameStream {
        let lines = LineReader::new(wire, body);
        let place = self.endpoint.place();
        Box::pin(futures_util::stream::unfold(
            Some((lines, place)),
            async |state| {
                let (mut lines, place) = state?;
                loop {
                    match lines.next().await {
                        Some(Ok(line)) if line.is_empty() => {}
                        Some(Ok(line)) => {
                            let rest = (Error::from_frame(&line).is_none()).then_some((lines, place));
                            return Some((line, rest));
                        }
                        Some(Err(())) => {
                            let error = Error::new(
                                ErrorKind::Unavailable,
                                format!("the agent at {place} went away in the middle of the stream"),
                            );
                            return Some((error.to_frame(), None));
                        }
                        None => return None,
                    }
                }
            },
        ))
    }

    async fn subscribe(&self, pattern: &str, from: &StartAt) -> Result<DeliveryStream> {
        let query = if *from == StartAt::Kept { "?from=kept" } else { "" };
        let path = format!("/v1/topics/{}{query}", encode(pattern));
        let mut builder = self
            .endpoint
            .request(Method::GET, &path)
            .header(header::ACCEPT, EVENTS);
        if let StartAt::After(sequence) = from {
            builder = builder.header("last-event-id", sequence.to_string());
        }
        let request = builder.body(Whole::new(Bytes::new())).map_err(|error| {
            Error::new(ErrorKind::Invalid, "the request cannot be sent over HTTP").with_source(error)
        })?;
        let (wire, response) = self.send(request).await?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let body = self.whole(wire, body).await?;
            let reply: Option<agent_api_model::Reply> = serde_json::from_slice(&body).ok();
            return Err(reply
                .and_then(|reply| reply.error)
                .unwrap_or_else(|| self.endpoint.strange(&format!("it answered {}", head.status))));
        }
        let mut lines = LineReader::new(wire, body);
        let place = self.endpoint.place();
        let gone = move || {
            Error::new(
                ErrorKind::Unavailable,
                format!("the agent at {place} went away; subscribe again after the last event"),
            )
        };
        // The agent's word that it has begun: what is published after this is read.
        match lines.next().await {
            Some(Ok(_)) => {}
            Some(Err(())) | None => return Err(gone()),
        }
        let state = Some((lines, EventReader::default(), gone));
        Ok(Box::pin(futures_util::stream::unfold(state, async |state| {
            let (mut lines, mut reader, gone) = state?;
            loop {
                let found: Option<Result<Delivery>> = match lines.next().await {
                    Some(Ok(line)) => reader.line(&String::from_utf8_lossy(&line)),
                    Some(Err(())) => return Some((Err(gone()), None)),
                    None => return None,
                };
                if let Some(delivery) = found {
                    return Some((delivery, Some((lines, reader, gone))));
                }
            }
        })))
    }
}

/// Reads an answer line by line.
struct LineReader {
    wire: Wire,
    body: hyper::body::Incoming,
    buffer: BytesMut,
    /// So much of the buffer has no line's end.
    searched: usize,
}

impl LineReader {
    fn new(wire: Wire, body: hyper::body::Incoming) -> Self {
        Self {
            wire,
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line without its end; an error where the connection breaks or a line is too long.
    async fn next(&mut self) -> Option<Result<Bytes, ()>> {
        loop {
            let end = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let mut line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                return Some(Ok(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LONGEST_LINE {
                return Some(Err(()));
            }
            match self.wire.piece(&mut self.body).await {
                Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                Some(Err(_)) => return Some(Err(())),
                None if self.buffer.is_empty() => return None,
                None => return Some(Err(())),
            }
        }
    }
}

#[async_trait]
impl BusCaller for HttpCaller {
    async fn call(&self, request: Incoming, deadline: Duration) -> Result<Response> {
        match tokio::time::timeout(deadline, self.inner.call(request)).await {
            Ok(response) => response,
            Err(_) => Err(no_answer(&self.inner.endpoint, deadline)
                .with_hint("it may have been accepted; repeat it with the same id")),
        }
    }
}

#[async_trait]
impl BusReader for HttpCaller {
    async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream> {
        check_pattern(pattern)?;
        match tokio::time::timeout(SUBSCRIBE, self.inner.subscribe(pattern, &from)).await {
            Ok(stream) => stream,
            Err(_) => Err(no_answer(&self.inner.endpoint, SUBSCRIBE)),
        }
    }
}

fn no_answer(endpoint: &Endpoint, within: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "no answer from the agent at {} within {}",
            endpoint.place(),
            format_duration(within)
        ),
    )
    .with_operation("bus.call")
}
