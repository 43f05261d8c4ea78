//! What the cluster is: version, session, nodes, files of its logs.

use std::collections::BTreeMap;

use agent_api_driver::Result;
use serde::{Deserialize, Serialize};

use super::client::{Call, Client};

/// Who answers. The session is another one after a restart of the head without durable state: then all ids are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub ray_version: String,
    pub session_name: String,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub node_id: String,
    #[serde(default)]
    pub node_ip: String,
    #[serde(default)]
    pub is_head_node: bool,
    /// `ALIVE` or `DEAD`.
    pub state: String,
    #[serde(default)]
    pub state_message: Option<String>,
    #[serde(default)]
    pub node_name: Option<String>,
    #[serde(default)]
    pub resources_total: BTreeMap<String, f64>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Node {
    pub(crate) fn is_alive(&self) -> bool {
        self.state == "ALIVE"
    }
}

/// How Ray wraps the rows of its lists.
#[derive(Debug, Deserialize)]
pub(crate) struct Listed<T> {
    pub result: Rows<T>,
}

/// The rows of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Rows<T> {
    #[serde(default = "Vec::new")]
    pub result: Vec<T>,
}

impl Client {
    /// Version and session; the cheapest question there is.
    pub(crate) async fn version(&self) -> Result<Version> {
        self.get("version", "/api/version").json_answer().await
    }

    /// All nodes, also those that are dead.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>> {
        let listed: Listed<Node> = self
            .get("nodes", "/api/v0/nodes")
            .query("limit", "10000")
            .data()
            .await?;
        Ok(listed.result.result)
    }

    /// The last lines of a file in the log directory of a node; all of it without a number.
    pub(crate) fn log_file(&self, node_id: &str, file: &str, lines: Option<u64>) -> Call<'_> {
        let lines = lines.map_or_else(|| "-1".to_owned(), |lines| lines.to_string());
        self.list("logs.file", "/api/v0/logs/file")
            .query("node_id", node_id)
            .query("filename", file)
            .query("lines", lines)
    }
}
