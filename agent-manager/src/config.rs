//! What a manager is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use agent_api_model::{AgentId, Backoff};
use agent_core_journal::JournalConfig;

/// How a manager works. [`ManagerConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// The agent it works for: part of the marks that drivers find their things by.
    pub agent: AgentId,
    /// How many shards the core has; at least 1. Default 1.
    pub shards: u16,
    /// How long a driver call may take where the driver does not say. Default 60 s.
    pub operation_timeout: Duration,
    /// How many transitions are kept per object for `explain`. Default 16.
    pub history: usize,
    /// How many idempotency keys are kept, the newest. Default 100,000.
    pub keys: usize,
    /// How long an idempotency key is kept. Default 1 h.
    pub key_retention: Duration,
    /// The wait before an operation is tried again after a retryable error.
    pub retry: Backoff,
    /// How often a control verb is tried in all before it has failed. Starts, updates and deletes are tried until they
    /// end, as they bring about what is wanted. Default 5.
    pub control_tries: u32,
    /// So many answers `Unavailable` or `Timeout` in a row open a driver's breaker. Default 5.
    pub breaker_failures: u32,
    /// How long a breaker stays open the first time; twice as long each further time. Default 500 ms.
    pub breaker_open: Duration,
    /// How long a breaker stays open at most. Default 30 s.
    pub breaker_cap: Duration,
    /// A snapshot is written when the log since the last one has grown beyond this many bytes and beyond four times
    /// the size of the state. Default 16 MiB.
    pub compact_bytes: u64,
    /// The journal.
    pub journal: JournalConfig,
}

impl ManagerConfig {
    /// The defaults, with the journal in `journal` under the state directory.
    #[must_use]
    pub fn new(agent: AgentId, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            agent,
            shards: 1,
            operation_timeout: Duration::from_secs(60),
            history: 16,
            keys: 100_000,
            key_retention: Duration::from_secs(3_600),
            retry: Backoff {
                start: Duration::from_millis(100),
                factor: 2.0,
                cap: Duration::from_secs(30),
                jitter: 0.2,
                reset: Duration::ZERO,
            },
            control_tries: 5,
            breaker_failures: 5,
            breaker_open: Duration::from_millis(500),
            breaker_cap: Duration::from_secs(30),
            compact_bytes: 16 << 20,
            journal: JournalConfig::new(state_dir.into().join("journal")),
        }
    }
}
