//! Whose fields and things are whose.

use agent_api_driver::model::{DriftPolicy, ErrorKind, OpId};
use serde_json::{Value, json};

use crate::support::World;

fn map(value: &str) -> Value {
    json!({"objects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"value": value}}]})
}

async fn value(world: &World) -> Value {
    world.live("v1", "ConfigMap", "m").await.unwrap().data["data"]["value"].clone()
}

#[tokio::test]
async fn a_field_of_another_manager_is_a_conflict_that_names_it_and_force_takes_it() {
    let world = World::new().await;
    let made = world.make(&world.spec("manifest", "m", map("ours"))).await;
    world
        .patch("v1", "ConfigMap", "m", json!({"data": {"value": "theirs"}}))
        .await;
    let mut next = world.spec("manifest", "m", map("new"));
    for error in [
        world.plan(&made, &next).await.unwrap_err(),
        world.try_update(&made, &next).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(
            error.to_string().contains("someone") && error.to_string().contains("data.value"),
            "{error}"
        );
    }
    assert_eq!(value(&world).await, "theirs");
    next.spec["force"] = json!(true);
    world.update(&made, &next).await;
    assert_eq!(value(&world).await, "new");
    world.end().await;
}

#[tokio::test]
async fn a_repair_takes_back_what_was_ours() {
    let world = World::new().await;
    let mut spec = world.spec("manifest", "m", map("ours"));
    spec.drift = DriftPolicy::Report;
    let made = world.make(&spec).await;
    world
        .patch("v1", "ConfigMap", "m", json!({"data": {"value": "theirs"}}))
        .await;
    let handle = Some(&made.handle);
    let error = world
        .apply(made.guid, OpId::generate(), 1, &spec, handle)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    spec.drift = DriftPolicy::Repair;
    world
        .apply(made.guid, OpId::generate(), 1, &spec, handle)
        .await
        .unwrap();
    assert_eq!(value(&world).await, "ours");
    world.end().await;
}

#[tokio::test]
async fn what_exists_already_is_not_taken_over_unasked() {
    let world = World::new().await;
    let theirs =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"other": "1"}});
    world.create("v1", "ConfigMap", theirs).await;
    let mut spec = world.spec("manifest", "m", map("ours"));
    let error = world.try_create(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    let live = world.live("v1", "ConfigMap", "m").await.unwrap();
    assert!(live.metadata.labels.is_none() && live.data["data"]["value"].is_null());
    spec.spec["force"] = json!(true);
    world.make(&spec).await;
    let live = world.live("v1", "ConfigMap", "m").await.unwrap();
    assert_eq!(live.data["data"], json!({"other": "1", "value": "ours"}));
    world.end().await;
}

#[tokio::test]
async fn objects_of_two_agents_do_not_see_each_other() {
    let (one, two) = (World::new().await, World::new().await);
    let made = one.make(&one.spec("manifest", "m", map("one"))).await;
    assert!(two.driver.discover().await.unwrap().is_empty());
    two.delete(made.guid, None).await.unwrap();
    assert_eq!(value(&one).await, "one");
    // Without a handle it is found by its mark.
    one.delete(made.guid, None).await.unwrap();
    assert!(one.live("v1", "ConfigMap", "m").await.is_none());
    one.end().await;
    two.end().await;
}
