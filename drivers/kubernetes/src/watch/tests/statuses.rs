//! What is said of objects as news of their things comes in.

use std::sync::Arc;

use agent_api_driver::model::{AgentId, Condition, Guid};
use agent_api_driver::{DriverEvent, EventStream, ObjectState, ObjectStatus};
use futures_util::{FutureExt, StreamExt};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::events::Events;
use crate::handle::HandleData;
use crate::status::fingerprint::fingerprint;
use crate::watch::key::WatchKey;
use crate::watch::state::{From, State};
use crate::watch::thing::{Place, revision};

const MANAGER: &str = "agent-a1";

struct Bench {
    state: State,
    stream: EventStream,
}

impl Bench {
    fn new() -> Self {
        let events = Events::new(1000);
        let stream = events.stream();
        Self {
            state: State::new(AgentId::new("a1").unwrap(), MANAGER, false, Arc::clone(&events)),
            stream,
        }
    }

    /// All that was said since the last call.
    fn said(&mut self) -> Vec<ObjectStatus> {
        let mut all = Vec::new();
        while let Some(Some(event)) = self.stream.next().now_or_never() {
            match event {
                DriverEvent::Status(observed) => all.push(observed.status),
                other => panic!("unexpected {other:?}"),
            }
        }
        all
    }

    fn states(&mut self) -> Vec<ObjectState> {
        self.said().into_iter().map(|status| status.state).collect()
    }

    fn shown(&mut self, object: &DynamicObject) {
        let touched = self.state.put(&key(object), object.clone(), From::Watch);
        self.state.settle_all(touched);
    }

    fn gone(&mut self, object: &DynamicObject, at: u64) {
        let touched = self
            .state
            .remove(&key(object), &Place::of(object), at, From::Watch);
        self.state.settle_all(touched);
    }

    /// The first lists have come, with these things.
    fn synced(&mut self, guid: Guid, objects: &[&DynamicObject], at: u64) {
        for key in self.state.records[&guid].keys.clone() {
            let of_key = objects
                .iter()
                .filter(|o| self::key(o) == key)
                .map(|o| (*o).clone());
            let (touched, put_back) = self.state.replace(&key, of_key.collect(), at);
            assert!(!put_back);
            self.state.settle_all(touched);
        }
    }

    fn track(&mut self, guid: Guid, data: HandleData) {
        self.state.track(guid, data);
        self.state.settle(guid, true);
    }
}

fn key(object: &DynamicObject) -> WatchKey {
    let types = object.types.as_ref().unwrap();
    let ours = types.kind != "Event" && types.kind != "Namespace";
    WatchKey {
        api_version: types.api_version.as_str().into(),
        kind: types.kind.as_str().into(),
        namespace: (types.kind == "Event").then(|| "lab".into()),
        ours,
    }
}

fn recorded(text: &str, guid: Guid, at: u64) -> DynamicObject {
    let mut object: DynamicObject = serde_json::from_str(text).unwrap();
    let labels = object.metadata.labels.get_or_insert_default();
    labels.insert("agent/id".to_owned(), "a1".to_owned());
    labels.insert("agent/guid".to_owned(), guid.to_string());
    object.metadata.resource_version = Some(at.to_string());
    object
}

fn data(guid: Guid, objects: &[&DynamicObject]) -> HandleData {
    let references: Vec<Value> = objects
        .iter()
        .map(|object| {
            let types = object.types.as_ref().unwrap();
            json!({
                "api_version": types.api_version, "kind": types.kind, "name": object.metadata.name,
                "namespace": object.metadata.namespace, "uid": object.metadata.uid,
                "fingerprint": fingerprint(object, MANAGER),
            })
        })
        .collect();
    serde_json::from_value(json!({
        "cluster": "c", "guid": guid, "kind": "manifest", "owned": true, "generation": 1,
        "op_id": "01900000-0000-7000-8000-000000000001", "objects": references,
    }))
    .unwrap()
}

fn condition<'a>(status: &'a ObjectStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
}

