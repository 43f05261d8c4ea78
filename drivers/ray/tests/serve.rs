//! Serve applications and clusters as objects, on a real Ray cluster.
#![allow(clippy::unwrap_used)]

mod lab;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent_api_driver::model::{
    AgentId, Condition, ControlAction, ErrorKind, Guid, Kind, ObjectName, ObjectSpec, OpId, Resources,
    Signal, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Build, CollectRequest, CollectTarget, ControlRequest, DeleteRequest,
    DriverFactory, Handle, LogReadRequest, ObjectDriver, ObjectState, ObjectStatus, RecoveredState, Result,
    Target,
};
use agent_driver_ray::RayDriverFactory;
use futures_util::StreamExt;
use lab::{Lab, http};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const LONG: Duration = Duration::from_secs(90);

/// The port that Serve listens on in this binary's cluster.
fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(lab::free_port)
}

/// One test at a time: each is a writer of its own, and Serve has no place for several.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct World {
    lab: &'static Lab,
    driver: Arc<dyn ObjectDriver>,
    _state: tempfile::TempDir,
    _one: tokio::sync::MutexGuard<'static, ()>,
}

async fn build(lab: &Lab, agent: &str, state: &std::path::Path) -> Arc<dyn ObjectDriver> {
    let poll = json!({"poll": {"fast": "200ms", "busy": "500ms"}, "unknown_after": "2s"});
    RayDriverFactory
        .build(Build {
            agent: AgentId::new(agent).unwrap(),
            state_dir: state.to_owned(),
            config: lab::config(lab, &poll),
        })
        .await
        .unwrap()
}

async fn world(agent: &str) -> World {
    let one = ONE.lock().await;
    let lab = lab::shared("serve");
    let state = tempfile::tempdir().unwrap();
    World {
        lab,
        driver: build(lab, agent, state.path()).await,
        _state: state,
        _one: one,
    }
}

fn object(name: &str, spec: Value) -> ObjectSpec {
    ObjectSpec {
        spec,
        ..ObjectSpec::new(Kind::new("ray/serve").unwrap(), ObjectName::new(name).unwrap())
    }
}

fn tiny(name: &str) -> ObjectSpec {
    let code = format!("{}/tests/serve_app", env!("CARGO_MANIFEST_DIR"));
    object(
        name,
        json!({
            "import_path": "app:build",
            "runtime_env": {"working_dir": code},
            "http": {"port": port(), "location": "head_only"},
            "deployments": [{"name": "Tiny", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.05}, "graceful_shutdown_timeout": "1s"}]
        }),
    )
}

impl World {
    async fn apply(
        &self,
        guid: Guid,
        op_id: OpId,
        spec: &ObjectSpec,
        handle: Option<&Handle>,
    ) -> Result<Applied> {
        self.driver
            .apply(ApplyRequest {
                guid,
                generation: 1,
                op_id,
                maybe_applied: false,
                spec,
                handle,
                deadline: LONG,
            })
            .await
    }

    async fn control(
        &self,
        guid: Guid,
        op_id: OpId,
        spec: &ObjectSpec,
        handle: &Handle,
        action: &ControlAction,
    ) -> Result<Applied> {
        self.driver
            .control()
            .unwrap()
            .control(ControlRequest {
                guid,
                generation: 1,
                op_id,
                maybe_applied: false,
                spec,
                handle,
                action,
                deadline: LONG,
            })
            .await
    }

    async fn delete(&self, guid: Guid, handle: &Handle) {
        let deleted = self
            .driver
            .delete(DeleteRequest {
                guid,
                op_id: OpId::generate(),
                handle: Some(handle),
                grace: None,
                orphan: false,
                deadline: LONG,
            })
            .await
            .unwrap();
        assert_eq!(deleted.left, Vec::<String>::new());
    }

