//! Metrics from Ray's Prometheus endpoints.
//!
//! Every node has one, which the dashboard names. Each is read once per interval, whatever the number of objects and of collections:
//! what was read is kept for as long as Ray itself needs to make new values, and given to the objects that it is of.

mod rules;
mod snapshot;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, Guid, Loss, Signal, TelemetryBatch, Timestamp};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::head::Head;
use crate::shared::Shared;
pub(crate) use snapshot::Source;
use snapshot::{Counters, Snapshot};
use text::Lines;

/// Ray makes new values every five to ten seconds: a younger scrape is used again.
const FRESH: Duration = Duration::from_secs(5);
/// How long the list of endpoints is used.
const TARGETS_AGE: Duration = Duration::from_secs(60);
/// How long one endpoint may take.
const SCRAPE: Duration = Duration::from_secs(5);
/// Endpoints that are read at one time.
const AT_ONCE: usize = 8;
/// At most so many endpoints of one cluster.
const MAX_TARGETS: usize = 1_000;
/// The largest page that is read.
const MAX_PAGE: usize = 32 << 20;

/// The metrics of all clusters.
pub(crate) struct Metrics {
    http: reqwest::Client,
    scrapers: BTreeMap<String, tokio::sync::Mutex<Scraper>>,
}

/// One cluster's.
#[derive(Default)]
struct Scraper {
    targets: Option<(Instant, Vec<Endpoint>)>,
    last: Option<(Instant, Timestamp, Arc<Snapshot>)>,
    counters: Counters,
}

/// One Prometheus endpoint.
#[derive(Clone, Debug, PartialEq)]
struct Endpoint {
    /// `host:port`.
    address: String,
    /// The node it is of; its address where that is not known.
    node: String,
    /// It had nothing of use.
    idle: bool,
}

/// What a scrape brought.
struct Scraped {
    at: Timestamp,
    snapshot: Arc<Snapshot>,
    /// What could not be read, a sentence each; only where it was tried now.
    failures: Vec<String>,
}

