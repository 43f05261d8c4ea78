//! The bus.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_api_bus_in::{Access, BusCaller, BusIn, FrameStream, Incoming, RequestHandler, Response};
use agent_api_bus_out::{BusOut, BusReader, DeliveryStream, Message, StartAt};
use agent_api_model::{Error, ErrorKind, Result, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{RingConfig, TopicRing};

/// The bounds of a [`MemoryBus`].
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Requests at once; 1,024 by default. More are answered `Busy`.
    pub requests: u32,
    /// Streams at once; 1,024 by default. More are answered `Busy`.
    pub streams: u32,
    /// The topics.
    pub ring: RingConfig,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            requests: 1_024,
            streams: 1_024,
            ring: RingConfig::default(),
        }
    }
}

/// A bus inside one process: both ends of Bus In and of Bus Out. Cheap to clone; clones are the same bus.
///
/// As a [`BusCaller`] it asks as `local` with full access; [`MemoryBus::caller`] makes callers with another name or
/// less access.
#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

struct Shared {
    ring: TopicRing,
    requests: u32,
    permits: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    handler: Mutex<Option<Arc<dyn RequestHandler>>>,
    closing: CancellationToken,
    /// The deadline of the end has passed.
    force: CancellationToken,
}

/// One caller of a [`MemoryBus`].
#[derive(Clone)]
pub struct MemoryCaller {
    bus: MemoryBus,
    name: String,
    access: Access,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new(MemoryConfig::default())
    }
}

impl MemoryBus {
    /// A bus that nobody serves yet.
    #[must_use]
    pub fn new(config: MemoryConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                ring: TopicRing::new(config.ring),
                requests: config.requests,
                permits: Arc::new(Semaphore::new(config.requests as usize)),
                streams: Arc::new(Semaphore::new(config.streams as usize)),
                handler: Mutex::new(None),
                closing: CancellationToken::new(),
                force: CancellationToken::new(),
            }),
        }
    }

    /// A caller with a name for the audit log and an access of its own.
    #[must_use]
    pub fn caller(&self, name: impl Into<String>, access: Access) -> MemoryCaller {
        MemoryCaller {
            bus: self.clone(),
            name: name.into(),
            access,
        }
    }

    /// The topics.
    #[must_use]
    pub fn ring(&self) -> &TopicRing {
        &self.shared.ring
    }

    async fn call_as(
        &self,
        caller: &str,
        access: Access,
        mut request: Incoming,
        deadline: Duration,
    ) -> Result<Response> {
        let handler = self.shared.handler.lock().clone();
        let Some(handler) = handler else {
            return Err(unavailable("no agent serves this bus"));
        };
        if self.shared.closing.is_cancelled() {
            return Err(stopping());
        }
        let _permit = place(&self.shared.permits, "requests")?;
        request.caller = caller.into();
        request.access = access;
        request.received = Timestamp::now();
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout(deadline, handler.handle(request)) => answered,
            () = self.shared.force.cancelled() => return Err(stopping()),
        };
        let response = answered.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                format!("no answer within {}", agent_api_model::format_duration(deadline)),
            )
            .with_hint("it may have been accepted; repeat it with the same id")
            .with_operation("bus.call")
        })?;
        Ok(match response {
            Response::Stream(frames) => Response::Stream(Box::pin(CutStream {
                frames: Some(frames),
                closing: Box::pin(self.shared.closing.clone().cancelled_owned()),
                _permit: place(&self.shared.streams, "streams")?,
            })),
            other => other,
        })
    }
}

fn place(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().map_err(|_| {
        Error::new(
            ErrorKind::Busy,
            format!("as many {what} are under way as the bus allows"),
        )
        .with_operation("bus.call")
    })
}

fn unavailable(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, message).with_operation("bus.call")
}

fn stopping() -> Error {
    unavailable("the agent is stopping")
}

/// Frames until the bus closes.
struct CutStream {
    frames: Option<FrameStream>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl Stream for CutStream {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.frames.is_none() {
            return Poll::Ready(None);
        }
        // First, so that a stream that always has something to say is cut as well.
        if self.closing.as_mut().poll(cx).is_ready() {
            self.frames = None;
            return Poll::Ready(Some(stopping().to_frame()));
        }
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        let frame = frames.as_mut().poll_next(cx);
        if matches!(frame, Poll::Ready(None)) {
            self.frames = None;
        }
        frame
    }
}

#[async_trait]
impl BusIn for MemoryBus {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn address(&self) -> String {
        "memory".into()
    }

    async fn open(&self, handler: Arc<dyn RequestHandler>) -> Result<()> {
        if self.shared.closing.is_cancelled() {
            return Err(unavailable("the bus was closed"));
        }
        let mut place = self.shared.handler.lock();
        if place.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "the bus is open already").with_operation("bus.open"));
        }
        *place = Some(handler);
        Ok(())
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.shared.closing.cancel();
        self.shared.ring.close();
        let all = self.shared.permits.acquire_many(self.shared.requests);
        let closed = tokio::time::timeout(deadline, all).await;
        *self.shared.handler.lock() = None;
        match closed {
            Ok(_) => Ok(()),
            Err(_) => {
                let left = self.shared.requests as usize - self.shared.permits.available_permits();
                self.shared.force.cancel();
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{left} requests got no answer before the bus closed"),
                )
                .with_operation("bus.close"))
            }
        }
    }
}

#[async_trait]
impl BusCaller for MemoryBus {
    async fn call(&self, request: Incoming, deadline: Duration) -> Result<Response> {
        self.call_as("local", Access::Full, request, deadline).await
    }
}

#[async_trait]
impl BusCaller for MemoryCaller {
    async fn call(&self, request: Incoming, deadline: Duration) -> Result<Response> {
        self.bus.call_as(&self.name, self.access, request, deadline).await
    }
}

#[async_trait]
impl BusOut for MemoryBus {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn publish(&self, messages: &[Message]) -> Result<()> {
        self.shared.ring.publish(messages)
    }

    async fn call(&self, method: &str, _payload: Bytes, _deadline: Duration) -> Result<Bytes> {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("nobody answers {method:?} on the memory bus: it has no other parties"),
        )
        .with_operation("bus.call"))
    }
}

#[async_trait]
impl BusReader for MemoryBus {
    async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream> {
        Ok(Box::pin(self.shared.ring.subscribe(pattern, &from)?))
    }
}
