//! What the driver itself asks of a cluster, as metrics of the cluster's object.

use std::borrow::Cow;

use agent_api_driver::model::{Guid, MetricKind, MetricPoint, MetricValue, TelemetryBatch, Timestamp};

use crate::sdk::Cluster;

/// Adds the requests made since the driver was built, by verb and resource.
pub(crate) fn collect(guid: Guid, cluster: &Cluster, out: &mut TelemetryBatch) {
    let (counts, at) = (cluster.requests(), Timestamp::now());
    let mut push = |name: &'static str, value, attributes| {
        out.metrics.push(MetricPoint {
            guid,
            name: Cow::Borrowed(name),
            unit: Cow::Borrowed("{request}"),
            kind: MetricKind::Counter,
            value: MetricValue::Int(value),
            at,
            attributes,
        });
    };
    for (sort, count) in counts.by {
        let (verb, resource) = sort.split_once(' ').unwrap_or((&sort, ""));
        let attributes = vec![
            (Cow::Borrowed("k8s.verb"), Cow::Owned(verb.to_owned())),
            (Cow::Borrowed("k8s.resource"), Cow::Owned(resource.to_owned())),
        ];
        push("agent.kubernetes.requests", count, attributes);
    }
    push(
        "agent.kubernetes.requests.throttled",
        counts.throttled,
        Vec::new(),
    );
    push(
        "agent.kubernetes.requests.unanswered",
        counts.unanswered,
        Vec::new(),
    );
}