impl Metrics {
    pub(crate) fn new<'a>(clusters: impl Iterator<Item = &'a String>) -> Result<Self> {
        // No token is sent: the endpoints ask for none, and are not the dashboard.
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|e| Error::internal("cannot make an HTTP client for metrics").with_source(e))?;
        Ok(Self {
            http,
            scrapers: clusters
                .map(|name| (name.clone(), tokio::sync::Mutex::default()))
                .collect(),
        })
    }

    /// Adds the metrics of these objects, each with its cluster. What could not be read is in the losses.
    pub(crate) async fn collect(
        &self,
        shared: &Shared,
        objects: Vec<(Guid, String, Source)>,
        deadline: Duration,
        out: &mut TelemetryBatch,
    ) {
        let mut by_cluster: BTreeMap<String, Vec<(Guid, Source)>> = BTreeMap::new();
        for (guid, cluster, source) in objects {
            by_cluster.entry(cluster).or_default().push((guid, source));
        }
        for (cluster, objects) in by_cluster {
            let scraped = match (shared.head(Some(&cluster)), self.scrapers.get(&cluster)) {
                (Ok(head), Some(scraper)) => timeout(deadline, self.fresh(head, scraper)).await,
                _ => continue,
            };
            let mut lose = |guid, reason: String| {
                out.losses.push(Loss {
                    guid,
                    signal: Signal::Metrics,
                    count: 1,
                    reason,
                });
            };
            match scraped {
                Ok(Ok(scraped)) => {
                    for failure in scraped.failures {
                        lose(None, failure);
                    }
                    for (guid, source) in &objects {
                        scraped
                            .snapshot
                            .points(*guid, source, scraped.at, &mut out.metrics);
                    }
                }
                Ok(Err(error)) => objects
                    .iter()
                    .for_each(|(guid, _)| lose(Some(*guid), error.to_string())),
                Err(_) => objects.iter().for_each(|(guid, _)| {
                    lose(
                        Some(*guid),
                        format!("the metrics of {cluster} did not come in time"),
                    )
                }),
            }
        }
    }

    /// What was read last, or is read now where that is too old. Those who come meanwhile wait for the same.
    async fn fresh(&self, head: &Head, scraper: &tokio::sync::Mutex<Scraper>) -> Result<Scraped> {
        let mut scraper = scraper.lock().await;
        if let Some((read, at, snapshot)) = &scraper.last
            && read.elapsed() < FRESH
        {
            return Ok(Scraped {
                at: *at,
                snapshot: Arc::clone(snapshot),
                failures: Vec::new(),
            });
        }
        if scraper
            .targets
            .as_ref()
            .is_none_or(|(read, _)| read.elapsed() >= TARGETS_AGE)
        {
            scraper.targets = Some((Instant::now(), endpoints(head).await?));
        }
        let Some((_, targets)) = &mut scraper.targets else {
            return Err(Error::internal("the list of endpoints was just read"));
        };
        let wanted: Vec<Endpoint> = targets
            .iter()
            .filter(|endpoint| !endpoint.idle)
            .cloned()
            .collect();
        let pages: Vec<_> = futures_util::stream::iter(wanted)
            .map(|endpoint| async move {
                let page = self.page(&endpoint).await;
                (endpoint, page)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut snapshot = Snapshot::default();
        let mut failures = Vec::new();
        for (endpoint, page) in pages {
            match page {
                Ok(lines) => {
                    let useful = lines
                        .iter()
                        .filter(|line| snapshot.take(line, &endpoint.node))
                        .count();
                    if useful == 0
                        && let Some(endpoint) = targets
                            .iter_mut()
                            .find(|target| target.address == endpoint.address)
                    {
                        endpoint.idle = true;
                    }
                }
                Err(why) => failures.push(format!(
                    "the metrics of the node {} at {} cannot be read: {why}",
                    endpoint.node, endpoint.address
                )),
            }
        }
        if snapshot.left_out > 0 {
            failures.push(format!(
                "{} values were left out: there are too many",
                snapshot.left_out
            ));
        }
        if !failures.is_empty() {
            // A node that is gone is off the list soon.
            scraper.targets = None;
        }
        let Scraper { last, counters, .. } = &mut *scraper;
        snapshot.settle(counters);
        let (at, snapshot) = (Timestamp::now(), Arc::new(snapshot));
        *last = Some((Instant::now(), at, Arc::clone(&snapshot)));
        Ok(Scraped {
            at,
            snapshot,
            failures,
        })
    }

    /// The lines of a page that some rule is for.
    async fn page(&self, endpoint: &Endpoint) -> Result<Vec<String>, String> {
        let read = async {
            let answer = self
                .http
                .get(format!("http://{}/metrics", endpoint.address))
                .timeout(SCRAPE)
                .send()
                .await
                .map_err(|e| innermost(&e))?;
            if !answer.status().is_success() {
                return Err(format!("it answered {}", answer.status()));
            }
            let mut body = answer.bytes_stream();
            let mut lines = Lines::default();
            let (mut kept, mut size) = (Vec::new(), 0);
            let mut keep = |line: &str| {
                if Snapshot::wants(line) {
                    kept.push(line.to_owned());
                }
            };
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|e| innermost(&e))?;
                size += piece.len();
                if size > MAX_PAGE {
                    return Err(format!("its page is larger than {MAX_PAGE} bytes"));
                }
                lines.push(&piece, &mut keep);
            }
            lines.finish(&mut keep);
            Ok(kept)
        };
        match timeout(SCRAPE, read).await {
            Ok(read) => read,
            Err(_) => Err("it did not answer in time".to_owned()),
        }
    }
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The endpoints of a cluster, with the nodes they are of.
async fn endpoints(head: &Head) -> Result<Vec<Endpoint>> {
    #[derive(Deserialize)]
    struct Group {
        #[serde(default)]
        targets: Vec<String>,
    }
    let groups: Vec<Group> = head
        .client
        .get("metrics.targets", "/api/prometheus/sd")
        .json_answer()
        .await?;
    let addresses: BTreeSet<String> = groups
        .into_iter()
        .flat_map(|group| group.targets)
        .filter(|address| is_endpoint(address))
        .take(MAX_TARGETS)
        .collect();
    let nodes = head.nodes(TARGETS_AGE).await?;
    let mut by_ip: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.is_alive()) {
        by_ip.entry(&node.node_ip).or_default().push(&node.node_id);
    }
    // Several nodes on one address: only their ports tell them apart, which costs a larger answer.
    let by_port = if by_ip.values().any(|ids| ids.len() > 1) {
        ports(head).await?
    } else {
        BTreeMap::new()
    };
    Ok(addresses
        .into_iter()
        .map(|address| Endpoint {
            node: node_of(&address, &by_ip, &by_port).unwrap_or_else(|| address.clone()),
            address,
            idle: false,
        })
        .collect())
}

