//! The server's bounds.

use std::fmt;
use std::sync::Arc;

use crate::decode::Limits;

/// Makes the text of `/metrics`.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// The bounds of a [`crate::Server`].
#[derive(Clone)]
pub struct ServerConfig {
    /// What a body may be.
    pub body: Limits,
    /// Requests being answered at once; 4,096 by default. More are answered `busy`.
    pub requests: usize,
    /// Streams (watch, logs, exec) at once; 1,024 by default. More are answered `busy`.
    pub streams: usize,
    /// Requests per second and caller, and as many at once; 100,000 by default. More are answered `busy`.
    pub rate: u32,
    /// Objects of one batch that are asked for at once; 64 by default.
    pub batch_concurrency: usize,
    /// The text of `/metrics`, in Prometheus' words; `unsupported` where there is none.
    pub metrics: Option<MetricsText>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            body: Limits::default(),
            requests: 4_096,
            streams: 1_024,
            rate: 100_000,
            batch_concurrency: 64,
            metrics: None,
        }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("body", &self.body)
            .field("requests", &self.requests)
            .field("streams", &self.streams)
            .field("rate", &self.rate)
            .field("batch_concurrency", &self.batch_concurrency)
            .field("metrics", &self.metrics.is_some())
            .finish()
    }
}

/// What a [`crate::Server`] does now, and what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerState {
    /// Requests being answered now.
    pub requests: usize,
    /// Streams open now.
    pub streams: usize,
    /// Requests since the start.
    pub handled: u64,
    /// Of these, refused for whatever reason.
    pub refused: u64,
    /// Of these, refused because of a limit on rate, requests or streams.
    pub busy: u64,
}
