//! Jobs on a real Ray cluster that loses its head, its state and its nodes.
#![allow(clippy::unwrap_used)]

mod lab;

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    AgentId, ControlAction, ErrorKind, Guid, Kind, LogStream, ObjectName, ObjectSpec, OpId, PlanAction,
    Signal, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Build, CollectRequest, CollectTarget, ControlRequest, DeleteRequest,
    DriverFactory, Handle, ObjectDriver, ObjectState, ObjectStatus, PlanRequest, ShutdownMode, Target,
};
use agent_driver_ray::RayDriverFactory;
use lab::{Lab, Setup};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(90);

/// A driver for a cluster, and the directory that it keeps its records in.
struct Agent {
    driver: Arc<dyn ObjectDriver>,
    _dir: tempfile::TempDir,
}

struct Object {
    guid: Guid,
    spec: ObjectSpec,
    handle: Handle,
}

impl Agent {
    async fn new(lab: &Lab, more: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let build = Build {
            agent: AgentId::new("tests").unwrap(),
            state_dir: dir.path().to_owned(),
            config: lab::config(lab, &more),
        };
        Self {
            driver: RayDriverFactory.build(build).await.unwrap(),
            _dir: dir,
        }
    }

    async fn apply(
        &self,
        guid: Guid,
        spec: &ObjectSpec,
        handle: Option<&Handle>,
    ) -> Result<Applied, agent_api_driver::Error> {
        let request = ApplyRequest {
            guid,
            generation: 1,
            op_id: OpId::generate(),
            maybe_applied: false,
            spec,
            handle,
            deadline: PATIENCE,
        };
        self.driver.apply(request).await
    }

    async fn create(&self, spec: Value) -> Object {
        let (guid, spec) = (Guid::generate(), object(spec));
        let handle = self.apply(guid, &spec, None).await.unwrap().handle;
        Object { guid, spec, handle }
    }

    async fn observe(&self, object: &Object) -> ObjectStatus {
        let mut out = Vec::new();
        let target = Target {
            guid: object.guid,
            handle: &object.handle,
        };
        self.driver.observe(&[target], &mut out).await.unwrap();
        out.remove(0).status
    }

    async fn until(&self, object: &Object, state: ObjectState) -> ObjectStatus {
        let mut last = None;
        let reached = timeout(PATIENCE, async {
            loop {
                let status = self.observe(object).await;
                if status.state == state {
                    return status;
                }
                last = Some(status);
                sleep(Duration::from_millis(100)).await;
            }
        });
        match reached.await {
            Ok(status) => status,
            Err(_) => panic!("waited for {state:?}, last: {last:?}"),
        }
    }

    /// What the object wrote, and what Ray said of it.
    async fn collect(&self, object: &Object) -> (Vec<String>, Vec<String>) {
        let target = CollectTarget {
            guid: object.guid,
            handle: &object.handle,
            log_cursor: None,
            from_start: true,
        };
        let request = CollectRequest {
            targets: &[target],
            signals: &[Signal::Logs],
            max_log_bytes: 1 << 20,
            deadline: PATIENCE,
        };
        let (mut batch, mut cursors) = (TelemetryBatch::default(), Vec::new());
        self.driver
            .collect(request, &mut batch, &mut cursors)
            .await
            .unwrap();
        let of = |stream| {
            let records = batch.logs.iter().filter(|record| record.stream == stream);
            records
                .map(|record| String::from_utf8_lossy(&record.body).into_owned())
                .collect()
        };
        (of(LogStream::Stdout), of(LogStream::System))
    }

    async fn delete(&self, object: &Object) {
        let request = DeleteRequest {
            guid: object.guid,
            op_id: OpId::generate(),
            handle: Some(&object.handle),
            grace: None,
            orphan: false,
            deadline: PATIENCE,
        };
        self.driver.delete(request).await.unwrap();
    }

    async fn end(self) {
        self.driver
            .shutdown(ShutdownMode::StopObjects, PATIENCE)
            .await
            .unwrap();
    }
}

fn object(spec: Value) -> ObjectSpec {
    ObjectSpec {
        spec,
        ..ObjectSpec::new(Kind::new("ray/job").unwrap(), ObjectName::new("job").unwrap())
    }
}

