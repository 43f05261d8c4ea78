//! Objects of the short kinds from their creation to their end.

use std::time::Duration;

use agent_api_driver::model::{ErrorKind, OpId, PlanAction, Resources};
use agent_api_driver::{ObjectState, RecoveredState, Target};
use serde_json::json;

use crate::support::{World, shell, uid};

#[tokio::test]
async fn a_deployment_is_made_changed_in_place_and_removed_with_its_pods() {
    let world = World::new().await;
    let spec = world.sleeper("deployment", "web");
    let web = world.make(&spec).await;
    let live = world.live("apps/v1", "Deployment", "web").await.unwrap();
    let labels = live.metadata.labels.clone().unwrap();
    assert_eq!(labels["agent/id"], world.agent.as_str());
    assert_eq!(labels["agent/guid"], web.guid.to_string());
    let annotations = live.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["agent/op-id"], web.op_id.to_string());
    assert_eq!(annotations["agent/generation"], "1");
    assert_eq!(
        live.data["spec"]["template"]["metadata"]["labels"]["agent/guid"],
        web.guid.to_string()
    );
    world.until(&web, ObjectState::Running).await;

    let mut next = spec.clone();
    next.spec["env"] = json!({"COLOR": "blue"});
    next.resources.replicas = Some(2);
    let plan = world.plan(&web, &next).await.unwrap();
    assert_eq!(plan.action, PlanAction::InPlace, "{plan:?}");
    let paths: Vec<&str> = plan.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "Deployment/web.spec.replicas",
            "Deployment/web.spec.template.spec.containers"
        ]
    );
    assert_eq!(plan.details["manifests"][0]["kind"], "Deployment");
    let changed = world.update(&web, &next).await;
    assert_eq!(uid(&changed.handle), uid(&web.handle));
    world.until(&changed, ObjectState::Running).await;
    let plan = world.plan(&changed, &next).await.unwrap();
    assert_eq!(plan.action, PlanAction::NoOp);

    world.delete(web.guid, Some(&changed.handle)).await.unwrap();
    // Foreground: when it is gone, its pods are.
    assert!(world.live("apps/v1", "Deployment", "web").await.is_none());
    let pods = world.api("v1", "Pod").list(&Default::default()).await.unwrap();
    assert!(pods.items.is_empty(), "{:?}", pods.items);
    world.end().await;
}

#[tokio::test]
async fn what_cannot_be_changed_is_recreated_and_the_plan_names_the_field() {
    let world = World::new().await;
    let job = world.make(&world.sleeper("job", "work")).await;
    let mut next = job.spec.clone();
    next.spec["env"] = json!({"A": "1"});
    let plan = world.plan(&job, &next).await.unwrap();
    assert_eq!(plan.action, PlanAction::Recreate, "{plan:?}");
    assert!(plan.reason.contains("Job/work.spec.template"), "{}", plan.reason);
    let again = world.update(&job, &next).await;
    assert_ne!(uid(&again.handle), uid(&job.handle));
    world.until(&again, ObjectState::Running).await;
    // The answer may have been lost: the same operation with the handle from before it changes nothing.
    let twice = world
        .apply(job.guid, again.op_id, 2, &next, Some(&job.handle))
        .await
        .unwrap();
    assert_eq!(uid(&twice.handle), uid(&again.handle));

    let pod = world.make(&world.sleeper("pod", "one")).await;
    let mut next = pod.spec.clone();
    next.resources = Resources {
        cpu: Some("100m".parse().unwrap()),
        ..Resources::default()
    };
    let plan = world.plan(&pod, &next).await.unwrap();
    assert_eq!(plan.action, PlanAction::Restart, "{plan:?}");
    assert!(plan.reason.contains("Pod/one.spec"), "{}", plan.reason);
    world.end().await;
}

#[tokio::test]
async fn what_ended_starts_again_once_per_operation() {
    let world = World::new().await;
    let job = world.make(&world.spec("job", "short", shell("exit 3"))).await;
    let ended = world.until(&job, ObjectState::Exited).await;
    assert_eq!(ended.status.exit.and_then(|exit| exit.code), Some(3));
    // The operation that made it does not start it again.
    let same = world
        .apply(job.guid, job.op_id, 1, &job.spec, Some(&job.handle))
        .await
        .unwrap();
    assert_eq!(uid(&same.handle), uid(&job.handle));
    let op_id = OpId::generate();
    let next = world.spec("job", "short", shell("trap 'exit 0' TERM; sleep 1000 & wait"));
    let again = world
        .apply(job.guid, op_id, 2, &next, Some(&job.handle))
        .await
        .unwrap();
    assert_ne!(uid(&again.handle), uid(&job.handle));
    let twice = world
        .apply(job.guid, op_id, 2, &next, Some(&job.handle))
        .await
        .unwrap();
    assert_eq!(uid(&twice.handle), uid(&again.handle));
    world.end().await;
}

