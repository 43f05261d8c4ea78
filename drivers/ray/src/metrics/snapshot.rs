//! The values of one scrape of a cluster, by whose they are.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use agent_api_driver::model::{Guid, MetricKind, MetricPoint, MetricValue, Timestamp};

use super::rules::{RULES, Rule, Scope};
use super::text::Sample;

/// At most so many values of one cluster are kept.
const MAX_SERIES: usize = 50_000;

/// Whose metrics are asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// The cluster's and its nodes'.
    Cluster,
    /// Those of the Serve application of this name.
    Application(String),
    /// Those of the job with this id: Ray's own (`04000000`), which it has once its program called `ray.init`.
    Job(String),
}

type Attributes = Vec<(Cow<'static, str>, Cow<'static, str>)>;

/// One value: which rule made it, and its attributes.
type Series = BTreeMap<(usize, Attributes), f64>;

/// The rules by the name in Ray.
static BY_METRIC: LazyLock<HashMap<&'static str, Vec<usize>>> = LazyLock::new(|| {
    let mut by_metric: HashMap<_, Vec<_>> = HashMap::new();
    for (i, rule) in RULES.iter().enumerate() {
        by_metric.entry(rule.metric).or_default().push(i);
    }
    by_metric
});

/// What one scrape of all nodes found.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    series: HashMap<Source, Series>,
    count: usize,
    /// Values that were left out because there were too many.
    pub(super) left_out: u64,
}

impl Snapshot {
    /// Whether a line is of a metric that is taken.
    pub(super) fn wants(line: &str) -> bool {
        BY_METRIC.contains_key(Sample::name_of(line))
    }

    /// Takes a line of a node's page; whether it was of use.
    pub(super) fn take(&mut self, line: &str, node: &str) -> bool {
        let Some(rules) = BY_METRIC.get(Sample::name_of(line)) else {
            return false;
        };
        let Some(sample) = Sample::parse(line).filter(|sample| sample.value.is_finite()) else {
            return false;
        };
        for i in rules {
            self.apply(*i, &sample, node);
        }
        true
    }

    fn apply(&mut self, i: usize, sample: &Sample<'_>, node: &str) {
        let rule = &RULES[i];
        if rule
            .only
            .is_some_and(|(label, value)| sample.label(label) != value)
        {
            return;
        }
        let Some((source, mut attributes)) = owner(rule, sample, node) else {
            return;
        };
        for (label, attribute) in rule.labels {
            let value = sample.label(label);
            if !value.is_empty() {
                attributes.push((Cow::Borrowed(*attribute), Cow::Owned(value)));
            }
        }
        if let Some((key, value)) = rule.fixed {
            attributes.push((Cow::Borrowed(key), Cow::Borrowed(value)));
        }
        let series = self.series.entry(source).or_default();
        match series.get_mut(&(i, attributes.clone())) {
            Some(sum) => *sum += sample.value * rule.factor,
            None if self.count >= MAX_SERIES => self.left_out += 1,
            None => {
                self.count += 1;
                series.insert((i, attributes), sample.value * rule.factor);
            }
        }
    }

    /// Makes counters grow on where a process that counts began anew.
    pub(super) fn settle(&mut self, counters: &mut Counters) {
        counters.generation += 1;
        for (source, series) in &mut self.series {
            for ((i, attributes), value) in series.iter_mut() {
                if RULES[*i].kind == MetricKind::Counter {
                    *value = counters.grown(source, *i, attributes, *value);
                }
            }
        }
        counters.prune();
    }

    /// Adds the points of one object.
    pub(super) fn points(&self, guid: Guid, source: &Source, at: Timestamp, out: &mut Vec<MetricPoint>) {
        let Some(series) = self.series.get(source) else {
            return;
        };
        out.extend(series.iter().map(|((i, attributes), value)| {
            let rule = &RULES[*i];
            MetricPoint {
                guid,
                name: Cow::Borrowed(rule.name),
                unit: Cow::Borrowed(rule.unit),
                kind: rule.kind,
                // Sums over processes that report differences may be below 0 for a moment.
                value: MetricValue::Float(value.max(0.0)),
                at,
                attributes: attributes.clone(),
            }
        }));
    }
}

