//! The driver's part of the agent's configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent_api_driver::model::{ByteQuantity, Diagnostic};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The cluster that objects are on where neither their spec nor the configuration names another.
pub(crate) const DEFAULT_CLUSTER: &str = "default";

/// Configuration of the Ray driver. Without any there is one cluster, `default`, found as Ray's own clients find it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RayConfig {
    /// The clusters by name. Specs choose by the field `cluster`; where there is one cluster only, it need not be named.
    pub clusters: BTreeMap<String, ClusterConfig>,
}

impl Default for RayConfig {
    fn default() -> Self {
        Self {
            clusters: BTreeMap::from([(DEFAULT_CLUSTER.to_owned(), ClusterConfig::default())]),
        }
    }
}

/// One Ray cluster and how it is talked to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The dashboard, for example `http://10.0.0.5:8265`; without it `RAY_API_SERVER_ADDRESS`, then `RAY_ADDRESS` where it is an
    /// `http` address, then `http://127.0.0.1:8265`.
    pub address: Option<String>,
    /// The token to authenticate with. Prefer `token_file`.
    pub token: Option<Secret>,
    /// A file with the token, read again when it changes. With neither, and a cluster that asks for a token, `RAY_AUTH_TOKEN`, then
    /// the file `RAY_AUTH_TOKEN_PATH`, then `~/.ray/auth_token`.
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities to trust for `https`, instead of the system's.
    pub ca: Option<PathBuf>,
    /// The agent's own certificate (PEM) for `https`, with `key`.
    pub cert: Option<PathBuf>,
    /// The key (PEM) of `cert`.
    pub key: Option<PathBuf>,
    /// How long a connection may take to be made.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// How long a call that reads may take.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub read_timeout: Duration,
    /// How long a list of everything may take, and one piece of a log.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub list_timeout: Duration,
    /// How long a call that changes something may take, unless its operation ends before. The first one after a start of the
    /// cluster takes seconds.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub write_timeout: Duration,
    /// When calls are no longer tried.
    pub breaker: BreakerConfig,
    /// Calls that read in flight at one time.
    pub max_reads: usize,
    /// Calls that change something in flight at one time: a busy head fails healthy jobs.
    pub max_writes: usize,
    /// Readers that follow a log at one time; the next one is told `busy`. Ray stands still with 100.
    pub followers: usize,
    /// How often the cluster is asked.
    pub poll: PollConfig,
    /// How long there may be no evidence of a running object before it counts as unknown.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub unknown_after: Duration,
    /// How long a job that ended stays on the head before its record is deleted there; the agent keeps what it says. `null`
    /// leaves them, and every list grows with each job ever submitted.
    #[serde(with = "crate::text_duration::optional")]
    #[schemars(with = "Option<String>")]
    pub keep_ended: Option<Duration>,
    /// Whether nodes are added when they are needed: then what no present node can give is a condition and not an error.
    pub autoscaling: bool,
    /// The largest package of a working directory. Ray's own limit is 100 MiB.
    pub max_package: ByteQuantity,
    /// Whether what Ray says of a job (that it runs, how it ended, its actors) is collected with its logs, as stream `system`.
    pub events_in_logs: bool,
    /// Where Ray posts its events to, where the cluster was started with event export. They are hints only: what they say is asked
    /// for.
    pub events: Option<ListenConfig>,
}

/// When calls to a cluster that does not answer are no longer tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// After so many calls in a row without an answer.
    pub failures: u32,
    /// For how long, before one is tried again.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub pause: Duration,
}

/// How often a cluster is asked for the state of objects.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PollConfig {
    /// Right after the agent changed something.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub fast: Duration,
    /// While something runs.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub busy: Duration,
    /// While nothing runs, and while the cluster tells by itself.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub idle: Duration,
    /// Everything, to be sure.
    #[serde(with = "crate::text_duration")]
    #[schemars(with = "String")]
    pub audit: Duration,
}

/// A listener for Ray's event export (`RAY_enable_ray_event=1`,
/// `RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR=http://HOST:PORT/TOKEN`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// A loopback or private address that all nodes of the cluster reach, for example `127.0.0.1:7701`.
    pub listen: SocketAddr,
    /// The path that Ray posts to, without the slash: at least 16 letters, digits, `-` or `_`. Whoever knows it can make the agent ask
    /// the cluster more often, and nothing else.
    pub token: Secret,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, JsonSchema)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent and never to be shown.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            address: None,
            token: None,
            token_file: None,
            ca: None,
            cert: None,
            key: None,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(5),
            list_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(20),
            breaker: BreakerConfig::default(),
            max_reads: 16,
            max_writes: 8,
            followers: 16,
            poll: PollConfig::default(),
            unknown_after: Duration::from_secs(10),
            keep_ended: Some(Duration::from_secs(600)),
            autoscaling: false,
            max_package: ByteQuantity::new(100 << 20),
            events_in_logs: true,
            events: None,
        }
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            pause: Duration::from_secs(5),
        }
    }
}

