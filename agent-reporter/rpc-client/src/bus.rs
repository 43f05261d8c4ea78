//! The rpc client over a bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_api_bus_out::{BusOut, Message};
use agent_api_model::{AgentId, Error, ErrorKind, Guid, Result, Verb};
use async_trait::async_trait;
use bytes::Bytes;
use dashmap::DashMap;
use serde::Serialize;

use crate::{Registration, RpcClient};

/// How the rpc client talks to its bus.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// Whose client it is.
    pub agent: AgentId,
    /// The first word of its methods on the bus.
    pub root: String,
    /// After so long a publish counts as failed; 10 s by default.
    pub publish_timeout: Duration,
    /// After so long a call to the registry counts as failed; 5 s by default.
    pub call_timeout: Duration,
}

impl RpcConfig {
    /// The defaults for this agent, under the root `agent`.
    #[must_use]
    pub fn new(agent: AgentId) -> Self {
        Self {
            agent,
            root: "agent".into(),
            publish_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(5),
        }
    }
}

/// The rpc client over a bus. GUIDs are made here (UUIDv7), so that it works offline.
pub struct BusRpcClient {
    config: RpcConfig,
    bus: Arc<dyn BusOut>,
    table: DashMap<Guid, Arc<[Verb]>>,
    /// Cleared for good by the first `Unsupported`.
    has_registry: AtomicBool,
}

#[derive(Serialize)]
struct Register<'a> {
    agent: &'a AgentId,
    objects: &'a [Registration],
}

#[derive(Serialize)]
struct Deregister<'a> {
    agent: &'a AgentId,
    guids: &'a [Guid],
}

impl BusRpcClient {
    /// A client of this bus.
    #[must_use]
    pub fn new(config: RpcConfig, bus: Arc<dyn BusOut>) -> Self {
        Self {
            config,
            bus,
            table: DashMap::new(),
            has_registry: AtomicBool::new(true),
        }
    }

    /// Tells the registry on the bus, where there is one.
    async fn tell_registry(&self, method: &str, payload: &impl Serialize) -> Result<()> {
        if !self.has_registry.load(Ordering::Relaxed) {
            return Ok(());
        }
        let method = format!("{}.ctl.{method}", self.config.root);
        let payload = serde_json::to_vec(payload)
            .map_err(|error| Error::internal("cannot write a registration as JSON").with_source(error))?;
        match self.call(&method, payload.into(), self.config.call_timeout).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.has_registry.store(false, Ordering::Relaxed);
                tracing::debug!(
                    bus = self.bus.name(),
                    "the bus has no registry of methods; they stay local"
                );
                Ok(())
            }
            Err(error) => Err(error.with_operation(method)),
        }
    }
}

#[async_trait]
impl RpcClient for BusRpcClient {
    fn guid(&self) -> Guid {
        Guid::generate()
    }

    async fn register(&self, objects: &[Registration]) -> Result<()> {
        for object in objects {
            self.table.insert(object.guid, object.methods.clone());
        }
        self.tell_registry(
            "register",
            &Register {
                agent: &self.config.agent,
                objects,
            },
        )
        .await
    }

    async fn withdraw(&self, guids: &[Guid]) -> Result<()> {
        for guid in guids {
            self.table.remove(guid);
        }
        self.tell_registry(
            "deregister",
            &Deregister {
                agent: &self.config.agent,
                guids,
            },
        )
        .await
    }

    async fn publish(&self, messages: &[Message]) -> Result<()> {
        let limit = self.config.publish_timeout;
        match tokio::time::timeout(limit, self.bus.publish(messages)).await {
            Ok(result) => result,
            Err(_) => Err(late(self.bus.name(), "publish", limit)),
        }
    }

