//! Emptying a node by evictions, which respect disruption budgets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind};
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::core::Status;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::node::Drain;
use crate::pods;
use crate::sdk::Cluster;
use crate::sdk::cluster::Version;

/// How often the node is looked at, and evictions that a budget refused are tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// So many evictions at one time.
const AT_ONCE: usize = 16;
/// The first servers with evictions of `policy/v1`.
const POLICY_V1: Version = Version { major: 1, minor: 22 };

/// What becomes of a pod of a node that is drained.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Leave,
    Evict,
    /// It may not be evicted, for this reason.
    Refuse(&'static str),
}

fn fate(pod: &Pod, drain: &Drain) -> Fate {
    let metadata = &pod.metadata;
    let mirror = metadata
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key == "kubernetes.io/config.mirror");
    if mirror {
        return Fate::Leave;
    }
    if matches!(pods::phase(pod), "Succeeded" | "Failed") {
        return Fate::Evict;
    }
    let owner = metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) if owner.kind == "DaemonSet" && drain.ignore_daemon_sets => return Fate::Leave,
        Some(owner) if owner.kind == "DaemonSet" => {
            return Fate::Refuse("a DaemonSet would make it anew at once (ignore_daemon_sets)");
        }
        None if !drain.force => return Fate::Refuse("nobody would make it anew (force)"),
        _ => {}
    }
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let local = volumes
        .into_iter()
        .flatten()
        .any(|volume| volume.empty_dir.is_some());
    if local && !drain.delete_empty_dir_data {
        return Fate::Refuse("it keeps data in an emptyDir volume (delete_empty_dir_data)");
    }
    Fate::Evict
}

fn name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

/// Evicts the pods of a node and waits until they are gone. Refuses before the first one where some may not be.
pub(super) async fn drain(cluster: &Arc<Cluster>, drain: &Drain, within: Duration) -> Result<()> {
    let until = Instant::now() + within;
    let version = match cluster.server_version().await? >= POLICY_V1 {
        true => "policy/v1",
        false => "policy/v1beta1",
    };
    // A pod that is made anew on the node by its name is another one.
    let mut ours: Option<BTreeSet<String>> = None;
    loop {
        let pods = on_node(cluster, &drain.node).await?;
        let fates: Vec<(Pod, Fate)> = pods
            .into_iter()
            .map(|pod| {
                let fate = fate(&pod, drain);
                (pod, fate)
            })
            .collect();
        let ours = ours.get_or_insert_with(|| {
            fates
                .iter()
                .filter_map(|(pod, _)| pod.metadata.uid.clone())
                .collect()
        });
        let known = |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|uid| ours.contains(uid));
        let refused: Vec<String> = fates
            .iter()
            .filter_map(|(pod, fate)| match fate {
                Fate::Refuse(why) if known(pod) => Some(format!("{}: {why}", name(pod))),
                _ => None,
            })
            .collect();
        if !refused.is_empty() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "node {} is cordoned, and not drained: {}",
                    drain.node,
                    refused.join("; ")
                ),
            )
            .with_hint("the argument in brackets evicts such pods too"));
        }
        let left: Vec<&Pod> = fates
            .iter()
            .filter(|(pod, fate)| *fate == Fate::Evict && known(pod))
            .map(|(pod, _)| pod)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let mut evictions = Vec::new();
        for pod in &left {
            if !pods::is_leaving(pod) {
                evictions.push(evict(cluster, pod, drain.grace, version).boxed());
            }
        }
        let held: Vec<String> = futures_util::stream::iter(evictions)
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<Result<Option<String>>>>()
            .await
            .into_iter()
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        if Instant::now() + AGAIN >= until {
            let names: Vec<String> = left.iter().map(|pod| name(pod)).collect();
            let error = Error::new(
                ErrorKind::Timeout,
                format!(
                    "node {} is not empty yet: {} are left",
                    drain.node,
                    names.join(", ")
                ),
            );
            return Err(held
                .into_iter()
                .fold(error, |error, why| error.with_context("held", why)));
        }
        sleep(AGAIN).await;
    }
}

async fn on_node(cluster: &Cluster, node: &str) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::all(cluster.client());
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let list = cluster
        .call_typed::<Pod, _>("list", None, "", api.list(&params))
        .await?;
    Ok(list.items)
}

/// Evicts a pod; what holds it where a budget does not allow it now.
async fn evict(
    cluster: &Cluster,
    pod: &Pod,
    grace: Option<Duration>,
    version: &str,
) -> Result<Option<String>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let body = json!({
        "apiVersion": version,
        "kind": "Eviction",
        "metadata": {"name": pod_name, "namespace": namespace},
        "deleteOptions": {
            "gracePeriodSeconds": super::seconds(grace),
            "preconditions": {"uid": pod.metadata.uid},
        },
    });
    let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{pod_name}/eviction"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|e| Error::internal(format!("an eviction cannot be written: {e}")))?;
    let client = cluster.client();
    let call = cluster.call_typed::<Pod, Status>("evict", Some(namespace), pod_name, client.request(request));
    match call.await {
        Ok(_) => Ok(None),
        Err(error) => match error.kind() {
            // Gone, or another one by now.
            ErrorKind::NotFound | ErrorKind::Conflict => Ok(None),
            ErrorKind::Busy => Ok(Some(format!("{}: {}", name(pod), error.message()))),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(extra: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []}, "status": {"phase": "Running"}});
        for (key, value) in extra.as_object().unwrap() {
            *pod.pointer_mut(key).unwrap() = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    fn owned(kind: &str) -> Value {
        json!({"name": "p", "namespace": "n", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true},
        ]})
    }

    #[test]
    fn what_becomes_of_pods() {
        let drain: Drain = serde_json::from_value(json!({"node": "a"})).unwrap();
        let all: Drain = serde_json::from_value(
            json!({"node": "a", "force": true, "delete_empty_dir_data": true, "ignore_daemon_sets": false}),
        )
        .unwrap();
        let refused = |pod: &Pod, drain: &Drain| matches!(fate(pod, drain), Fate::Refuse(_));
        let managed = pod(json!({"/metadata": owned("ReplicaSet")}));
        assert_eq!(
            (fate(&managed, &drain), fate(&managed, &all)),
            (Fate::Evict, Fate::Evict)
        );
        let daemon = pod(json!({"/metadata": owned("DaemonSet")}));
        assert_eq!(fate(&daemon, &drain), Fate::Leave);
        assert!(refused(&daemon, &all));
        let bare = pod(json!({}));
        assert!(refused(&bare, &drain));
        assert_eq!(fate(&bare, &all), Fate::Evict);
        assert_eq!(
            fate(&pod(json!({"/status/phase": "Failed"})), &drain),
            Fate::Evict
        );
        let local = pod(json!({
            "/metadata": owned("ReplicaSet"),
            "/spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]},
        }));
        assert!(refused(&local, &drain));
        assert_eq!(fate(&local, &all), Fate::Evict);
        let mirror =
            pod(json!({"/metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}}}));
        assert_eq!(fate(&mirror, &all), Fate::Leave);
    }
}
