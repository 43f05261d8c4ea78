//! Listing and watching against a server that answers by a script: what a real one does rarely, and what only newer
//! servers than the lab's do.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{AgentId, DriverState, Guid};
use agent_api_driver::{DriverEvent, EventStream, ObjectState};
use axum::body::Body as Answer;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ClusterConfig;
use crate::events::Events;
use crate::handle::HandleData;
use crate::sdk::Cluster;
use crate::watch::Watches;

/// What a server answers to lists and watches of services, in turn. After the last one watches stay open and silent.
struct Script {
    minor: u32,
    lists: Mutex<VecDeque<(u16, Value)>>,
    watches: Mutex<VecDeque<Vec<Value>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn new(minor: u32, lists: Vec<Value>, watches: Vec<Vec<Value>>) -> Arc<Self> {
        Arc::new(Self {
            minor,
            lists: Mutex::new(lists.into_iter().map(|list| (200, list)).collect()),
            watches: Mutex::new(watches.into()),
            asked: Mutex::default(),
        })
    }

    fn answer(&self, request: &Request<Body>) -> (u16, Value, Option<Vec<Value>>) {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
        let watch = query.contains("watch=true");
        match path {
            "/version" => {
                let version = json!({
                    "major": "1", "minor": format!("{}+", self.minor), "gitVersion": "", "gitCommit": "",
                    "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
                });
                (200, version, None)
            }
            "/api/v1" => {
                let of = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "kind": kind, "namespaced": namespaced, "singularName": "", "verbs": ["list", "watch"]});
                let all = [
                    of("services", "Service", true),
                    of("events", "Event", true),
                    of("namespaces", "Namespace", false),
                ];
                (200, json!({"groupVersion": "v1", "resources": all}), None)
            }
            "/api/v1/services" => {
                self.asked.lock().push(query.to_owned());
                if watch {
                    let script = self.watches.lock().pop_front();
                    return (
                        200,
                        Value::Null,
                        Some(script.unwrap_or_else(|| vec![Value::Null])),
                    );
                }
                let (code, list) = self
                    .lists
                    .lock()
                    .pop_front()
                    .expect("no more lists were expected");
                (code, list, None)
            }
            _ if watch => (200, Value::Null, Some(vec![Value::Null])),
            _ => (200, list("1", &[]), None),
        }
    }

    fn client(self: &Arc<Self>) -> Client {
        let script = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (code, value, lines) = script.answer(&request);
            let body = match lines {
                None => Answer::from(value.to_string()),
                Some(lines) => {
                    // Null stands for silence without an end.
                    let silent = lines.last().is_some_and(Value::is_null);
                    let lines = lines
                        .into_iter()
                        .filter(|line| !line.is_null())
                        .map(|line| Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))));
                    let lines = futures_util::stream::iter(lines);
                    if silent {
                        Answer::from_stream(lines.chain(futures_util::stream::pending()))
                    } else {
                        Answer::from_stream(lines)
                    }
                }
            };
            let response = Response::builder()
                .status(code)
                .body(body)
                .expect("a valid response");
            async move { Ok::<_, Infallible>(response) }
        });
        Client::new(service, "default")
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

fn service(guid: Guid, revision: u64, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "namespace": "lab", "uid": "u", "resourceVersion": revision.to_string(),
            "labels": {"agent/id": "a1", "agent/guid": guid}},
        "spec": {"type": kind},
    })
}

fn list(revision: &str, items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": revision}, "items": items})
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(revision: &str, annotations: Value) -> Value {
    event(
        "BOOKMARK",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"resourceVersion": revision, "annotations": annotations}}),
    )
}

fn forgotten() -> Value {
    event(
        "ERROR",
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
            "message": "too old resource version"}),
    )
}

struct Bench {
    watches: Arc<Watches>,
    stream: EventStream,
    tasks: TaskTracker,
    closing: CancellationToken,
    guid: Guid,
}

