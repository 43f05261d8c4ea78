//! Answers: one message, or pieces of which only so many are ahead of the caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{FrameStream, Response};
use agent_api_model::{Error, ErrorKind, Reply, RequestId, StageTimes, Timestamp};
use async_nats::{HeaderMap, Subject};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::headers::{AGENT, ANSWER, CODE, CONTENT_TYPE, LAST, PIECE, answers};

/// So many pieces may be ahead of the caller. Fewer than the hundred replies that permissions allow for a request.
pub(crate) const WINDOW: usize = 16;
/// The largest piece.
const LARGEST: usize = 256 << 10;
/// Room for the headers within the server's largest message.
const HEADERS: usize = 4 << 10;
/// Either end counts as gone after so many keep-alives.
pub(crate) const SILENCES: u32 = 4;

/// How a caller steers the answer to one request.
pub(crate) struct Steer {
    credits: Semaphore,
    /// The caller wants no more.
    pub(crate) left: CancellationToken,
    heard: Mutex<Instant>,
    /// Where the next piece goes.
    reply: Mutex<Subject>,
}

/// The requests being answered, by the subject of their replies.
#[derive(Default)]
pub(crate) struct Steering(Mutex<HashMap<String, Arc<Steer>>>);

/// A request's place in the table.
pub(crate) struct Steered {
    table: Arc<Steering>,
    reply: Subject,
    pub(crate) steer: Arc<Steer>,
}

impl Steering {
    pub(crate) fn enter(self: &Arc<Self>, reply: Subject) -> Steered {
        let steer = Arc::new(Steer {
            credits: Semaphore::new(WINDOW),
            left: CancellationToken::new(),
            heard: Mutex::new(Instant::now()),
            reply: Mutex::new(reply.clone()),
        });
        self.0
            .lock()
            .insert(reply.as_str().to_owned(), Arc::clone(&steer));
        Steered {
            table: Arc::clone(self),
            reply,
            steer,
        }
    }

    /// The caller of a request has read some of the answer, and wants the next pieces at this subject.
    pub(crate) fn credit(&self, call: &str, reply: Subject, payload: &[u8]) {
        if let Some(steer) = self.0.lock().get(call) {
            *steer.reply.lock() = reply;
            let read: usize = std::str::from_utf8(payload)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            // A caller that lies gets no more than the window.
            let room = WINDOW.saturating_sub(steer.credits.available_permits());
            steer.credits.add_permits(read.min(room));
            *steer.heard.lock() = Instant::now();
        }
    }

    /// The caller of a request wants no more.
    pub(crate) fn leave(&self, call: &str) {
        if let Some(steer) = self.0.lock().get(call) {
            steer.left.cancel();
        }
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        self.table.0.lock().remove(self.reply.as_str());
    }
}

/// What an answer needs besides itself.
pub(crate) struct Answerer<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) agent: &'a str,
    pub(crate) steer: &'a Steer,
    pub(crate) keep_alive: Duration,
    /// Streams are cut.
    pub(crate) closing: &'a CancellationToken,
    /// Pieces sent.
    pub(crate) sent: usize,
}

/// The caller is gone, or cannot be reached.
pub(crate) struct Gone;

