//! What the report worker is told.

use std::time::Duration;

use agent_api_model::{AgentId, Signal, Topic};

/// The topics of signals that no lease gave a topic of its own.
#[derive(Clone, Debug)]
pub struct SignalTopics {
    /// Of metrics.
    pub metrics: Topic,
    /// Of log lines.
    pub logs: Topic,
    /// Of spans.
    pub traces: Topic,
}

impl SignalTopics {
    /// The topic of a signal.
    #[must_use]
    pub fn of(&self, signal: Signal) -> &Topic {
        match signal {
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
            Signal::Traces => &self.traces,
        }
    }
}

/// What the report worker is told.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Whose reports they are.
    pub agent: AgentId,
    /// Where telemetry goes whose lease names no topic.
    pub topics: SignalTopics,
    /// Room for telemetry, in bytes: log lines may take up to three quarters of it, metrics and spans too. 8 MiB by
    /// default.
    pub telemetry_bytes: usize,
    /// Room for lifecycle events and heartbeats, in bytes. 8 MiB by default.
    pub event_bytes: usize,
    /// Registrations and withdrawals that may wait. 65,536 by default.
    pub registry_length: usize,
    /// About how large one message of telemetry may be, in bytes. 256 KiB by default.
    pub message_bytes: usize,
    /// At most so many messages in one publish. 128 by default.
    pub publish_messages: usize,
    /// At most so many bytes in one publish, but for a message that is larger by itself. 1 MiB by default.
    pub publish_bytes: usize,
    /// The wait before the first repeat of a publish; it doubles up to `backoff_max`. 50 ms by default.
    pub backoff_min: Duration,
    /// The longest wait before a repeat. 5 s by default.
    pub backoff_max: Duration,
    /// After so long a publish that keeps failing is given up, and told as a loss. 15 minutes by default.
    pub retry_for: Duration,
}

impl WorkerConfig {
    /// The defaults for this agent.
    #[must_use]
    pub fn new(agent: AgentId, topics: SignalTopics) -> Self {
        Self {
            agent,
            topics,
            telemetry_bytes: 8 << 20,
            event_bytes: 8 << 20,
            registry_length: 65_536,
            message_bytes: 256 << 10,
            publish_messages: 128,
            publish_bytes: 1 << 20,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            retry_for: Duration::from_secs(15 * 60),
        }
    }
}
