//! The pods of the short kinds: one container, described by what people mostly want to say of it.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{Diagnostic, ObjectSpec, Resources};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What runs in a pod. For all else there is `kubernetes/manifest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerSpec {
    /// The image, for example `docker.io/library/nginx:1.29`.
    pub image: String,
    /// When the image is pulled; the cluster decides by its tag without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Secrets of the namespace with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
    /// The program and its arguments, no shell; what the image says without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments to the program of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment. Not for secrets: they are shown by `describe`; see `secret_env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment from secrets of the namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_env: BTreeMap<String, SecretKey>,
    /// Its working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Ports that it serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Labels that the node must bear.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// The account that it runs under; the namespace's default one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// The user id that it runs under; the image's own without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<i64>,
    /// How long it may take to end when it is asked to; 30 s without.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub stop_grace: Option<Duration>,
    /// The resource that `resources.gpu` counts; `nvidia.com/gpu` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_resource: Option<String>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

/// One value of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretKey {
    /// The secret's name.
    pub secret: String,
    /// The key in it.
    pub key: String,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Its name, for Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// The name of the one container.
pub(crate) const CONTAINER: &str = "main";
/// The resource of accelerators where a spec names none.
const GPU: &str = "nvidia.com/gpu";

impl ContainerSpec {
    /// What is wrong with it that its schema lets pass.
    pub(crate) fn check(&self, object: &ObjectSpec) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if self.image.trim().is_empty() {
            found.push(Diagnostic::error("spec.image", "must not be empty"));
        }
        for name in self.env.keys().chain(self.secret_env.keys()) {
            if name.is_empty() || name.contains('=') || name.starts_with(|c: char| c.is_ascii_digit()) {
                found.push(Diagnostic::error(
                    format!("spec.env[{name:?}]"),
                    "is not a name of an environment variable",
                ));
            }
        }
        for name in self.secret_env.keys().filter(|name| self.env.contains_key(*name)) {
            found.push(Diagnostic::error(
                format!("spec.secret_env.{name}"),
                "stands in `env` too",
            ));
        }
        for (i, port) in self.ports.iter().enumerate() {
            if port.port == 0 {
                found.push(Diagnostic::error(
                    format!("spec.ports[{i}].port"),
                    "must be from 1 to 65535",
                ));
            }
            let name = port.name.as_deref().unwrap_or("a");
            if !is_port_name(name) {
                found.push(Diagnostic::error(
                    format!("spec.ports[{i}].name"),
                    "is up to 15 lower-case letters, digits and -, a letter among them",
                ));
            }
        }
        if self.user.is_some_and(|user| user < 0) {
            found.push(Diagnostic::error("spec.user", "must be 0 or more"));
        }
        let resources = &object.resources;
        for (field, set) in [("pids", resources.pids.is_some()), ("io", resources.io.is_some())] {
            if set {
                found.push(Diagnostic::error(
                    format!("resources.{field}"),
                    "Kubernetes has no such limit for a pod",
                ));
            }
        }
        if resources.gpu.is_some_and(|gpu| gpu.fract() != 0.0) {
            found.push(Diagnostic::error(
                "resources.gpu",
                "Kubernetes gives whole accelerators only",
            ));
        }
        if resources.priority.is_some() {
            found.push(Diagnostic::warning(
                "resources.priority",
                "priorities of pods are classes of the cluster; it is noted only",
            ));
        }
        found
    }

    /// The spec of a pod that runs it.
    pub(crate) fn pod(&self, resources: &Resources) -> Value {
        let mut container = Map::new();
        container.insert("name".into(), json!(CONTAINER));
        container.insert("image".into(), json!(self.image));
        let mut set = |field: &str, value: Value| {
            let empty = match &value {
                Value::Null => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !empty {
                container.insert(field.into(), value);
            }
        };
        let policy = self.pull_policy.map(|policy| match policy {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        });
        set("imagePullPolicy", json!(policy));
        set("command", json!(self.command));
        set("args", json!(self.args));
        let plain = self
            .env
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}));
        let secret = self.secret_env.iter().map(|(name, from)| {
            json!({"name": name, "valueFrom": {"secretKeyRef": {"name": from.secret, "key": from.key}}})
        });
        set("env", plain.chain(secret).collect());
        set("workingDir", json!(self.workdir));
        set("ports", self.ports.iter().map(Port::manifest).collect());
        let limits = limits(resources, self.gpu_resource.as_deref().unwrap_or(GPU));
        if !limits.is_empty() {
            // What is limited is also kept free for it: a pod that may use a core can have it.
            set("resources", json!({"limits": limits, "requests": limits}));
        }
        let mut pod = Map::new();
        pod.insert("containers".into(), json!([container]));
        let mut set = |field: &str, value: Value, wanted: bool| {
            if wanted {
                pod.insert(field.into(), value);
            }
        };
        let secrets: Vec<_> = self
            .pull_secrets
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        set("imagePullSecrets", json!(secrets), !secrets.is_empty());
        set(
            "nodeSelector",
            json!(self.node_selector),
            !self.node_selector.is_empty(),
        );
        set(
            "serviceAccountName",
            json!(self.service_account),
            self.service_account.is_some(),
        );
        set(
            "securityContext",
            json!({"runAsUser": self.user}),
            self.user.is_some(),
        );
        // Whole seconds, rounded up: a grace of half a second is not none.
        let grace = self
            .stop_grace
            .map(|grace| grace.as_millis().div_ceil(1000) as u64);
        set("terminationGracePeriodSeconds", json!(grace), grace.is_some());
        Value::Object(pod)
    }
}

impl Port {
    fn manifest(&self) -> Value {
        let mut port = json!({
            "containerPort": self.port,
            "protocol": self.protocol.unwrap_or(Protocol::Tcp),
        });
        if let Some(name) = &self.name {
            port["name"] = json!(name);
        }
        port
    }
}

/// The limits of a container, by their names in the cluster.
pub(crate) fn limits(resources: &Resources, gpu: &str) -> Map<String, Value> {
    let mut limits = Map::new();
    if let Some(cpu) = resources.cpu {
        limits.insert("cpu".into(), json!(cpu.to_string()));
    }
    if let Some(memory) = resources.memory {
        limits.insert("memory".into(), json!(memory.to_string()));
    }
    if let Some(count) = resources.gpu {
        limits.insert(gpu.into(), json!(format!("{count:.0}")));
    }
    limits
}

fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
}
