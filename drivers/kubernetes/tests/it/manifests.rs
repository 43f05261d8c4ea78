//! Objects of any sort as one.

use agent_api_driver::ObjectState;
use agent_api_driver::model::{ErrorKind, PlanAction};
use serde_json::{Value, json};

use crate::support::World;

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

fn definition(group: &str, plural: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
            }}}],
        },
    })
}

#[tokio::test]
async fn a_definition_and_its_resources_go_together_whatever_their_order() {
    let world = World::new().await;
    let group = format!("{}.example.com", world.namespace);
    let definition = definition(&group, "widgets", "Widget");
    let widget = json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 1}});
    let spec = world.spec("manifest", "widgets", json!({"objects": [widget, definition]}));
    let made = world.make(&spec).await;
    world.until(&made, ObjectState::Running).await;
    let live = world
        .api(&format!("{group}/v1"), "Widget")
        .get("a")
        .await
        .unwrap();
    assert_eq!(live.data["spec"]["size"], 1);
    assert_eq!(world.found(made.guid).await.len(), 1);
    world.delete(made.guid, Some(&made.handle)).await.unwrap();
    let name = format!("widgets.{group}");
    assert!(
        world
            .live("apiextensions.k8s.io/v1", "CustomResourceDefinition", &name)
            .await
            .is_none()
    );
    world.end().await;
}

#[tokio::test]
async fn what_the_spec_no_longer_names_is_pruned() {
    let world = World::new().await;
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": [config_map("a", "1"), config_map("b", "1")]});
    let made = world
        .make(&world.spec("manifest", "maps", json!({"objects": [list]})))
        .await;
    let next = world.spec(
        "manifest",
        "maps",
        json!({"objects": [config_map("b", "2"), config_map("c", "1")]}),
    );
    let plan = world.plan(&made, &next).await.unwrap();
    assert_eq!(plan.action, PlanAction::InPlace);
    let paths: Vec<&str> = plan.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["ConfigMap/b.data.value", "ConfigMap/c", "ConfigMap/a"]);
    let now = world.update(&made, &next).await;
    assert!(world.live("v1", "ConfigMap", "a").await.is_none());
    assert_eq!(
        world.live("v1", "ConfigMap", "b").await.unwrap().data["data"]["value"],
        "2"
    );
    assert!(world.live("v1", "ConfigMap", "c").await.is_some());
    world.delete(now.guid, Some(&now.handle)).await.unwrap();
    assert!(world.live("v1", "ConfigMap", "c").await.is_none());
    world.end().await;
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing_behind() {
    let world = World::new().await;
    let bad = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"}, "spec": {"ports": [{"port": 0, "protocol": "TCP"}]}});
    let spec = world.spec(
        "manifest",
        "half",
        json!({"objects": [config_map("first", "1"), bad]}),
    );
    let error = world.try_create(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.to_string().contains("spec.ports[0].port"), "{error}");
    assert!(world.live("v1", "ConfigMap", "first").await.is_none());
    world.end().await;
}

#[tokio::test]
async fn a_plan_shows_no_secret_and_sees_that_one_changes() {
    let world = World::new().await;
    let secret = |value: &str| {
        json!({"objects": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "stringData": {"password": value}}]})
    };
    let made = world
        .make(&world.spec("manifest", "secret", secret("hidden-one")))
        .await;
    let next = world.spec("manifest", "secret", secret("hidden-two"));
    let plan = world.plan(&made, &next).await.unwrap();
    assert_eq!(plan.action, PlanAction::InPlace, "{plan:?}");
    assert_eq!(plan.changes[0].path, "Secret/s.data.password");
    let shown = serde_json::to_string(&plan).unwrap();
    for hidden in ["hidden", "aGlkZGVu"] {
        assert!(!shown.contains(hidden), "{shown}");
        assert!(!made.handle.data.to_string().contains(hidden));
    }
    let mut described = next.clone();
    world.driver.redact(&mut described);
    assert!(!described.spec.to_string().contains("hidden"), "{described:?}");
    world.end().await;
}

#[tokio::test]
async fn namespaces_are_made_when_asked_and_only_then() {
    let world = World::new().await;
    let name = format!("{}-more", world.namespace);
    let mut spec = world.spec(
        "manifest",
        "map",
        json!({"namespace": name, "objects": [config_map("a", "1")]}),
    );
    let error = world.try_create(&spec).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::NotFound, Some("spec.namespace")),
        "{error:?}"
    );
    spec.spec["create_namespace"] = json!(true);
    let made = world.make(&spec).await;
    assert_eq!(made.handle.data["objects"][0]["namespace"], name);
    world.delete(made.guid, Some(&made.handle)).await.unwrap();
    let namespace = world.live("v1", "Namespace", &name).await.unwrap();
    assert!(namespace.metadata.deletion_timestamp.is_none());
    world
        .api("v1", "Namespace")
        .delete(&name, &Default::default())
        .await
        .unwrap();
    world.end().await;
}

#[tokio::test]
async fn fields_that_the_server_does_not_know_are_refused_or_named() {
    let world = World::new().await;
    // The lab's server is older than native sidecars: it refuses what its own types do not have.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "initContainers": [{"name": "side", "image": "localhost/busybox:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "localhost/busybox:1"}]}});
    let error = world
        .try_create(&world.spec("manifest", "sidecar", json!({"objects": [pod]})))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.to_string().contains("restartPolicy"), "{error}");
    // Fields of features that are switched off it drops without a word.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "protocol": "TCP"}]}});
    let made = world
        .make(&world.spec("manifest", "service", json!({"objects": [service]})))
        .await;
    assert_eq!(
        made.handle.data["dropped"],
        json!(["Service/s.spec.ipFamilyPolicy"])
    );
    let mut next = made.spec.clone();
    next.spec["objects"][0]["spec"]["ports"][0]["port"] = json!(81);
    let plan = world.plan(&made, &next).await.unwrap();
    let notes: Vec<&str> = plan.diagnostics.iter().map(|note| note.path.as_str()).collect();
    assert_eq!(notes, ["Service/s.spec.ipFamilyPolicy"]);
    world.end().await;
}
