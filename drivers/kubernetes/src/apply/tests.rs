//! Applies against a server that answers as a test wants. What newer servers do is done here by their documents: the lab's
//! is 1.20.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_api_driver::ApplyRequest;
use agent_api_driver::model::{AgentId, Guid, Kind, ObjectName, ObjectSpec, OpId};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{ClusterConfig, KubernetesConfig};
use crate::events::Events;
use crate::mock::{Answer, Asked, Log, client, failure};
use crate::types::Types;
use crate::watch::Watches;

async fn shared(
    answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Shared, Log, tempfile::TempDir) {
    let (client, log) = client(answer);
    let agent = AgentId::new("a1").unwrap();
    let config = KubernetesConfig::parse(&Value::Null).unwrap();
    let cluster = Cluster::over("default", &agent, &ClusterConfig::default(), client);
    let clusters = std::collections::BTreeMap::from([("default".to_owned(), cluster)]);
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
    (shared, log, dir)
}

/// What every server answers to what every apply asks.
fn discovery(asked: &Asked, minor: &str) -> Option<Answer> {
    let path = asked.uri.split('?').next().unwrap_or_default();
    match path {
        "/version" => Some(Answer::Json(
            200,
            json!({"major": "1", "minor": minor, "gitVersion": "", "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
        )),
        "/api/v1" => Some(Answer::Json(
            200,
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "configmaps", "singularName": "", "namespaced": true, "kind": "ConfigMap", "verbs": ["get", "list", "patch", "watch"]}]}),
        )),
        // Watches see nothing here.
        _ if asked.method == "GET" && !path.ends_with("/m") => Some(Answer::Silence),
        _ => None,
    }
}

fn spec() -> ObjectSpec {
    ObjectSpec {
        spec: json!({"objects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}}]}),
        ..ObjectSpec::new(
            Kind::new("kubernetes/manifest").unwrap(),
            ObjectName::new("m").unwrap(),
        )
    }
}

fn request<'a>(spec: &'a ObjectSpec, guid: Guid, op_id: OpId, maybe_applied: bool) -> ApplyRequest<'a> {
    ApplyRequest {
        guid,
        generation: 1,
        op_id,
        maybe_applied,
        spec,
        handle: None,
        deadline: Duration::from_secs(30),
    }
}

/// What the server keeps of an object that was applied.
fn stored(asked: &Asked) -> Value {
    let mut object = asked.body.clone();
    object["metadata"]["uid"] = json!("u1");
    object["metadata"]["resourceVersion"] = json!("7");
    object
}

#[tokio::test(start_paused = true)]
async fn an_effect_whose_answer_was_lost_is_found_by_its_operation() {
    let store: Arc<Mutex<Option<Value>>> = Arc::default();
    let kept = Arc::clone(&store);
    let (shared, log, _dir) = shared(move |asked| {
        if let Some(answer) = discovery(asked, "20") {
            return answer;
        }
        let mut kept = kept.lock();
        match (asked.method.as_str(), kept.clone()) {
            ("PATCH", None) => {
                *kept = Some(stored(asked));
                // It had its effect, and nobody is told.
                Answer::Broken
            }
            ("PATCH", Some(_)) => failure(409, "Conflict", "the object has been modified"),
            ("GET", Some(object)) => Answer::Json(200, object),
            _ => failure(404, "NotFound", "not found"),
        }
    })
    .await;
    let (spec, guid, op_id) = (spec(), Guid::generate(), OpId::generate());
    let error = shared
        .apply(request(&spec, guid, op_id, false))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let applied = shared.apply(request(&spec, guid, op_id, true)).await.unwrap();
    assert_eq!(applied.handle.data["objects"][0]["uid"], "u1");
    let writes = log.lock().iter().filter(|asked| asked.method == "PATCH").count();
    assert_eq!(writes, 2);
    // Another object of the same name is a stranger's.
    let error = shared
        .apply(request(&spec, Guid::generate(), op_id, true))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    shared.closing.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_create_is_one_request_and_new_servers_are_asked_to_be_strict() {
    for (minor, strict) in [("20", false), ("33", true)] {
        let (shared, log, _dir) =
            shared(move |asked| discovery(asked, minor).unwrap_or_else(|| Answer::Json(201, stored(asked))))
                .await;
        let (spec, guid) = (spec(), Guid::generate());
        shared
            .apply(request(&spec, guid, OpId::generate(), false))
            .await
            .unwrap();
        let log = log.lock();
        let about: Vec<&Asked> = log
            .iter()
            .filter(|asked| asked.uri.contains("/configmaps/m"))
            .collect();
        assert_eq!(about.len(), 1, "{about:?}");
        assert_eq!(
            about[0].uri.contains("fieldValidation=Strict"),
            strict,
            "{}",
            about[0].uri
        );
        assert!(about[0].uri.contains("fieldManager=agent-a1"), "{}", about[0].uri);
        // Only what does not exist yet is made.
        assert_eq!(about[0].body["metadata"]["resourceVersion"], "1");
        shared.closing.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_on_its_way_out_is_a_conflict_that_passes() {
    let (shared, _log, _dir) = shared(|asked| {
        discovery(asked, "20").unwrap_or_else(|| {
            failure(403, "Forbidden", "configmaps \"m\" is forbidden: unable to create new content in namespace default because it is being terminated")
        })
    })
    .await;
    let spec = spec();
    let error = shared
        .apply(request(&spec, Guid::generate(), OpId::generate(), false))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.message().contains("namespace is being deleted"), "{error}");
    shared.closing.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_version_trick_is_asked_plainly() {
    let tries = AtomicU32::new(0);
    let (shared, log, _dir) = shared(move |asked| {
        if let Some(answer) = discovery(asked, "40") {
            return answer;
        }
        match asked.method.as_str() {
            "GET" => failure(404, "NotFound", "not found"),
            _ if asked.body["metadata"]["resourceVersion"] == "1" => {
                tries.fetch_add(1, Ordering::Relaxed);
                failure(409, "Conflict", "resourceVersion must not be set on create")
            }
            _ => Answer::Json(201, stored(asked)),
        }
    })
    .await;
    let spec = spec();
    shared
        .apply(request(&spec, Guid::generate(), OpId::generate(), false))
        .await
        .unwrap();
    let writes = log.lock().iter().filter(|asked| asked.method == "PATCH").count();
    assert_eq!(writes, 2);
    shared.closing.cancel();
}
