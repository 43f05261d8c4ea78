//! Ray's Serve API.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::Result;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::client::Client;

const PATH: &str = "/api/serve/applications/";

/// All of Serve on one cluster. What the driver does not use is left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct ServeInstance {
    /// Who controls it; empty where Serve does not run.
    #[serde(default)]
    pub controller_info: Map<String, Value>,
    #[serde(default)]
    pub proxy_location: Option<String>,
    #[serde(default)]
    pub http_options: Option<HttpOptions>,
    #[serde(default)]
    pub proxies: BTreeMap<String, Proxy>,
    #[serde(default)]
    pub applications: BTreeMap<String, Application>,
    #[serde(default)]
    pub target_capacity: Option<f64>,
}

/// Where Serve listens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct HttpOptions {
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
}

/// One listener of Serve.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Proxy {
    #[serde(default)]
    pub node_ip: String,
    #[serde(default)]
    pub status: String,
}

/// The state of an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ApplicationStatus {
    NotStarted,
    Deploying,
    Running,
    Unhealthy,
    DeployFailed,
    Deleting,
    /// A word that this driver does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// Who wrote an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A PUT, which the next PUT replaces.
    Declarative,
    /// Python code: a PUT that does not name it leaves it.
    Imperative,
    /// The cluster does not say.
    #[default]
    #[serde(other)]
    Unknown,
}

/// One application.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Application {
    #[serde(default)]
    pub status: ApplicationStatus,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub route_prefix: Option<String>,
    #[serde(default)]
    pub last_deployed_time_s: f64,
    /// What was PUT; none for applications from Python and for those that are being deleted.
    #[serde(default)]
    pub deployed_app_config: Option<Map<String, Value>>,
    #[serde(default)]
    pub source: Source,
    #[serde(default)]
    pub deployments: BTreeMap<String, Deployment>,
}

/// One deployment of an application.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Deployment {
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub target_num_replicas: Option<u32>,
    #[serde(default)]
    pub replicas: Vec<Replica>,
}

/// One copy of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Replica {
    #[serde(default)]
    pub replica_id: String,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub node_id: Option<String>,
    #[serde(default)]
    pub pid: Option<i64>,
    #[serde(default)]
    pub log_file_path: Option<String>,
}

impl Replica {
    pub(crate) fn is_running(&self) -> bool {
        self.state == "RUNNING"
    }
}

impl Deployment {
    /// How many copies work.
    pub(crate) fn running(&self) -> usize {
        self.replicas
            .iter()
            .filter(|replica| replica.is_running())
            .count()
    }
}

impl ServeInstance {
    /// Whether Serve runs on the cluster at all.
    pub(crate) fn is_up(&self) -> bool {
        !self.controller_info.is_empty()
    }
}

/// All applications that are wished for: what is not named is deleted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ServeConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_location: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_options: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_capacity: Option<f64>,
    pub applications: Vec<Map<String, Value>>,
}

impl Client {
    /// All of Serve in one answer.
    pub(crate) async fn serve(&self, left: Duration) -> Result<ServeInstance> {
        self.list("serve.get", PATH).within(left).json_answer().await
    }

    /// Replaces all applications that came by such a call.
    pub(crate) async fn put_serve(&self, config: &ServeConfig, left: Duration) -> Result<()> {
        self.write("serve.put", Method::PUT, PATH)
            .json(config)
            .within(left)
            .body()
            .await
            .map(drop)
    }

    /// Sets the number of replicas of a deployment of an application with an external scaler.
    pub(crate) async fn scale_serve(
        &self,
        application: &str,
        deployment: &str,
        replicas: u32,
        left: Duration,
    ) -> Result<()> {
        self.write(
            "serve.scale",
            Method::POST,
            format!("/api/v1/applications/{application}/deployments/{deployment}/scale"),
        )
        .json(&json!({"target_num_replicas": replicas}))
        .within(left)
        .body()
        .await
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_as_the_head_writes_it() {
        let none: ServeInstance = serde_json::from_str(
            r#"{"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": null}"#,
        )
        .unwrap();
        assert!(!none.is_up() && none.applications.is_empty());
        let some: ServeInstance = serde_json::from_value(json!({
            "controller_info": {"node_id": "4996"}, "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": 8000, "root_path": ""},
            "proxies": {"4996": {"node_ip": "127.0.0.1", "status": "HEALTHY"}},
            "applications": {
                "imp": {"status": "RUNNING", "source": "imperative", "deployed_app_config": null, "deployments": {}},
                "new": {"status": "HIBERNATING", "source": "telepathic"},
                "tiny": {
                    "status": "DEPLOY_FAILED", "message": "no", "source": "declarative", "route_prefix": "/tiny", "last_deployed_time_s": 1795383380.99,
                    "deployed_app_config": {"name": "tiny"},
                    "deployments": {"Tiny": {"status": "HEALTHY", "target_num_replicas": 2, "replicas": [
                        {"replica_id": "8eub6dlq", "state": "RUNNING", "node_id": "4996", "pid": 15721, "log_file_path": "/serve/replica_tiny_Tiny_8eub6dlq.log"},
                        {"replica_id": "vnlowj1g", "state": "STARTING", "node_id": null, "pid": null, "log_file_path": null}
                    ]}}
                }
            }
        }))
        .unwrap();
        assert!(some.is_up());
        let tiny = &some.applications["tiny"];
        assert_eq!(
            (tiny.status, tiny.source),
            (ApplicationStatus::DeployFailed, Source::Declarative)
        );
        assert_eq!(tiny.deployments["Tiny"].running(), 1);
        assert_eq!(some.applications["new"].status, ApplicationStatus::Other);
        assert_eq!(some.applications["new"].source, Source::Unknown);
        assert_eq!(some.applications["imp"].source, Source::Imperative);
    }

    #[test]
    fn only_what_is_set_is_sent() {
        let config = ServeConfig::default();
        assert_eq!(serde_json::to_value(config).unwrap(), json!({"applications": []}));
    }
}
