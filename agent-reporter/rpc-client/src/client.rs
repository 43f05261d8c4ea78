//! The contract of the rpc client.

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_out::Message;
use agent_api_model::{Guid, Kind, ObjectName, Result, Verb};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

/// What is registered of an object: who it is and what can be called on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// Its identity.
    pub guid: Guid,
    /// Its name.
    pub name: ObjectName,
    /// What it is.
    pub kind: Kind,
    /// The verbs it answers to. Shared by all objects of the kind.
    pub methods: Arc<[Verb]>,
}

/// The agent's side of Bus Out: identities, the registry of methods, publishing, calls.
#[async_trait]
pub trait RpcClient: Send + Sync + 'static {
    /// A new GUID. Never waits.
    fn guid(&self) -> Guid;

    /// Registers objects, or replaces what was registered of them.
    ///
    /// # Behavior
    ///
    /// - [`methods`](Self::methods) answers for them from the moment of the call, whatever the bus says.
    /// - A bus without a registry is no error.
    /// - An error is worth another try only where it says so; to register twice is safe.
    async fn register(&self, objects: &[Registration]) -> Result<()>;

    /// Withdraws objects. One that is not there is no error; otherwise as [`register`](Self::register).
    async fn withdraw(&self, guids: &[Guid]) -> Result<()>;

    /// Publishes messages, in order.
    ///
    /// # Behavior
    ///
    /// - On an error none, some or all may have been published; publishing again with the same envelope ids is safe.
    /// - Returns within the client's deadline, with `Timeout` where the bus did not answer.
    async fn publish(&self, messages: &[Message]) -> Result<()>;

    /// Calls a method of another party on the bus; answers as [`BusOut::call`](agent_api_bus_out::BusOut::call) does.
    async fn call(&self, method: &str, payload: Bytes, deadline: Duration) -> Result<Bytes>;

    /// What a registered object answers to; none where it is not registered. No waiting.
    fn methods(&self, guid: Guid) -> Option<Arc<[Verb]>>;

    /// How many objects are registered. No waiting.
    fn registered(&self) -> usize;
}
