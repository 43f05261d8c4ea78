//! What goes back: one message, or many as long as the caller listens.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_api_bus_in::FrameStream;
use agent_api_model::{Error, ErrorKind};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::connection::InFlight;
use crate::events::Events;

/// So much is gathered into one piece while more is there at once.
pub(crate) const PIECE: usize = 32 << 10;

/// The body of a response.
pub(crate) enum Body {
    /// One message, and its count among the requests, until it is handed over.
    One(
        Option<Bytes>,
        #[expect(dead_code, reason = "counts by being dropped")] Option<InFlight>,
    ),
    /// One JSON value a line.
    Lines(Box<Lines>),
    /// Server-sent events.
    Events(Box<Events>),
}

impl Body {
    pub(crate) fn one(bytes: Bytes, request: InFlight) -> Self {
        Self::One(Some(bytes), Some(request))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::One(bytes, _) => Poll::Ready(bytes.take()),
            Self::Lines(lines) => lines.poll_piece(cx),
            Self::Events(events) => events.poll_piece(cx),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::One(None, _))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::One(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Lines(_) | Self::Events(_) => SizeHint::default(),
        }
    }
}

/// Says when a stream has been silent for too long.
pub(crate) struct KeepAlive {
    every: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl KeepAlive {
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            sleep: Box::pin(sleep(every)),
        }
    }

    /// Something was sent.
    pub(crate) fn reset(&mut self) {
        self.sleep.as_mut().reset(Instant::now() + self.every);
    }

    /// Whether it is time to send something.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

/// A streamed reply, a line for each message, an empty line to keep the connection alive.
pub(crate) struct Lines {
    frames: Option<FrameStream>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    keep_alive: KeepAlive,
    _permit: OwnedSemaphorePermit,
    _request: InFlight,
}

impl Lines {
    pub(crate) fn new(
        frames: FrameStream,
        closing: WaitForCancellationFutureOwned,
        keep_alive: Duration,
        permit: OwnedSemaphorePermit,
        request: InFlight,
    ) -> Self {
        Self {
            frames: Some(frames),
            closing: Box::pin(closing),
            keep_alive: KeepAlive::new(keep_alive),
            _permit: permit,
            _request: request,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut piece = BytesMut::new();
        let mut line = |bytes: &[u8]| {
            piece.extend_from_slice(bytes);
            piece.extend_from_slice(b"\n");
            piece.len()
        };
        if self.frames.is_some() && self.closing.as_mut().poll(cx).is_ready() {
            self.frames = None;
            let error = Error::new(ErrorKind::Unavailable, "the agent is stopping");
            line(&error.to_frame());
            return Poll::Ready(Some(piece.freeze()));
        }
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        loop {
            match frames.as_mut().poll_next(cx) {
                Poll::Ready(Some(frame)) => {
                    if line(&frame) >= PIECE {
                        break;
                    }
                }
                Poll::Ready(None) => {
                    self.frames = None;
                    break;
                }
                Poll::Pending => break,
            }
        }
        if !piece.is_empty() {
            self.keep_alive.reset();
            return Poll::Ready(Some(piece.freeze()));
        }
        if self.frames.is_none() {
            return Poll::Ready(None);
        }
        self.keep_alive.poll(cx).map(|()| {
            self.keep_alive.reset();
            Some(Bytes::from_static(b"\n"))
        })
    }
}
