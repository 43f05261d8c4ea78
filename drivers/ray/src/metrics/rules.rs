//! Which of Ray's metrics are taken, and what they are called here.

use MetricKind::{Counter, Gauge};
use Scope::{Application, Cluster, Component, Job, Node};
use agent_api_driver::model::MetricKind;

/// Whose a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The cluster's.
    Cluster,
    /// The cluster's, told apart by node.
    Node,
    /// The Serve application's that this label names.
    Application,
    /// The job's that this label names.
    Job,
    /// What the label `Component` says: a part of Ray on a node, or the replicas of a deployment.
    Component,
}

/// One of Ray's metrics. Values with the same attributes are summed: over the processes that report them, and over nodes.
pub(super) struct Rule {
    /// Its name in Ray.
    pub(super) metric: &'static str,
    pub(super) scope: Scope,
    /// Its name here: by the OpenTelemetry conventions where there is one.
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) kind: MetricKind,
    /// What a value is multiplied with to be of that unit.
    pub(super) factor: f64,
    /// Labels that become attributes.
    pub(super) labels: &'static [(&'static str, &'static str)],
    /// An attribute that is always the same.
    pub(super) fixed: Option<(&'static str, &'static str)>,
    /// Only samples where this label has this value.
    pub(super) only: Option<(&'static str, &'static str)>,
}

const DEPLOYMENT: (&str, &str) = ("deployment", "ray.serve.deployment");
const REPLICA: (&str, &str) = ("replica", "ray.serve.replica");

const fn rule(
    metric: &'static str,
    scope: Scope,
    name: &'static str,
    unit: &'static str,
    kind: MetricKind,
) -> Rule {
    Rule {
        metric,
        scope,
        name,
        unit,
        kind,
        factor: 1.0,
        labels: &[],
        fixed: None,
        only: None,
    }
}

