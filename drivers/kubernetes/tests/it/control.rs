//! Control verbs and methods on the lab's cluster.

use std::time::Duration;

use agent_api_driver::model::{ControlAction, Error, ErrorKind, ObjectSpec, OpId, PlanAction, Resources};
use agent_api_driver::{Applied, ControlRequest, ObjectState};
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Object, PATIENCE, World, shell, uid};

async fn as_operation(
    world: &World,
    object: &Object,
    spec: &ObjectSpec,
    op_id: OpId,
    action: &ControlAction,
) -> Result<Applied, Error> {
    let request = ControlRequest {
        guid: object.guid,
        generation: object.generation,
        op_id,
        maybe_applied: false,
        spec,
        handle: &object.handle,
        action,
        deadline: PATIENCE,
    };
    world.driver.control().unwrap().control(request).await
}

/// As the manager does it: the spec has the action's changes in it, and the new handle and spec are kept.
async fn control(world: &World, object: &mut Object, action: ControlAction) -> Result<Applied, Error> {
    let mut spec = object.spec.clone();
    match &action {
        ControlAction::Scale { replicas } => spec.resources.replicas = Some(*replicas),
        ControlAction::Resize { resources } => {
            spec.resources.cpu = resources.cpu.or(spec.resources.cpu);
            spec.resources.memory = resources.memory.or(spec.resources.memory);
        }
        _ => {}
    }
    let applied = as_operation(world, object, &spec, OpId::generate(), &action).await?;
    object.handle = applied.handle.clone();
    object.spec = applied.spec.clone().unwrap_or(spec);
    Ok(applied)
}

fn call(method: &str, arguments: Value) -> ControlAction {
    ControlAction::Call {
        method: method.into(),
        arguments,
    }
}

fn restart() -> ControlAction {
    ControlAction::Restart {
        grace: Some(Duration::from_secs(1)),
    }
}

/// Names of the pods that are not on their way out.
async fn pods(world: &World) -> Vec<String> {
    let list = world.api("v1", "Pod").list(&ListParams::default()).await.unwrap();
    let stay = list
        .items
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let mut names: Vec<String> = stay.filter_map(|pod| pod.metadata.name).collect();
    names.sort();
    names
}

