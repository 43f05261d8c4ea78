//! What the view of a cluster shows.

use std::collections::BTreeMap;

use agent_api_driver::model::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::clip;
use crate::sdk::{Activity, JobInfo, Node, ServeInstance};

/// At most so many nodes, jobs and applications are listed; the counts are of all.
const MAX_LISTED: usize = 64;
/// The longest entrypoint that is shown.
const MAX_ENTRYPOINT: usize = 200;

/// What is special to a Ray cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterDetails {
    /// Its name in the driver's configuration.
    pub cluster: String,
    /// The dashboard's address.
    pub address: String,
    /// The version of Ray.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The session: another one after a restart of the head without durable state.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// Its nodes.
    #[serde(default)]
    pub nodes: Nodes,
    /// Amounts by Ray's names, over all nodes that are alive.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, Amount>,
    /// Its jobs, as of the last full list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Jobs>,
    /// Its Serve applications with Serve's word for their states, at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub applications: BTreeMap<String, String>,
    /// Its actors and tasks, as of the last full list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// When the full lists were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_at: Option<Timestamp>,
}

/// The nodes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nodes {
    /// How many are alive.
    pub alive: u32,
    /// How many Ray remembers that are dead.
    pub dead: u32,
    /// Those that are alive, at most 64, the head first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<NodeDetails>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeDetails {
    /// Ray's id of it.
    pub id: String,
    /// Its address.
    pub ip: String,
    /// Whether it is the head.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub head: bool,
    /// What it has, by Ray's names; without those that only name the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, f64>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How much there is of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// In all.
    pub total: f64,
    /// Not set aside for anything, as of some seconds ago; none where the cluster does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<f64>,
}

/// The jobs of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Jobs {
    /// How many submissions there are, by Ray's word for their state.
    pub submissions: BTreeMap<String, u64>,
    /// How many programs are connected that were not submitted.
    pub drivers: u64,
    /// Submissions that have not ended, at most 64, the newest first. One that is nobody's object can be adopted by an object of kind
    /// `ray/job` with its id in `adopt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<ActiveJob>,
}

/// A submission that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveJob {
    /// Its submission id.
    pub id: String,
    /// Ray's word for its state.
    pub status: String,
    /// What it runs, the beginning.
    pub entrypoint: String,
    /// When it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<Timestamp>,
    /// The object that it is of, where an agent submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
}

/// The nodes as they are shown.
pub(super) fn nodes(all: &[Node]) -> Nodes {
    let mut alive: Vec<&Node> = all.iter().filter(|node| node.is_alive()).collect();
    alive.sort_by_key(|node| (!node.is_head_node, node.node_id.clone()));
    Nodes {
        alive: count(alive.len()),
        dead: count(all.len() - alive.len()),
        list: alive
            .iter()
            .take(MAX_LISTED)
            .map(|node| NodeDetails {
                id: node.node_id.clone(),
                ip: node.node_ip.clone(),
                head: node.is_head_node,
                resources: named(&node.resources_total),
                labels: node.labels.clone(),
            })
            .collect(),
    }
}

/// Totals and what is free, where it is known what is in use.
pub(super) fn resources(nodes: &[Node], used: Option<&BTreeMap<String, f64>>) -> BTreeMap<String, Amount> {
    let mut all: BTreeMap<String, Amount> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.is_alive()) {
        for (name, amount) in named(&node.resources_total) {
            all.entry(name).or_default().total += amount;
        }
    }
    if let Some(used) = used {
        for (name, amount) in &mut all {
            amount.free = used.get(name).map(|used| (amount.total - used).max(0.0));
        }
    }
    all
}

/// Without the resources that every node has only to be named by.
fn named(resources: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    resources
        .iter()
        .filter(|(name, _)| !name.starts_with("node:"))
        .map(|(name, amount)| (name.clone(), *amount))
        .collect()
}

/// The jobs as they are shown.
pub(super) fn jobs(all: &[JobInfo]) -> Jobs {
    let mut jobs = Jobs::default();
    let mut active = Vec::new();
    for job in all {
        let Some(id) = &job.submission_id else {
            jobs.drivers += u64::from(!job.status.is_final());
            continue;
        };
        *jobs.submissions.entry(word(job.status)).or_insert(0) += 1;
        if !job.status.is_final() {
            active.push((job.start_time, id, job));
        }
    }
    active.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)));
    jobs.active = active
        .into_iter()
        .take(MAX_LISTED)
        .map(|(start, id, job)| ActiveJob {
            id: id.clone(),
            status: word(job.status),
            entrypoint: clip(&job.entrypoint, MAX_ENTRYPOINT).to_owned(),
            submitted_at: start.map(|ms| {
                Timestamp::from_micros(i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX))
            }),
            guid: job.metadata.get("agent_guid").cloned(),
        })
        .collect();
    jobs
}

/// The applications with Serve's word for their states.
pub(super) fn applications(instance: &ServeInstance) -> BTreeMap<String, String> {
    instance
        .applications
        .iter()
        .take(MAX_LISTED)
        .map(|(name, app)| (name.clone(), word(app.status)))
        .collect()
}

fn word(status: impl Serialize) -> String {
    match serde_json::to_value(status) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(id: &str, state: &str, head: bool, cpu: f64) -> Node {
        serde_json::from_value(json!({
            "node_id": id, "node_ip": "10.0.0.1", "is_head_node": head, "state": state,
            "resources_total": {"CPU": cpu, "node:10.0.0.1": 1.0, "node:__internal_head__": 1.0}
        }))
        .unwrap()
    }

    #[test]
    fn only_living_nodes_count() {
        let all = [
            node("b", "ALIVE", false, 2.0),
            node("a", "ALIVE", true, 4.0),
            node("c", "DEAD", false, 64.0),
        ];
        let shown = nodes(&all);
        assert_eq!((shown.alive, shown.dead), (2, 1));
        assert_eq!(shown.list[0].id, "a");
        assert_eq!(shown.list[0].resources, BTreeMap::from([("CPU".to_owned(), 4.0)]));
        let used = BTreeMap::from([("CPU".to_owned(), 1.5)]);
        assert_eq!(
            resources(&all, Some(&used)),
            BTreeMap::from([(
                "CPU".to_owned(),
                Amount {
                    total: 6.0,
                    free: Some(4.5)
                }
            )])
        );
        assert_eq!(resources(&all, None)["CPU"].free, None);
    }

    #[test]
    fn jobs_are_counted_and_the_active_listed() {
        let job = |id: Option<String>, status: &str, start: u64| -> JobInfo {
            serde_json::from_value(json!({
                "submission_id": id, "status": status, "entrypoint": "x".repeat(1_000), "start_time": start,
                "metadata": {"agent_guid": "g"}
            }))
            .unwrap()
        };
        let mut all: Vec<_> = (0..100)
            .map(|n| job(Some(format!("j{n}")), "RUNNING", n))
            .collect();
        all.push(job(Some("ended".into()), "FAILED", 1_000));
        all.push(job(None, "RUNNING", 1));
        all.push(job(None, "SUCCEEDED", 1));
        let shown = jobs(&all);
        assert_eq!(
            shown.submissions,
            BTreeMap::from([("RUNNING".into(), 100), ("FAILED".into(), 1)])
        );
        assert_eq!((shown.drivers, shown.active.len()), (1, MAX_LISTED));
        assert_eq!(
            (shown.active[0].id.as_str(), shown.active[0].entrypoint.len()),
            ("j99", MAX_ENTRYPOINT)
        );
        assert_eq!(shown.active[0].guid.as_deref(), Some("g"));
    }
}