/// Whose a sample is, and what tells it apart there; none where it is nobody's.
fn owner(rule: &Rule, sample: &Sample<'_>, node: &str) -> Option<(Source, Attributes)> {
    let node_attribute = || (Cow::Borrowed("ray.node.id"), Cow::Owned(node.to_owned()));
    let named = sample.label(rule.scope.label());
    match rule.scope {
        Scope::Cluster => Some((Source::Cluster, Vec::new())),
        Scope::Node => Some((Source::Cluster, vec![node_attribute()])),
        Scope::Application => (!named.is_empty()).then(|| (Source::Application(named), Vec::new())),
        Scope::Job => (!named.is_empty()).then(|| (Source::Job(named), Vec::new())),
        Scope::Component => match named.strip_prefix("ray::ServeReplica:") {
            Some(of) => {
                let (application, deployment) = of.split_once(':')?;
                // `App:Deployment.method` while it works on something.
                let deployment = deployment.split('.').next().unwrap_or(deployment);
                let attribute = (
                    Cow::Borrowed("ray.serve.deployment"),
                    Cow::Owned(deployment.to_owned()),
                );
                Some((Source::Application(application.to_owned()), vec![attribute]))
            }
            // The parts of Ray itself; other actors and tasks are named by whoever wrote them.
            None if !named.is_empty() && !named.starts_with("ray::") && named != "python" => {
                let attribute = (Cow::Borrowed("ray.component"), Cow::Owned(named));
                Some((Source::Cluster, vec![node_attribute(), attribute]))
            }
            None => None,
        },
    }
}

/// What counters stood at, so that they only grow: over restarts of the processes that count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    seen: HashMap<(Source, usize, Attributes), Counted>,
    generation: u64,
}

#[derive(Debug)]
struct Counted {
    last: f64,
    /// What was counted before it began anew.
    before: f64,
    generation: u64,
}

/// A counter that was not seen for so many scrapes is forgotten.
const FORGET_AFTER: u64 = 120;

impl Counters {
    fn grown(&mut self, source: &Source, rule: usize, attributes: &Attributes, value: f64) -> f64 {
        let generation = self.generation;
        let counted = self
            .seen
            .entry((source.clone(), rule, attributes.clone()))
            .or_insert(Counted {
                last: value,
                before: 0.0,
                generation,
            });
        if value < counted.last {
            counted.before += counted.last;
        }
        counted.last = value;
        counted.generation = generation;
        counted.before + value
    }