async fn run(lab: &'static Lab, args: &'static [&'static str]) -> String {
    tokio::task::spawn_blocking(move || lab.run(args)).await.unwrap()
}

async fn start(name: &'static str, setup: Setup) -> &'static Lab {
    let lab = tokio::task::spawn_blocking(move || Lab::start(name, setup))
        .await
        .unwrap();
    Box::leak(Box::new(lab))
}

fn condition<'a>(status: &'a ObjectStatus, kind: &str) -> Option<&'a str> {
    status
        .conditions
        .iter()
        .find(|c| c.kind == kind)
        .map(|c| c.message.as_str())
}

/// Outcomes, code by package, a wish to stop that waits, what no node can give, and a job of somebody else, on a cluster that asks for a
/// token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_fail_and_stop() {
    let lab = start(
        "jobs-token",
        Setup {
            token: Some("t0ken"),
            ..Setup::default()
        },
    )
    .await;
    let denied = Agent::new(lab, json!({"token": "wrong"})).await;
    let refused = denied
        .apply(Guid::generate(), &object(json!({"command": ["true"]})), None)
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
    denied.end().await;

    let agent = Agent::new(lab, json!({"token": "t0ken"})).await;
    let code = tempfile::tempdir().unwrap();
    std::fs::write(code.path().join("main.sh"), "echo packed; exit 4").unwrap();
    let failed = agent
        .create(json!({"command": ["sh", "main.sh"], "runtime_env": {"working_dir": code.path()}}))
        .await;
    let status = agent.until(&failed, ObjectState::Exited).await;
    let (lines, said) = agent.collect(&failed).await;
    assert_eq!(lines, ["packed"]);
    assert!(
        said.iter().any(|line| line.ends_with("exited with code 4")),
        "{said:?}"
    );
    assert_eq!(status.exit.as_ref().unwrap().code, Some(4), "{status:?}");
    assert_eq!(status.details["error_type"], "JOB_ENTRYPOINT_COMMAND_ERROR");
    assert!(status.details["message"].as_str().unwrap().contains("packed"));
    assert!(status.details["node_id"].is_string() && status.details["ended_at"].is_string());

    // The next attempt has an id of its own, and the one before is still told of.
    let next = agent
        .apply(failed.guid, &failed.spec, Some(&failed.handle))
        .await
        .unwrap();
    assert_eq!(next.handle.data["attempt"], 2);
    assert_ne!(next.handle.data["id"], failed.handle.data["id"]);
    assert_eq!(next.status.details["past"][0]["exit_code"], 4);
    agent.until(&failed, ObjectState::Exited).await;

    // A stop of what is pending has no effect in Ray until it runs: it is kept.
    let pending = agent
        .create(json!({"command": ["sleep", "1000"], "runtime_env": {"env_vars": {"A": "1"}}}))
        .await;
    let action = ControlAction::Signal {
        signal: "TERM".into(),
    };
    let request = ControlRequest {
        guid: pending.guid,
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &pending.spec,
        handle: &pending.handle,
        action: &action,
        deadline: PATIENCE,
    };
    agent.driver.control().unwrap().control(request).await.unwrap();
    let status = agent.until(&pending, ObjectState::Exited).await;
    assert_eq!(status.exit.unwrap().signal.as_deref(), Some("SIGTERM"));

    what_uses_ray_tells_of_it(&agent).await;

    let mut huge = object(json!({"command": ["true"], "custom_resources": {"unicorns": 3}}));
    let plan = PlanRequest {
        guid: Guid::generate(),
        previous: None,
        next: &huge,
        handle: None,
    };
    let plan = agent.driver.plan(plan).await.unwrap();
    assert_eq!(plan.action, PlanAction::Infeasible);
    assert!(
        plan.reason
            .contains("unicorns 3 is wanted, the largest node has 0"),
        "{plan:?}"
    );
    let refused = agent.apply(Guid::generate(), &huge, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    huge.spec["cluster"] = json!("other");
    assert_eq!(agent.driver.validate(&huge).await[0].path, "spec.cluster");
    agent.end().await;
}