impl Answerer<'_> {
    /// Sends the whole answer.
    pub(crate) async fn send(&mut self, response: Response) -> Result<(), Gone> {
        match response {
            Response::One { error, body } => {
                let mut headers = self.first(answers::ONE);
                if let Some(kind) = error {
                    headers.insert(CODE, kind.as_str());
                }
                self.whole(headers, body).await
            }
            Response::Text { content_type, body } => {
                let mut headers = self.first(answers::TEXT);
                headers.insert(CONTENT_TYPE, content_type);
                self.whole(headers, body).await
            }
            Response::Stream(frames) => self.stream(frames).await,
        }
    }

    /// An answer without a body.
    pub(crate) async fn bare(&mut self, answer: &'static str) -> Result<(), Gone> {
        let headers = self.first(answer);
        self.whole(headers, Bytes::new()).await
    }

    fn first(&self, answer: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ANSWER, answer);
        headers.insert(AGENT, self.agent);
        headers
    }

    fn largest(&self) -> usize {
        let server = self.connection.client.max_payload();
        let server = if server == 0 { LARGEST } else { server };
        LARGEST.min(server.saturating_sub(HEADERS)).max(1)
    }

    async fn whole(&mut self, headers: HeaderMap, mut body: Bytes) -> Result<(), Gone> {
        let largest = self.largest();
        let mut headers = Some(headers);
        loop {
            let piece = body.split_to(body.len().min(largest));
            let last = body.is_empty();
            self.piece(headers.take().unwrap_or_default(), piece, last)
                .await?;
            if last {
                return Ok(());
            }
        }
    }

    async fn piece(&mut self, mut headers: HeaderMap, payload: Bytes, last: bool) -> Result<(), Gone> {
        let credit = tokio::select! {
            biased;
            credit = self.steer.credits.acquire() => credit.map_err(|_| Gone)?,
            () = self.steer.left.cancelled() => return Err(Gone),
            () = self.silence() => return Err(Gone),
        };
        credit.forget();
        headers.insert(PIECE, self.sent.to_string());
        if last {
            headers.insert(LAST, "1");
        }
        self.sent += 1;
        let reply = self.steer.reply.lock().clone();
        let publish = self
            .connection
            .client
            .publish_with_headers(reply, headers, payload);
        tokio::select! {
            biased;
            sent = publish => sent.map_err(|_| Gone),
            () = self.steer.left.cancelled() => Err(Gone),
            () = self.silence() => Err(Gone),
        }
    }

    /// Ends when the caller has not been heard of for too long.
    async fn silence(&self) {
        loop {
            let end = *self.steer.heard.lock() + self.keep_alive * SILENCES;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    async fn stream(&mut self, mut frames: FrameStream) -> Result<(), Gone> {
        let largest = self.largest();
        let mut headers = Some(self.first(answers::STREAM));
        let mut ready = BytesMut::new();
        let mut ended = false;
        loop {
            while !ended && ready.len() < largest {
                match frames.next().now_or_never() {
                    Some(Some(frame)) => line(&mut ready, &frame),
                    Some(None) => ended = true,
                    None => break,
                }
            }
            if !ended && self.closing.is_cancelled() {
                line(&mut ready, &stopping().to_frame());
                ended = true;
            }
            // The first piece goes at once, so that the caller knows that it is a stream.
            while !ready.is_empty() || headers.is_some() || ended {
                let piece = ready.split_to(ready.len().min(largest)).freeze();
                let last = ended && ready.is_empty();
                self.piece(headers.take().unwrap_or_default(), piece, last)
                    .await?;
                if last {
                    return Ok(());
                }
            }
            tokio::select! {
                biased;
                () = self.steer.left.cancelled() => return Err(Gone),
                () = self.closing.cancelled() => {}
                frame = frames.next() => match frame {
                    Some(frame) => line(&mut ready, &frame),
                    None => ended = true,
                },
                () = self.silence() => return Err(Gone),
                () = tokio::time::sleep(self.keep_alive) => {
                    let mut alive = HeaderMap::new();
                    alive.insert(ANSWER, answers::ALIVE);
                    self.piece(alive, Bytes::new(), false).await?;
                }
            }
        }
    }
}

fn line(ready: &mut BytesMut, frame: &[u8]) {
    ready.extend_from_slice(frame);
    ready.extend_from_slice(b"\n");
}

pub(crate) fn stopping() -> Error {
    Error::new(ErrorKind::Unavailable, "the agent is stopping").with_operation("bus.call")
}

/// A refusal by the bus itself.
pub(crate) fn refusal(id: Option<&str>, error: Error) -> Response {
    let kind = error.kind();
    let reply = Reply {
        id: id.and_then(|id| RequestId::new(id).ok()),
        ok: None,
        error: Some(error),
        stages: StageTimes {
            received: Timestamp::now(),
            ..StageTimes::default()
        },
    };
    Response::One {
        error: Some(kind),
        body: serde_json::to_vec(&reply).expect("a reply is plain JSON").into(),
    }
}
