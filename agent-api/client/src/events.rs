//! Reports: what the agent publishes.

use agent_api_bus_out::{DeliveryStream, StartAt};
use agent_api_model::{Error, ErrorKind, LifecycleEvent, Result};
use futures_util::{StreamExt, future};

use crate::{Client, ResultStream};

/// The status topics of any agent under any root of one word.
const STATUS: &str = "*.out.*.status";

/// A lifecycle event as a reader gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectEvent {
    /// Its number on the bus, to go on after it later.
    pub sequence: u64,
    /// Events that were missed before this one.
    pub missed: u64,
    /// What happened.
    pub event: LifecycleEvent,
}

impl Client {
    /// Reads the topics that a pattern covers, as they are published.
    ///
    /// # Errors
    ///
    /// `Unsupported` where this client has no reader.
    pub async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream> {
        let reader = self.reader.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "this client was made without a reader of reports",
            )
            .with_operation("subscribe")
        })?;
        reader.subscribe(pattern, from).await
    }

    /// What happens to objects: the status topics. Where it ends with `Unavailable`, go on after the last sequence.
    pub async fn events(&self, from: StartAt) -> Result<ResultStream<ObjectEvent>> {
        let deliveries = self.subscribe(STATUS, from).await?;
        Ok(Box::pin(deliveries.filter_map(|delivery| {
            future::ready(match delivery {
                Err(error) => Some(Err(error)),
                Ok(delivery) => serde_json::from_slice(&delivery.message.envelope.data)
                    .ok()
                    .map(|event| {
                        Ok(ObjectEvent {
                            sequence: delivery.sequence,
                            missed: delivery.missed,
                            event,
                        })
                    }),
            })
        })))
    }
}