    async fn status(&self, guid: Guid, handle: &Handle) -> ObjectStatus {
        let mut out = Vec::new();
        self.driver
            .observe(&[Target { guid, handle }], &mut out)
            .await
            .unwrap();
        out.pop().unwrap().status
    }

    async fn until(
        &self,
        guid: Guid,
        handle: &Handle,
        what: &str,
        holds: impl Fn(&ObjectStatus) -> bool,
    ) -> ObjectStatus {
        let end = Instant::now() + LONG;
        loop {
            let status = self.status(guid, handle).await;
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < end, "not {what}: {status:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn until_settled(&self, guid: Guid, handle: &Handle, replicas: u64) -> ObjectStatus {
        self.until(guid, handle, "settled", |status| {
            let d = &status.details["deployments"][0];
            let all = d["replicas"].as_array().map_or(0, Vec::len) as u64;
            status.state == ObjectState::Running
                && status.conditions.is_empty()
                && d["running"] == replicas
                && all == replicas
        })
        .await
    }

    fn serve(&self) -> Value {
        self.lab.call("GET", "/api/serve/applications/", &Value::Null)
    }

    /// What the application says, once it answers at all.
    async fn said(&self, name: &str) -> String {
        let end = Instant::now() + LONG;
        loop {
            let (status, text) = http(
                &format!("127.0.0.1:{}", port()),
                "GET",
                &format!("/{name}"),
                &Value::Null,
            );
            // Its body comes in chunks: the line with the three words is what it says.
            if let (200, Some(line)) = (status, text.lines().find(|line| line.split(' ').count() == 3)) {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "{name} answers {status} {text}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Writes all of Serve's applications past the driver, with a change.
    fn put(&self, change: impl FnOnce(&mut Vec<Value>)) {
        let mut all: Vec<Value> = self.serve()["applications"]
            .as_object()
            .unwrap()
            .values()
            .filter(|app| app["status"] != "DELETING" && !app["deployed_app_config"].is_null())
            .map(|app| app["deployed_app_config"].clone())
            .collect();
        change(&mut all);
        let (status, text) = http(
            &self.lab.address,
            "PUT",
            "/api/serve/applications/",
            &json!({"applications": all}),
        );
        assert_eq!(status, 200, "{text}");
    }
}

fn replicas_of(status: &ObjectStatus) -> Vec<Value> {
    status.details["deployments"][0]["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|replica| replica["id"].clone())
        .collect()
}

fn in_force(status: &ObjectStatus) -> Vec<String> {
    status
        .limits
        .iter()
        .map(|limit| format!("{}={}", limit.field, limit.value))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_lives() {
    let world = world("lives").await;
    let (guid, op_id) = (Guid::generate(), OpId::generate());
    let spec = tiny("lives");
    assert_eq!(world.driver.validate(&spec).await, []);
    let made = world.apply(guid, op_id, &spec, None).await.unwrap();
    assert!(matches!(
        made.status.state,
        ObjectState::Starting | ObjectState::Running
    ));
    let running = world.until_settled(guid, &made.handle, 1).await;
    let first = replicas_of(&running);
    let said = world.said("lives").await;
    assert!(said.starts_with(&format!("hello {guid} ")), "{said}");
    // Again, as after a lost answer: the same thing.
    let again = world.apply(guid, op_id, &spec, None).await.unwrap();
    assert_eq!(again.handle.data["op_id"], made.handle.data["op_id"]);
    // The number of replicas.
    let mut scaled = spec.clone();
    scaled.resources.replicas = Some(2);
    let action = ControlAction::Scale { replicas: 2 };
    let two = world
        .control(guid, OpId::generate(), &scaled, &again.handle, &action)
        .await
        .unwrap();
    assert_eq!(in_force(&two.status), ["replicas=2"]);
    let status = world.until_settled(guid, &two.handle, 2).await;
    assert!(
        replicas_of(&status).contains(&first[0]),
        "the first replica stays"
    );
    // In place: what it says, without another replica.
    let mut changed = scaled.clone();
    changed.resources.replicas = Some(1);
    changed.spec["deployments"][0]["user_config"] = json!({"word": "changed"});
    let one = world
        .apply(guid, OpId::generate(), &changed, Some(&two.handle))
        .await
        .unwrap();
    world.until_settled(guid, &one.handle, 1).await;
    assert!(world.said("lives").await.starts_with("changed "));
    assert_eq!(one.handle.data["op_id"], made.handle.data["op_id"]);
    // A restart: another replica, once for one operation.
    let before = replicas_of(&world.status(guid, &one.handle).await);
    let restart = OpId::generate();
    let action = ControlAction::Restart { grace: None };
    let new = world
        .control(guid, restart, &changed, &one.handle, &action)
        .await
        .unwrap();
    assert_ne!(new.handle.data["op_id"], one.handle.data["op_id"]);
    let status = world
        .until(guid, &new.handle, "restarted", |status| {
            status.conditions.is_empty()
                && status.state == ObjectState::Running
                && replicas_of(status) != before
        })
        .await;
    let same = world
        .control(guid, restart, &changed, &new.handle, &action)
        .await
        .unwrap();
    assert_eq!(same.handle.data["op_id"], new.handle.data["op_id"]);
    assert_eq!(replicas_of(&same.status), replicas_of(&status));
    for action in [
        ControlAction::Pause {},
        ControlAction::Resume {},
        ControlAction::Signal { signal: "HUP".into() },
    ] {
        let error = world
            .control(guid, OpId::generate(), &changed, &new.handle, &action)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    world.delete(guid, &new.handle).await;
    assert_eq!(world.serve()["applications"].get("lives"), None);
    assert_eq!(world.status(guid, &new.handle).await.state, ObjectState::Gone);
    world.delete(guid, &new.handle).await;
    world
        .driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, LONG)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_deployed_stays() {
    let world = world("others").await;
    let guid = Guid::generate();
    let mine = tiny("mine");
    let made = world.apply(guid, OpId::generate(), &mine, None).await.unwrap();
    let package =
        world.serve()["applications"]["mine"]["deployed_app_config"]["runtime_env"]["working_dir"].clone();
    let theirs = json!({
        "name": "theirs", "route_prefix": "/theirs", "import_path": "app:build", "runtime_env": {"working_dir": package}, "args": {"word": "their"},
        "deployments": [{"name": "Tiny", "ray_actor_options": {"num_cpus": 0.05}}]
    });
    world.put(|all| all.push(theirs.clone()));
    // A name that is theirs is not taken.
    let error = world
        .apply(Guid::generate(), OpId::generate(), &tiny("theirs"), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    world.until_settled(guid, &made.handle, 1).await;
    let mut changed = mine.clone();
    changed.spec["args"] = json!({"word": "mine"});
    let made = world
        .apply(guid, OpId::generate(), &changed, Some(&made.handle))
        .await
        .unwrap();
    let said = world.said("theirs").await;
    assert!(said.starts_with("their - "), "{said}");
    // Somebody changes ours: it is seen, and taken back.
    world.put(|all| {
        let ours = all.iter_mut().find(|app| app["name"] == "mine").unwrap();
        ours["deployments"][0]["user_config"] = json!({"word": "drifted"});
    });
    let drifted = |status: &ObjectStatus| status.conditions.iter().any(|c| c.kind == Condition::DRIFTED);
    world.until(guid, &made.handle, "drifted", drifted).await;
    let made = world
        .apply(guid, OpId::generate(), &changed, Some(&made.handle))
        .await
        .unwrap();
    assert!(!drifted(&made.status));
    world.delete(guid, &made.handle).await;
    let left = world.serve()["applications"]["theirs"].clone();
    assert_eq!(left["deployed_app_config"], theirs);
    world.put(|all| all.retain(|app| app["name"] != "theirs"));
    world
        .driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, LONG)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_why_and_a_restart_tries_again() {
    let world = world("fails").await;
    let guid = Guid::generate();
    let mut spec = tiny("fails");
    spec.spec["import_path"] = json!("broken:app");
    let made = world.apply(guid, OpId::generate(), &spec, None).await.unwrap();
    let failed = world
        .until(guid, &made.handle, "failed", |status| {
            status.state == ObjectState::Exited
        })
        .await;
    let reason = failed.exit.unwrap().reason.unwrap();
    assert!(reason.contains("broken on purpose"), "{reason}");
    let again = world
        .apply(guid, OpId::generate(), &spec, Some(&made.handle))
        .await
        .unwrap();
    assert_ne!(
        again.handle.data["op_id"], made.handle.data["op_id"],
        "it is built anew"
    );
    assert_eq!(again.status.state, ObjectState::Starting);
    let mut too_large = tiny("large");
    too_large.resources = Resources {
        cpu: Some(agent_api_driver::model::Cpu::from_millis(64_000)),
        ..Resources::default()
    };
    let error = world
        .apply(Guid::generate(), OpId::generate(), &too_large, None)
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("CPU 64 is wanted, the largest node has 4"),
        "{error}"
    );
    world.delete(guid, &again.handle).await;
    world
        .driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, LONG)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_found_again_and_tells_of_itself() {
    let world = world("found").await;
    let state = world._state.path().to_owned();
    let guid = Guid::generate();
    let spec = tiny("found");
    let made = world.apply(guid, OpId::generate(), &spec, None).await.unwrap();
    let before = world.until_settled(guid, &made.handle, 1).await;
    world
        .driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, LONG)
        .await
        .unwrap();
    let world = World {
        driver: build(world.lab, "found", &state).await,
        ..world
    };
    let target = Target {
        guid,
        handle: &made.handle,
    };
    let recovered = world.driver.recover(&[target]).await.unwrap();
    let RecoveredState::Adopted(status, _) = &recovered[0].state else {
        panic!("{recovered:?}");
    };
    assert!(status.evidence.revision > before.evidence.revision);
    let found = world.driver.discover().await.unwrap();
    assert!(
        found
            .iter()
            .any(|(mark, _)| mark.guid == guid && mark.agent.as_str() == "found")
    );
    // Its log, followed.
    let request = LogReadRequest {
        tail: Some(0),
        follow: true,
        ..LogReadRequest::default()
    };
    let mut log = world.driver.logs().unwrap().read(target, request).await.unwrap();
    let said = world.said("found").await;
    assert!(said.starts_with("hello"), "{said}");
    let line = tokio::time::timeout(LONG, async {
        loop {
            let chunk = log.next().await.unwrap().unwrap();
            if let Some(line) = chunk
                .lines
                .iter()
                .find(|line| line.windows(10).any(|w| w == b"said hello"))
            {
                return line.clone();
            }
        }
    })
    .await
    .unwrap();
    assert!(line.windows(11).any(|w| w == b"found_Tiny "), "{line:?}");
    drop(log);
    // Its metrics, once Ray has made some.
    let end = Instant::now() + LONG;
    loop {
        let mut out = TelemetryBatch::default();
        let targets = [CollectTarget {
            guid,
            handle: &made.handle,
            log_cursor: None,
            from_start: true,
        }];
        let request = CollectRequest {
            targets: &targets,
            signals: &[Signal::Metrics],
            max_log_bytes: 0,
            deadline: LONG,
        };
        world
            .driver
            .collect(request, &mut out, &mut Vec::new())
            .await
            .unwrap();
        assert_eq!(out.losses, []);
        let has = |name: &str| {
            out.metrics
                .iter()
                .any(|point| point.name == name && point.guid == guid)
        };
        if has("process.memory.usage") && has("ray.serve.requests") && has("ray.serve.replicas.healthy") {
            break;
        }
        assert!(Instant::now() < end, "{:?}", out.metrics);
        sleep(Duration::from_secs(2)).await;
    }
    world.delete(guid, &made.handle).await;
    assert_eq!(world.driver.discover().await.unwrap().len(), 0);
    world
        .driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, LONG)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_watched() {
    let world = world("watch").await;
    let guid = Guid::generate();
    let kind = Kind::new("ray/cluster").unwrap();
    let mut spec = ObjectSpec::new(kind, ObjectName::new("lab").unwrap());
    assert_eq!(world.driver.validate(&spec).await, []);
    let made = world.apply(guid, OpId::generate(), &spec, None).await.unwrap();
    let details = &made.status.details;
    assert_eq!(made.status.state, ObjectState::Running);
    assert_eq!(details["version"], "2.60.0");
    assert!(details["session"].as_str().unwrap().starts_with("session_"));
    assert_eq!(details["nodes"]["alive"], 1);
    assert_eq!(details["resources"]["CPU"]["total"], 4.0);
    assert!(details["jobs"].is_object() && details["activity"].is_object());
    spec.spec = json!({"min_nodes": 2});
    let changed = world
        .apply(guid, OpId::generate(), &spec, Some(&made.handle))
        .await
        .unwrap();
    assert_eq!(changed.status.conditions[0].reason, "TooFewNodes");
    let refresh = ControlAction::Call {
        method: "refresh".into(),
        arguments: Value::Null,
    };
    let applied = world
        .control(guid, OpId::generate(), &spec, &changed.handle, &refresh)
        .await
        .unwrap();
    assert_ne!(applied.status.details["listed_at"], details["listed_at"]);
    world.delete(guid, &changed.handle).await;
    assert_eq!(world.status(guid, &changed.handle).await.state, ObjectState::Gone);
    assert_eq!(world.lab.call("GET", "/api/gcs_healthz", &Value::Null), "success");
    world
        .driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, LONG)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_lost_its_state_has_lost_the_application() {
    let one = ONE.lock().await;
    let lab: &'static Lab = Box::leak(Box::new(Lab::start("serve-restart", lab::Setup::default())));
    let state = tempfile::tempdir().unwrap();
    let world = World {
        lab,
        driver: build(lab, "restart", state.path()).await,
        _state: state,
        _one: one,
    };
    let guid = Guid::generate();
    let mut spec = tiny("restart");
    spec.spec["http"]["port"] = json!(lab::free_port());
    let made = world.apply(guid, OpId::generate(), &spec, None).await.unwrap();
    world.until_settled(guid, &made.handle, 1).await;
    let mut events = world.driver.events();
    lab.run(&["freeze-node", "head"]);
    // Without an answer it is unknown, and never gone.
    let mut next = async |wanted: ObjectState| {
        tokio::time::timeout(LONG, async {
            loop {
                if let Some(agent_api_driver::DriverEvent::Status(seen)) = events.next().await {
                    assert_ne!(seen.status.state, ObjectState::Gone, "{seen:?}");
                    if seen.status.state == wanted {
                        return seen.status;
                    }
                }
            }
        })
        .await
        .unwrap()
    };
    let unknown = next(ObjectState::Unknown).await;
    assert_eq!(unknown.conditions[0].kind, "Reachable");
    lab.run(&["thaw-node", "head"]);
    next(ObjectState::Running).await;
    lab.run(&["restart-head"]);
    world
        .until(guid, &made.handle, "gone", |status| {
            status.state == ObjectState::Gone
        })
        .await;
    let again = world.apply(guid, OpId::generate(), &spec, None).await.unwrap();
    world.until_settled(guid, &again.handle, 1).await;
    world.delete(guid, &again.handle).await;
    world
        .driver
        .shutdown(agent_api_driver::ShutdownMode::LeaveRunning, LONG)
        .await
        .unwrap();
}
