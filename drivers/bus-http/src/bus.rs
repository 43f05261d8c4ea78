//! The bus.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_api_bus_in::{BusIn, RequestHandler};
use agent_api_bus_out::{BusOut, BusReader, DeliveryStream, Message, StartAt};
use agent_api_model::{Error, ErrorKind, Result};
use agent_bus_memory::TopicRing;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{HttpConfig, HttpState};
use crate::connection::{Shared, serve_tcp, serve_unix};
use crate::listen::{SocketFile, listen_tcp, listen_unix};
use crate::token::token_of;

/// How long to wait before accepting again where the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long connections have to notice that they are cut.
const CUT: Duration = Duration::from_secs(1);

/// The agent's end of the bus: takes requests, and keeps topics for readers.
pub struct HttpBus {
    config: HttpConfig,
    ring: TopicRing,
    tasks: TaskTracker,
    open: Mutex<Option<Open>>,
}

/// What there is while it is open, or was.
struct Open {
    shared: Arc<Shared>,
    socket: Option<SocketFile>,
    port: Option<SocketAddr>,
}

impl fmt::Debug for HttpBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBus")
            .field("address", &self.address())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl HttpBus {
    /// A bus that is not open yet. Publishing works from now on.
    #[must_use]
    pub fn new(config: HttpConfig) -> Self {
        Self {
            ring: TopicRing::new(config.ring.clone()),
            config,
            tasks: TaskTracker::new(),
            open: Mutex::new(None),
        }
    }

    /// The topics.
    #[must_use]
    pub fn ring(&self) -> &TopicRing {
        &self.ring
    }

    /// The loopback port it listens on, once it is open and where one was asked for.
    #[must_use]
    pub fn port(&self) -> Option<SocketAddr> {
        self.open.lock().as_ref().and_then(|open| open.port)
    }

    /// Tasks now: one per listener and connection.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// What it does now, and what it refused.
    #[must_use]
    pub fn state(&self) -> HttpState {
        let open = self.open.lock();
        let Some(shared) = open.as_ref().map(|open| &open.shared) else {
            return HttpState::default();
        };
        let limits = &shared.limits;
        HttpState {
            // A listener that waits for a caller holds a place as well; it is not counted.
            connections: self.tasks.len().saturating_sub(self.listeners()),
            requests: shared.requests.load(Ordering::Relaxed),
            streams: limits.streams - shared.streams.available_permits().min(limits.streams),
            cut_off: shared.cut_off.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
        }
    }

    fn listeners(&self) -> usize {
        usize::from(self.config.socket.is_some()) + usize::from(self.config.listen.is_some())
    }
}