impl Rule {
    const fn times(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    const fn by(mut self, labels: &'static [(&'static str, &'static str)]) -> Self {
        self.labels = labels;
        self
    }

    const fn with(mut self, key: &'static str, value: &'static str) -> Self {
        self.fixed = Some((key, value));
        self
    }

    const fn only(mut self, label: &'static str, value: &'static str) -> Self {
        self.only = Some((label, value));
        self
    }
}

/// All of them.
pub(super) const RULES: [Rule; 38] = [
    rule(
        "ray_node_cpu_utilization",
        Node,
        "system.cpu.utilization",
        "1",
        Gauge,
    )
    .times(0.01),
    rule(
        "ray_node_cpu_count",
        Node,
        "system.cpu.logical.count",
        "{cpu}",
        Gauge,
    ),
    rule("ray_node_mem_used", Node, "system.memory.usage", "By", Gauge),
    rule("ray_node_mem_total", Node, "system.memory.limit", "By", Gauge),
    rule(
        "ray_node_disk_usage",
        Node,
        "system.filesystem.usage",
        "By",
        Gauge,
    )
    .with("system.filesystem.state", "used"),
    rule("ray_node_disk_free", Node, "system.filesystem.usage", "By", Gauge)
        .with("system.filesystem.state", "free"),
    rule("ray_node_disk_io_read", Node, "system.disk.io", "By", Counter).with("disk.io.direction", "read"),
    rule("ray_node_disk_io_write", Node, "system.disk.io", "By", Counter).with("disk.io.direction", "write"),
    rule(
        "ray_node_network_received",
        Node,
        "system.network.io",
        "By",
        Counter,
    )
    .with("network.io.direction", "receive"),
    rule("ray_node_network_sent", Node, "system.network.io", "By", Counter)
        .with("network.io.direction", "transmit"),
    rule(
        "ray_node_gpus_utilization",
        Node,
        "hw.gpu.utilization",
        "1",
        Gauge,
    )
    .times(0.01)
    .by(&[("GpuIndex", "hw.id")]),
    rule("ray_node_gram_used", Node, "hw.gpu.memory.usage", "By", Gauge)
        .times(1_048_576.0)
        .by(&[("GpuIndex", "hw.id")]),
    rule("ray_resources", Node, "ray.node.resource", "1", Gauge)
        .by(&[("Name", "ray.resource.name"), ("State", "ray.resource.state")]),
    rule(
        "ray_object_store_memory",
        Node,
        "ray.object_store.usage",
        "By",
        Gauge,
    )
    .by(&[("Location", "ray.object_store.location")]),
    rule(
        "ray_component_cpu_percentage",
        Component,
        "process.cpu.utilization",
        "1",
        Gauge,
    )
    .times(0.01),
    rule(
        "ray_component_rss_bytes",
        Component,
        "process.memory.usage",
        "By",
        Gauge,
    ),
    rule(
        "ray_component_num_fds",
        Component,
        "process.unix.file_descriptor.count",
        "{file_descriptor}",
        Gauge,
    ),
    rule("ray_running_jobs", Cluster, "ray.driver.count", "{driver}", Gauge),
    rule(
        "ray_finished_jobs_total",
        Cluster,
        "ray.driver.finished",
        "{driver}",
        Counter,
    ),
    rule(
        "ray_node_failure_total",
        Cluster,
        "ray.node.failures",
        "{node}",
        Counter,
    ),
    rule("ray_actors", Cluster, "ray.actor.count", "{actor}", Gauge)
        .by(&[("State", "ray.actor.state")])
        .only("Source", "gcs"),
    rule("ray_tasks", Cluster, "ray.task.count", "{task}", Gauge).by(&[("State", "ray.task.state")]),
    rule(
        "ray_gcs_placement_group_count",
        Cluster,
        "ray.placement_group.count",
        "{placement_group}",
        Gauge,
    )
    .by(&[("State", "ray.placement_group.state")]),
    rule(
        "ray_scheduler_unscheduleable_tasks",
        Cluster,
        "ray.task.unschedulable",
        "{task}",
        Gauge,
    )
    .by(&[("Reason", "ray.task.reason")]),
    rule(
        "autoscaler_active_nodes",
        Cluster,
        "ray.autoscaler.node.active",
        "{node}",
        Gauge,
    )
    .by(&[("NodeType", "ray.node.type")]),
    rule(
        "autoscaler_pending_nodes",
        Cluster,
        "ray.autoscaler.node.pending",
        "{node}",
        Gauge,
    )
    .by(&[("NodeType", "ray.node.type")]),
    rule(
        "ray_serve_num_http_requests_total",
        Application,
        "ray.serve.http.requests",
        "{request}",
        Counter,
    )
    .by(&[
        ("method", "http.request.method"),
        ("route", "http.route"),
        ("status_code", "http.response.status_code"),
    ]),
    rule(
        "ray_serve_deployment_request_counter_total",
        Application,
        "ray.serve.requests",
        "{request}",
        Counter,
    )
    .by(&[DEPLOYMENT, REPLICA]),
    rule(
        "ray_serve_deployment_error_counter_total",
        Application,
        "ray.serve.errors",
        "{error}",
        Counter,
    )
    .by(&[DEPLOYMENT, REPLICA]),
    rule(
        "ray_serve_deployment_processing_latency_ms_sum",
        Application,
        "ray.serve.processing.time",
        "s",
        Counter,
    )
    .times(0.001)
    .by(&[DEPLOYMENT, REPLICA]),
    rule(
        "ray_serve_replica_processing_queries",
        Application,
        "ray.serve.requests.active",
        "{request}",
        Gauge,
    )
    .by(&[DEPLOYMENT, REPLICA]),
    rule(
        "ray_serve_deployment_queued_queries",
        Application,
        "ray.serve.requests.queued",
        "{request}",
        Gauge,
    )
    .by(&[DEPLOYMENT]),
    rule(
        "ray_serve_deployment_replica_healthy",
        Application,
        "ray.serve.replicas.healthy",
        "{replica}",
        Gauge,
    )
    .by(&[DEPLOYMENT]),
    rule(
        "ray_serve_autoscaling_target_replicas",
        Application,
        "ray.serve.replicas.wanted",
        "{replica}",
        Gauge,
    )
    .by(&[DEPLOYMENT]),
    rule("ray_tasks", Job, "ray.task.count", "{task}", Gauge).by(&[("State", "ray.task.state")]),
    rule("ray_actors", Job, "ray.actor.count", "{actor}", Gauge)
        .by(&[("State", "ray.actor.state")])
        .only("Source", "executor"),
    rule("ray_job_duration_s", Job, "ray.job.duration", "s", Gauge),
    rule(
        "ray_gcs_actors_count",
        Cluster,
        "ray.actor.registered",
        "{actor}",
        Gauge,
    )
    .by(&[("State", "ray.actor.state")]),
];

impl Scope {
    /// The label that names whose it is.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Job => "JobId",
            Self::Component => "Component",
            Self::Cluster | Self::Node => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_unit_and_kind_in_a_scope() {
        for (i, one) in RULES.iter().enumerate() {
            for other in &RULES[i + 1..] {
                if one.name == other.name {
                    assert_eq!((one.unit, one.kind), (other.unit, other.kind), "{}", one.name);
                    assert!(
                        one.scope != other.scope || one.fixed != other.fixed,
                        "{} is written twice",
                        one.name
                    );
                }
            }
        }
    }
}
