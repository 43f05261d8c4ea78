//! What happens in the cluster is seen: rollouts, ends, troubles of pods, and what others do.

use agent_api_driver::{ObjectState, ObjectStatus};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::eyes::{Eyes, condition, drifted, trouble};
use crate::support::{World, shell};

fn is(state: ObjectState) -> impl Fn(&ObjectStatus) -> bool {
    move |status| status.state == state
}

#[tokio::test]
async fn a_rollout_is_seen_with_its_pods_and_what_others_do_to_it() {
    let world = World::new().await;
    let mut eyes = Eyes::of(&*world.driver);
    let web = world.make(&world.sleeper("deployment", "web")).await;
    let running = eyes.until(web.guid, "Running", is(ObjectState::Running)).await;
    assert!(condition(&running, "Ready").unwrap().status);
    let details = &running.details;
    assert_eq!(details["cluster"], "lab");
    assert_eq!(details["namespace"], world.namespace.as_str());
    assert_eq!(details["replicas"]["available"], 1, "{details:#}");
    assert_eq!(details["revision"], "1");
    assert_eq!(details["pods"][0]["phase"], "Running", "{details:#}");
    assert!(details["pods"][0]["node"].is_string(), "{details:#}");
    assert_eq!(drifted(&running), None, "{:?}", running.conditions);
    let observed = world.observe(&web).await;
    assert_eq!(observed.status.state, ObjectState::Running);

    // Someone changes a field that is ours.
    world
        .patch("apps/v1", "Deployment", "web", json!({"spec": {"replicas": 2}}))
        .await;
    let changed = eyes
        .until(web.guid, "the drift", |s| drifted(s) == Some(true))
        .await;
    let message = &condition(&changed, "Drifted").unwrap().message;
    assert!(
        message.contains("spec.replicas") && message.contains("someone"),
        "{message}"
    );
    let mut taken_back = web.spec.clone();
    taken_back.spec["force"] = json!(true);
    let back = world.update(&web, &taken_back).await;
    world
        .patch(
            "apps/v1",
            "Deployment",
            "web",
            json!({"metadata": {"annotations": {"x": "y"}}}),
        )
        .await;
    let mended = eyes
        .until(web.guid, "no drift", |s| drifted(s) == Some(false))
        .await;
    assert_eq!(mended.details["replicas"]["desired"], 1);

    // And by `kubectl scale`, which old servers do not note.
    let scale = json!({"spec": {"replicas": 3}});
    world
        .api("apps/v1", "Deployment")
        .patch_scale("web", &PatchParams::default(), &Patch::Merge(&scale))
        .await
        .unwrap();
    let scaled = eyes
        .until(web.guid, "the drift", |s| drifted(s) == Some(true))
        .await;
    let message = &condition(&scaled, "Drifted").unwrap().message;
    assert!(message.contains("spec.replicas"), "{message}");

    world
        .api("apps/v1", "Deployment")
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    let gone = eyes.until(web.guid, "Gone", is(ObjectState::Gone)).await;
    let reason = gone.exit.unwrap().reason.unwrap();
    assert!(
        reason.contains("Deployment/web") && reason.contains("was deleted"),
        "{reason}"
    );
    assert_eq!(world.observe(&back).await.status.state, ObjectState::Gone);
    world.end().await;
}

#[tokio::test]
async fn troubles_of_pods_surface_with_reason_and_events() {
    let world = World::new().await;
    let mut eyes = Eyes::of(&*world.driver);
    let crash = world
        .make(&world.spec("deployment", "crash", shell("exit 3")))
        .await;
    let mut image = world.sleeper("deployment", "image");
    image.spec["image"] = json!("localhost/absent:1");
    let image = world.make(&image).await;
    let mut large = world.sleeper("deployment", "large");
    large.resources.cpu = Some("500".parse().unwrap());
    let large = world.make(&large).await;
    let mut hungry = world.spec("pod", "hungry", shell("exec tail /dev/zero"));
    hungry.resources.memory = Some("16Mi".parse().unwrap());
    let hungry = world.make(&hungry).await;

    let mut wanted = vec![
        (crash.guid, "CrashLoopBackOff"),
        (image.guid, "ErrImageNeverPull"),
        (large.guid, "Unschedulable"),
        (hungry.guid, "OOMKilled"),
    ];
    let mut seen = Vec::new();
    while !wanted.is_empty() {
        let (guid, reason) = wanted[0];
        // Whichever comes first: the others are found in what was said last.
        eyes.until_all(&[guid], reason, |status| trouble(status) == Some(reason))
            .await;
        seen.push((guid, eyes.last(guid).clone()));
        wanted.remove(0);
    }
    let of = |guid| &seen.iter().find(|(of, _)| *of == guid).unwrap().1;
    let status = of(crash.guid);
    assert_eq!(status.state, ObjectState::Starting);
    assert!(
        condition(status, "PodTrouble")
            .unwrap()
            .message
            .contains("code 3"),
        "{status:?}"
    );
    let status = of(large.guid);
    assert!(
        condition(status, "PodTrouble")
            .unwrap()
            .message
            .contains("Insufficient cpu"),
        "{status:?}"
    );
    let status = of(hungry.guid);
    assert!(
        status.details["pods"][0]["reason"] == "OOMKilled",
        "{:#}",
        status.details
    );

    let warned = |reason: &'static str| {
        move |status: &ObjectStatus| {
            let events = status.details["events"].as_array();
            events.is_some_and(|events| events.iter().any(|event| event["reason"] == reason))
        }
    };
    eyes.until_all(&[crash.guid], "a warning", warned("BackOff"))
        .await;
    eyes.until_all(&[image.guid], "a warning", warned("ErrImageNeverPull"))
        .await;
    eyes.until_all(&[large.guid], "a warning", warned("FailedScheduling"))
        .await;
    world.end().await;
}

