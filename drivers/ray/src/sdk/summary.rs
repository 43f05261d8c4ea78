//! Summaries of what a cluster does: actors, tasks, what is in use.

use std::collections::BTreeMap;

use agent_api_driver::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::client::Client;

/// How many actors and tasks there are, by Ray's word for their state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Activity {
    /// Actors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub actors: BTreeMap<String, u64>,
    /// Tasks, those of actors too. Ray shows them about a second late, and forgets old ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Wrapped {
    result: Outer,
}

#[derive(Debug, Deserialize)]
struct Outer {
    result: ByNode,
}

#[derive(Debug, Deserialize)]
struct ByNode {
    node_id_to_summary: BTreeMap<String, Summary>,
}

#[derive(Debug, Deserialize)]
struct Summary {
    #[serde(default)]
    summary: BTreeMap<String, Counted>,
}

#[derive(Debug, Deserialize)]
struct Counted {
    #[serde(default)]
    state_counts: BTreeMap<String, u64>,
}

impl Wrapped {
    fn by_state(self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let named = self
            .result
            .result
            .node_id_to_summary
            .into_values()
            .flat_map(|s| s.summary.into_values());
        for (state, count) in named.flat_map(|counted| counted.state_counts) {
            *all.entry(state).or_insert(0) += count;
        }
        all
    }
}

impl Client {
    /// What is going on: of the whole cluster, or of the job with this id of Ray's own (`04000000`).
    pub(crate) async fn activity(&self, job_id: Option<&str>) -> Result<Activity> {
        let ask = |endpoint, path| {
            let call = self.list(endpoint, path);
            match job_id {
                Some(id) => call
                    .query("filter_keys", "job_id")
                    .query("filter_predicates", "=")
                    .query("filter_values", id),
                None => call,
            }
            .data::<Wrapped>()
        };
        let (actors, tasks) = futures_util::future::try_join(
            ask("actors.summary", "/api/v0/actors/summarize"),
            ask("tasks.summary", "/api/v0/tasks/summarize"),
        )
        .await?;
        Ok(Activity {
            actors: actors.by_state(),
            tasks: tasks.by_state(),
        })
    }

    /// How much of the cluster's resources is in use, by Ray's names; as of some seconds ago.
    pub(crate) async fn usage(&self) -> Result<BTreeMap<String, f64>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Status {
            #[serde(default)]
            cluster_status: Option<String>,
        }
        // As text: the other form is empty with the newer autoscaler, and has other names.
        let status: Status = self
            .get("cluster_status", "/api/cluster_status")
            .query("format", "1")
            .data()
            .await?;
        Ok(usage_in(&status.cluster_status.unwrap_or_default()))
    }

    /// Whether the part that holds the cluster together answers.
    pub(crate) async fn is_well(&self) -> bool {
        self.get("gcs_healthz", "/api/gcs_healthz").send().await.is_ok()
    }
}

/// The lines ` 0.3/4.0 CPU` below `Total Usage:` or `Usage:`, the first such part.
fn usage_in(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .map(str::trim_end)
        .skip_while(|line| !matches!(line.trim(), "Total Usage:" | "Usage:"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .filter_map(|line| {
            let (amounts, name) = line.trim().split_once(' ')?;
            let (used, _) = amounts.split_once('/')?;
            Some((name.split(" (").next()?.to_owned(), amount(used)?))
        })
        .collect()
}

/// `0.3`, `0B`, `21.70GiB`.
fn amount(text: &str) -> Option<f64> {
    let digits = text
        .find(|c: char| c.is_ascii_alphabetic() && c != 'e')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "TiB" => 1_099_511_627_776.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_summed_over_names() {
        let wrapped: Wrapped = serde_json::from_str(
            r#"{"result": {"total": 3, "result": {"node_id_to_summary": {"cluster": {"summary": {
                "A": {"class_name": "A", "state_counts": {"ALIVE": 1, "DEAD": 2}}, "B": {"state_counts": {"ALIVE": 4}}}, "total_actors": 7}}}}}"#,
        )
        .unwrap();
        assert_eq!(
            wrapped.by_state(),
            BTreeMap::from([("ALIVE".into(), 5), ("DEAD".into(), 2)])
        );
        let none: Wrapped = serde_json::from_str(
            r#"{"result": {"result": {"node_id_to_summary": {"cluster": {"summary": {}}}}}}"#,
        )
        .unwrap();
        assert!(none.by_state().is_empty());
    }

    #[test]
    fn usage_is_read_from_the_text() {
        let text = "======== Autoscaler status ========\nResources\n-----\nTotal Usage:\n 0.2999999999999998/4.0 CPU\n 1.50GiB/21.70GiB memory\n 0B/256.00MiB object_store_memory\n 1.0/2.0 lab_n1 (1.0 used of 1.0 reserved in placement groups)\n\nFrom request_resources:\n (none)\n";
        let usage = usage_in(text);
        assert_eq!(usage["memory"], 1.5 * 1_073_741_824.0);
        assert!((usage["CPU"] - 0.3).abs() < 1e-9);
        assert_eq!((usage["object_store_memory"], usage["lab_n1"]), (0.0, 1.0));
        assert_eq!(usage.len(), 4);
        assert!(usage_in("No cluster status.").is_empty());
        assert_eq!(amount("1e-05"), Some(1e-05));
    }
}
