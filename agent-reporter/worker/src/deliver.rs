//! Publishing until it is done or given up.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use agent_api_model::{Error, Result};
use agent_reporter_rpc_client::{Message, RpcClient};
use futures_util::FutureExt;
use tokio::time::Instant;

use crate::config::WorkerConfig;

/// The beginning of the reason where the bus refused a message for good.
pub(crate) const REFUSED: &str = "refused: ";

/// What became of messages.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// How many were published.
    pub(crate) published: usize,
    /// Which were given up, by their place, and why.
    pub(crate) given_up: Vec<(usize, Cow<'static, str>)>,
}

/// The waits between repeats.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(config: &WorkerConfig) -> Self {
        Self {
            next: config.backoff_min,
            max: config.backoff_max,
        }
    }

    pub(crate) async fn wait(&mut self, asked: Option<Duration>) {
        let wait = self.next.max(asked.unwrap_or_default()).min(self.max);
        self.next = (self.next * 2).min(self.max);
        tokio::time::sleep(wait).await;
    }
}

/// Publishes messages in order, again and again while the bus says that it may help, and one by one where the bus
/// refuses the whole: so one bad message costs no other.
///
/// Cancelled by drop at any await: what was not published then may have been; ids stay the same.
pub(crate) async fn deliver(
    rpc: &dyn RpcClient,
    config: &WorkerConfig,
    messages: &[Message],
    mut tried: impl FnMut(&Error),
) -> Delivered {
    let mut delivered = Delivered::default();
    let started = Instant::now();
    let mut backoff = Backoff::new(config);
    let mut at = 0;
    let mut step = messages.len();
    while at < messages.len() {
        let end = messages.len().min(at + step);
        match publish(rpc, &messages[at..end]).await {
            Ok(()) => {
                delivered.published += end - at;
                at = end;
            }
            Err(error) if error.is_retryable() && started.elapsed() < config.retry_for => {
                tried(&error);
                backoff.wait(error.retry_delay()).await;
            }
            Err(error) if error.is_retryable() => {
                tried(&error);
                let reason = format!("given up: {}", error.kind());
                delivered
                    .given_up
                    .extend((at..messages.len()).map(|place| (place, reason.clone().into())));
                return delivered;
            }
            Err(error) => {
                tried(&error);
                if end - at == 1 {
                    let reason = format!("{REFUSED}{}", error.kind());
                    delivered.given_up.push((at, reason.into()));
                    at = end;
                } else {
                    step = 1;
                }
            }
        }
    }
    delivered
}

/// One try. A bus that panics is a bus that refuses.
async fn publish(rpc: &dyn RpcClient, messages: &[Message]) -> Result<()> {
    AssertUnwindSafe(rpc.publish(messages))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Error::internal("the bus panicked while it published")))
}