async fn until_pods(world: &World, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
    let by = Instant::now() + PATIENCE;
    loop {
        let names = pods(world).await;
        if wanted(&names) {
            return names;
        }
        assert!(Instant::now() < by, "{what}: {names:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Our own acts are no drift, and leave nothing to do for an apply of the spec.
async fn is_settled(world: &World, object: &Object) {
    let observed = world.observe(object).await;
    let drifted = observed
        .status
        .conditions
        .iter()
        .any(|c| c.kind == "Drifted" && c.status);
    assert!(!drifted, "{:?}", observed.status.conditions);
    let plan = world.plan(object, &object.spec).await.unwrap();
    assert_eq!(plan.action, PlanAction::NoOp, "{plan:?}");
}

#[tokio::test]
async fn a_deployment_is_scaled_paused_and_restarted() {
    let world = World::new().await;
    let mut web = world.make(&world.sleeper("deployment", "web")).await;
    control(&world, &mut web, ControlAction::Scale { replicas: 2 })
        .await
        .unwrap();
    assert_eq!(
        world.live("apps/v1", "Deployment", "web").await.unwrap().data["spec"]["replicas"],
        2
    );
    world.until(&web, ObjectState::Running).await;
    let before = until_pods(&world, "two pods", |pods| pods.len() == 2).await;
    is_settled(&world, &web).await;

    for _ in 0..2 {
        let paused = control(&world, &mut web, ControlAction::Pause {}).await.unwrap();
        assert_eq!(paused.status.state, ObjectState::Paused);
    }
    is_settled(&world, &web).await;
    let error = control(&world, &mut web, restart()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    // A pause outlives an apply.
    let mut next = web.spec.clone();
    next.resources.replicas = Some(3);
    web = world.update(&web, &next).await;
    world.until(&web, ObjectState::Paused).await;
    until_pods(&world, "three pods", |pods| pods.len() == 3).await;
    control(&world, &mut web, ControlAction::Resume {}).await.unwrap();
    world.until(&web, ObjectState::Running).await;

    // A restart replaces all pods; the same operation does so once.
    let op_id = OpId::generate();
    let spec = web.spec.clone();
    let first = as_operation(&world, &web, &spec, op_id, &restart())
        .await
        .unwrap();
    assert_ne!(first.handle, web.handle);
    web.handle = first.handle.clone();
    let after = until_pods(&world, "three new pods", |pods| {
        pods.len() == 3 && pods.iter().all(|pod| !before.contains(pod))
    })
    .await;
    world.until(&web, ObjectState::Running).await;
    as_operation(&world, &web, &spec, op_id, &restart())
        .await
        .unwrap();
    world.until(&web, ObjectState::Running).await;
    assert_eq!(pods(&world).await, after);
    is_settled(&world, &web).await;
    world.end().await;
}

#[tokio::test]
async fn a_deployment_goes_back_to_an_earlier_revision() {
    let world = World::new().await;
    let mut spec = world.sleeper("deployment", "web");
    spec.spec["env"] = json!({"COLOR": "red"});
    let mut web = world.make(&spec).await;
    world.until(&web, ObjectState::Running).await;
    let mut blue = spec.clone();
    blue.spec["env"] = json!({"COLOR": "blue"});
    blue.resources.replicas = Some(2);
    web = world.update(&web, &blue).await;
    world.until(&web, ObjectState::Running).await;

    let unknown = control(&world, &mut web, call("rollback", json!({"revision": 99})))
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.kind(), unknown.path()),
        (ErrorKind::NotFound, Some("arguments.revision"))
    );
    let wrong = control(&world, &mut web, call("rollback", json!({"to": 1})))
        .await
        .unwrap_err();
    assert_eq!(
        (wrong.kind(), wrong.path()),
        (ErrorKind::Invalid, Some("arguments"))
    );

    let back = control(&world, &mut web, call("rollback", json!({"revision": 1})))
        .await
        .unwrap();
    let back = back.spec.unwrap();
    assert_eq!(back.spec["env"], json!({"COLOR": "red"}));
    assert_eq!(back.resources.replicas, Some(2));
    world.until(&web, ObjectState::Running).await;
    let live = world.live("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!(
        live.data["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"],
        "red"
    );
    is_settled(&world, &web).await;
    world.end().await;
}

#[tokio::test]
async fn a_manifest_is_restarted_scaled_and_rolled_back() {
    let world = World::new().await;
    let template = |color: &str| {
        json!({
            "metadata": {"labels": {"app": "m"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "c", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                "command": ["sleep", "100000"], "env": [{"name": "COLOR", "value": color}],
            }]},
        })
    };
    let spec = |color: &str| {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "m"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "m"}}, "template": template(color)},
        });
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
        world.spec("manifest", "m", json!({"objects": [map, deployment]}))
    };
    let mut both = world.make(&spec("red")).await;
    world.until(&both, ObjectState::Running).await;
    let before = pods(&world).await;
    control(&world, &mut both, restart()).await.unwrap();
    until_pods(&world, "a new pod", |pods| pods.len() == 1 && pods != before).await;
    control(&world, &mut both, ControlAction::Scale { replicas: 2 })
        .await
        .unwrap();
    until_pods(&world, "two pods", |pods| pods.len() == 2).await;
    is_settled(&world, &both).await;
    let mut blue = spec("blue");
    blue.resources = both.spec.resources.clone();
    both = world.update(&both, &blue).await;
    world.until(&both, ObjectState::Running).await;
    let back = control(&world, &mut both, call("rollback", Value::Null))
        .await
        .unwrap()
        .spec
        .unwrap();
    let env = &back.spec["objects"][1]["spec"]["template"]["spec"]["containers"][0]["env"][0];
    assert_eq!(env["value"], "red");
    world.until(&both, ObjectState::Running).await;
    is_settled(&world, &both).await;
    world.end().await;
}

