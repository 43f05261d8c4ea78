//! The driver's part of the agent's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use agent_api_driver::model::Diagnostic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the one cluster of a configuration that names none.
pub(crate) const DEFAULT_CLUSTER: &str = "default";

/// Configuration of the Kubernetes driver. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The clusters by name. None given: one named `default`, found as `kubectl` does (`KUBECONFIG`, `~/.kube/config`)
    /// or, inside a pod, by its service account.
    pub clusters: BTreeMap<String, ClusterConfig>,
    /// The cluster of specs that name none; needed where there are several.
    pub default_cluster: Option<String>,
    /// How many operations may be in flight on the driver; 512 by default.
    pub max_in_flight: usize,
    /// How many events wait for a slow reader before a gap is reported; 16,384 by default.
    pub event_capacity: usize,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            clusters: BTreeMap::new(),
            default_cluster: None,
            max_in_flight: 512,
            event_capacity: 16_384,
        }
    }
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The kubeconfig file; it is read again when it changes. Without it the usual places.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; its current one without.
    pub context: Option<String>,
    /// Use the service account of the pod that the agent runs in.
    pub in_cluster: bool,
    /// The namespace of specs that name none; the context's own, or `default`, without.
    pub namespace: Option<String>,
    /// Where the rights of the agent are in some namespaces only: these. Everything is then watched and listed in each
    /// of them that is in use; by default over all of the cluster at once.
    pub namespaces: Vec<String>,
    /// Make namespaces that specs name and that do not exist. A spec may say otherwise.
    pub create_namespaces: bool,
    /// At most so many requests a second, evenly spaced; no limit by default: the server has its own
    /// (priority and fairness), and its 429 with Retry-After is honoured.
    pub requests_per_second: Option<f64>,
    /// How many requests may wait for an answer at one time; 256 by default.
    pub max_requests: usize,
    /// How long one request may take to be answered; 30 s by default.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub request_timeout: Duration,
    /// How long a connection may take to be made; 5 s by default.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            in_cluster: false,
            namespace: None,
            namespaces: Vec::new(),
            create_namespaces: false,
            requests_per_second: None,
            max_requests: 256,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

impl KubernetesConfig {
    /// Reads a configuration, null standing for the defaults.
    pub(crate) fn parse(value: &Value) -> Result<Self, Diagnostic> {
        let value = match value {
            Value::Null => Value::Object(serde_json::Map::new()),
            other => other.clone(),
        };
        let mut config: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            Diagnostic::error(path, error.into_inner().to_string())
        })?;
        if config.clusters.is_empty() {
            config
                .clusters
                .insert(DEFAULT_CLUSTER.to_owned(), ClusterConfig::default());
        }
        Ok(config)
    }

    /// What is wrong with it.
    pub(crate) fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        match &self.default_cluster {
            Some(name) if !self.clusters.contains_key(name) => found.push(Diagnostic::error(
                "default_cluster",
                format!("{name:?} is not among `clusters`"),
            )),
            None if self.clusters.len() > 1 => found.push(Diagnostic::warning(
                "default_cluster",
                "there are several clusters and none is the default: every spec must name its cluster",
            )),
            _ => {}
        }
        if self.max_in_flight == 0 {
            found.push(Diagnostic::error("max_in_flight", "must be at least 1"));
        }
        if self.event_capacity == 0 {
            found.push(Diagnostic::error("event_capacity", "must be at least 1"));
        }
        for (name, cluster) in &self.clusters {
            found.extend(
                cluster
                    .check()
                    .into_iter()
                    .map(|(field, message)| Diagnostic::error(format!("clusters.{name}.{field}"), message)),
            );
        }
        found
    }

    /// The cluster of specs that name none.
    pub(crate) fn default_cluster(&self) -> Option<&str> {
        match (&self.default_cluster, self.clusters.len()) {
            (Some(name), _) => Some(name),
            (None, 1) => self.clusters.keys().next().map(String::as_str),
            (None, _) => None,
        }
    }
}

impl ClusterConfig {
    fn check(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        if self.in_cluster && (self.kubeconfig.is_some() || self.context.is_some()) {
            found.push(("in_cluster", "cannot stand beside `kubeconfig` or `context`"));
        }
        if self
            .requests_per_second
            .is_some_and(|rate| !(rate.is_finite() && rate > 0.0))
        {
            found.push(("requests_per_second", "must be more than 0"));
        }
        if self.max_requests == 0 {
            found.push(("max_requests", "must be at least 1"));
        }
        if self.request_timeout.is_zero() {
            found.push(("request_timeout", "must be more than 0s"));
        }
        if self.connect_timeout.is_zero() {
            found.push(("connect_timeout", "must be more than 0s"));
        }
        found
    }
}
