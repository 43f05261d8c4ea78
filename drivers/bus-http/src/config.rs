//! Where the bus listens and what it bears.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agent_bus_memory::RingConfig;

/// Where an [`crate::HttpBus`] listens.
#[derive(Clone, Debug, Default)]
pub struct HttpConfig {
    /// The Unix socket. Its directory is made, for the owner only, where it is not there.
    pub socket: Option<PathBuf>,
    /// The loopback port; port 0 takes a free one. Only with a token file.
    pub listen: Option<SocketAddr>,
    /// The file with the token for the port: readable by its owner only. Made with a random token where it is not
    /// there.
    pub token_file: Option<PathBuf>,
    /// Bounds.
    pub limits: HttpLimits,
    /// The topics kept for readers.
    pub ring: RingConfig,
}

impl HttpConfig {
    /// A bus on this Unix socket.
    #[must_use]
    pub fn socket(path: impl Into<PathBuf>) -> Self {
        Self {
            socket: Some(path.into()),
            ..Self::default()
        }
    }

    /// The same with a port on 127.0.0.1 as well, for callers with the token of this file.
    #[must_use]
    pub fn with_port(mut self, port: u16, token_file: impl Into<PathBuf>) -> Self {
        self.listen = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        self.token_file = Some(token_file.into());
        self
    }
}

/// The bounds of an [`crate::HttpBus`].
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Connections at once; 512 by default. More wait to be accepted.
    pub connections: usize,
    /// Streams and subscriptions at once; 256 by default. More are answered 429.
    pub streams: usize,
    /// The request's line and headers, in bytes; 16 KiB by default. More is answered 431.
    pub header: usize,
    /// The request's body, in bytes; 1 MiB by default. More is answered 413.
    pub body: usize,
    /// How long a connection may take to send a whole header, also while it idles between requests; 30 s by default.
    pub header_time: Duration,
    /// How long a connection may take to send a whole body; 30 s by default.
    pub body_time: Duration,
    /// How long a peer may stall what is written to it before it is cut off; 30 s by default.
    pub write_time: Duration,
    /// How long a stream may be silent before something empty is sent, so that both ends see whether the other is
    /// there; 15 s by default.
    pub keep_alive: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            streams: 256,
            header: 16 << 10,
            body: 1 << 20,
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// What an [`crate::HttpBus`] does now, and what it refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpState {
    /// Connections now.
    pub connections: usize,
    /// Requests being answered now.
    pub requests: usize,
    /// Streams and subscriptions now.
    pub streams: usize,
    /// Connections cut off because the peer did not read, or broke the protocol, or was silent for too long.
    pub cut_off: u64,
    /// Requests refused by the bus itself: no right, no such route, too large, too many.
    pub refused: u64,
}