#[async_trait]
impl BusIn for HttpBus {
    fn name(&self) -> &'static str {
        "http"
    }

    fn address(&self) -> String {
        let socket = self
            .config
            .socket
            .as_ref()
            .map(|path| format!("unix:{}", path.display()));
        let port = self
            .port()
            .or(self.config.listen)
            .map(|address| format!("http://{address}"));
        [socket, port]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }

    async fn open(&self, handler: Arc<dyn RequestHandler>) -> Result<()> {
        if self.open.lock().is_some() {
            return Err(
                Error::new(ErrorKind::Conflict, "the bus was opened before").with_operation("bus.open")
            );
        }
        if self.listeners() == 0 {
            return Err(
                Error::invalid("socket", "neither a socket nor a port to listen on is set")
                    .with_operation("bus.open"),
            );
        }
        let token = match (&self.config.listen, &self.config.token_file) {
            (None, _) => None,
            (Some(_), Some(path)) => Some(token_of(path)?),
            (Some(_), None) => {
                return Err(
                    Error::invalid("token_file", "a port needs a token, and no file for it is set")
                        .with_operation("bus.open"),
                );
            }
        };
        let unix = match &self.config.socket {
            Some(path) => Some(listen_unix(path).await?),
            None => None,
        };
        let tcp = match self.config.listen {
            Some(address) => Some(listen_tcp(address).await?),
            None => None,
        };
        let limits = self.config.limits.clone();
        let shared = Arc::new(Shared {
            handler,
            ring: self.ring.clone(),
            token,
            connections: Arc::new(Semaphore::new(limits.connections)),
            streams: Arc::new(Semaphore::new(limits.streams)),
            limits,
            closing: CancellationToken::new(),
            force: CancellationToken::new(),
            requests: Arc::default(),
            cut_off: 0.into(),
            refused: 0.into(),
        });
        let mut open = Open {
            shared: Arc::clone(&shared),
            socket: None,
            port: tcp.as_ref().and_then(|listener| listener.local_addr().ok()),
        };
        if let Some((listener, file)) = unix {
            open.socket = Some(file);
            self.tasks
                .spawn(accept_unix(Arc::clone(&shared), listener, self.tasks.clone()));
        }
        if let Some(listener) = tcp {
            self.tasks
                .spawn(accept_tcp(Arc::clone(&shared), listener, self.tasks.clone()));
        }
        *self.open.lock() = Some(open);
        Ok(())
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.ring.close();
        self.tasks.close();
        let shared = {
            let mut open = self.open.lock();
            let Some(open) = open.as_mut() else { return Ok(()) };
            open.shared.closing.cancel();
            // First of all, so that a new caller finds nobody rather than no answer.
            drop(open.socket.take());
            Arc::clone(&open.shared)
        };
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok() {
            return Ok(());
        }
        let left = shared.requests.load(Ordering::Relaxed);
        shared.force.cancel();
        let _ = tokio::time::timeout(CUT, self.tasks.wait()).await;
        if left == 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Timeout,
            format!("{left} requests got no whole answer before the bus closed"),
        )
        .with_operation("bus.close"))
    }
}

async fn accept_unix(shared: Arc<Shared>, listener: UnixListener, tasks: TaskTracker) {
    while let Some((permit, accepted)) = next(&shared, || listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(serve_unix(Arc::clone(&shared), stream, permit));
            }
            Err(error) => pause(&shared, &error).await,
        }
    }
}

async fn accept_tcp(shared: Arc<Shared>, listener: TcpListener, tasks: TaskTracker) {
    while let Some((permit, accepted)) = next(&shared, || listener.accept()).await {
        match accepted {
            Ok((stream, address)) => {
                tasks.spawn(serve_tcp(Arc::clone(&shared), stream, address, permit));
            }
            Err(error) => pause(&shared, &error).await,
        }
    }
}

/// The next connection, once there is room for it; none when the bus closes.
async fn next<T, F: Future<Output = std::io::Result<T>>>(
    shared: &Shared,
    accept: impl FnOnce() -> F,
) -> Option<(tokio::sync::OwnedSemaphorePermit, std::io::Result<T>)> {
    tokio::select! {
        biased;
        () = shared.closing.cancelled() => None,
        next = async {
            let permit = Arc::clone(&shared.connections).acquire_owned().await.ok()?;
            Some((permit, accept().await))
        } => next,
    }
}

async fn pause(shared: &Shared, error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::select! {
        () = shared.closing.cancelled() => {}
        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
    }
}

#[async_trait]
impl BusOut for HttpBus {
    fn name(&self) -> &'static str {
        "http"
    }

    async fn publish(&self, messages: &[Message]) -> Result<()> {
        self.ring.publish(messages)
    }

    async fn call(&self, method: &str, _payload: Bytes, _deadline: Duration) -> Result<Bytes> {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("nobody answers {method:?} on the http bus: its other parties only ask and read"),
        )
        .with_operation("bus.call"))
    }
}

/// For readers in the same process; those outside read server-sent events.
#[async_trait]
impl BusReader for HttpBus {
    async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream> {
        Ok(Box::pin(self.ring.subscribe(pattern, &from)?))
    }
}
