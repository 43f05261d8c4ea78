//! The agent and real Kubernetes clusters: the tour, many objects, drift, and faults in the middle.

#![cfg(all(feature = "kubernetes", feature = "bus-http"))]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cluster::Cluster;
use common::{Place, until};
use serde_json::Value;

const TOUR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubernetes.yaml");

/// A running agent on a cluster, in a namespace of its own that is made when needed.
async fn agent_on(cluster: &Cluster, namespace: &str) -> Place {
    let mut place = Place::new();
    let config = format!(
        "[agent]\nname = \"{namespace}\"\n\n[drivers.kubernetes.clusters.lab]\nkubeconfig = \"{}\"\nnamespace = \"{namespace}\"\ncreate_namespaces = true\n",
        cluster.kubeconfig()
    );
    let config = place.file("agent.toml", &config);
    place.set("AGENT_CONFIG", &config);
    place.start(&[]).await;
    place
}

/// So many manifests of one ConfigMap each.
fn manifests(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        writeln!(
            text,
            "---\nkind: kubernetes/manifest\nname: m-{i}\nspec:\n  objects:\n  - {{apiVersion: v1, kind: ConfigMap, metadata: {{name: m-{i}}}, data: {{n: \"{i}\"}}}}"
        )
        .unwrap();
    }
    text
}

fn running(place: &Place) -> Option<usize> {
    let list = place.agent(&["get", "--phase", "running", "-o", "json"]);
    (list.code == Some(0)).then(|| list.json().as_array().unwrap().len())
}

async fn until_running(place: &Place, count: usize) {
    until(&format!("{count} objects run"), || {
        (running(place) == Some(count)).then_some(())
    })
    .await;
}

async fn until_gone(place: &Place) {
    until("all objects are gone", || {
        let list = place.agent(&["get", "-o", "json"]);
        (list.code == Some(0) && list.json().as_array().unwrap().is_empty()).then_some(())
    })
    .await;
}

