//! `kubernetes/job`: a container that runs to its end.

use std::time::Duration;

use agent_api_driver::model::ObjectSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ContainerSpec, Place, RenderContext};
use crate::mark;

/// A Job. The number of pods at one time is `resources.replicas`, 1 without.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Where it goes.
    #[serde(flatten)]
    pub place: Place,
    /// What runs.
    #[serde(flatten)]
    pub container: ContainerSpec,
    /// How many pods must succeed; 1 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completions: Option<u32>,
    /// How many pods may fail before the job has failed; none by default, so that the agent's restart policy decides.
    #[serde(default)]
    pub retries: u32,
    /// How long it may take in all.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub time_limit: Option<Duration>,
}

pub(super) fn render(object: &ObjectSpec, spec: &JobSpec, context: &RenderContext<'_>) -> Value {
    let mut pod = spec.container.pod(&object.resources);
    pod["restartPolicy"] = json!("Never");
    let mut wanted = json!({
        "parallelism": object.resources.replicas.unwrap_or(1),
        "backoffLimit": spec.retries,
        "template": {
            "metadata": {"labels": mark::labels(context.agent, context.guid)},
            "spec": pod,
        },
    });
    if let Some(completions) = spec.completions {
        wanted["completions"] = json!(completions);
    }
    if let Some(limit) = spec.time_limit {
        wanted["activeDeadlineSeconds"] = json!(limit.as_secs().max(1));
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": object.name.as_str(), "namespace": context.namespace},
        "spec": wanted,
    })
}