fn node_of(
    address: &str,
    by_ip: &BTreeMap<&str, Vec<&str>>,
    by_port: &BTreeMap<String, String>,
) -> Option<String> {
    if let Some(node) = by_port.get(address) {
        return Some(node.clone());
    }
    let (ip, _) = address.rsplit_once(':')?;
    match by_ip.get(ip.trim_matches(['[', ']']))?.as_slice() {
        [only] => Some((*only).to_owned()),
        _ => None,
    }
}

/// Only a host and a port: nothing that would make another address of it.
fn is_endpoint(address: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b);
    address.bytes().all(plain)
        && address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// The node of each endpoint by its address.
async fn ports(head: &Head) -> Result<BTreeMap<String, String>> {
    let data: Value = head
        .client
        .list("nodes.summary", "/nodes")
        .query("view", "summary")
        .data()
        .await?;
    Ok(ports_in(&data))
}

fn ports_in(data: &Value) -> BTreeMap<String, String> {
    let nodes = data
        .get("summary")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    nodes
        .iter()
        .filter_map(|node| {
            let raylet = node.get("raylet")?;
            let ip = node.get("ip").and_then(Value::as_str)?;
            let port = raylet.get("metricsExportPort").and_then(Value::as_u64)?;
            let id = raylet.get("nodeId").and_then(Value::as_str)?;
            Some((format!("{ip}:{port}"), id.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoints_are_of_nodes() {
        let by_ip = BTreeMap::from([
            ("10.0.0.1", vec!["a"]),
            ("10.0.0.2", vec!["b", "c"]),
            ("fd00::1", vec!["d"]),
        ]);
        let by_port = ports_in(&json!({"summary": [
            {"ip": "10.0.0.2", "raylet": {"nodeId": "b", "metricsExportPort": 7001}},
            {"ip": "10.0.0.2", "raylet": {"nodeId": "c", "metricsExportPort": 7002}},
            {"ip": "10.0.0.9", "raylet": {}}
        ]}));
        for (address, node) in [
            ("10.0.0.1:44217", Some("a")),
            ("10.0.0.2:7002", Some("c")),
            ("10.0.0.2:9999", None),
            ("[fd00::1]:1", Some("d")),
            ("10.0.0.3:1", None),
        ] {
            assert_eq!(node_of(address, &by_ip, &by_port).as_deref(), node, "{address}");
        }
    }

    #[test]
    fn only_hosts_and_ports_are_asked() {
        for address in ["10.0.0.1:8080", "node-1.lan:1", "[fd00::1]:9"] {
            assert!(is_endpoint(address), "{address}");
        }
        for address in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:99999",
            "a/b:1",
            "u@h:1",
            ":80",
            "h:80?x",
            "h:1#",
        ] {
            assert!(!is_endpoint(address), "{address}");
        }
    }
}
