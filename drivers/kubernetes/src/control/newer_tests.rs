//! Control of what the lab's server of 1.20 lacks, against the recorded documents of a 1.33: `pods/resize`, the suspending
//! of Jobs, evictions of `policy/v1`.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_driver::model::{AgentId, Guid, Kind, ObjectName, ObjectSpec, OpId};
use agent_api_driver::{Handle, ObjectState};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{ClusterConfig, KubernetesConfig};
use crate::events::Events;
use crate::mock::{Answer, Asked, client, failure};
use crate::sdk::Cluster;
use crate::types::Types;
use crate::watch::Watches;

/// Requests that change something: method, path and body.
type Changes = Arc<Mutex<Vec<(String, String, Value)>>>;

struct World {
    shared: Arc<Shared>,
    changes: Changes,
    guid: Guid,
    _dir: tempfile::TempDir,
}

/// A server 1.33 that has one thing, merges what is patched, and deletes on eviction.
async fn world(guid: Guid, thing: Value) -> World {
    let changes = Changes::default();
    let seen = Arc::clone(&changes);
    let thing = Arc::new(Mutex::new(Some(thing)));
    let (client, _log) = client(move |asked: &Asked| {
        let path = asked.uri.split('?').next().unwrap_or_default().to_owned();
        match path.as_str() {
            "/version" => {
                return Answer::Json(
                    200,
                    json!({"major": "1", "minor": "33", "gitVersion": "v1.33.1", "gitCommit": "",
                    "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
                );
            }
            "/api/v1" => {
                let recorded = include_str!("../../tests/recorded/core-v1-1.33.json");
                return Answer::Json(200, serde_json::from_str(recorded).unwrap());
            }
            "/apis/batch/v1" => {
                return Answer::Json(
                    200,
                    json!({"kind": "APIResourceList", "groupVersion": "batch/v1", "resources": [
                    {"name": "jobs", "singularName": "job", "namespaced": true, "kind": "Job", "verbs": ["get", "patch"]}]}),
                );
            }
            _ => {}
        }
        let mut thing = thing.lock();
        match (asked.method.as_str(), &mut *thing) {
            ("GET", Some(thing)) if path.ends_with("/x") => Answer::Json(200, thing.clone()),
            ("GET", thing) if asked.uri.contains("spec.nodeName") => {
                let items: Vec<Value> = thing.iter().map(|thing| (*thing).clone()).collect();
                Answer::Json(
                    200,
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
                )
            }
            ("GET", _) => Answer::Silence,
            ("PATCH", _) if path.starts_with("/api/v1/nodes/") => {
                seen.lock().push((asked.method.clone(), path, asked.body.clone()));
                Answer::Json(
                    200,
                    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}}),
                )
            }
            ("PATCH", Some(thing)) => {
                seen.lock().push((asked.method.clone(), path, asked.body.clone()));
                merge(&mut thing["spec"], &asked.body["spec"]);
                Answer::Json(200, thing.clone())
            }
            ("POST", _) => {
                seen.lock().push((asked.method.clone(), path, asked.body.clone()));
                *thing = None;
                Answer::Json(
                    201,
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                )
            }
            _ => failure(404, "NotFound", "not found"),
        }
    });
    let agent = AgentId::new("a1").unwrap();
    let config = KubernetesConfig::parse(&Value::Null).unwrap();
    let cluster = Cluster::over("default", &agent, &ClusterConfig::default(), client);
    let clusters = BTreeMap::from([("default".to_owned(), cluster)]);
    let (tasks, closing, events) = (TaskTracker::new(), CancellationToken::new(), Events::new(16));
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared {
        watches: Watches::new(&clusters, &events, &tasks, &closing),
        types: Types::open(dir.path()).await.unwrap(),
        collecting: crate::collect::Collecting::default(),
        agent,
        config,
        clusters,
        events,
        tasks,
        closing,
    };
    World {
        shared: Arc::new(shared),
        changes,
        guid,
        _dir: dir,
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn thing(guid: Guid, api_version: &str, kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": "x", "namespace": "ns", "uid": "u1", "resourceVersion": "5",
            "labels": {mark::AGENT: "a1", mark::GUID: guid.to_string()}},
        "spec": spec, "status": {"phase": "Running"},
    })
}

