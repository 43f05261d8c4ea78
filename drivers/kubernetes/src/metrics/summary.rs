//! What a node's kubelet says of its pods, by the API server's node proxy: `stats/summary`.

use std::collections::HashMap;

use agent_api_driver::Result;
use serde::Deserialize;

use crate::sdk::Cluster;

/// What a node says.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Summary {
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<ContainerStats>,
    network: Option<Network>,
}

#[derive(Debug, Deserialize)]
struct PodRef {
    uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStats {
    name: String,
    #[serde(default)]
    start_time: String,
    cpu: Option<CpuStats>,
    memory: Option<MemoryStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuStats {
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemoryStats {
    working_set_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
}

/// What one pod uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodUsage {
    pub containers: Vec<ContainerUsage>,
    /// Bytes received and sent since the pod was started.
    pub network: Option<(u64, u64)>,
    /// Cores used now, where only that is known.
    pub cores: Option<f64>,
}

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerUsage {
    pub name: String,
    /// Tells one run from the next.
    pub started: String,
    /// Since it was started.
    pub cpu_nanos: Option<u64>,
    pub memory_bytes: Option<u64>,
}

impl PodUsage {
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let known: Vec<u64> = self
            .containers
            .iter()
            .filter_map(|container| container.memory_bytes)
            .collect();
        (!known.is_empty()).then(|| known.iter().sum())
    }
}

impl Summary {
    /// By the pods' uids.
    pub(crate) fn usage(self) -> HashMap<String, PodUsage> {
        let usage = |pod: PodStats| {
            let containers = pod.containers.into_iter().map(|container| ContainerUsage {
                name: container.name,
                started: container.start_time,
                cpu_nanos: container.cpu.and_then(|cpu| cpu.usage_core_nano_seconds),
                memory_bytes: container.memory.and_then(|memory| memory.working_set_bytes),
            });
            let network = pod
                .network
                .and_then(|network| network.rx_bytes.zip(network.tx_bytes));
            let usage = PodUsage {
                containers: containers.collect(),
                network,
                cores: None,
            };
            (pod.pod_ref.uid, usage)
        };
        self.pods.into_iter().map(usage).collect()
    }
}

/// Asks a node: one request for all its pods.
pub(crate) async fn ask(cluster: &Cluster, node: &str) -> Result<HashMap<String, PodUsage>> {
    use k8s_openapi::api::core::v1::Node;

    let request = http::Request::get(format!("/api/v1/nodes/{node}/proxy/stats/summary"))
        .body(Vec::new())
        .map_err(|e| agent_api_driver::Error::internal(format!("node {node:?} cannot be asked: {e}")))?;
    let client = cluster.client();
    let summary: Summary = cluster
        .call_typed::<Node, _>("get the proxy of", None, node, client.request(request))
        .await?;
    Ok(summary.usage())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_summary() {
        let text = include_str!("../../tests/recorded/stats-summary-1.20.json");
        let summary: Summary = serde_json::from_str(text).unwrap();
        let usage = summary.usage();
        let pod = &usage["2ddcd36c-248a-41c9-824f-13503f79c5a0"];
        assert_eq!(pod.network, Some((540, 292)));
        assert_eq!(pod.memory_bytes(), Some(3_039_232));
        assert_eq!(
            pod.containers,
            [ContainerUsage {
                name: "a".into(),
                started: "2026-11-22T21:30:53Z".into(),
                cpu_nanos: Some(14_414_064),
                memory_bytes: Some(3_039_232),
            }]
        );
        // A node without numbers yet.
        let empty: Summary =
            serde_json::from_str(r#"{"node": {}, "pods": [{"podRef": {"uid": "u"}}]}"#).unwrap();
        assert_eq!(empty.usage()["u"], PodUsage::default());
    }
}