#[test]
fn a_rollout_is_said_once_per_change() {
    let guid = Guid::generate();
    let ready = recorded(
        include_str!("../../status/recorded/deployment-ready.json"),
        guid,
        30,
    );
    let mut early = ready.clone();
    early.metadata.resource_version = Some("10".to_owned());
    early.data["status"] = json!({});
    let mut half = ready.clone();
    half.metadata.resource_version = Some("20".to_owned());
    half.data["status"]["readyReplicas"] = json!(1);
    half.data["status"]["availableReplicas"] = json!(1);
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&ready]));
    assert_eq!(bench.states(), [], "nothing is known yet");

    bench.shown(&early);
    bench.synced(guid, &[&early], 10);
    assert_eq!(bench.states(), [ObjectState::Starting]);
    bench.shown(&half);
    bench.shown(&half);
    bench.shown(&early);
    assert_eq!(
        bench.states(),
        [ObjectState::Starting],
        "the older and the same are no news"
    );
    bench.shown(&ready);
    let said = bench.said();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].state, ObjectState::Running);
    assert!(condition(&said[0], "Ready").unwrap().status);
    assert_eq!(said[0].details["replicas"]["available"], json!(2));
    assert!(
        condition(&said[0], Condition::DRIFTED).is_none(),
        "{:?}",
        said[0].conditions
    );

    // A list that shows the same.
    bench.synced(guid, &[&ready], 35);
    // A revision that says nothing new.
    let mut touched = ready.clone();
    touched.metadata.resource_version = Some("40".to_owned());
    touched.metadata.managed_fields = ready.metadata.managed_fields.clone();
    bench.shown(&touched);
    assert_eq!(bench.states(), []);

    bench.gone(&ready, 50);
    let said = bench.said();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].state, ObjectState::Gone);
    assert_eq!(
        said[0].exit.as_ref().and_then(|exit| exit.reason.as_deref()),
        Some("Deployment/good in namespace lab was deleted")
    );
    assert!(condition(&said[0], Condition::DRIFTED).unwrap().status);
    bench.gone(&ready, 50);
    assert_eq!(bench.states(), []);
}

#[test]
fn an_answer_is_never_overtaken_by_older_news() {
    let guid = Guid::generate();
    let new = recorded(
        include_str!("../../status/recorded/deployment-ready.json"),
        guid,
        30,
    );
    let mut old = new.clone();
    old.metadata.resource_version = Some("20".to_owned());
    old.data["spec"]["replicas"] = json!(1);
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&new]));
    bench.synced(guid, &[], 25);
    assert_eq!(bench.states(), [ObjectState::Gone]);
    let key = key(&new);
    let touched = bench.state.put(&key, new.clone(), From::Answer);
    bench.state.settle_all(touched);
    assert_eq!(bench.states(), [ObjectState::Running]);
    bench.shown(&old);
    bench.gone(&old, 22);
    assert_eq!(bench.states(), [], "the watch is behind the answer");
    bench.gone(&new, 31);
    assert_eq!(bench.states(), [ObjectState::Gone]);
    // The answer to a call from before.
    let touched = bench.state.put(&key, new, From::Answer);
    bench.state.settle_all(touched);
    assert_eq!(bench.states(), [], "what is gone does not come back");
}

#[test]
fn drift_comes_and_goes() {
    let guid = Guid::generate();
    let ready = recorded(
        include_str!("../../status/recorded/deployment-ready.json"),
        guid,
        10,
    );
    let mut scaled = ready.clone();
    scaled.metadata.resource_version = Some("20".to_owned());
    scaled.data["spec"]["replicas"] = json!(5);
    let mut back = ready.clone();
    back.metadata.resource_version = Some("30".to_owned());
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&ready]));
    bench.synced(guid, &[&ready], 10);
    assert_eq!(bench.states(), [ObjectState::Running]);
    bench.shown(&scaled);
    let said = bench.said();
    let drifted = condition(&said[0], Condition::DRIFTED).unwrap();
    assert!(drifted.status);
    assert_eq!(drifted.reason, "Changed");
    assert!(drifted.message.contains("spec.replicas"), "{}", drifted.message);
    bench.shown(&back);
    let said = bench.said();
    assert!(!condition(&said[0], Condition::DRIFTED).unwrap().status);

    // While an operation of ours is under way it is no drift; if it came to nothing it is.
    bench.state.records.get_mut(&guid).unwrap().changing = 1;
    scaled.metadata.resource_version = Some("40".to_owned());
    bench.shown(&scaled);
    assert!(
        bench
            .said()
            .iter()
            .all(|s| !condition(s, Condition::DRIFTED).unwrap().status)
    );
    bench.state.records.get_mut(&guid).unwrap().changing = 0;
    bench.state.settle(guid, true);
    let said = bench.said();
    assert!(
        condition(said.last().unwrap(), Condition::DRIFTED)
            .unwrap()
            .status
    );
}

#[test]
fn one_thing_of_many_is_deleted() {
    let guid = Guid::generate();
    let ready = recorded(
        include_str!("../../status/recorded/deployment-ready.json"),
        guid,
        10,
    );
    let service = recorded(include_str!("../../status/recorded/service.json"), guid, 11);
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&ready, &service]));
    bench.synced(guid, &[&ready, &service], 12);
    assert_eq!(bench.said().last().unwrap().state, ObjectState::Running);
    bench.gone(&service, 20);
    let said = bench.said();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].state, ObjectState::Starting, "the rest is still there");
    let drifted = condition(&said[0], Condition::DRIFTED).unwrap();
    assert_eq!((drifted.status, drifted.reason.as_str()), (true, "Deleted"));
    assert_eq!(drifted.message, "Service/svc in namespace lab was deleted");
}

