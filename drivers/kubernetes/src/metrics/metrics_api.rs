//! What metrics.k8s.io says of pods, where the cluster has it: the usage of the moment, no counters.

use std::collections::HashMap;

use agent_api_driver::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;

use super::summary::{ContainerUsage, PodUsage};
use crate::sdk::Cluster;

/// Its group and version.
pub(crate) const API: &str = "metrics.k8s.io/v1beta1";

#[derive(Debug, Deserialize)]
struct PodMetricsList {
    #[serde(default)]
    items: Vec<PodMetrics>,
}

#[derive(Debug, Deserialize)]
struct PodMetrics {
    metadata: Metadata,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: HashMap<String, Quantity>,
}

/// Asks for the pods of a namespace, by `namespace/name`: one request.
pub(crate) async fn ask(cluster: &Cluster, namespace: &str) -> Result<HashMap<String, PodUsage>> {
    let request = http::Request::get(format!("/apis/{API}/namespaces/{namespace}/pods"))
        .body(Vec::new())
        .map_err(|e| agent_api_driver::Error::internal(format!("namespace {namespace:?}: {e}")))?;
    let client = cluster.client();
    let call = cluster.call_typed::<Pod, _>(
        "list the metrics of",
        Some(namespace),
        "",
        client.request(request),
    );
    let list: PodMetricsList = call.await?;
    Ok(usage(list))
}

fn usage(list: PodMetricsList) -> HashMap<String, PodUsage> {
    let of = |pod: PodMetrics| {
        let cores: f64 = pod
            .containers
            .iter()
            .filter_map(|c| number(c.usage.get("cpu")?))
            .sum();
        let containers = pod.containers.into_iter().map(|container| ContainerUsage {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bytes are whole and positive"
            )]
            memory_bytes: container
                .usage
                .get("memory")
                .and_then(number)
                .map(|bytes| bytes as u64),
            name: container.name,
            ..ContainerUsage::default()
        });
        let usage = PodUsage {
            containers: containers.collect(),
            network: None,
            cores: Some(cores),
        };
        (format!("{}/{}", pod.metadata.namespace, pod.metadata.name), usage)
    };
    list.items.into_iter().map(of).collect()
}

/// `12345678n`, `250m`, `3039232`, `2968Ki`.
fn number(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_list() {
        // As metrics-server 0.7 answers.
        let text = r#"{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[{"metadata":{"name":"web-1","namespace":"shop","creationTimestamp":"2026-11-22T21:30:53Z","labels":{"app":"web"}},"timestamp":"2026-11-22T21:30:43Z","window":"15.06s","containers":[{"name":"main","usage":{"cpu":"12345678n","memory":"2968Ki"}},{"name":"side","usage":{"cpu":"250m","memory":"1048576"}}]}]}"#;
        let usage = usage(serde_json::from_str(text).unwrap());
        let pod = &usage["shop/web-1"];
        assert_eq!(pod.memory_bytes(), Some(2968 * 1024 + 1_048_576));
        assert!(
            (pod.cores.unwrap() - 0.262_345_678).abs() < 1e-12,
            "{:?}",
            pod.cores
        );
        assert_eq!(pod.containers[0].cpu_nanos, None);
        assert_eq!(number(&Quantity("3x".into())), None);
    }
}
