//! The rights of `deploy/kubernetes`: applied to the lab's cluster, and the driver run with a token of their account.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use agent_api_driver::model::{ControlAction, ErrorKind, OpId, Signal, TelemetryBatch};
use agent_api_driver::{
    CollectRequest, CollectTarget, ControlRequest, ExecOutput, ExecRequest, LogReadRequest, ObjectState,
    Target,
};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::lab;
use crate::support::{Object, PATIENCE, World, shell};

/// The documents of a file of `deploy/kubernetes`, with names of this test's own.
fn documents(file: &str, names: &[(&str, &str)]) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy/kubernetes")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    for document in &mut documents {
        rename(document, names);
    }
    documents
}

/// Names and namespaces, wherever they stand.
fn rename(value: &mut Value, names: &[(&str, &str)]) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if key == "name" || key == "namespace" => {
                        if let Some((_, new)) = names.iter().find(|(old, _)| *old == text) {
                            *value = json!(new);
                        }
                    }
                    _ => rename(value, names),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

fn api(client: &kube::Client, document: &Value) -> Api<DynamicObject> {
    let text = |field: &str| document[field].as_str().unwrap();
    let (group, version) = text("apiVersion")
        .rsplit_once('/')
        .unwrap_or(("", text("apiVersion")));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")));
    match document["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// The account of the files with some of them applied, and a kubeconfig with its token.
struct Account {
    client: kube::Client,
    made: Vec<Value>,
    kubeconfig: PathBuf,
    _dir: TempDir,
}

impl Account {
    async fn new(client: &kube::Client, id: &str, workloads: &str, files: &[&str]) -> Self {
        let [rights, metrics, drain] =
            ["agent-workloads", "agent-metrics", "agent-drain"].map(|name| format!("{name}-{id}"));
        let namespace = format!("rbac-{id}");
        let names = [
            ("workloads", workloads),
            ("agent-workloads", &*rights),
            ("agent-metrics", &*metrics),
            ("agent-drain", &*drain),
            // The account and the namespace have one name in the files.
            ("agent", &*namespace),
        ];
        let mut made = Vec::new();
        for file in ["namespace.yaml"].iter().chain(files) {
            for document in documents(file, &names) {
                let name = document["metadata"]["name"].as_str().unwrap();
                let params = PatchParams::apply("rbac-test").force();
                api(client, &document)
                    .patch(name, &params, &Patch::Apply(&document))
                    .await
                    .unwrap();
                made.push(document);
            }
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let token = accounts
            .create_token_request(&namespace, &PostParams::default(), &request)
            .await
            .unwrap();
        let token = token.status.unwrap().token;
        let admin = kube::config::Kubeconfig::read_from(lab()).unwrap();
        let cluster = admin.clusters[0].cluster.as_ref().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": cluster.server, "certificate-authority-data": cluster.certificate_authority_data,
            }}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Self {
            client: client.clone(),
            made,
            kubeconfig,
            _dir: dir,
        }
    }

    async fn end(self) {
        for document in self.made.iter().rev() {
            let name = document["metadata"]["name"].as_str().unwrap();
            let _ = api(&self.client, document)
                .delete(name, &DeleteParams::background())
                .await;
        }
    }
}

#[tokio::test]
async fn the_drivers_own_tests_pass_under_the_cluster_wide_rights() {
    let world = World::new().await;
    let files = ["role-cluster.yaml", "metrics-by-node.yaml", "drain.yaml"];
    let account = Account::new(&world.client, &world.namespace, "unused", &files).await;
    let kubeconfig = account.kubeconfig.clone();
    // Each test in it has its own deadlines.
    let suite = tokio::task::spawn_blocking(move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--test-threads",
                "2",
                "lifecycle::",
                "control::",
                "exec::",
                "logs::",
                "metrics::",
            ])
            .env("AGENT_IT_DRIVER_KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .output()
    });
    let output = suite.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "under the cluster-wide rights:\n{said}");
    assert!(said.contains("test result: ok"), "{said}");
    account.end().await;
    world.end().await;
}

async fn control(world: &World, object: &mut Object, action: ControlAction) {
    if let ControlAction::Scale { replicas } = action {
        object.spec.resources.replicas = Some(replicas);
    }
    let request = ControlRequest {
        guid: object.guid,
        generation: object.generation,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &object.spec,
        handle: &object.handle,
        action: &action,
        deadline: PATIENCE,
    };
    let applied = world.driver.control().unwrap().control(request).await.unwrap();
    object.handle = applied.handle;
    object.spec = applied.spec.unwrap_or(object.spec.clone());
}

