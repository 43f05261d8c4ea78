//! The worker's own numbers, through the OpenTelemetry API; the daemon picks where they go.

use std::sync::Weak;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use crate::state::Shared;

/// The worker's own numbers.
pub(crate) struct Instruments {
    pub(crate) published: Counter<u64>,
    pub(crate) failed: Counter<u64>,
    pub(crate) deferred: Counter<u64>,
    lost: Counter<u64>,
}

impl Instruments {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("agent-reporter");
        Self {
            published: meter
                .u64_counter("agent.reporter.published")
                .with_description("Messages written to Bus Out.")
                .build(),
            failed: meter
                .u64_counter("agent.reporter.failed")
                .with_description("Messages given up.")
                .build(),
            deferred: meter
                .u64_counter("agent.reporter.deferred")
                .with_description("Batches of log lines refused for want of room, left at their source.")
                .build(),
            lost: meter
                .u64_counter("agent.reporter.lost")
                .with_description("Points, lines, spans and events lost.")
                .build(),
        }
    }

    pub(crate) fn lost(&self, count: u64, signal: &str) {
        self.lost
            .add(count, &[KeyValue::new("signal", signal.to_owned())]);
    }

    /// Shows the bytes that wait, as long as the worker lives.
    pub(crate) fn observe(shared: Weak<Shared>) {
        // The meter keeps the callback; the instrument itself need not be kept.
        let _ = opentelemetry::global::meter("agent-reporter")
            .u64_observable_gauge("agent.reporter.queue.size")
            .with_unit("By")
            .with_description("Bytes that wait to be written to Bus Out.")
            .with_callback(move |observer| {
                if let Some(shared) = shared.upgrade() {
                    observer.observe(shared.queued_bytes() as u64, &[]);
                }
            })
            .build();
    }
}