#[tokio::test]
async fn pods_and_jobs_are_made_anew_and_what_they_lack_is_unsupported() {
    let world = World::new().await;
    let mut pod = world.make(&world.sleeper("pod", "one")).await;
    let mut job = world.make(&world.sleeper("job", "work")).await;
    for object in [&mut pod, &mut job] {
        world.until(object, ObjectState::Running).await;
        let spec = object.spec.clone();
        let op_id = OpId::generate();
        let old = object.handle.clone();
        let first = as_operation(&world, object, &spec, op_id, &restart())
            .await
            .unwrap();
        assert_ne!(uid(&first.handle), uid(&old));
        let again = as_operation(&world, object, &spec, op_id, &restart())
            .await
            .unwrap();
        assert_eq!(
            uid(&again.handle),
            uid(&first.handle),
            "the same operation restarted twice"
        );
        object.handle = again.handle;
        world.until(object, ObjectState::Running).await;
    }
    let refused = [
        (&pod, ControlAction::Pause {}, "a Pod has no pause"),
        (&pod, ControlAction::Scale { replicas: 2 }, "a Pod has no copies"),
        (&job, ControlAction::Pause {}, "server 1.20"),
        (&job, call("rollback", Value::Null), "Deployment"),
        (&pod, call("fly", Value::Null), "no method"),
        (
            &pod,
            ControlAction::Signal {
                signal: "STOP".into(),
            },
            "cannot be stopped",
        ),
        (
            &pod,
            ControlAction::Resize {
                resources: Resources {
                    cpu: Some("100m".parse().unwrap()),
                    ..Resources::default()
                },
            },
            "1.33",
        ),
    ];
    for (object, action, why) in refused {
        let mut object = object.clone();
        let error = control(&world, &mut object, action).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    // A handle of another object, and one whose thing is gone.
    let mut stranger = pod.clone();
    stranger.guid = job.guid;
    let error = control(&world, &mut stranger, restart()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world.delete(pod.guid, Some(&pod.handle)).await.unwrap();
    let error = control(&world, &mut pod, restart()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world.end().await;
}

#[tokio::test]
async fn signals_reach_the_container() {
    let world = World::new().await;
    let script = "trap 'exit 7' USR1; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let mut pod = world.make(&world.spec("pod", "listens", shell(script))).await;
    world.until(&pod, ObjectState::Running).await;
    for signal in ["0", "CONT"] {
        control(
            &world,
            &mut pod,
            ControlAction::Signal {
                signal: signal.into(),
            },
        )
        .await
        .unwrap();
    }
    let error = control(
        &world,
        &mut pod,
        ControlAction::Signal {
            signal: "SIGNOTHING".into(),
        },
    )
    .await
    .unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Invalid, Some("signal")));
    control(
        &world,
        &mut pod,
        ControlAction::Signal {
            signal: "SIGUSR1".into(),
        },
    )
    .await
    .unwrap();
    let ended = world.until(&pod, ObjectState::Exited).await;
    assert_eq!(ended.status.exit.unwrap().code, Some(7));
    let error = control(&world, &mut pod, ControlAction::Signal { signal: "HUP".into() })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    // What has ended is started by a restart, and killed for good.
    control(&world, &mut pod, restart()).await.unwrap();
    world.until(&pod, ObjectState::Running).await;
    control(
        &world,
        &mut pod,
        ControlAction::Signal {
            signal: "KILL".into(),
        },
    )
    .await
    .unwrap();
    world.until(&pod, ObjectState::Gone).await;
    world.end().await;
}

#[tokio::test]
async fn an_adopted_deployment_is_controlled_and_stays_its_owners() {
    let world = World::new().await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "theirs"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "t"}}, "template": {
            "metadata": {"labels": {"app": "t"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "c", "image": "localhost/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "100000"],
            }]},
        }},
    });
    world.create("apps/v1", "Deployment", deployment).await;
    let spec = world.spec(
        "adopted",
        "theirs",
        json!({"api_version": "apps/v1", "kind": "Deployment"}),
    );
    let mut theirs = world.make(&spec).await;
    world.until(&theirs, ObjectState::Running).await;
    control(&world, &mut theirs, ControlAction::Scale { replicas: 2 })
        .await
        .unwrap();
    let before = until_pods(&world, "two pods", |pods| pods.len() == 2).await;
    control(&world, &mut theirs, restart()).await.unwrap();
    until_pods(&world, "two new pods", |pods| {
        pods.len() == 2 && pods.iter().all(|pod| !before.contains(pod))
    })
    .await;
    let paused = control(&world, &mut theirs, ControlAction::Pause {})
        .await
        .unwrap();
    assert_eq!(paused.status.state, ObjectState::Paused);
    control(&world, &mut theirs, ControlAction::Resume {})
        .await
        .unwrap();
    control(&world, &mut theirs, call("rollback", json!({"revision": 1})))
        .await
        .unwrap();
    world.until(&theirs, ObjectState::Running).await;
    let live = world.live("apps/v1", "Deployment", "theirs").await.unwrap();
    assert_eq!(live.data["spec"]["replicas"], 2);
    assert!(live.data["spec"]["template"]["metadata"]["annotations"]["agent/incarnation"].is_null());
    assert!(live.metadata.labels.is_none(), "{:?}", live.metadata.labels);
    world.delete(theirs.guid, Some(&theirs.handle)).await.unwrap();
    assert!(world.live("apps/v1", "Deployment", "theirs").await.is_some());
    world.end().await;
}