    fn prune(&mut self) {
        let oldest = self.generation.saturating_sub(FORGET_AFTER);
        self.seen.retain(|_, counted| counted.generation >= oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"
# TYPE ray_node_cpu_utilization gauge
ray_node_cpu_utilization{IsHeadNode="true",ip="10.0.0.1",otel_scope_name="x"} 18.5
ray_resources{Component="raylet",Name="CPU",State="USED"} 0.4
ray_component_cpu_percentage{Component="gcs",pid="14035"} 2.0
ray_component_cpu_percentage{Component="ray::ServeReplica:web:Tiny",pid=""} 1.5
ray_component_rss_bytes{Component="ray::ServeReplica:web:Tiny.handle_request",pid=""} 1000
ray_component_rss_bytes{Component="ray::<lambda>",pid=""} 1.6e+08
ray_actors{Component="core_worker",JobId="04000000",Name="A",Source="executor",State="ALIVE_IDLE"} 2.0
ray_actors{Component="gcs_server",JobId="",Name="A",Source="gcs",State="ALIVE"} 3.0
ray_actors{Component="gcs_server",JobId="",Name="B",Source="gcs",State="ALIVE"} 1.0
ray_tasks{JobId="04000000",Name="f",State="RUNNING"} 2.0
ray_tasks{JobId="04000000",Name="g",State="RUNNING"} -1.0
ray_tasks{JobId="05000000",Name="g",State="RUNNING"} -1.0
ray_job_duration_s{JobId="04000000"} 14.5
ray_serve_num_http_requests_total{application="web",method="GET",route="/web",status_code="200"} 3.0
ray_serve_deployment_processing_latency_ms_sum{application="web",deployment="Tiny",replica="r1",route="/web"} 10.5
ray_serve_deployment_processing_latency_ms_bucket{application="web",deployment="Tiny",replica="r1",le="+Inf"} 3
ray_serve_deployment_replica_healthy{application="web",deployment="Tiny",replica="r1"} 1.0
ray_serve_deployment_replica_healthy{application="web",deployment="Tiny",replica="r0"} 0.0
ray_node_mem_used{ip="10.0.0.1"} NaN
"#;

    fn taken(page: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for line in page.lines() {
            snapshot.take(line, "n1");
        }
        snapshot
    }

    fn shown(snapshot: &Snapshot, source: Source) -> Vec<String> {
        let mut out = Vec::new();
        snapshot.points(Guid::generate(), &source, Timestamp::EPOCH, &mut out);
        out.iter()
            .map(|p| {
                let attributes: Vec<_> = p.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let MetricValue::Float(value) = p.value else {
                    panic!("not a fraction")
                };
                format!("{} {value} {} [{}]", p.name, p.unit, attributes.join(" "))
            })
            .collect()
    }

    #[test]
    fn values_go_to_their_owners() {
        let snapshot = taken(PAGE);
        assert_eq!(
            shown(&snapshot, Source::Cluster),
            [
                "system.cpu.utilization 0.185 1 [ray.node.id=n1]",
                "ray.node.resource 0.4 1 [ray.node.id=n1 ray.resource.name=CPU ray.resource.state=USED]",
                "process.cpu.utilization 0.02 1 [ray.node.id=n1 ray.component=gcs]",
                "ray.actor.count 4 {actor} [ray.actor.state=ALIVE]",
                "ray.task.count 0 {task} [ray.task.state=RUNNING]",
            ]
        );
        assert_eq!(
            shown(&snapshot, Source::Application("web".into())),
            [
                "process.cpu.utilization 0.015 1 [ray.serve.deployment=Tiny]",
                "process.memory.usage 1000 By [ray.serve.deployment=Tiny]",
                "ray.serve.http.requests 3 {request} [http.request.method=GET http.route=/web http.response.status_code=200]",
                "ray.serve.processing.time 0.0105 s [ray.serve.deployment=Tiny ray.serve.replica=r1]",
                "ray.serve.replicas.healthy 1 {replica} [ray.serve.deployment=Tiny]",
            ]
        );
        assert_eq!(
            shown(&snapshot, Source::Job("04000000".into())),
            [
                "ray.task.count 1 {task} [ray.task.state=RUNNING]",
                "ray.actor.count 2 {actor} [ray.actor.state=ALIVE_IDLE]",
                "ray.job.duration 14.5 s []",
            ]
        );
        assert!(shown(&snapshot, Source::Job("09000000".into())).is_empty());
    }

    #[test]
    fn counters_only_grow() {
        let mut counters = Counters::default();
        let mut seen = Vec::new();
        for value in [5, 7, 2, 3] {
            let line = format!("ray_serve_num_http_requests_total{{application=\"web\"}} {value}");
            let mut snapshot = taken(&line);
            snapshot.settle(&mut counters);
            seen.extend(shown(&snapshot, Source::Application("web".into())));
        }
        let values: Vec<_> = seen.iter().map(|s| s.split(' ').nth(1).unwrap()).collect();
        assert_eq!(values, ["5", "7", "9", "10"]);
        for _ in 0..=FORGET_AFTER {
            Snapshot::default().settle(&mut counters);
        }
        assert!(counters.seen.is_empty());
    }

    #[test]
    fn values_are_bounded() {
        let mut snapshot = Snapshot::default();
        for n in 0..MAX_SERIES + 7 {
            snapshot.take(&format!("ray_job_duration_s{{JobId=\"{n}\"}} 1"), "n1");
        }
        assert_eq!((snapshot.count, snapshot.left_out), (MAX_SERIES, 7));
    }
}