    async fn call(&self, method: &str, payload: Bytes, deadline: Duration) -> Result<Bytes> {
        match tokio::time::timeout(deadline, self.bus.call(method, payload, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(late(self.bus.name(), method, deadline)),
        }
    }

    fn methods(&self, guid: Guid) -> Option<Arc<[Verb]>> {
        self.table.get(&guid).map(|methods| methods.clone())
    }

    fn registered(&self) -> usize {
        self.table.len()
    }
}

fn late(bus: &str, operation: &str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("the bus {bus} did not answer within {limit:?}"),
    )
    .with_operation(operation)
    .with_hint("it is tried again; see `agent info` for the state of the buses")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use agent_api_model::{Kind, ObjectName};

    use super::*;

    /// Answers calls as it is told and keeps their methods.
    #[derive(Default)]
    struct FakeBus {
        calls: Mutex<Vec<(String, String)>>,
        answer: Mutex<Option<ErrorKind>>,
        hangs: AtomicBool,
    }

    #[async_trait]
    impl BusOut for FakeBus {
        fn name(&self) -> &'static str {
            "fake"
        }

        async fn publish(&self, _: &[Message]) -> Result<()> {
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(())
        }

        async fn call(&self, method: &str, payload: Bytes, _: Duration) -> Result<Bytes> {
            self.calls
                .lock()
                .unwrap()
                .push((method.into(), String::from_utf8(payload.to_vec()).unwrap()));
            match *self.answer.lock().unwrap() {
                Some(kind) => Err(Error::new(kind, "no")),
                None => Ok(Bytes::new()),
            }
        }
    }

    fn client(bus: &Arc<FakeBus>) -> BusRpcClient {
        BusRpcClient::new(RpcConfig::new(AgentId::new("a1").unwrap()), bus.clone())
    }

    fn registration(guid: Guid) -> Registration {
        Registration {
            guid,
            name: ObjectName::new("web").unwrap(),
            kind: Kind::new("process").unwrap(),
            methods: [Verb::Describe, Verb::Pause].into(),
        }
    }

    #[tokio::test]
    async fn a_bus_without_a_registry_is_asked_once_and_the_table_is_right() {
        let bus = Arc::new(FakeBus::default());
        *bus.answer.lock().unwrap() = Some(ErrorKind::Unsupported);
        let client = client(&bus);
        let guid = client.guid();
        client.register(&[registration(guid)]).await.unwrap();
        client.register(&[registration(client.guid())]).await.unwrap();
        assert_eq!(bus.calls.lock().unwrap().len(), 1);
        assert_eq!(*client.methods(guid).unwrap(), [Verb::Describe, Verb::Pause]);
        client.withdraw(&[guid]).await.unwrap();
        client.withdraw(&[guid]).await.unwrap();
        assert!(client.methods(guid).is_none());
        assert_eq!(client.registered(), 1);
        assert_eq!(bus.calls.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_registry_is_told_and_its_refusal_is_an_error_each_time() {
        let bus = Arc::new(FakeBus::default());
        let client = client(&bus);
        let guid = client.guid();
        client.register(&[registration(guid)]).await.unwrap();
        client.withdraw(&[guid]).await.unwrap();
        {
            let calls = bus.calls.lock().unwrap();
            let methods: Vec<_> = calls.iter().map(|(method, _)| method.as_str()).collect();
            assert_eq!(methods, ["agent.ctl.register", "agent.ctl.deregister"]);
            let payload: serde_json::Value = serde_json::from_str(&calls[0].1).unwrap();
            assert_eq!(payload["agent"], "a1");
            assert_eq!(payload["objects"][0]["guid"], guid.to_string());
            assert_eq!(
                payload["objects"][0]["methods"],
                serde_json::json!(["describe", "pause"])
            );
        }
        *bus.answer.lock().unwrap() = Some(ErrorKind::Unavailable);
        for _ in 0..2 {
            let error = client.register(&[registration(guid)]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        assert!(
            client.methods(guid).is_some(),
            "the table does not wait for the bus"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_publish_that_hangs_ends_with_a_timeout() {
        let bus = Arc::new(FakeBus::default());
        bus.hangs.store(true, Ordering::Relaxed);
        let error = client(&bus).publish(&[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.is_retryable());
    }
}
