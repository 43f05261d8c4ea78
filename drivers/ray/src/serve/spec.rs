//! The spec of kind `ray/serve`, as a person writes it.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A Serve application of a Ray cluster. Its name there is the object's name.
///
/// `resources` of the object are those of one deployment, its `main` one: `replicas` is how many copies run, `cpu`, `memory` and `gpu`
/// are what Ray sets aside for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeSpec {
    /// The cluster, by its name in the driver's configuration; not needed where there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Where the application is in the code: `module.sub:name`, a bound deployment or a function that returns one.
    #[schemars(length(min = 3))]
    pub import_path: String,
    /// Below which path of the cluster's HTTP address it answers; `/` and the object's name by default. `null` for an application that
    /// is not reached over HTTP.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub route_prefix: Option<Option<String>>,
    /// Ray's runtime environment (`working_dir`, `py_modules`, `pip`, `env_vars` …). A `working_dir` that is a local directory or a `.zip`
    /// file is brought to the cluster; an address (`gcs://`, `https://`, `s3://` …) is passed on.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub runtime_env: Map<String, Value>,
    /// Arguments for a function at `import_path`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub args: Map<String, Value>,
    /// Settings of its deployments, over those in the code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<DeploymentSpec>,
    /// The deployment that `resources` and the verbs `scale` and `resize` are for, by its name; not needed where `deployments` has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<String>,
    /// Someone else may change the number of replicas while it runs; that is no drift then. Also allows to scale to 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external_scaler: bool,
    /// How Serve itself is started where it does not run yet on this cluster. It cannot be changed while Serve runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSpec>,
}

/// Settings of one deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentSpec {
    /// Its name in the code.
    #[schemars(length(min = 1))]
    pub name: String,
    /// How many copies run, always. `resources.replicas` of the object goes before it for the `main` deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub num_replicas: Option<u32>,
    /// Serve changes the number of copies with the load, instead of `num_replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// What Ray sets aside for each replica, and where it may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ray_actor_options: Option<ActorOptions>,
    /// Passed to the deployment's `reconfigure`, also when it changes, without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_config: Option<Map<String, Value>>,
    /// Requests that one replica works on at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_ongoing_requests: Option<u32>,
    /// How long a replica that is stopped may take for the requests it has.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub graceful_shutdown_timeout: Option<Duration>,
    /// How often a replica's health is checked.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub health_check_period: Option<Duration>,
    /// How long such a check may take.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub health_check_timeout: Option<Duration>,
    /// More of Serve's settings of a deployment by their names there (`max_queued_requests`, `placement_group_bundles` …), passed on as
    /// they are.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub options: Map<String, Value>,
}

/// How Serve changes the number of replicas with the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Autoscaling {
    /// Never fewer; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// Never more.
    #[schemars(range(min = 1))]
    pub max_replicas: u32,
    /// How many at the start; `min_replicas` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_replicas: Option<u32>,
    /// So many requests at one time are aimed at for each replica; 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ongoing_requests: Option<f64>,
    /// How long the load must be high before replicas are added; 30 s by default.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub upscale_delay: Option<Duration>,
    /// How long the load must be low before replicas are taken away; 10 minutes by default.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub downscale_delay: Option<Duration>,
}

/// What Ray sets aside for each replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActorOptions {
    /// Cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_cpus: Option<f64>,
    /// Accelerators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_gpus: Option<f64>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Resources of the cluster's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, f64>,
    /// The type of accelerator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator_type: Option<String>,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_selector: BTreeMap<String, String>,
    /// A runtime environment over that of the application. Addresses only.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub runtime_env: Map<String, Value>,
}

/// How Serve is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    /// The address to listen on; `127.0.0.1` by default, and not all addresses as Serve has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port; 8000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// On which nodes it listens; every node with a replica by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<ProxyLocation>,
}

/// On which nodes Serve listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyLocation {
    /// On every node that has a replica.
    EveryNode,
    /// On the head only.
    HeadOnly,
    /// Nowhere.
    Disabled,
}

impl ProxyLocation {
    /// Serve's word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::EveryNode => "EveryNode",
            Self::HeadOnly => "HeadOnly",
            Self::Disabled => "Disabled",
        }
    }
}

/// Tells a field that is `null` from one that is not there.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl ServeSpec {
    /// Reads the driver's part of a spec.
    pub(crate) fn parse(spec: &Value) -> Result<Self, Error> {
        let value = if spec.is_null() {
            Value::Object(Map::new())
        } else {
            spec.clone()
        };
        serde_json::from_value(value).map_err(|e| {
            let message = e.to_string();
            let field = message
                .split('`')
                .nth(1)
                .filter(|f| f.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            let path = field.map_or_else(|| "spec".to_owned(), |field| format!("spec.{field}"));
            Error::invalid(path, message).with_hint("see `agent schema ray/serve`")
        })
    }

    /// The deployment that `resources`, `scale` and `resize` are for.
    pub(crate) fn main(&self) -> Option<&str> {
        match (&self.main, self.deployments.as_slice()) {
            (Some(name), _) => Some(name),
            (None, [only]) => Some(&only.name),
            _ => None,
        }
    }

    /// The settings of a deployment, where there are any.
    pub(crate) fn deployment(&self, name: &str) -> Option<&DeploymentSpec> {
        self.deployments.iter().find(|deployment| deployment.name == name)
    }

    /// Below which path it answers.
    pub(crate) fn route_prefix(&self, name: &str) -> Option<String> {
        match &self.route_prefix {
            None => Some(format!("/{name}")),
            Some(given) => given.clone(),
        }
    }
}
