//! Metrics of objects: what their pods use, and how many there are.
//!
//! | source | requests | what |
//! | --- | --- | --- |
//! | `metrics.k8s.io` where the cluster has it | one per namespace and interval | cores and memory of the moment |
//! | else `stats/summary` of each node, by the API server's proxy | one per node and interval | cpu time, memory, network |
//! | the watches | none | replicas, phases, restarts |

mod metrics_api;
mod requests;
mod summary;
mod used;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Error, Guid, Loss, MetricKind, MetricPoint, MetricValue, Signal, TelemetryBatch, Timestamp,
};
use agent_api_driver::{CollectRequest, ObjectState};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::summary::PodUsage;
use self::used::Sum;
use crate::handle::HandleData;
use crate::kinds::KubeKind;
use crate::pods;
use crate::sdk::Cluster;
use crate::shared::Shared;

/// An answer serves all batches of one interval.
const FRESH: Duration = Duration::from_millis(900);
/// Nodes or namespaces asked at one time.
const AT_ONCE: usize = 8;
/// Sums of objects that nobody asked about for so long are forgotten.
const FORGET: Duration = Duration::from_secs(3600);

type Answer = Arc<Result<HashMap<String, PodUsage>, Error>>;

/// What is kept from one collection to the next.
#[derive(Default)]
pub(crate) struct Metrics {
    /// By cluster and node or namespace.
    answers: Mutex<HashMap<(String, String), (Instant, Answer)>>,
    sums: Mutex<HashMap<Guid, Sums>>,
}

struct Sums {
    cpu: Sum,
    restarts: Sum,
    used: Instant,
}

/// What is to be asked: by cluster its nodes and namespaces with pods that run.
type Questions = BTreeMap<String, Places>;

struct Places {
    cluster: Arc<Cluster>,
    nodes: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

struct Object {
    guid: Guid,
    cluster: Arc<Cluster>,
    pods: Vec<Arc<Pod>>,
}

/// Adds the metrics of many objects.
pub(crate) async fn collect(shared: &Arc<Shared>, request: &CollectRequest<'_>, out: &mut TelemetryBatch) {
    let metrics = &shared.collecting.metrics;
    let mut objects = Vec::new();
    let mut asked = Questions::new();
    for target in request.targets {
        let Ok(data) = HandleData::read(target.handle) else {
            continue;
        };
        let status = shared.watches.status(target.guid);
        let there = status.is_some_and(|status| status.state != ObjectState::Gone);
        let Ok(cluster) = shared.cluster_of(&data) else {
            continue;
        };
        if data.kind == KubeKind::Cluster {
            requests::collect(target.guid, cluster, out);
            continue;
        }
        if !there {
            continue;
        }
        let found = shared.watches.pods(target.guid);
        let places = asked.entry(data.cluster.clone()).or_insert_with(|| Places {
            cluster: Arc::clone(cluster),
            nodes: BTreeSet::new(),
            namespaces: BTreeSet::new(),
        });
        for pod in found.iter().filter(|pod| pods::phase(pod) == "Running") {
            places
                .nodes
                .extend(pod.spec.as_ref().and_then(|spec| spec.node_name.clone()));
            places.namespaces.extend(pod.metadata.namespace.clone());
        }
        objects.push(Object {
            guid: target.guid,
            cluster: Arc::clone(cluster),
            pods: found,
        });
    }
    let usage = metrics.usage(asked, out).await;
    let at = Timestamp::now();
    let mut sums = metrics.sums.lock();
    sums.retain(|_, sums| sums.used.elapsed() < FORGET);
    for object in &objects {
        let used = usage.get(&object.cluster.name);
        let sums = sums.entry(object.guid).or_insert_with(|| Sums {
            cpu: Sum::default(),
            restarts: Sum::default(),
            used: Instant::now(),
        });
        sums.used = Instant::now();
        let mut points = Points {
            guid: object.guid,
            at,
            out,
        };
        points.of_pods(object, used, sums);
        points.of_state(shared, object);
    }
}

impl Metrics {
    /// By cluster, and in it by the uid or the name of the pod.
    async fn usage(
        &self,
        asked: Questions,
        out: &mut TelemetryBatch,
    ) -> HashMap<String, HashMap<String, PodUsage>> {
        let mut found: HashMap<String, HashMap<String, PodUsage>> = HashMap::new();
        for (name, places) in asked {
            let cluster = &places.cluster;
            let by_api = cluster
                .served(metrics_api::API, "PodMetrics")
                .await
                .unwrap_or(false);
            let places = if by_api { places.namespaces } else { places.nodes };
            let answers: Vec<(String, Answer)> = stream::iter(places)
                .map(|place| self.ask(cluster, place, by_api))
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let all = found.entry(name).or_default();
            for (place, answer) in answers {
                match &*answer {
                    Ok(pods) => all.extend(pods.iter().map(|(pod, usage)| (pod.clone(), usage.clone()))),
                    Err(error) => out.losses.push(Loss {
                        guid: None,
                        signal: Signal::Metrics,
                        count: 1,
                        reason: format!("no numbers from {place}: {error}"),
                    }),
                }
            }
        }
        found
    }

