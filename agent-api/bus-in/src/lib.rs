//! The Bus In contract: where requests come from, and the caller's end of it.
//!
//! A bus hands each request to a [`RequestHandler`] (the API server) on the task that received it, and sends what the
//! handler returns: a read crosses no task boundary, and a bus that acknowledges does so after the handler returned,
//! which is after the journal. What a request says is the server's business; a bus carries bytes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{ErrorKind, Result, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

/// A request as a bus received it. Nothing in it has been checked but its size.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// The verb, by address.
    pub verb: String,
    /// The object, by address, where it names one.
    pub object: Option<String>,
    /// The request's id, where the caller gave one.
    pub id: Option<String>,
    /// The idempotency key, where the caller gave one.
    pub idempotency_key: Option<String>,
    /// When the request is of no use any more, RFC 3339, where the caller said so.
    pub deadline: Option<String>,
    /// W3C trace context, where the caller gave one.
    pub traceparent: Option<String>,
    /// Who asks, as the bus knows them: `uid:1000`, `token`, an account. Never the caller's own word, and no secret.
    pub caller: String,
    /// What the caller may do, as the bus knows them.
    pub access: Access,
    /// The body: JSON, or empty.
    pub payload: Bytes,
    /// When the bus had the whole request.
    pub received: Timestamp,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing: answered with `Denied`.
    #[default]
    None,
    /// Verbs that change nothing and show no logs.
    Read,
    /// Everything.
    Full,
}

/// What the handler answers.
pub enum Response {
    /// One message: a reply as JSON.
    One {
        /// Why it was refused; none where it was not. Buses with status codes show it.
        error: Option<ErrorKind>,
        /// The reply.
        body: Bytes,
    },
    /// Many messages, one JSON value each, as long as the caller listens. An error ends it and is itself the last
    /// message.
    Stream(FrameStream),
    /// Text that is not a reply: metrics, a page.
    Text {
        /// Its media type.
        content_type: &'static str,
        /// The text.
        body: Bytes,
    },
}

/// The messages of a streamed reply. Dropped when the caller leaves.
pub type FrameStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Answers requests: the API server.
#[async_trait]
pub trait RequestHandler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Behavior
    ///
    /// - Always answers; what is wrong with a request is in the answer.
    /// - Cancelled by drop: a request that was accepted by then is done all the same.
    async fn handle(&self, incoming: Incoming) -> Response;
}

/// Where requests come from.
#[async_trait]
pub trait BusIn: Send + Sync + 'static {
    /// Its name, for example `http`.
    fn name(&self) -> &'static str;

    /// Where it listens, without any credential.
    fn address(&self) -> String;

    /// Begins to take requests.
    ///
    /// # Behavior
    ///
    /// - Returns when requests are being taken. An address that is in use or not allowed: an error that names it.
    /// - Bounded: at most so many requests and connections at once; more wait or are answered `Busy`.
    async fn open(&self, handler: Arc<dyn RequestHandler>) -> Result<()>;

    /// Takes no more requests, answers those it has, and ends; streams are cut.
    ///
    /// # Behavior
    ///
    /// - Returns by the deadline with all tasks joined; says how many requests got no answer.
    /// - A second close is success.
    async fn close(&self, deadline: Duration) -> Result<()>;
}

/// The caller's end of Bus In: what a client uses.
#[async_trait]
pub trait BusCaller: Send + Sync + 'static {
    /// Sends a request and returns the answer.
    ///
    /// # Behavior
    ///
    /// - No agent there: `Unavailable`, with what to do.
    /// - No answer in time: `Timeout`; the request may have been accepted: repeat it with the same id.
    async fn call(&self, request: Incoming, deadline: Duration) -> Result<Response>;
}