#[tokio::test]
async fn a_node_is_cordoned_and_drained_within_budgets() {
    let world = World::new().await;
    let mut cluster = world.make(&world.spec("cluster", "lab", Value::Null)).await;
    // A node of its own, on which nothing really runs, so that others are not disturbed.
    let node = format!("node-{}", world.namespace);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
        "spec": {"taints": [{"key": "test", "effect": "NoSchedule"}]}});
    world.create("v1", "Node", object).await;
    let nobody = control(
        &world,
        &mut cluster,
        call("cordon", json!({"node": "no-such-node"})),
    )
    .await
    .unwrap_err();
    assert_eq!(
        (nobody.kind(), nobody.path()),
        (ErrorKind::NotFound, Some("arguments.node"))
    );
    let held = async || world.live("v1", "Node", &node).await.unwrap().data["spec"]["unschedulable"] == true;
    for (method, expected) in [
        ("cordon", true),
        ("cordon", true),
        ("uncordon", false),
        ("uncordon", false),
    ] {
        control(&world, &mut cluster, call(method, json!({"node": node})))
            .await
            .unwrap();
        assert_eq!(held().await, expected, "{method}");
    }
    let pod = |name: &str, label: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": label}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "localhost/busybox:1"}]}})
    };
    world.create("v1", "Pod", pod("free", "free")).await;
    world.create("v1", "Pod", pod("guarded", "guarded")).await;
    let budget = json!({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}});
    world
        .create("policy/v1beta1", "PodDisruptionBudget", budget)
        .await;

    let refused = control(&world, &mut cluster, call("drain", json!({"node": node})))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(
        refused
            .to_string()
            .contains("/guarded: nobody would make it anew (force)"),
        "{refused}"
    );
    assert!(held().await, "a drain cordons first");

    // A budget counts pods that are ready only: these never are, so evictions of pods not yet running are refused too.
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let api =
        kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(world.client.clone(), &world.namespace);
    api.patch_status("guarded", &Default::default(), &kube::api::Patch::Merge(&ready))
        .await
        .unwrap();
    let drain = json!({"node": node, "force": true, "grace": "0s", "timeout": "4s"});
    let late = control(&world, &mut cluster, call("drain", drain))
        .await
        .unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    assert!(late.to_string().contains("/guarded are left"), "{late}");
    assert!(late.context().iter().any(|(key, _)| key == "held"), "{late:?}");
    assert_eq!(pods(&world).await, ["guarded"]);

    world
        .api("policy/v1beta1", "PodDisruptionBudget")
        .delete("b", &Default::default())
        .await
        .unwrap();
    let drain = json!({"node": node, "force": true, "grace": "0s", "timeout": "30s"});
    control(&world, &mut cluster, call("drain", drain)).await.unwrap();
    assert!(pods(&world).await.is_empty());
    let wrong = control(&world, &mut cluster, call("drain", json!({})))
        .await
        .unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    let no_verb = control(&world, &mut cluster, restart()).await.unwrap_err();
    assert_eq!(no_verb.kind(), ErrorKind::Unsupported);
    world
        .api("v1", "Node")
        .delete(&node, &Default::default())
        .await
        .unwrap();
    world.end().await;
}
