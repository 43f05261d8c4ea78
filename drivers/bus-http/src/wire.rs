//! One connection of a caller, driven by whoever waits for its answer: no task.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Either socket.
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Unix($stream) => $call,
            Socket::Tcp($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A whole request body.
pub(crate) struct Whole(Option<Bytes>);

impl Whole {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.get_mut().0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// Why a request got no answer.
pub(crate) enum Failed {
    /// It was not sent at all; here it is again.
    NotSent(Box<Request<Whole>>),
    /// It may have been sent.
    Broken(hyper::Error),
}

/// What brings requests and answers over a socket; none when it has ended.
type Link = Option<Pin<Box<Connection<TokioIo<Socket>, Whole>>>>;

/// A connection to an agent.
pub(crate) struct Wire {
    sender: SendRequest<Whole>,
    connection: Link,
}

impl Wire {
    pub(crate) async fn over(socket: Socket) -> hyper::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection)),
        })
    }

    /// Whether it can take another request: the other side has not closed it meanwhile.
    pub(crate) async fn is_ready(&mut self) -> bool {
        let connection = &mut self.connection;
        poll_fn(|cx| {
            poll_connection(connection, cx);
            Poll::Ready(())
        })
        .await;
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and returns the head of the answer.
    pub(crate) async fn send(&mut self, request: Request<Whole>) -> Result<Response<Incoming>, Failed> {
        let sent = self.sender.try_send_request(request);
        drive(&mut self.connection, sent)
            .await
            .map_err(|mut error| match error.take_message() {
                Some(request) => Failed::NotSent(Box::new(request)),
                None => Failed::Broken(error.into_error()),
            })
    }

    /// The next piece of an answer; none at its end.
    pub(crate) async fn piece(&mut self, body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
        loop {
            let frame = drive(
                &mut self.connection,
                poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)),
            )
            .await?;
            match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// A whole answer; none where it is longer than the limit.
    pub(crate) async fn whole(&mut self, mut body: Incoming, limit: usize) -> hyper::Result<Option<Bytes>> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece(&mut body).await {
            let piece = piece?;
            if first.len() + all.len() + piece.len() > limit {
                return Ok(None);
            }
            if first.is_empty() {
                first = piece;
                continue;
            }
            if all.is_empty() {
                let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(limit);
                all.reserve(first.len() + piece.len() + announced);
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&piece);
        }
        Ok(Some(if all.is_empty() { first } else { all.freeze() }))
    }
}

/// Polls the future and the connection that brings its answer, together.
async fn drive<F: Future>(connection: &mut Link, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        poll_connection(connection, cx);
        future.as_mut().poll(cx)
    })
    .await
}

fn poll_connection(connection: &mut Link, cx: &mut Context<'_>) {
    if connection
        .as_mut()
        .is_some_and(|connection| connection.as_mut().poll(cx).is_ready())
    {
        // Ended, well or not: what was asked over it sees so itself.
        *connection = None;
    }
}