#[tokio::test]
async fn in_one_namespace_all_verbs_work_and_nothing_beyond() {
    let eyes = World::new().await;
    let id = eyes.namespace.clone();
    // The world of the narrow rights makes its namespace by the files, with the tests' own rights.
    let workloads = format!("workloads-{id}");
    let files = ["role-namespace.yaml", "metrics-by-node.yaml"];
    let account = Account::new(&eyes.client, &id, &workloads, &files).await;
    let world = World::with(json!({
        "kubeconfig": account.kubeconfig, "namespace": workloads, "namespaces": [workloads],
    }))
    .await;

    let mut web = world.make(&world.sleeper("deployment", "web")).await;
    world.until(&web, ObjectState::Running).await;
    control(&world, &mut web, ControlAction::Scale { replicas: 2 }).await;
    control(&world, &mut web, ControlAction::Pause {}).await;
    control(&world, &mut web, ControlAction::Resume {}).await;
    control(&world, &mut web, ControlAction::Restart { grace: None }).await;
    world.until(&web, ObjectState::Running).await;
    let rollback = ControlAction::Call {
        method: "rollback".into(),
        arguments: Value::Null,
    };
    control(&world, &mut web, rollback).await;
    world.until(&web, ObjectState::Running).await;
    control(
        &world,
        &mut web,
        ControlAction::Signal {
            signal: "CONT".into(),
        },
    )
    .await;

    let target = Target {
        guid: web.guid,
        handle: &web.handle,
    };
    let command = ExecRequest {
        command: vec!["echo".into(), "hello".into()],
        env: Default::default(),
        timeout: PATIENCE,
        terminal: None,
    };
    let exec = world
        .driver
        .exec()
        .unwrap()
        .exec(target, command, Box::pin(stream::empty()))
        .await
        .unwrap();
    let output: Vec<ExecOutput> = exec.map(Result::unwrap).collect().await;
    assert_eq!(output[0], ExecOutput::Stdout("hello\n".into()));

    let job = world.make(&world.spec("job", "work", shell("echo done"))).await;
    world.until(&job, ObjectState::Exited).await;
    let target = Target {
        guid: job.guid,
        handle: &job.handle,
    };
    let logs = world
        .driver
        .logs()
        .unwrap()
        .read(target, LogReadRequest::default())
        .await
        .unwrap();
    let lines: Vec<_> = logs.map(|chunk| chunk.unwrap().lines).collect().await;
    assert!(lines.concat().contains(&"done".into()), "{lines:?}");

    let mut batch = TelemetryBatch::default();
    let target = CollectTarget {
        guid: web.guid,
        handle: &web.handle,
        log_cursor: None,
        from_start: true,
    };
    let request = CollectRequest {
        targets: &[target],
        signals: &[Signal::Metrics, Signal::Logs],
        max_log_bytes: 1 << 20,
        deadline: PATIENCE,
    };
    world
        .driver
        .collect(request, &mut batch, &mut Vec::new())
        .await
        .unwrap();
    assert!(batch.losses.is_empty(), "{:?}", batch.losses);
    assert!(!batch.metrics.is_empty());

    let objects = json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "m"}, "stringData": {"a": "b"}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "m"}},
    ]);
    let manifest = world
        .make(&world.spec("manifest", "m", json!({"objects": objects})))
        .await;
    world.until(&manifest, ObjectState::Running).await;

    // Beyond: another namespace and the nodes. Each refusal names verb, resource and namespace.
    let mut there = world.spec("pod", "there", shell("true"));
    there.spec["namespace"] = json!("default");
    let error = world.try_create(&there).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let said = error.to_string();
    assert!(
        said.contains("patch") && said.contains("pods") && said.contains("default"),
        "{said}"
    );
    let cluster = world.make(&world.spec("cluster", "lab", Value::Null)).await;
    let cordon = ControlAction::Call {
        method: "cordon".into(),
        arguments: json!({"node": "127.0.0.1"}),
    };
    let request = ControlRequest {
        guid: cluster.guid,
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &cluster.spec,
        handle: &cluster.handle,
        action: &cordon,
        deadline: PATIENCE,
    };
    let error = world
        .driver
        .control()
        .unwrap()
        .control(request)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("patch nodes"), "{error}");
    world.end().await;
    account.end().await;
    eyes.end().await;
}

#[test]
fn the_agents_deployment_has_the_account_and_a_configuration_that_is_valid() {
    use agent_api_driver::DriverFactory;

    let documents = documents("deployment.yaml", &[]);
    let find = |kind: &str| {
        documents
            .iter()
            .find(|document| document["kind"] == kind)
            .unwrap()
    };
    let pod = &find("Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "agent");
    let text = find("ConfigMap")["data"]["agent.yaml"].as_str().unwrap();
    let config: Value = serde_saphyr::from_str(text).unwrap();
    let wrong = agent_driver_kubernetes::KubernetesDriverFactory.check(&config["drivers"]["kubernetes"]);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(
        config["agent"]["name"].is_string(),
        "a pod's host name does not stay"
    );
}
