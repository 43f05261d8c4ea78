//! What the core counts: for `info`, and through the OpenTelemetry API for whoever installed an SDK.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_api::model::Verb;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{KeyValue, global};

use crate::shared::Shared;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of the core's own work.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: AtomicU64),* }

        impl Counters {
            pub(crate) fn read(&self) -> BTreeMap<String, u64> {
                [$((stringify!($name).to_owned(), self.$name.load(Ordering::Relaxed))),*].into()
            }
        }
    };
}

counters! {
    requests_accepted,
    requests_repeated,
    requests_refused,
    /// Of those refused: a full inbox.
    requests_busy,
    /// Of those refused: past their deadline.
    requests_expired,
    operations_done,
    operations_failed,
    operations_timed_out,
    operations_panicked,
    operations_cancelled,
    /// Events of drivers about objects.
    driver_events,
    driver_gaps,
    /// Objects asked for by the heartbeat.
    heartbeat_observed,
    /// Of those: objects that differed from what was known.
    heartbeat_corrected,
    /// Heartbeats of a driver left out because the one before had not ended.
    heartbeat_skipped,
    /// `observe` or `recover` calls that failed.
    heartbeat_failed,
    /// Watchers that were too slow and were given the current views anew.
    watch_gaps,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds some.
pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// The core's instruments. They do nothing where the embedding program installed no SDK before it built the agent.
pub(crate) struct Metrics {
    meter: Meter,
    requests: Counter<u64>,
    request_duration: Histogram<f64>,
    operation_duration: Histogram<f64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("agent-core");
        Self {
            requests: meter
                .u64_counter("agent.requests")
                .with_description("Requests that change something, by verb and outcome")
                .build(),
            request_duration: meter
                .f64_histogram("agent.request.duration")
                .with_unit("s")
                .with_description("Time from a request until it was durable or refused")
                .with_boundaries(vec![0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0])
                .build(),
            operation_duration: meter
                .f64_histogram("agent.operation.duration")
                .with_unit("s")
                .with_description("Time of a driver call, by driver, verb and outcome")
                .with_boundaries(vec![0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 60.0])
                .build(),
            meter,
        }
    }

    pub(crate) fn request(&self, verb: Verb, outcome: &'static str, took: Duration) {
        let attributes = [
            KeyValue::new("verb", verb.as_str()),
            KeyValue::new("outcome", outcome),
        ];
        self.requests.add(1, &attributes);
        self.request_duration.record(took.as_secs_f64(), &attributes);
    }

    pub(crate) fn operation(&self, driver: &str, verb: Verb, outcome: &'static str, took: Duration) {
        self.operation_duration.record(
            took.as_secs_f64(),
            &[
                KeyValue::new("driver", driver.to_owned()),
                KeyValue::new("verb", verb.as_str()),
                KeyValue::new("outcome", outcome),
            ],
        );
    }

    /// Gauges that are read when they are asked for.
    pub(crate) fn observe(&self, shared: &Weak<Shared>) {
        let weak = shared.clone();
        self.meter
            .u64_observable_gauge("agent.queue.length")
            .with_description("Entries in the core's bounded queues")
            .with_callback(move |gauge| {
                let Some(shared) = weak.upgrade() else { return };
                for (name, queue) in shared.queues() {
                    gauge.observe(queue.length as u64, &[KeyValue::new("queue", name)]);
                }
            })
            .build();
        let weak = shared.clone();
        self.meter
            .u64_observable_gauge("agent.driver.calls")
            .with_description("Driver calls in flight")
            .with_callback(move |gauge| {
                let Some(shared) = weak.upgrade() else { return };
                for cell in shared.drivers.values() {
                    let load = cell.load();
                    gauge.observe(
                        load.in_flight as u64,
                        &[KeyValue::new("driver", cell.name.to_string())],
                    );
                }
            })
            .build();
        let weak = shared.clone();
        self.meter
            .f64_observable_gauge("agent.driver.oldest_call")
            .with_unit("s")
            .with_description("Age of the oldest driver call in flight")
            .with_callback(move |gauge| {
                let Some(shared) = weak.upgrade() else { return };
                for cell in shared.drivers.values() {
                    let age = cell.load().oldest.map_or(0.0, |oldest| oldest.age.as_secs_f64());
                    gauge.observe(age, &[KeyValue::new("driver", cell.name.to_string())]);
                }
            })
            .build();
    }
}