#[test]
fn a_job_that_ended_stays_ended() {
    let guid = Guid::generate();
    let job = recorded(include_str!("../../status/recorded/job-failed.json"), guid, 10);
    let pod = recorded(include_str!("../../status/recorded/pod-failed.json"), guid, 11);
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&job]));
    bench.synced(guid, &[&pod, &job], 12);
    let said = bench.said();
    let last = said.last().unwrap();
    assert_eq!(last.state, ObjectState::Exited);
    let exit = last.exit.as_ref().unwrap();
    assert_eq!(exit.code, Some(7), "{exit}");
    assert!(
        exit.reason.as_ref().unwrap().starts_with("BackoffLimitExceeded"),
        "{exit}"
    );
    // Its time to live is over.
    bench.gone(&job, 20);
    let said = bench.said();
    assert!(
        said.iter().all(|status| status.state == ObjectState::Exited),
        "{said:?}"
    );
}

#[test]
fn events_that_overtake_what_they_are_about_are_kept() {
    let guid = Guid::generate();
    let deployment = recorded(
        include_str!("../../status/recorded/deployment-crash.json"),
        guid,
        10,
    );
    let pod = recorded(include_str!("../../status/recorded/pod-crashloop.json"), guid, 50);
    let events: Vec<DynamicObject> =
        serde_json::from_str(include_str!("../../status/recorded/events-crash.json")).unwrap();
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&deployment]));
    bench.synced(guid, &[&deployment], 10);
    bench.said();
    let about_pod = |event: &&DynamicObject| event.data["involvedObject"]["kind"] == "Pod";
    for event in events.iter().filter(about_pod) {
        bench.shown(event);
    }
    assert_eq!(bench.states(), [], "nobody knows the pod yet");
    bench.shown(&pod);
    let said = bench.said();
    let last = said.last().unwrap();
    let trouble = condition(last, "PodTrouble").unwrap();
    assert_eq!(trouble.reason, "CrashLoopBackOff");
    assert_eq!(
        last.details["events"][0]["reason"],
        json!("BackOff"),
        "{:#}",
        last.details
    );
    assert_eq!(last.details["pods"][0]["restarts"], json!(5));

    let since = bench.state.records[&guid].events.since(0);
    assert_eq!(since.events.len(), events.iter().filter(about_pod).count());
    assert!(!since.lost);
    assert!(
        bench.state.records[&guid]
            .events
            .since(since.cursor)
            .events
            .is_empty()
    );
    let mut order: Vec<u64> = since
        .events
        .iter()
        .map(|event| event.metadata.resource_version.as_ref().unwrap().parse().unwrap())
        .collect();
    let as_given = order.clone();
    order.sort_unstable();
    assert_eq!(as_given, order);
}

#[test]
fn a_namespace_that_is_being_deleted_is_said() {
    let guid = Guid::generate();
    let ready = recorded(
        include_str!("../../status/recorded/deployment-ready.json"),
        guid,
        10,
    );
    let namespace: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "lab", "resourceVersion": "20", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Terminating", "conditions": [
            {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "example.com/guard in 1 resource"}]},
    }))
    .unwrap();
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&ready]));
    bench.synced(guid, &[&ready], 10);
    bench.said();
    bench.shown(&namespace);
    let said = bench.said();
    let terminating = condition(&said[0], "Terminating").unwrap();
    assert!(
        terminating.message.contains("example.com/guard"),
        "{}",
        terminating.message
    );
}

#[test]
fn what_is_kept_and_said_holds_no_contents() {
    let guid = Guid::generate();
    let mut secret = recorded(include_str!("../../status/recorded/service.json"), guid, 10);
    secret.types.as_mut().unwrap().kind = "Secret".to_owned();
    secret.data = json!({"data": {"password": "aHVudGVyMg=="}, "type": "Opaque"});
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&secret]));
    bench.synced(guid, &[&secret], 12);
    let kept = bench.state.shelves[&key(&secret)]
        .get(&Place::of(&secret))
        .unwrap();
    assert_eq!(kept.revision, revision(&secret));
    assert!(!format!("{kept:?}").contains("aHVudGVyMg"), "{kept:?}");
    let said = bench.said();
    assert_eq!(said.len(), 1);
    assert!(!format!("{said:?}").contains("aHVudGVyMg"), "{said:?}");
}

#[test]
fn forgetting_leaves_nothing_behind() {
    let guid = Guid::generate();
    let ready = recorded(
        include_str!("../../status/recorded/deployment-ready.json"),
        guid,
        10,
    );
    let pod = recorded(include_str!("../../status/recorded/pod-ready.json"), guid, 11);
    let mut bench = Bench::new();
    bench.track(guid, data(guid, &[&ready]));
    bench.synced(guid, &[&ready, &pod], 12);
    assert_eq!(bench.state.pods(guid).len(), 1);
    let keys = bench.state.forget(guid);
    for key in &keys {
        bench.state.close_shelf(key);
    }
    assert!(bench.state.records.is_empty() && bench.state.owners.is_empty());
    assert!(bench.state.children.is_empty() && bench.state.shelves.is_empty());
}
