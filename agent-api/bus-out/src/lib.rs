//! The Bus Out contract: where reports go, and the reader's end of it.

use std::pin::Pin;
use std::time::Duration;

use agent_api_model::{Envelope, Result, Topic};
use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

/// One message for one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: Topic,
    /// What.
    pub envelope: Envelope,
}

/// Where reports go.
#[async_trait]
pub trait BusOut: Send + Sync + 'static {
    /// Its name, for example `http`.
    fn name(&self) -> &'static str;

    /// Publishes messages, in order.
    ///
    /// # Behavior
    ///
    /// - On an error none, some or all may have been published; publishing again with the same envelope ids is safe.
    /// - Readers that are slow never make it wait: they miss messages, and see how many.
    async fn publish(&self, messages: &[Message]) -> Result<()>;

    /// Calls a method of another party on the bus and returns its answer.
    ///
    /// # Behavior
    ///
    /// - A bus where nobody answers such calls: `Unsupported`. Nobody there: `Unavailable`. No answer: `Timeout`.
    async fn call(&self, method: &str, payload: Bytes, deadline: Duration) -> Result<Bytes>;
}

/// Where a reader begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// With what is published from now on.
    #[default]
    Now,
    /// With what the bus still keeps.
    Kept,
    /// After this message, by the sequence of its [`Delivery`].
    After(u64),
}

/// A message as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its number on this bus; grows.
    pub sequence: u64,
    /// Messages of the wanted topics that were missed before this one: the reader was slow, or they are no longer kept.
    pub missed: u64,
    /// The message.
    pub message: Message,
}

/// What a reader reads. Ends when the bus closes.
pub type DeliveryStream = Pin<Box<dyn Stream<Item = Result<Delivery>> + Send>>;

/// The reader's end of Bus Out.
#[async_trait]
pub trait BusReader: Send + Sync + 'static {
    /// Reads the topics that a pattern covers (`*` one word, a last `>` one or more).
    ///
    /// # Behavior
    ///
    /// - Bounded: a reader that does not read misses messages, is told how many, and holds nobody up.
    /// - Dropping the stream ends the subscription.
    async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream>;
}