#[tokio::test]
async fn a_later_driver_finds_what_is_there_and_what_is_not() {
    let mut world = World::new().await;
    let kept = world.make(&world.sleeper("deployment", "kept")).await;
    let taken = world.make(&world.sleeper("pod", "taken")).await;
    let replaced = world.make(&world.sleeper("pod", "replaced")).await;
    for name in ["taken", "replaced"] {
        let now = kube::api::DeleteParams::default().grace_period(0);
        world.api("v1", "Pod").delete(name, &now).await.unwrap();
    }
    let stranger = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "replaced"}, "spec": {
        "containers": [{"name": "a", "image": "localhost/busybox:1", "command": ["sleep", "1000"]}],
    }});
    let stranger = world.create("v1", "Pod", stranger).await;
    world.restart().await;
    let targets = [&kept, &taken, &replaced].map(|object| Target {
        guid: object.guid,
        handle: &object.handle,
    });
    let answers = world.driver.recover(&targets).await.unwrap();
    assert_eq!(answers.len(), 3);
    for answer in answers {
        match answer.state {
            RecoveredState::Adopted(..) => assert_eq!(answer.guid, kept.guid),
            RecoveredState::Lost(why) => {
                assert_eq!(answer.guid, taken.guid);
                assert!(why.contains("Pod/taken"), "{why}");
            }
            RecoveredState::Foreign(_) => assert_eq!(answer.guid, replaced.guid),
            other => panic!("{other:?}"),
        }
    }
    // A stranger of the same name is never touched.
    world.delete(replaced.guid, Some(&replaced.handle)).await.unwrap();
    let error = world.try_update(&replaced, &replaced.spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    let there = world.live("v1", "Pod", "replaced").await.unwrap();
    assert_eq!(there.metadata.uid, stranger.metadata.uid);
    assert!(there.metadata.labels.is_none());
    let found = world.found(kept.guid).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0.op_id, kept.op_id);
    assert_eq!(uid(&found[0].1), uid(&kept.handle));
    world.end().await;
}

#[tokio::test]
async fn a_delete_ends_by_its_deadline_and_names_the_finalizer() {
    let world = World::new().await;
    let objects = json!([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "name": "held", "finalizers": ["example.com/holds"]}, "data": {"a": "1"}}]);
    let held = world
        .make(&world.spec("manifest", "held", json!({"objects": objects})))
        .await;
    let error = world
        .delete_with(held.guid, Some(&held.handle), false, Duration::from_secs(2))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.to_string().contains("example.com/holds"), "{error}");
    world
        .patch(
            "v1",
            "ConfigMap",
            "held",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    world.delete(held.guid, Some(&held.handle)).await.unwrap();
    assert!(world.live("v1", "ConfigMap", "held").await.is_none());
    world.end().await;
}

#[tokio::test]
async fn an_orphan_stays_without_our_marks() {
    let world = World::new().await;
    let web = world.make(&world.sleeper("deployment", "web")).await;
    world.until(&web, ObjectState::Running).await;
    world
        .delete_with(web.guid, Some(&web.handle), true, Duration::from_secs(20))
        .await
        .unwrap();
    let live = world.live("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!(live.metadata.uid.as_deref(), Some(uid(&web.handle).as_str()));
    let labels = live.metadata.labels.unwrap_or_default();
    let annotations = live.metadata.annotations.unwrap_or_default();
    let ours = |key: &&String| key.starts_with("agent/");
    assert_eq!(labels.keys().find(ours), None);
    assert_eq!(annotations.keys().find(ours), None);
    assert!(world.found(web.guid).await.is_empty());
    world.end().await;
}

#[tokio::test]
async fn an_adopted_object_is_watched_and_never_written() {
    let world = World::new().await;
    let there = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "theirs"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "theirs"}}, "template": {
            "metadata": {"labels": {"app": "theirs"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "a", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                "command": ["sleep", "1000"]}]}}}});
    let before = world.create("apps/v1", "Deployment", there).await;
    let spec = json!({"api_version": "apps/v1", "kind": "Deployment", "name": "theirs"});
    let adopted = world.make(&world.spec("adopted", "watched", spec.clone())).await;
    world.until(&adopted, ObjectState::Running).await;
    world.delete(adopted.guid, Some(&adopted.handle)).await.unwrap();
    let live = world.live("apps/v1", "Deployment", "theirs").await.unwrap();
    assert_eq!(live.metadata.uid, before.metadata.uid);
    assert_eq!(live.metadata.generation, before.metadata.generation);
    assert!(live.metadata.labels.is_none());
    let mut missing = spec;
    missing["name"] = json!("nobody");
    let error = world
        .try_create(&world.spec("adopted", "nobody", missing))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world.end().await;
}