impl Default for PollConfig {
    fn default() -> Self {
        Self {
            fast: Duration::from_millis(500),
            busy: Duration::from_secs(2),
            idle: Duration::from_secs(30),
            audit: Duration::from_secs(300),
        }
    }
}

impl RayConfig {
    /// Reads a configuration, null standing for the defaults.
    pub(crate) fn parse(value: &Value) -> Result<Self, Diagnostic> {
        if value.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(value.clone()).map_err(|e| Diagnostic::error("", e.to_string()))
    }

    /// What is wrong with it.
    pub(crate) fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if self.clusters.is_empty() {
            found.push(Diagnostic::error("clusters", "must name at least one cluster"));
        }
        for (name, cluster) in &self.clusters {
            let path = format!("clusters.{name}");
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            {
                found.push(Diagnostic::error(
                    &path,
                    "names of clusters are of a-z, 0-9 and -",
                ));
            }
            cluster.check(&path, &mut found);
        }
        found
    }
}

impl ClusterConfig {
    fn check(&self, path: &str, found: &mut Vec<Diagnostic>) {
        let mut say = |field: &str, message: &str| {
            found.push(Diagnostic::error(format!("{path}.{field}"), message));
        };
        if let Some(address) = &self.address {
            match reqwest::Url::parse(address) {
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
                _ => say("address", "must be the http or https address of the dashboard"),
            }
        }
        if self.token.is_some() && self.token_file.is_some() {
            say("token_file", "is not used where `token` is set; give one of them");
        }
        if self.cert.is_some() != self.key.is_some() {
            say("cert", "`cert` and `key` go together");
        }
        for (field, value) in [
            ("connect_timeout", self.connect_timeout),
            ("read_timeout", self.read_timeout),
            ("list_timeout", self.list_timeout),
            ("write_timeout", self.write_timeout),
            ("unknown_after", self.unknown_after),
            ("poll.fast", self.poll.fast),
            ("poll.busy", self.poll.busy),
            ("poll.idle", self.poll.idle),
            ("poll.audit", self.poll.audit),
            ("breaker.pause", self.breaker.pause),
        ] {
            if value < Duration::from_millis(10) {
                say(field, "must be at least 10ms");
            }
        }
        if self.breaker.failures == 0 {
            say("breaker.failures", "must be at least 1");
        }
        for (field, value) in [
            ("max_reads", self.max_reads),
            ("max_writes", self.max_writes),
            ("followers", self.followers),
        ] {
            if !(1..=64).contains(&value) {
                say(field, "must be from 1 to 64: Ray stands still with 100");
            }
        }
        if let Some(events) = &self.events {
            let token = events.token.reveal();
            let plain = token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if token.len() < 16 || !plain {
                say("events.token", "must be at least 16 letters, digits, - or _");
            }
        }
    }

    /// The address of the dashboard, without a slash at its end.
    pub(crate) fn resolve_address(&self) -> String {
        let ambient = |name: &str| {
            std::env::var(name)
                .ok()
                .filter(|address| address.starts_with("http://") || address.starts_with("https://"))
        };
        let address = self
            .address
            .clone()
            .or_else(|| ambient("RAY_API_SERVER_ADDRESS"))
            .or_else(|| ambient("RAY_ADDRESS"))
            .unwrap_or_else(|| "http://127.0.0.1:8265".to_owned());
        address.trim_end_matches('/').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(value: Value) -> Vec<String> {
        RayConfig::parse(&value)
            .unwrap()
            .check()
            .into_iter()
            .map(|d| d.path)
            .collect()
    }

    #[test]
    fn without_a_configuration_there_is_one_cluster() {
        let config = RayConfig::parse(&Value::Null).unwrap();
        assert_eq!(config.clusters.keys().collect::<Vec<_>>(), [DEFAULT_CLUSTER]);
        assert_eq!(config.check(), []);
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(paths(json!({"clusters": {}})), ["clusters"]);
        assert_eq!(paths(json!({"clusters": {"A b": {}}})), ["clusters.A b"]);
        assert_eq!(
            paths(json!({"clusters": {"a": {"address": "10.0.0.5:8265", "cert": "/c", "followers": 100}}})),
            ["clusters.a.address", "clusters.a.cert", "clusters.a.followers"]
        );
        assert_eq!(
            paths(json!({"clusters": {"a": {"events": {"listen": "127.0.0.1:0", "token": "short"}}}})),
            ["clusters.a.events.token"]
        );
        assert!(RayConfig::parse(&json!({"clusters": {"a": {"adress": "x"}}})).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let value = json!({"clusters": {"a": {"token": "s3cr3t"}}});
        let config = RayConfig::parse(&value).unwrap();
        assert!(!format!("{config:?}").contains("s3cr3t"));
        assert!(!serde_json::to_string(&config).unwrap().contains("s3cr3t"));
        assert_eq!(config.clusters["a"].token.as_ref().unwrap().reveal(), "s3cr3t");
    }
}