impl Bench {
    fn new(script: &Arc<Script>, guid: Guid) -> Self {
        let cluster = Cluster::over(
            "c",
            &AgentId::new("a1").unwrap(),
            &ClusterConfig::default(),
            script.client(),
        );
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let events = Events::new(100);
        let stream = events.stream();
        let watches = Watches::new(
            &BTreeMap::from([("c".to_owned(), cluster)]),
            &events,
            &tasks,
            &closing,
        );
        let data: HandleData = serde_json::from_value(json!({
            "cluster": "c", "guid": guid, "kind": "manifest", "owned": true, "generation": 1,
            "op_id": "01900000-0000-7000-8000-000000000001",
            "objects": [{"api_version": "v1", "kind": "Service", "namespace": "lab", "name": "s", "uid": "u"}],
        }))
        .unwrap();
        watches.track(guid, &data);
        Self {
            watches,
            stream,
            tasks,
            closing,
            guid,
        }
    }

    /// The next event that is not of the health.
    async fn next(&mut self) -> DriverEvent {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(600), self.stream.next()).await;
            match next.expect("an event was expected").expect("the stream goes on") {
                DriverEvent::Health(_) => {}
                event => return event,
            }
        }
    }

    async fn state(&mut self) -> ObjectState {
        match self.next().await {
            DriverEvent::Status(observed) => {
                assert_eq!(observed.guid, self.guid);
                observed.status.state
            }
            other => panic!("a status was expected, not {other:?}"),
        }
    }

    /// Waits until the server was asked so often.
    async fn until_asked(&self, script: &Script, times: usize) {
        let wait = async {
            while script.asked.lock().len() < times {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), wait)
            .await
            .expect("the server is asked");
    }

    /// Ends it; nothing more may have been said.
    async fn end(mut self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let rest = futures_util::FutureExt::now_or_never(self.stream.next());
        assert!(
            matches!(rest, None | Some(Some(DriverEvent::Health(_)))),
            "said besides: {rest:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_goes_on_where_it_was() {
    let guid = Guid::generate();
    let script = Script::new(
        20,
        vec![list("10", &[service(guid, 9, "LoadBalancer")])],
        vec![
            vec![
                event("MODIFIED", service(guid, 11, "ClusterIP")),
                bookmark("20", json!({})),
            ],
            // It sends once more what was sent: nothing is said twice.
            vec![event("MODIFIED", service(guid, 11, "ClusterIP"))],
            vec![event("DELETED", service(guid, 30, "ClusterIP")), Value::Null],
        ],
    );
    let mut bench = Bench::new(&script, guid);
    assert_eq!(bench.state().await, ObjectState::Starting);
    assert_eq!(bench.state().await, ObjectState::Running);
    assert_eq!(bench.state().await, ObjectState::Gone);
    let asked = script.asked();
    assert!(asked[0].contains("labelSelector=agent%2Fid%3Da1"), "{asked:?}");
    assert!(asked[1].contains("resourceVersion=10"), "{asked:?}");
    assert!(asked[1].contains("allowWatchBookmarks=true"), "{asked:?}");
    assert!(
        asked[2].contains("resourceVersion=20"),
        "after a bookmark: {asked:?}"
    );
    assert!(
        !asked[1].contains("sendInitialEvents"),
        "not on such a server: {asked:?}"
    );
    assert_eq!(asked.len(), 4, "{asked:?}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_forgotten_is_listed_again_with_a_gap() {
    let guid = Guid::generate();
    let script = Script::new(
        20,
        vec![
            list("10", &[service(guid, 9, "ClusterIP")]),
            list("50", &[service(guid, 9, "ClusterIP")]),
            list("90", &[]),
        ],
        vec![vec![forgotten()], vec![forgotten()]],
    );
    let mut bench = Bench::new(&script, guid);
    assert_eq!(bench.state().await, ObjectState::Running);
    assert_eq!(bench.next().await, DriverEvent::Gap(None), "nothing else is new");
    let (mut gap, mut gone) = (false, false);
    while !(gap && gone) {
        match bench.next().await {
            DriverEvent::Gap(None) => gap = true,
            DriverEvent::Status(observed) => gone = observed.status.state == ObjectState::Gone,
            other => panic!("unexpected {other:?}"),
        }
    }
    bench.until_asked(&script, 6).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn newer_servers_stream_the_list() {
    let guid = Guid::generate();
    let script = Script::new(
        34,
        vec![],
        vec![
            vec![
                event("ADDED", service(guid, 9, "LoadBalancer")),
                // One that does not end the list.
                bookmark("9", json!({})),
                bookmark("10", json!({"k8s.io/initial-events-end": "true"})),
                event("MODIFIED", service(guid, 11, "ClusterIP")),
            ],
            vec![forgotten()],
            // A streamed list that ends in the middle counts for nothing.
            vec![],
            vec![
                bookmark("60", json!({"k8s.io/initial-events-end": "true"})),
                Value::Null,
            ],
        ],
    );
    let mut bench = Bench::new(&script, guid);
    assert_eq!(bench.state().await, ObjectState::Starting);
    assert_eq!(bench.state().await, ObjectState::Running);
    let (mut gap, mut gone) = (false, false);
    while !(gap && gone) {
        match bench.next().await {
            DriverEvent::Gap(None) => gap = true,
            DriverEvent::Status(observed) => gone = observed.status.state == ObjectState::Gone,
            other => panic!("unexpected {other:?}"),
        }
    }
    let asked = script.asked();
    assert!(
        asked.iter().all(|query| query.contains("watch=true")),
        "no list: {asked:?}"
    );
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert!(
        asked[1].contains("resourceVersion=11") && !asked[1].contains("sendInitialEvents"),
        "{asked:?}"
    );
    assert!(asked[2].contains("sendInitialEvents=true"), "{asked:?}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn rights_that_are_missing_are_named_and_come_back() {
    let guid = Guid::generate();
    let script = Script::new(20, vec![list("10", &[service(guid, 9, "ClusterIP")])], vec![]);
    let forbidden = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": "services is forbidden: User \"u\" cannot list resource \"services\""});
    script.lists.lock().push_front((403, forbidden));
    let mut bench = Bench::new(&script, guid);
    let degraded = loop {
        match bench.stream.next().await {
            Some(DriverEvent::Health(DriverState::Degraded { reason })) => break reason,
            Some(DriverEvent::Health(_)) => {}
            other => panic!("unexpected {other:?}"),
        }
    };
    assert!(
        degraded.contains("cluster c") && degraded.contains("list") && degraded.contains("services"),
        "{degraded}"
    );
    assert_eq!(
        bench.watches.status(guid),
        None,
        "nothing is known, so nothing is said"
    );
    let (mut healthy, mut running) = (false, false);
    while !(healthy && running) {
        match bench.stream.next().await {
            Some(DriverEvent::Health(state)) => healthy = state == DriverState::Healthy,
            Some(DriverEvent::Status(observed)) => running = observed.status.state == ObjectState::Running,
            other => panic!("unexpected {other:?}"),
        }
    }
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_opened_again() {
    let guid = Guid::generate();
    let script = Script::new(
        20,
        vec![list("10", &[service(guid, 9, "ClusterIP")])],
        vec![
            vec![Value::Null],
            vec![event("DELETED", service(guid, 12, "ClusterIP")), Value::Null],
        ],
    );
    let mut bench = Bench::new(&script, guid);
    assert_eq!(bench.state().await, ObjectState::Running);
    assert_eq!(bench.state().await, ObjectState::Gone);
    assert_eq!(script.asked().len(), 3, "{:?}", script.asked());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn watches_end_when_nobody_wants_them() {
    let guid = Guid::generate();
    let script = Script::new(20, vec![list("10", &[service(guid, 9, "ClusterIP")])], vec![]);
    let mut bench = Bench::new(&script, guid);
    assert_eq!(bench.state().await, ObjectState::Running);
    assert_eq!(
        bench.watches.watches(),
        3,
        "services, their namespace's Events, namespaces"
    );
    bench.watches.forget(guid);
    let ended = async {
        while bench.watches.watches() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), ended)
        .await
        .expect("they end after a while");
    bench.end().await;
}