#[tokio::test]
async fn jobs_end_with_their_code() {
    let world = World::new().await;
    let mut eyes = Eyes::of(&*world.driver);
    let good = world.make(&world.spec("job", "good", shell("true"))).await;
    let bad = world.make(&world.spec("job", "bad", shell("exit 7"))).await;
    let ended = |code: i32| {
        move |status: &ObjectStatus| {
            status.state == ObjectState::Exited
                && status.exit.as_ref().and_then(|exit| exit.code) == Some(code)
        }
    };
    eyes.until_all(&[good.guid], "the good end", ended(0)).await;
    eyes.until_all(&[bad.guid], "the bad end", ended(7)).await;
    assert_eq!(
        world.observe(&bad).await.status.exit.and_then(|exit| exit.code),
        Some(7)
    );
    world.end().await;
}

#[tokio::test]
async fn custom_resources_speak_by_their_conditions() {
    let world = World::new().await;
    let mut eyes = Eyes::of(&*world.driver);
    let group = format!("{}.example.com", world.namespace);
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("engines.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "engines", "singular": "engine", "kind": "Engine"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    let engine = json!({"apiVersion": format!("{group}/v1"), "kind": "Engine", "metadata": {"name": "e"}, "spec": {"size": 1}});
    let made = world
        .make(&world.spec("manifest", "engine", json!({"objects": [definition, engine]})))
        .await;
    eyes.until_all(&[made.guid], "Running", is(ObjectState::Running))
        .await;
    let api = world.api(&format!("{group}/v1"), "Engine");
    let say = |status: &'static str| {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Why", "message": "because"}]}});
        let api = api.clone();
        async move {
            api.patch_status("e", &PatchParams::default(), &Patch::Merge(&status))
                .await
                .unwrap();
        }
    };
    say("False").await;
    let waits = eyes.until(made.guid, "Starting", is(ObjectState::Starting)).await;
    assert!(
        condition(&waits, "Ready")
            .unwrap()
            .message
            .contains("Why: because"),
        "{waits:?}"
    );
    assert_eq!(drifted(&waits), None, "a status is nobody's drift");
    say("True").await;
    eyes.until(made.guid, "Running", is(ObjectState::Running)).await;
    // One of two things is deleted.
    api.delete("e", &DeleteParams::default()).await.unwrap();
    let gone = eyes
        .until(made.guid, "the drift", |s| drifted(s) == Some(true))
        .await;
    assert_eq!(condition(&gone, "Drifted").unwrap().reason, "Deleted");
    world.end().await;
}

#[tokio::test]
async fn what_is_not_ours_is_watched_where_it_is() {
    let world = World::new().await;
    let mut eyes = Eyes::of(&*world.driver);
    let labels = json!({"app": "theirs"});
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "theirs"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "main", "image": "localhost/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "100000"]}]}}},
    });
    world.create("apps/v1", "Deployment", theirs).await;
    let spec = world.spec(
        "adopted",
        "theirs",
        json!({"api_version": "apps/v1", "kind": "Deployment"}),
    );
    let adopted = world.make(&spec).await;
    let has_pod = |status: &ObjectStatus| {
        status.state == ObjectState::Running && status.details["pods"][0]["phase"] == "Running"
    };
    eyes.until_all(&[adopted.guid], "Running with its pod", has_pod)
        .await;
    // A second one in the same place, which the watch has passed over before.
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    world.create("v1", "ConfigMap", other.clone()).await;
    let map = |name: &str| world.spec("adopted", name, json!({"api_version": "v1", "kind": "ConfigMap"}));
    let first = world.make(&map("a")).await;
    let mut second = other;
    second["metadata"]["name"] = json!("b");
    world.create("v1", "ConfigMap", second).await;
    let second = world.make(&map("b")).await;
    world
        .api("v1", "ConfigMap")
        .delete("b", &DeleteParams::default())
        .await
        .unwrap();
    let gone = eyes.until(second.guid, "Gone", is(ObjectState::Gone)).await;
    assert_eq!(drifted(&gone), None, "what is not ours does not drift");
    world
        .api("apps/v1", "Deployment")
        .delete("theirs", &DeleteParams::background())
        .await
        .unwrap();
    eyes.until(adopted.guid, "Gone", is(ObjectState::Gone)).await;
    assert_eq!(world.observe(&first).await.status.state, ObjectState::Running);
    world.end().await;
}

#[tokio::test]
async fn a_deletion_that_hangs_says_what_holds_it() {
    let world = World::new().await;
    let mut eyes = Eyes::of(&*world.driver);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "finalizers": ["example.com/guard"]}});
    let held = world
        .make(&world.spec("manifest", "held", json!({"objects": [map]})))
        .await;
    world
        .api("v1", "ConfigMap")
        .delete("held", &DeleteParams::default())
        .await
        .unwrap();
    let ends = |status: &ObjectStatus| condition(status, "Terminating").is_some();
    let status = eyes.until(held.guid, "Terminating", ends).await;
    let message = &condition(&status, "Terminating").unwrap().message;
    assert!(message.contains("example.com/guard"), "{message}");
    world
        .patch(
            "v1",
            "ConfigMap",
            "held",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    eyes.until(held.guid, "Gone", is(ObjectState::Gone)).await;
    world.end().await;
}
