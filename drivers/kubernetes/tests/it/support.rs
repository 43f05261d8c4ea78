//! A driver on the lab's cluster, and eyes and hands in the cluster past it.

use std::path::{Path, PathBuf};

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{AgentId, Guid, Kind, ObjectName, ObjectSpec, OpId, Plan, Result};
use agent_api_driver::{
    Applied, ApplyRequest, Build, DeleteRequest, Deleted, DriverFactory, Handle, Mark, ObjectDriver,
    ObjectState, Observed, PlanRequest, ShutdownMode, Target,
};
use agent_driver_kubernetes::KubernetesDriverFactory;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::lab::lab;

/// How long a condition may take to come true on a busy machine, where above all the garbage collector takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A driver with an agent, a state directory and a namespace of its own.
pub(crate) struct World {
    pub(crate) driver: Arc<dyn ObjectDriver>,
    pub(crate) agent: AgentId,
    pub(crate) namespace: String,
    pub(crate) client: kube::Client,
    pub(crate) dir: TempDir,
    config: Value,
}

/// An object that was applied.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) guid: Guid,
    pub(crate) op_id: OpId,
    pub(crate) generation: u64,
    pub(crate) spec: ObjectSpec,
    pub(crate) handle: Handle,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(json!({})).await
    }

    /// With more in the cluster's configuration.
    pub(crate) async fn with(more: Value) -> Self {
        let kubeconfig = tokio::task::spawn_blocking(lab).await.unwrap();
        Self::on(kubeconfig, more).await
    }

    /// On another cluster than the lab's.
    pub(crate) async fn on(kubeconfig: &Path, more: Value) -> Self {
        let id = Guid::generate().to_string();
        let id = &id[id.len() - 12..];
        let namespace = format!("it-{id}");
        // The driver may have other rights than the tests: see `rbac`.
        let rights = std::env::var_os("AGENT_IT_DRIVER_KUBECONFIG").map(PathBuf::from);
        let rights = rights.as_deref().unwrap_or(kubeconfig);
        let mut cluster = json!({"kubeconfig": rights, "namespace": namespace});
        for (key, value) in more.as_object().unwrap() {
            cluster[key] = value.clone();
        }
        let config = json!({"clusters": {"lab": cluster}});
        let text = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
        let loaded = kube::Config::from_custom_kubeconfig(text, &Default::default())
            .await
            .unwrap();
        let client = kube::Client::try_from(loaded).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let agent = AgentId::new(format!("it-{id}")).unwrap();
        let driver = build(&agent, &dir, &config).await;
        let world = Self {
            driver,
            agent,
            namespace,
            client,
            dir,
            config,
        };
        let name = world.namespace.clone();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        world.create("v1", "Namespace", namespace).await;
        world
    }

    /// The same agent's driver after a restart.
    pub(crate) async fn restart(&mut self) {
        self.driver
            .shutdown(ShutdownMode::LeaveRunning, Duration::from_secs(10))
            .await
            .unwrap();
        self.driver = build(&self.agent, &self.dir, &self.config).await;
    }

    /// Ends the driver and removes the namespace. A test that fails leaves it to be looked at.
    pub(crate) async fn end(self) {
        let marks = self.driver.discover().await.unwrap();
        for (mark, handle) in marks {
            self.delete(mark.guid, Some(&handle)).await.unwrap();
        }
        let left = self.driver.discover().await.unwrap();
        assert!(left.is_empty(), "left: {left:?}");
        self.driver
            .shutdown(ShutdownMode::LeaveRunning, Duration::from_secs(10))
            .await
            .unwrap();
        let api = self.api("v1", "Namespace");
        api.delete(&self.namespace, &DeleteParams::background())
            .await
            .unwrap();
    }

    /// The cluster past the driver: in the world's namespace, or over all for what has none.
    pub(crate) fn api(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let everywhere = ["Namespace", "CustomResourceDefinition", "Node", "ClusterRole"];
        match everywhere.contains(&kind) {
            true => Api::all_with(self.client.clone(), &resource),
            false => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
        }
    }

    pub(crate) async fn create(&self, api_version: &str, kind: &str, object: Value) -> DynamicObject {
        let object = serde_json::from_value(object).unwrap();
        let params = PostParams {
            field_manager: Some("someone".to_owned()),
            ..PostParams::default()
        };
        self.api(api_version, kind)
            .create(&params, &object)
            .await
            .unwrap()
    }

    /// What is there.
    pub(crate) async fn live(&self, api_version: &str, kind: &str, name: &str) -> Option<DynamicObject> {
        self.api(api_version, kind).get_opt(name).await.unwrap()
    }

    /// Changes something as another person would.
    pub(crate) async fn patch(&self, api_version: &str, kind: &str, name: &str, patch: Value) {
        let params = PatchParams {
            field_manager: Some("someone".to_owned()),
            ..PatchParams::default()
        };
        self.api(api_version, kind)
            .patch(name, &params, &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    pub(crate) fn spec(&self, kind: &str, name: &str, spec: Value) -> ObjectSpec {
        ObjectSpec {
            spec,
            ..ObjectSpec::new(
                Kind::new(format!("kubernetes/{kind}")).unwrap(),
                ObjectName::new(name).unwrap(),
            )
        }
    }

    /// A pod, deployment or job that sleeps and ends when it is asked to.
    pub(crate) fn sleeper(&self, kind: &str, name: &str) -> ObjectSpec {
        self.spec(kind, name, shell("trap 'exit 0' TERM; sleep 100000 & wait"))
    }

    pub(crate) async fn try_create(&self, spec: &ObjectSpec) -> Result<Object> {
        let (guid, op_id) = (Guid::generate(), OpId::generate());
        self.apply(guid, op_id, 1, spec, None)
            .await
            .map(|applied| Object {
                guid,
                op_id,
                generation: 1,
                spec: spec.clone(),
                handle: applied.handle,
            })
    }

    pub(crate) async fn make(&self, spec: &ObjectSpec) -> Object {
        self.try_create(spec).await.unwrap()
    }

    pub(crate) async fn apply(
        &self,
        guid: Guid,
        op_id: OpId,
        generation: u64,
        spec: &ObjectSpec,
        handle: Option<&Handle>,
    ) -> Result<Applied> {
        self.driver
            .apply(ApplyRequest {
                guid,
                generation,
                op_id,
                maybe_applied: false,
                spec,
                handle,
                deadline: PATIENCE,
            })
            .await
    }

    /// Brings an object to a new spec.
    pub(crate) async fn try_update(&self, object: &Object, spec: &ObjectSpec) -> Result<Object> {
        let (op_id, generation) = (OpId::generate(), object.generation + 1);
        let applied = self
            .apply(object.guid, op_id, generation, spec, Some(&object.handle))
            .await?;
        Ok(Object {
            op_id,
            generation,
            spec: spec.clone(),
            handle: applied.handle,
            ..object.clone()
        })
    }

    pub(crate) async fn update(&self, object: &Object, spec: &ObjectSpec) -> Object {
        self.try_update(object, spec).await.unwrap()
    }

    pub(crate) async fn plan(&self, object: &Object, next: &ObjectSpec) -> Result<Plan> {
        self.driver
            .plan(PlanRequest {
                guid: object.guid,
                previous: Some(&object.spec),
                next,
                handle: Some(&object.handle),
            })
            .await
    }

    pub(crate) async fn delete(&self, guid: Guid, handle: Option<&Handle>) -> Result<Deleted> {
        self.delete_with(guid, handle, false, PATIENCE).await
    }

    pub(crate) async fn delete_with(
        &self,
        guid: Guid,
        handle: Option<&Handle>,
        orphan: bool,
        deadline: Duration,
    ) -> Result<Deleted> {
        self.driver
            .delete(DeleteRequest {
                guid,
                op_id: OpId::generate(),
                handle,
                grace: Some(Duration::from_secs(2)),
                orphan,
                deadline,
            })
            .await
    }

    pub(crate) async fn observe(&self, object: &Object) -> Observed {
        let mut out = Vec::new();
        let target = Target {
            guid: object.guid,
            handle: &object.handle,
        };
        self.driver.observe(&[target], &mut out).await.unwrap();
        assert_eq!(out.len(), 1);
        out.remove(0)
    }

    pub(crate) async fn until(&self, object: &Object, state: ObjectState) -> Observed {
        let by = Instant::now() + PATIENCE;
        loop {
            let observed = self.observe(object).await;
            if observed.status.state == state {
                return observed;
            }
            assert!(Instant::now() < by, "not {state:?}: {observed:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn found(&self, guid: Guid) -> Vec<(Mark, Handle)> {
        let found = self.driver.discover().await.unwrap();
        found.into_iter().filter(|(mark, _)| mark.guid == guid).collect()
    }
}

async fn build(agent: &AgentId, dir: &TempDir, config: &Value) -> Arc<dyn ObjectDriver> {
    KubernetesDriverFactory
        .build(Build {
            agent: agent.clone(),
            state_dir: dir.path().join("state"),
            config: config.clone(),
        })
        .await
        .unwrap()
}

/// A spec of the short kinds that runs a script.
pub(crate) fn shell(script: &str) -> Value {
    json!({
        "image": "localhost/busybox:1",
        "pull_policy": "never",
        "command": ["sh", "-c", script],
    })
}

/// Where an object is: the uid of its first part.
pub(crate) fn uid(handle: &Handle) -> String {
    handle.data["objects"][0]["uid"].as_str().unwrap().to_owned()
}
