//! What all kinds of the driver share.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_driver::model::{AgentId, DriverState, Error};
use agent_api_driver::{DriverEvent, Result};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error;
use crate::events::Events;
use crate::head::Head;
use crate::kind::KindDriver;
use crate::metrics::Metrics;
use crate::records::Records;

/// The kinds of the driver.
pub(crate) type Kinds = Arc<[Arc<dyn KindDriver>]>;

/// What all kinds share.
pub(crate) struct Shared {
    pub(crate) agent: AgentId,
    /// The clusters by name.
    pub(crate) heads: BTreeMap<String, Arc<Head>>,
    pub(crate) events: Events,
    pub(crate) records: Records,
    pub(crate) metrics: Metrics,
    pub(crate) closing: CancellationToken,
    /// What was last said of the driver's health.
    pub(crate) said: Mutex<Option<DriverState>>,
    /// What is wrong on this side, by name: a listener that cannot listen.
    pub(crate) troubles: Mutex<BTreeMap<String, String>>,
}

impl Shared {
    /// Whether calls may still be made.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.is_cancelled() {
            return Err(error::closed());
        }
        Ok(())
    }

    /// The cluster that a spec names; the only one, or `default`, where it names none.
    pub(crate) fn head(&self, name: Option<&str>) -> Result<&Arc<Head>> {
        let found = match name {
            Some(name) => self.heads.get(name),
            None if self.heads.len() == 1 => self.heads.values().next(),
            None => self.heads.get(crate::config::DEFAULT_CLUSTER),
        };
        found.ok_or_else(|| {
            let known: Vec<_> = self.heads.keys().map(String::as_str).collect();
            let message = match name {
                Some(name) => format!("there is no Ray cluster {name:?}; known are {}", known.join(", ")),
                None => format!("must name one of the Ray clusters {}", known.join(", ")),
            };
            Error::invalid("spec.cluster", message)
        })
    }

    /// How the substrate is: as the heads that are in use answer.
    pub(crate) fn health(&self) -> DriverState {
        if self.closing.is_cancelled() {
            return DriverState::Unavailable {
                reason: "the driver has been shut down".to_owned(),
            };
        }
        let away: Vec<String> = self
            .heads
            .values()
            .filter_map(|head| {
                let outage = head.outage()?;
                Some(format!("{} since {}: {}", head.name, outage.since, outage.reason))
            })
            .collect();
        let troubles: Vec<String> = self.troubles.lock().values().cloned().collect();
        if !away.is_empty() && away.len() == self.heads.len() {
            DriverState::Unavailable {
                reason: away.join("; "),
            }
        } else if away.is_empty() && troubles.is_empty() {
            DriverState::Healthy
        } else {
            DriverState::Degraded {
                reason: away.into_iter().chain(troubles).collect::<Vec<_>>().join("; "),
            }
        }
    }

    /// Says how the substrate is, where that changed.
    pub(crate) fn push_health(&self) {
        let now = self.health();
        let mut said = self.said.lock();
        let same = match (&*said, &now) {
            // The words change with each look; what matters is whether it works.
            (Some(DriverState::Unavailable { .. }), DriverState::Unavailable { .. })
            | (None, DriverState::Healthy) => true,
            (Some(before), now) => before == now,
            (None, _) => false,
        };
        if !same {
            *said = Some(now.clone());
            self.events.send(DriverEvent::Health(now));
        }
    }
}