/// A program that uses Ray shows its actors, and has metrics of its own.
async fn what_uses_ray_tells_of_it(agent: &Agent) {
    let program = "import ray, time\n\
        ray.init()\n\
        @ray.remote(num_cpus=0.1)\n\
        class Idle:\n    \
            def ping(self): return 1\n\
        idle = Idle.remote()\n\
        ray.get(idle.ping.remote())\n\
        time.sleep(1000)";
    let object = agent.create(json!({"command": ["python", "-c", program]})).await;
    let reached = timeout(PATIENCE, async {
        while agent.observe(&object).await.details["activity"]["actors"]["ALIVE"] != 1 {
            sleep(Duration::from_millis(500)).await;
        }
        loop {
            let mut batch = TelemetryBatch::default();
            let target = CollectTarget {
                guid: object.guid,
                handle: &object.handle,
                log_cursor: None,
                from_start: true,
            };
            let request = CollectRequest {
                targets: &[target],
                signals: &[Signal::Metrics],
                max_log_bytes: 0,
                deadline: PATIENCE,
            };
            agent
                .driver
                .collect(request, &mut batch, &mut Vec::new())
                .await
                .unwrap();
            assert!(batch.metrics.iter().all(|point| point.guid == object.guid));
            if batch.metrics.iter().any(|point| point.name == "ray.actor.count") {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(reached.await.is_ok(), "{:?}", agent.observe(&object).await);
    // Later looks do not lose it, and it is no news.
    let (one, other) = (agent.observe(&object).await, agent.observe(&object).await);
    assert_eq!(other.details["activity"]["actors"]["ALIVE"], 1, "{other:?}");
    assert_eq!(one.evidence.revision, other.evidence.revision);
    agent.delete(&object).await;
}

/// A head whose state is in memory comes back empty: the jobs are gone, with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_forgets_takes_its_jobs_along() {
    let lab = start("jobs-memory", Setup::default()).await;
    let agent = Agent::new(lab, json!({"unknown_after": "1s"})).await;
    let object = agent.create(json!({"command": ["sleep", "1000"]})).await;
    agent.until(&object, ObjectState::Running).await;
    let ended = agent.create(json!({"command": ["true"]})).await;
    agent.until(&ended, ObjectState::Exited).await;

    run(lab, &["freeze-node", "head"]).await;
    let status = agent.until(&object, ObjectState::Unknown).await;
    assert!(
        condition(&status, "Reachable")
            .unwrap()
            .contains("no answer since"),
        "{status:?}"
    );
    run(lab, &["thaw-node", "head"]).await;
    agent.until(&object, ObjectState::Running).await;

    run(lab, &["restart-head"]).await;
    let status = agent.until(&object, ObjectState::Gone).await;
    let reason = status.exit.unwrap().reason.unwrap();
    assert!(reason.contains("started anew without its state"), "{reason}");
    let status = agent.observe(&ended).await;
    assert_eq!(
        status.exit.unwrap().code,
        Some(0),
        "what has ended stays as it was"
    );
    agent.delete(&object).await;
    agent.end().await;
}

/// A head whose state is durable goes on; what ran on it is found to have failed, what ran elsewhere runs on, until its node is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_remembers_keeps_what_runs_elsewhere() {
    let lab = start(
        "jobs-durable",
        Setup {
            durable: true,
            ..Setup::default()
        },
    )
    .await;
    run(lab, &["add-node", "n1"]).await;
    let agent = Agent::new(lab, json!({})).await;
    let on_head = agent.create(json!({"command": ["sleep", "1000"]})).await;
    let on_node = agent
        .create(json!({"command": ["sleep", "1000"], "label_selector": {"lab": "n1"}}))
        .await;
    agent.until(&on_head, ObjectState::Running).await;
    agent.until(&on_node, ObjectState::Running).await;

    run(lab, &["restart-head"]).await;
    let status = agent.until(&on_head, ObjectState::Exited).await;
    assert!(!status.exit.unwrap().is_success());
    agent.until(&on_node, ObjectState::Running).await;

    run(lab, &["kill-node", "n1"]).await;
    let status = agent.until(&on_node, ObjectState::Exited).await;
    assert_eq!(
        status.details["error_type"], "JOB_SUPERVISOR_ACTOR_DIED",
        "{status:?}"
    );
    agent.end().await;
}
