//! The methods of `kubernetes/cluster`: `cordon`, `uncordon` and `drain` of nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{ControlAction, Error, ErrorKind};
use agent_api_driver::{Applied, ControlRequest, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::unsupported;
use crate::handle::HandleData;
use crate::sdk::Cluster;
use crate::shared::Shared;

/// The arguments of `cordon` and `uncordon`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeName {
    /// The node.
    pub node: String,
}

/// The arguments of `drain`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    /// The node.
    pub node: String,
    /// How long pods may take to end; each pod's own grace without.
    #[serde(default, with = "crate::text_duration::optional")]
    #[schemars(with = "Option<String>")]
    pub grace: Option<Duration>,
    /// How long it may take in all; the operation's own deadline without.
    #[serde(default, with = "crate::text_duration::optional")]
    #[schemars(with = "Option<String>")]
    pub timeout: Option<Duration>,
    /// Evict pods too that nobody makes anew.
    #[serde(default)]
    pub force: bool,
    /// Evict pods too that keep data in `emptyDir` volumes, which go with them.
    #[serde(default)]
    pub delete_empty_dir_data: bool,
    /// Leave the pods of DaemonSets, which come back at once. Without it they are a reason to refuse. True by default.
    #[serde(default = "yes")]
    pub ignore_daemon_sets: bool,
}

fn yes() -> bool {
    true
}

fn read<T: DeserializeOwned>(arguments: &Value) -> Result<T> {
    serde_json::from_value(arguments.clone())
        .map_err(|e| Error::invalid("arguments", format!("do not fit: {e}")))
}

impl Shared {
    pub(super) async fn control_cluster(
        self: &Arc<Self>,
        request: &ControlRequest<'_>,
        data: HandleData,
    ) -> Result<Applied> {
        let ControlAction::Call { method, arguments } = request.action else {
            return Err(unsupported(format!(
                "a cluster cannot {}; it has the methods cordon, uncordon and drain",
                request.action.verb()
            )));
        };
        let cluster = self.cluster_of(&data)?;
        match method.as_str() {
            "cordon" => cordon(cluster, &read::<NodeName>(arguments)?.node, true).await?,
            "uncordon" => cordon(cluster, &read::<NodeName>(arguments)?.node, false).await?,
            "drain" => {
                let drain: Drain = read(arguments)?;
                cordon(cluster, &drain.node, true).await?;
                let within = request.deadline.mul_f64(0.95);
                super::drain::drain(
                    cluster,
                    &drain,
                    drain.timeout.map_or(within, |asked| asked.min(within)),
                )
                .await?;
            }
            other => return Err(unsupported(format!("a cluster has no method {other:?}"))),
        }
        self.settled(request.guid, &data, &[])
    }
}

/// Keeps new pods away from a node, or lets them come again.
async fn cordon(cluster: &Cluster, node: &str, hold: bool) -> Result<()> {
    let api: Api<Node> = Api::all(cluster.client());
    let body = json!({"spec": {"unschedulable": if hold { json!(true) } else { Value::Null }}});
    let params = PatchParams {
        field_manager: Some(cluster.manager().to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(&body);
    cluster
        .call_typed::<Node, _>("patch", None, node, api.patch(node, &params, &patch))
        .await
        .map(drop)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_path("arguments.node"),
            _ => error,
        })
}

/// The methods of a cluster, with their schemas.
pub(super) fn methods() -> BTreeMap<String, agent_api_driver::Method> {
    let method = |summary: &str, arguments: schemars::Schema| agent_api_driver::Method {
        summary: summary.to_owned(),
        arguments: arguments.to_value(),
    };
    BTreeMap::from([
        (
            "cordon".to_owned(),
            method(
                "Keeps new pods away from a node.",
                schemars::schema_for!(NodeName),
            ),
        ),
        (
            "uncordon".to_owned(),
            method(
                "Lets new pods come to a node again.",
                schemars::schema_for!(NodeName),
            ),
        ),
        (
            "drain".to_owned(),
            method(
                "Cordons a node and evicts its pods, within what disruption budgets allow.",
                schemars::schema_for!(Drain),
            ),
        ),
    ])
}