fn handle(guid: Guid, kind: &str, objects: Value) -> Handle {
    let data = json!({
        "guid": guid, "cluster": "default", "kind": kind, "owned": kind != "cluster", "op_id": OpId::generate(),
        "generation": 1, "objects": objects,
    });
    Handle::new(1, data)
}

async fn control(world: &World, kind: &str, handle: &Handle, action: ControlAction) -> Result<Applied> {
    let spec = ObjectSpec::new(
        Kind::new(format!("kubernetes/{kind}")).unwrap(),
        ObjectName::new("x").unwrap(),
    );
    let request = ControlRequest {
        guid: world.guid,
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &spec,
        handle,
        action: &action,
        deadline: Duration::from_secs(30),
    };
    world.shared.control(request).await
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_resized_in_place() {
    let guid = Guid::generate();
    let containers = json!({"containers": [{"name": "main", "image": "i"}]});
    let world = world(guid, thing(guid, "v1", "Pod", containers)).await;
    let pods = json!([{"api_version": "v1", "kind": "Pod", "namespace": "ns", "name": "x", "uid": "u1"}]);
    let resize = ControlAction::Resize {
        resources: Resources {
            cpu: Some("250m".parse().unwrap()),
            ..Resources::default()
        },
    };
    let applied = control(&world, "pod", &handle(guid, "pod", pods), resize)
        .await
        .unwrap();
    assert_eq!(applied.handle.data["objects"][0]["uid"], "u1");
    let changes = world.changes.lock();
    let [(method, path, body)] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("PATCH", "/api/v1/namespaces/ns/pods/x/resize")
    );
    let expected =
        json!([{"name": "main", "resources": {"limits": {"cpu": "250m"}, "requests": {"cpu": "250m"}}}]);
    assert_eq!(body["spec"]["containers"], expected);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_suspended_once_and_goes_on() {
    let guid = Guid::generate();
    let world = world(guid, thing(guid, "batch/v1", "Job", json!({"template": {}}))).await;
    let jobs =
        json!([{"api_version": "batch/v1", "kind": "Job", "namespace": "ns", "name": "x", "uid": "u1"}]);
    let handle = handle(guid, "job", jobs);
    for _ in 0..2 {
        let paused = control(&world, "job", &handle, ControlAction::Pause {})
            .await
            .unwrap();
        assert_eq!(paused.status.state, ObjectState::Paused);
    }
    assert_eq!(world.changes.lock().len(), 1, "what is paused is not changed");
    control(&world, "job", &handle, ControlAction::Resume {})
        .await
        .unwrap();
    assert_eq!(world.changes.lock()[1].2["spec"]["suspend"], false);
}

#[tokio::test(start_paused = true)]
async fn evictions_are_of_the_policy_that_the_server_has() {
    let guid = Guid::generate();
    let world = world(guid, thing(guid, "v1", "Pod", json!({"containers": []}))).await;
    let drain = ControlAction::Call {
        method: "drain".into(),
        arguments: json!({"node": "n", "force": true, "grace": "1500ms"}),
    };
    control(&world, "cluster", &handle(guid, "cluster", json!([])), drain)
        .await
        .unwrap();
    let changes = world.changes.lock();
    let [cordon, evict] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(cordon.2["spec"]["unschedulable"], true);
    assert_eq!(evict.1, "/api/v1/namespaces/ns/pods/x/eviction");
    assert_eq!(evict.2["apiVersion"], "policy/v1");
    assert_eq!(
        evict.2["deleteOptions"],
        json!({"gracePeriodSeconds": 2, "preconditions": {"uid": "u1"}})
    );
}