/// The names of the agent's ConfigMaps with how often there was one.
fn maps(cluster: &Cluster, namespace: &str) -> BTreeMap<String, String> {
    let selector = format!("agent/id={namespace}");
    let found = cluster.get(&["configmaps", "-n", namespace, "-l", &selector]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    found
        .iter()
        .map(|map| (text(&map["metadata"]["name"]), text(&map["metadata"]["uid"])))
        .collect()
}

#[tokio::test]
async fn the_tour() {
    let cluster = Cluster::shared();
    let place = agent_on(&cluster, "tour-agent").await;
    place.agent(&["apply", "-f", TOUR]).well();
    let view = place.until_phase("hello", "Running").await;
    let pods = view["details"]["pods"].as_array().unwrap();
    assert_eq!(pods.len(), 2, "{view:#}");
    assert!(pods.iter().all(|pod| pod["node"] == "127.0.0.1"), "{view:#}");
    place.until_phase("settings", "Running").await;
    place.until_phase("greet", "Succeeded").await;
    place.until_phase("lab", "Running").await;
    assert!(
        place
            .agent(&["logs", "greet"])
            .well()
            .out
            .contains("greetings from the job")
    );
    until("both pods are heard", || {
        let logs = place.agent(&["logs", "hello"]).well().out;
        let from: std::collections::BTreeSet<_> = logs
            .lines()
            .filter_map(|line| line.split(" from ").nth(1))
            .collect();
        (from.len() == 2).then_some(())
    })
    .await;

    place.agent(&["scale", "3", "hello"]).well();
    until("there are three", || {
        let view = place.view("hello")?;
        (view["details"]["pods"].as_array()?.len() == 3 && view["phase"] == "Running").then_some(())
    })
    .await;
    let plan = place.agent(&["plan", "-f", TOUR, "-o", "json"]).well().json();
    let text = plan.to_string();
    assert!(text.contains("replicas"), "{plan:#}");

    place.agent(&["pause", "hello"]).well();
    place.until_phase("hello", "Paused").await;
    place.agent(&["resume", "hello"]).well();
    place.until_phase("hello", "Running").await;
    let host = place.agent(&["exec", "hello", "--", "hostname"]).well().out;
    assert!(host.starts_with("hello-"), "{host}");
    assert_eq!(
        place.agent(&["exec", "hello", "--", "sh", "-c", "exit 7"]).code,
        Some(7)
    );

    place.agent(&["call", "lab", "cordon", "node=127.0.0.1"]).well();
    until("the node is cordoned", || {
        let nodes = cluster.get(&["nodes"]);
        (nodes[0]["spec"]["unschedulable"] == true).then_some(())
    })
    .await;
    place.agent(&["call", "lab", "uncordon", "node=127.0.0.1"]).well();
    until("the node is open", || {
        cluster.get(&["nodes"])[0]["spec"]["unschedulable"]
            .is_null()
            .then_some(())
    })
    .await;

    place.agent(&["delete", "-f", TOUR]).well();
    until_gone(&place).await;
    for types in ["deployments,replicasets,pods,jobs", "configmaps,services"] {
        let left = cluster.get(&[types, "-A", "-l", "agent/id=tour-agent"]);
        assert!(left.is_empty(), "{left:#?}");
    }
    cluster.kubectl(&["delete", "namespace", "tour", "--wait=false"]);
}

#[tokio::test]
async fn drift_is_repaired_or_reported() {
    let cluster = Cluster::own(27_000);
    let place = agent_on(&cluster, "drift").await;
    let objects = manifests(2).replace("name: m-1\nspec", "name: m-1\ndrift: report\nspec");
    let file = place.file("objects.yaml", &objects);
    place.agent(&["apply", "-f", &file]).well();
    until_running(&place, 2).await;
    for name in ["m-0", "m-1"] {
        cluster.kubectl(&[
            "patch",
            "configmap",
            name,
            "-n",
            "drift",
            "-p",
            r#"{"data":{"n":"other"}}"#,
        ]);
    }
    let value = |name: &str| cluster.get(&["configmap", name, "-n", "drift"])[0]["data"]["n"].clone();
    until("the one is repaired", || (value("m-0") == "0").then_some(())).await;
    let told = until("the other is told of", || {
        let view = place.view("m-1")?;
        let conditions = view["conditions"].as_array()?.clone();
        conditions
            .into_iter()
            .find(|condition| condition["type"] == "Drifted" && condition["status"] == true)
    })
    .await;
    assert!(told["message"].as_str().unwrap().contains("data.n"), "{told}");
    assert_eq!(value("m-1"), "other");

    let before = maps(&cluster, "drift");
    cluster.kubectl(&["delete", "configmap", "m-0", "m-1", "-n", "drift"]);
    until("the one is made anew", || {
        maps(&cluster, "drift")
            .get("m-0")
            .filter(|uid| **uid != before["m-0"])
            .map(|_| ())
    })
    .await;
    place.until_phase("m-1", "Failed").await;
    assert!(!maps(&cluster, "drift").contains_key("m-1"));
}

#[tokio::test]
async fn the_api_server_dies_in_the_middle_of_creates_and_deletes() {
    let cluster = Cluster::own(27_100);
    let place = agent_on(&cluster, "outage").await;
    let file = place.file("objects.yaml", &manifests(200));
    place.agent(&["apply", "-f", &file]).well();
    until("some are there", || {
        (!maps(&cluster, "outage").is_empty()).then_some(())
    })
    .await;
    cluster.kill_api_server();
    place.agent(&["get"]).well();
    cluster.up();
    until_running(&place, 200).await;
    let made = maps(&cluster, "outage");
    assert_eq!(made.len(), 200);

    place.agent(&["delete", "-f", &file]).well();
    until("some are gone", || {
        (maps(&cluster, "outage").len() < 200).then_some(())
    })
    .await;
    cluster.kill_api_server();
    cluster.up();
    until_gone(&place).await;
    assert_eq!(maps(&cluster, "outage"), BTreeMap::new());
}

#[tokio::test]
async fn the_agent_dies_in_the_middle_and_makes_nothing_twice() {
    let cluster = Cluster::own(27_200);
    let mut place = agent_on(&cluster, "crash").await;
    let file = place.file("objects.yaml", &manifests(200));
    place.agent(&["apply", "-f", &file]).well();
    until("some are there", || {
        (maps(&cluster, "crash").len() > 20).then_some(())
    })
    .await;
    place.crash().await;
    let before = maps(&cluster, "crash");
    place.start(&[]).await;
    until_running(&place, 200).await;
    let after = maps(&cluster, "crash");
    assert_eq!(after.len(), 200);
    for (name, uid) in before {
        assert_eq!(after[&name], uid, "{name} was made twice");
    }
    place.agent(&["delete", "-f", &file]).well();
    until_gone(&place).await;
    assert_eq!(maps(&cluster, "crash"), BTreeMap::new());
}

#[tokio::test]
async fn a_thousand_objects_need_no_more_tasks_than_one() {
    let cluster = Cluster::own(27_300);
    let place = agent_on(&cluster, "many").await;
    let tasks = |place: &Place| {
        let info = place.agent(&["info", "-o", "json"]).well().json();
        info["tasks"]
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum::<u64>()
    };
    let one = place.file("one.yaml", &manifests(1));
    place.agent(&["apply", "-f", &one]).well();
    until_running(&place, 1).await;
    let few = tasks(&place);
    let file = place.file("objects.yaml", &manifests(1_000));
    place.agent(&["apply", "-f", &file]).well();
    until_running(&place, 1_000).await;
    assert_eq!(tasks(&place), few);
    place.agent(&["delete", "-f", &file]).well();
    until_gone(&place).await;
    assert_eq!(maps(&cluster, "many"), BTreeMap::new());
}