    async fn ask(&self, cluster: &Arc<Cluster>, place: String, by_api: bool) -> (String, Answer) {
        let key = (cluster.name.clone(), place.clone());
        let known = self
            .answers
            .lock()
            .get(&key)
            .filter(|(at, _)| at.elapsed() < FRESH)
            .map(|(_, a)| Arc::clone(a));
        if let Some(answer) = known {
            return (place, answer);
        }
        let answer = Arc::new(match by_api {
            true => metrics_api::ask(cluster, &place).await,
            false => summary::ask(cluster, &place).await,
        });
        let mut answers = self.answers.lock();
        answers.retain(|_, (at, _)| at.elapsed() < FRESH);
        answers.insert(key, (Instant::now(), Arc::clone(&answer)));
        (place, answer)
    }
}

type Attributes = Vec<(Cow<'static, str>, Cow<'static, str>)>;

/// The points of one object.
struct Points<'a> {
    guid: Guid,
    at: Timestamp,
    out: &'a mut TelemetryBatch,
}

impl Points<'_> {
    fn push(
        &mut self,
        name: &'static str,
        unit: &'static str,
        kind: MetricKind,
        value: MetricValue,
        attributes: Attributes,
    ) {
        self.out.metrics.push(MetricPoint {
            guid: self.guid,
            name: Cow::Borrowed(name),
            unit: Cow::Borrowed(unit),
            kind,
            value,
            at: self.at,
            attributes,
        });
    }

    fn gauge(&mut self, name: &'static str, unit: &'static str, value: u64, attributes: Attributes) {
        self.push(name, unit, MetricKind::Gauge, MetricValue::Int(value), attributes);
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds of processor time")]
    fn of_pods(&mut self, object: &Object, usage: Option<&HashMap<String, PodUsage>>, sums: &mut Sums) {
        let uids: BTreeSet<&str> = object
            .pods
            .iter()
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let exists = |part: &str| part.split_once('/').is_some_and(|(uid, _)| uids.contains(uid));
        let (mut memory, mut cores, mut counted) = (None, None, false);
        for pod in &object.pods {
            let (Some(uid), Some(name)) = (&pod.metadata.uid, &pod.metadata.name) else {
                continue;
            };
            for status in pod
                .status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten())
            {
                let restarts = u64::try_from(status.restart_count).unwrap_or(0);
                sums.restarts.add(&format!("{uid}/{}", status.name), "", restarts);
            }
            let path = format!("{}/{name}", pod.metadata.namespace.as_deref().unwrap_or_default());
            let Some(used) = usage.and_then(|all| all.get(uid).or_else(|| all.get(&path))) else {
                continue;
            };
            let of_pod = || vec![("k8s.pod.name".into(), Cow::Owned(name.clone()))];
            for container in &used.containers {
                if let Some(nanos) = container.cpu_nanos {
                    counted = true;
                    sums.cpu
                        .add(&format!("{uid}/{}", container.name), &container.started, nanos);
                }
            }
            if let Some(bytes) = used.memory_bytes() {
                *memory.get_or_insert(0) += bytes;
                self.gauge("k8s.pod.memory.working_set", "By", bytes, of_pod());
            }
            if let Some(now) = used.cores {
                *cores.get_or_insert(0.0) += now;
                self.push(
                    "k8s.pod.cpu.usage",
                    "{cpu}",
                    MetricKind::Gauge,
                    MetricValue::Float(now),
                    of_pod(),
                );
            }
            for (direction, bytes) in used
                .network
                .iter()
                .flat_map(|(rx, tx)| [("receive", *rx), ("transmit", *tx)])
            {
                let mut attributes = of_pod();
                // A pod that is made anew under its name counts from 0.
                attributes.push(("k8s.pod.uid".into(), Cow::Owned(uid.clone())));
                attributes.push(("network.io.direction".into(), direction.into()));
                self.push(
                    "k8s.pod.network.io",
                    "By",
                    MetricKind::Counter,
                    MetricValue::Int(bytes),
                    attributes,
                );
            }
        }
        let nanos = sums.cpu.total(exists);
        if counted || nanos > 0 {
            let seconds = MetricValue::Float(nanos as f64 / 1e9);
            self.push("process.cpu.time", "s", MetricKind::Counter, seconds, Vec::new());
        }
        if let Some(bytes) = memory {
            self.gauge("process.memory.usage", "By", bytes, Vec::new());
        }
        if let Some(cores) = cores {
            self.push(
                "k8s.workload.cpu.usage",
                "{cpu}",
                MetricKind::Gauge,
                MetricValue::Float(cores),
                Vec::new(),
            );
        }
        let restarts = sums.restarts.total(exists);
        let restarts = MetricValue::Int(restarts);
        self.push(
            "agent.object.restarts",
            "{restart}",
            MetricKind::Counter,
            restarts,
            Vec::new(),
        );
    }

    fn of_state(&mut self, shared: &Shared, object: &Object) {
        let mut phases: BTreeMap<String, u64> = BTreeMap::new();
        for pod in &object.pods {
            *phases.entry(pods::phase(pod).to_owned()).or_default() += 1;
        }
        for (phase, count) in phases {
            let attributes = vec![("k8s.pod.phase".into(), Cow::Owned(phase))];
            self.gauge("agent.kubernetes.pods", "{pod}", count, attributes);
        }
        let Some(status) = shared.watches.status(object.guid) else {
            return;
        };
        let Some(replicas) = status.details["replicas"].as_object() else {
            return;
        };
        for (state, count) in replicas {
            let Some(count) = count.as_u64() else { continue };
            let attributes = vec![("agent.kubernetes.replica.state".into(), Cow::Owned(state.clone()))];
            self.gauge("agent.kubernetes.replicas", "{pod}", count, attributes);
        }
    }
}
