//! `kubernetes/deployment`: copies of one container, replaced step by step when their spec changes.

use std::time::Duration;

use agent_api_driver::model::{ObjectSpec, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ContainerSpec, Place, RenderContext};
use crate::mark;

/// A Deployment. The number of copies is `resources.replicas`, 1 without.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentSpec {
    /// Where it goes.
    #[serde(flatten)]
    pub place: Place,
    /// What runs.
    #[serde(flatten)]
    pub container: ContainerSpec,
    /// How pods are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// How long a rollout may make no progress before it counts as failed; 10 min without.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub progress_deadline: Option<Duration>,
    /// How many old revisions are kept for rollbacks; 10 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u32>,
}

/// How pods of a new revision replace those of the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Step by step, new ones first.
    Rolling,
    /// All old ones end before the first new one starts.
    Recreate,
}

pub(super) fn render(
    object: &ObjectSpec,
    spec: &DeploymentSpec,
    context: &RenderContext<'_>,
) -> Result<Value> {
    let labels = mark::labels(context.agent, context.guid);
    let mut annotations = serde_json::Map::new();
    if let Some(incarnation) = context.incarnation {
        annotations.insert(mark::INCARNATION.to_owned(), json!(incarnation.to_string()));
    }
    let mut template = json!({
        "metadata": {"labels": labels},
        "spec": spec.container.pod(&object.resources),
    });
    if !annotations.is_empty() {
        template["metadata"]["annotations"] = Value::Object(annotations);
    }
    let mut wanted = json!({
        "replicas": object.resources.replicas.unwrap_or(1),
        "selector": {"matchLabels": {mark::GUID: context.guid.to_string()}},
        "template": template,
    });
    if let Some(strategy) = spec.strategy {
        wanted["strategy"] = match strategy {
            Strategy::Rolling => json!({"type": "RollingUpdate"}),
            // The server gives a rolling strategy its numbers, which must go with it.
            Strategy::Recreate => json!({"type": "Recreate", "rollingUpdate": null}),
        };
    }
    if let Some(deadline) = spec.progress_deadline {
        wanted["progressDeadlineSeconds"] = json!(deadline.as_secs().max(1));
    }
    if let Some(history) = spec.history {
        wanted["revisionHistoryLimit"] = json!(history);
    }
    // For rollbacks: the controller copies it to the ReplicaSet of the revision.
    let text = serde_json::to_string(object).map_err(super::unreadable)?;
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": object.name.as_str(),
            "namespace": context.namespace,
            "annotations": {mark::SPEC: text},
        },
        "spec": wanted,
    }))
}
