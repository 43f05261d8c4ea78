//! A driver in a directory of its own, and waiting for conditions with a deadline.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{AgentId, ControlAction, Guid, Kind, ObjectName, ObjectSpec, OpId};
use agent_api_driver::{
    Applied, ApplyRequest, Build, ControlRequest, DeleteRequest, Deleted, DriverEvent, DriverFactory,
    EventStream, Handle, ObjectDriver, ObjectState, ObjectStatus, Observed, Result, ShutdownMode, Target,
};
use agent_driver_process::ProcessDriverFactory;
use futures_util::StreamExt;
use serde_json::{Value, json};

/// No wait in a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) agent: AgentId,
    pub(crate) config: Value,
    pub(crate) driver: Arc<dyn ObjectDriver>,
    events: EventStream,
    last: HashMap<Guid, ObjectStatus>,
}

pub(crate) struct Object {
    pub(crate) guid: Guid,
    pub(crate) spec: ObjectSpec,
    pub(crate) handle: Handle,
}

impl Object {
    pub(crate) fn target(&self) -> Target<'_> {
        Target {
            guid: self.guid,
            handle: &self.handle,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.handle.data["pid"].as_i64().unwrap()).unwrap()
    }
}

pub(crate) async fn build(dir: &Path, agent: &AgentId, config: &Value) -> Arc<dyn ObjectDriver> {
    let build = Build {
        agent: agent.clone(),
        state_dir: dir.to_owned(),
        config: config.clone(),
    };
    ProcessDriverFactory.build(build).await.unwrap()
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(json!({})).await
    }

    pub(crate) async fn without_cgroups() -> Self {
        Self::with(json!({"cgroups": "off"})).await
    }

    pub(crate) async fn with(config: Value) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let agent = AgentId::new(format!("test-{}", Guid::generate())).unwrap();
        Self::on(dir, agent, config).await
    }

    async fn on(dir: Arc<tempfile::TempDir>, agent: AgentId, config: Value) -> Self {
        let driver = build(dir.path(), &agent, &config).await;
        let events = driver.events();
        Self {
            dir,
            agent,
            config,
            driver,
            events,
            last: HashMap::new(),
        }
    }

    /// A second driver on the same state, as after a crash of the agent.
    pub(crate) async fn beside(&self) -> Self {
        Self::on(Arc::clone(&self.dir), self.agent.clone(), self.config.clone()).await
    }

    /// The same state with a new driver, as after a restart of the agent.
    pub(crate) async fn restarted(self) -> Self {
        self.driver
            .shutdown(ShutdownMode::LeaveRunning, PATIENCE)
            .await
            .unwrap();
        self.beside().await
    }

    pub(crate) fn log(&self, object: &Object, name: &str) -> PathBuf {
        self.dir
            .path()
            .join("logs")
            .join(object.guid.to_string())
            .join(name)
    }

    pub(crate) async fn try_apply(
        &self,
        guid: Guid,
        op_id: OpId,
        spec: &ObjectSpec,
        handle: Option<&Handle>,
        maybe: bool,
    ) -> Result<Applied> {
        let request = ApplyRequest {
            guid,
            generation: 1,
            op_id,
            maybe_applied: maybe,
            spec,
            handle,
            deadline: PATIENCE,
        };
        self.driver.apply(request).await
    }

    pub(crate) async fn create_spec(&self, spec: ObjectSpec) -> Result<Object> {
        let guid = Guid::generate();
        let applied = self.try_apply(guid, OpId::generate(), &spec, None, false).await?;
        Ok(Object {
            guid,
            spec,
            handle: applied.handle,
        })
    }

    pub(crate) async fn create(&self, spec: Value) -> Object {
        self.create_spec(object(spec)).await.unwrap()
    }

    pub(crate) async fn sh(&self, script: &str) -> Object {
        self.create(json!({"command": ["/bin/sh", "-c", script]})).await
    }

    pub(crate) async fn control(&self, object: &Object, action: ControlAction) -> Result<Applied> {
        let request = ControlRequest {
            guid: object.guid,
            generation: 1,
            op_id: OpId::generate(),
            maybe_applied: false,
            spec: &object.spec,
            handle: &object.handle,
            action: &action,
            deadline: PATIENCE,
        };
        self.driver.control().unwrap().control(request).await
    }

    pub(crate) async fn delete(&self, object: &Object, grace: Duration) -> Deleted {
        let request = DeleteRequest {
            guid: object.guid,
            op_id: OpId::generate(),
            handle: Some(&object.handle),
            grace: Some(grace),
            orphan: false,
            deadline: PATIENCE,
        };
        self.driver.delete(request).await.unwrap()
    }

    pub(crate) async fn observe(&self, object: &Object) -> Observed {
        let mut out = Vec::new();
        self.driver.observe(&[object.target()], &mut out).await.unwrap();
        out.pop().unwrap()
    }

    /// The same, not counting what was seen before.
    pub(crate) async fn wait_next_state(&mut self, guid: Guid, state: ObjectState) -> ObjectStatus {
        if let Some(status) = self.last.get_mut(&guid)
            && status.state == state
        {
            status.state = ObjectState::Unknown;
        }
        self.wait_state(guid, state).await
    }

    /// The status of the object in the event stream, once it is in this state.
    pub(crate) async fn wait_state(&mut self, guid: Guid, state: ObjectState) -> ObjectStatus {
        let search = async {
            loop {
                if let Some(status) = self.last.get(&guid).filter(|s| s.state == state) {
                    return status.clone();
                }
                match self.events.next().await.expect("the stream goes on") {
                    DriverEvent::Status(observed) => {
                        let before = self.last.insert(observed.guid, observed.status.clone());
                        if let Some(before) = before {
                            assert!(
                                observed.status.evidence.revision > before.evidence.revision,
                                "revisions grow"
                            );
                        }
                    }
                    other => panic!("not expected: {other:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("in time")
    }

    pub(crate) async fn finish(self) {
        self.driver
            .shutdown(ShutdownMode::StopObjects, PATIENCE)
            .await
            .unwrap();
    }
}

pub(crate) fn object(spec: Value) -> ObjectSpec {
    ObjectSpec {
        spec,
        ..ObjectSpec::new(Kind::new("process").unwrap(), ObjectName::new("test").unwrap())
    }
}

/// Waits until the condition gives something.
pub(crate) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}

pub(crate) async fn text_of(path: PathBuf, complete: impl Fn(&str) -> bool) -> String {
    until(&format!("{} is complete", path.display()), || {
        std::fs::read_to_string(&path).ok().filter(|t| complete(t))
    })
    .await
}

/// Alive, and not a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with(['Z', 'X'])
    })
}

pub(crate) async fn until_dead(pid: i32) {
    until(&format!("{pid} is dead"), || (!is_alive(pid)).then_some(())).await;
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
