//! One connection: its caller, its task, its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use agent_api_bus_in::{Access, RequestHandler};
use agent_bus_memory::TopicRing;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::HttpLimits;
use crate::io::WriteLimit;
use crate::service;
use crate::token::Token;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) handler: Arc<dyn RequestHandler>,
    pub(crate) ring: TopicRing,
    pub(crate) limits: HttpLimits,
    pub(crate) token: Option<Token>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    /// No more requests, and no more streams.
    pub(crate) closing: CancellationToken,
    /// The deadline of the end has passed.
    pub(crate) force: CancellationToken,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) cut_off: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// A request that is being answered, counted until the last of its answer is handed over.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub(crate) fn new(requests: &Arc<AtomicUsize>) -> Self {
        requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(requests))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who is at the other end.
#[derive(Clone)]
pub(crate) enum Peer {
    /// Known by the kernel.
    User { caller: String, access: Access },
    /// Must show the token with each request.
    Unknown,
}

impl Peer {
    /// The caller at the other end of a Unix socket: the agent's own user and root may do everything.
    pub(crate) fn of_unix(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(peer) => {
                let own = rustix::process::geteuid().as_raw();
                let access = if peer.uid() == own || peer.uid() == 0 {
                    Access::Full
                } else {
                    Access::None
                };
                Self::User {
                    caller: format!("uid:{}", peer.uid()),
                    access,
                }
            }
            Err(error) => Self::User {
                caller: format!("unknown ({error})"),
                access: Access::None,
            },
        }
    }
}

/// Serves a connection of the Unix socket until it ends.
pub(crate) async fn serve_unix(shared: Arc<Shared>, stream: UnixStream, permit: OwnedSemaphorePermit) {
    let peer = Peer::of_unix(&stream);
    serve(shared, stream, peer, permit).await;
}

/// Serves a connection of the loopback port until it ends.
pub(crate) async fn serve_tcp(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    if !address.ip().is_loopback() {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return;
    }
    serve(shared, stream, Peer::Unknown, permit).await;
}

async fn serve<S>(shared: Arc<Shared>, stream: S, peer: Peer, _permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let io = TokioIo::new(WriteLimit::new(stream, limits.write_time));
    let service = service_fn(|request| service::answer(&shared, &peer, request));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time)
            .max_buf_size(limits.header.max(8 << 10))
            .serve_connection(io, service)
    );
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shared.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = shared.force.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        shared.cut_off.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, "a connection was cut off");
    }
}
