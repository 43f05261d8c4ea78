//! The worker's own numbers, through the OpenTelemetry API; the daemon picks where they go.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use opentelemetry::metrics::Counter;

/// The worker's own numbers, for `info` and for metrics.
pub(crate) struct Instruments {
    collections: AtomicU64,
    skipped: AtomicU64,
    pub(crate) objects: AtomicUsize,
    collections_metric: Counter<u64>,
    skipped_metric: Counter<u64>,
}

impl Instruments {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("agent-collector");
        Self {
            collections: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            objects: AtomicUsize::new(0),
            collections_metric: meter
                .u64_counter("agent.collector.collections")
                .with_description("Collections made.")
                .build(),
            skipped_metric: meter
                .u64_counter("agent.collector.skipped")
                .with_description("Collections that failed or were skipped.")
                .build(),
        }
    }

    pub(crate) fn collected(&self) {
        self.collections.fetch_add(1, Ordering::Relaxed);
        self.collections_metric.add(1, &[]);
    }

    pub(crate) fn skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.skipped_metric.add(1, &[]);
    }

    /// Collections made, and skipped.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        (
            self.collections.load(Ordering::Relaxed),
            self.skipped.load(Ordering::Relaxed),
        )
    }
}
