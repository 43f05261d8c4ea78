//! An agent over simulated objects.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_bus_memory::MemoryBus;
use agent_core::api::agent::{AgentApi, Change};
use agent_core::api::model::{
    Accepted, DeleteRequest, Error, ListRequest, ObjectName, ObjectSpec, ObjectView, Phase, RequestMeta,
    Result, Target,
};
use agent_core::{Agent, AgentBuilder};
use agent_driver_simulated::{SimulatedFactory, Substrate};
use serde_json::{Value, json};

pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) bus: Arc<MemoryBus>,
    pub(crate) substrate: Substrate,
}

pub(crate) fn builder(state: &Path, substrate: &Substrate, bus: &Arc<MemoryBus>) -> AgentBuilder {
    Agent::builder()
        .state_dir(state)
        .shards(2)
        .bus_out(Arc::clone(bus) as _)
        .driver(
            Arc::new(SimulatedFactory::with_substrate(substrate.clone())),
            Value::Null,
        )
}

impl World {
    pub(crate) async fn start(state: &Path) -> Self {
        Self::on(state, Substrate::in_memory()).await
    }

    pub(crate) async fn on(state: &Path, substrate: Substrate) -> Self {
        let bus = Arc::new(MemoryBus::default());
        let agent = builder(state, &substrate, &bus).build().await.unwrap();
        Self {
            agent,
            bus,
            substrate,
        }
    }

    pub(crate) async fn create(&self, object: Value) -> Result<Accepted> {
        let spec: ObjectSpec =
            serde_json::from_value(object).map_err(|error| Error::invalid("", error.to_string()))?;
        self.submit(Change::Create(Box::new(spec))).await
    }

    pub(crate) async fn simple(&self, name: &str) -> Accepted {
        self.create(json!({"kind": "simulated", "name": name}))
            .await
            .unwrap()
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<Accepted> {
        self.submit(Change::Delete(target(name), DeleteRequest::default()))
            .await
    }

    pub(crate) async fn submit(&self, change: Change) -> Result<Accepted> {
        let (accepted, _) = self.agent.submit(RequestMeta::local("test"), change).await?;
        Ok(accepted)
    }

    pub(crate) fn view(&self, name: &str) -> Option<Arc<ObjectView>> {
        self.agent.describe(&target(name)).ok().map(|found| found.view)
    }

    pub(crate) fn phase(&self, name: &str) -> Option<Phase> {
        self.view(name).map(|view| view.phase)
    }

    pub(crate) fn in_phase(&self, phase: Phase) -> usize {
        let request = ListRequest {
            phase: Some(phase),
            ..ListRequest::default()
        };
        self.agent.list(&request).len()
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !so(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        if waited.await.is_err() {
            panic!(
                "never so: {what}; {:#?} {:#?}",
                self.agent
                    .list(&ListRequest::default())
                    .iter()
                    .take(5)
                    .collect::<Vec<_>>(),
                self.agent.health()
            );
        }
    }
}

pub(crate) fn target(name: &str) -> Target {
    Target::Name(ObjectName::new(name).unwrap())
}
