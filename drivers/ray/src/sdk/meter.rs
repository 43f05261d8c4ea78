//! What the calls to a cluster cost, through the OpenTelemetry API.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};

/// Counts calls, bytes and time by cluster and endpoint.
pub(crate) struct Meter {
    cluster: String,
    requests: Counter<u64>,
    bytes: Counter<u64>,
    duration: Histogram<f64>,
}

impl Meter {
    pub(crate) fn new(cluster: &str) -> Self {
        let meter = opentelemetry::global::meter("agent-driver-ray");
        Self {
            cluster: cluster.to_owned(),
            requests: meter
                .u64_counter("agent.ray.requests")
                .with_description("Calls to a Ray cluster, by endpoint and outcome.")
                .build(),
            bytes: meter
                .u64_counter("agent.ray.bytes")
                .with_unit("By")
                .with_description("Bytes of bodies sent to and received from a Ray cluster.")
                .build(),
            duration: meter
                .f64_histogram("agent.ray.request.duration")
                .with_unit("s")
                .with_description("Time until a Ray cluster answered: the head's time, mostly.")
                .build(),
        }
    }

    /// One call that ended: `outcome` is the status, or a word where there was no answer.
    pub(crate) fn call(&self, endpoint: &'static str, outcome: &str, took: Duration, sent: usize) {
        let cluster = KeyValue::new("cluster", self.cluster.clone());
        let endpoint = KeyValue::new("endpoint", endpoint);
        self.requests.add(
            1,
            &[
                cluster.clone(),
                endpoint.clone(),
                KeyValue::new("outcome", outcome.to_owned()),
            ],
        );
        self.duration
            .record(took.as_secs_f64(), &[cluster.clone(), endpoint.clone()]);
        if sent > 0 {
            self.bytes.add(
                sent as u64,
                &[cluster, endpoint, KeyValue::new("direction", "sent")],
            );
        }
    }

    /// Counts the bytes of an answer's body.
    pub(crate) fn received_by(&self, endpoint: &'static str) -> Received {
        Received {
            bytes: self.bytes.clone(),
            attributes: [
                KeyValue::new("cluster", self.cluster.clone()),
                KeyValue::new("endpoint", endpoint),
                KeyValue::new("direction", "received"),
            ],
        }
    }
}

/// Counts the bytes of one answer's body.
pub(crate) struct Received {
    bytes: Counter<u64>,
    attributes: [KeyValue; 3],
}

impl Received {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.add(bytes as u64, &self.attributes);
    }
}
