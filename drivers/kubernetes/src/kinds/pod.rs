//! `kubernetes/pod`: one pod with one container.

use agent_api_driver::model::ObjectSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ContainerSpec, Place, RenderContext};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    /// Where it goes.
    #[serde(flatten)]
    pub place: Place,
    /// What runs.
    #[serde(flatten)]
    pub container: ContainerSpec,
    /// Whether the node starts the container again by itself; never by default, so that the agent's restart policy
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<NodeRestart>,
}

/// When the node starts a container again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeRestart {
    /// Whenever it ended.
    Always,
    /// When it failed.
    OnFailure,
    /// Not at all.
    Never,
}

pub(super) fn render(object: &ObjectSpec, spec: &PodSpec, context: &RenderContext<'_>) -> Value {
    let mut pod = spec.container.pod(&object.resources);
    pod["restartPolicy"] = json!(match spec.restart {
        Some(NodeRestart::Always) => "Always",
        Some(NodeRestart::OnFailure) => "OnFailure",
        Some(NodeRestart::Never) | None => "Never",
    });
    let mut rendered = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": object.name.as_str(), "namespace": context.namespace},
        "spec": pod,
    });
    if let Some(incarnation) = context.incarnation {
        rendered["metadata"]["annotations"] = json!({crate::mark::INCARNATION: incarnation.to_string()});
    }
    rendered
}
