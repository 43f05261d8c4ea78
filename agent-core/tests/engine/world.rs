//! An agent over the fakes, and what tests do with it.

use std::sync::Arc;
use std::time::Duration;

use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::collector::CollectorApi;
use agent_core::api::manager::ManagerApi;
use agent_core::api::model::{
    Accepted, AgentId, ControlAction, DeleteRequest, Kind, ObjectName, ObjectSpec, RequestMeta, Result,
    Target,
};
use agent_core::{Agent, AgentBuilder};
use parking_lot::Mutex;
use serde_json::Value;

use crate::fake_driver::{FakeFactory, Knobs};
use crate::fake_parts::{Book, FakeCollector, FakeManager};

pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) book: Arc<Book>,
    pub(crate) collector: Arc<FakeCollector>,
    _state: tempfile::TempDir,
}

pub(crate) async fn world(drivers: &[&Arc<Knobs>], tune: impl FnOnce(AgentBuilder) -> AgentBuilder) -> World {
    let state = tempfile::tempdir().unwrap();
    let book = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&book);
    let collector = Arc::new(FakeCollector::default());
    let given = Arc::clone(&collector);
    let mut builder = Agent::builder()
        .agent_id(AgentId::new("test").unwrap())
        .state_dir(state.path())
        .shards(2)
        .manager(move |setup| async move {
            let manager = FakeManager::new(setup);
            *slot.lock() = Some(Arc::clone(&manager.0));
            Ok(Arc::new(manager) as Arc<dyn ManagerApi>)
        })
        .collector(move |_, _| async move { Ok(given as Arc<dyn CollectorApi>) });
    for knobs in drivers {
        builder = builder.driver(Arc::new(FakeFactory(Arc::clone(knobs))), Value::Null);
    }
    let agent = tune(builder).build().await.unwrap();
    let book = book.lock().clone().unwrap();
    World {
        agent,
        book,
        collector,
        _state: state,
    }
}

impl World {
    pub(crate) async fn create(&self, kind: &str, name: &str) -> Result<Accepted> {
        self.submit(Change::Create(Box::new(spec(kind, name)))).await
    }

    pub(crate) async fn signal(&self, name: &str) -> Result<Accepted> {
        let action = ControlAction::Signal { signal: "HUP".into() };
        self.submit(Change::Control(target(name), action)).await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<Accepted> {
        self.submit(Change::Delete(target(name), DeleteRequest::default()))
            .await
    }

    pub(crate) async fn submit(&self, change: Change) -> Result<Accepted> {
        let (accepted, _) = self.agent.submit(RequestMeta::local("test"), change).await?;
        Ok(accepted)
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(300), async {
            while !so(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if waited.await.is_err() {
            panic!("never so: {what}; log: {:#?}", self.book.log.lock());
        }
    }

    pub(crate) fn problems(&self) -> String {
        self.agent.health().problems.join("\n")
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.agent.info().counters.get(name).copied().unwrap_or_default()
    }
}

pub(crate) fn spec(kind: &str, name: &str) -> ObjectSpec {
    ObjectSpec::new(Kind::new(kind).unwrap(), ObjectName::new(name).unwrap())
}

pub(crate) fn target(name: &str) -> Target {
    Target::Name(ObjectName::new(name).unwrap())
}
