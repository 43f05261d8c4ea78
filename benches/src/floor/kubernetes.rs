//! The bare Kubernetes client: kube-rs doing by itself what the agent is asked to do, on the same server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A namespace of its own on the server of `$KUBECONFIG`.
pub struct Bare {
    /// The client.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

/// What a watch showed of one object, and when.
pub struct Seen {
    /// The object's name.
    pub name: String,
    /// Its resource version.
    pub version: String,
    /// When it was parsed.
    pub at: Instant,
}

impl Bare {
    /// Connects and makes the namespace.
    pub async fn connect() -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("no cluster: run `eval \"$(dev/lab/kubernetes up)\"` first")?;
        let namespace = format!("bench-{}", std::process::id());
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        Ok(Self { client, namespace })
    }

    /// Takes the namespace away.
    pub async fn close(self) -> Result<()> {
        Api::<Namespace>::all(self.client)
            .delete(&self.namespace, &DeleteParams::background())
            .await?;
        Ok(())
    }

    /// ConfigMaps of the namespace.
    pub fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Deployments of the namespace.
    pub fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a ConfigMap as the agent would: one server-side apply with two labels and three annotations.
    pub async fn apply(&self, name: &str) -> Result<()> {
        let mut object = config_map(name, "1");
        object["metadata"]["labels"] = json!({"bench/a": "1", "bench/b": "2"});
        object["metadata"]["annotations"] = json!({"bench/a": "1", "bench/b": "2", "bench/c": "3"});
        let params = PatchParams::apply("bench");
        self.maps().patch(name, &params, &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Changes a ConfigMap as somebody else; the new resource version.
    pub async fn change(&self, name: &str, value: &str) -> Result<String> {
        let patch = json!({"data": {"key": value}});
        let params = PatchParams {
            field_manager: Some("somebody-else".into()),
            ..PatchParams::default()
        };
        let map = self.maps().patch(name, &params, &Patch::Merge(patch)).await?;
        map.resource_version()
            .context("an answer without a resource version")
    }

    /// Watches the namespace's ConfigMaps: each change, with the moment it was parsed.
    pub fn watch_maps(&self) -> (mpsc::Receiver<Seen>, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(65_536);
        let maps = self.maps();
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher::watcher(maps, watcher::Config::default()));
            while let Some(Ok(event)) = events.next().await {
                let (Event::Apply(map) | Event::InitApply(map)) = event else {
                    continue;
                };
                let seen = Seen {
                    name: map.name_any(),
                    version: map.resource_version().unwrap_or_default(),
                    at: Instant::now(),
                };
                if sender.send(seen).await.is_err() {
                    return;
                }
            }
        });
        (receiver, task)
    }

    /// Creates a Deployment of one pod and waits by a watch until it is available.
    pub async fn deploy(&self, name: &str) -> Result<Duration> {
        let deployments = self.deployments();
        let start = Instant::now();
        let params = PatchParams::apply("bench");
        deployments
            .patch(name, &params, &Patch::Apply(deployment(name)))
            .await?;
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = std::pin::pin!(watcher::watcher(deployments, config));
        while let Some(event) = events.next().await {
            let (Event::Apply(object) | Event::InitApply(object)) = event? else {
                continue;
            };
            let available = object.status.and_then(|status| status.available_replicas);
            if available == Some(1) {
                return Ok(start.elapsed());
            }
        }
        anyhow::bail!("the watch of {name} ended")
    }
}

/// A small ConfigMap.
pub fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": BTreeMap::from([("key", value)]),
    })
}

/// A Deployment of one pod that sleeps.
fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "main", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                        "command": ["sleep", "100000"],
                    }],
                },
            },
        },
    })
}
