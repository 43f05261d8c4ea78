//! What the parts of the driver share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Applied;
use agent_api_driver::model::{AgentId, Diagnostic, Error, ErrorKind, Guid, ObjectSpec, Result};
use kube::api::DynamicObject;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::collect::Collecting;
use crate::config::KubernetesConfig;
use crate::events::Events;
use crate::handle::HandleData;
use crate::kinds::{self, Spec};
use crate::sdk::Cluster;
use crate::types::Types;
use crate::watch::Watches;

/// What the parts of the driver share.
pub(crate) struct Shared {
    /// Whose agent.
    pub agent: AgentId,
    /// The configuration.
    pub config: KubernetesConfig,
    /// The clusters by name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// The types of resources in which marks may be found.
    pub types: Types,
    /// The one stream of events.
    pub events: Arc<Events>,
    /// What is known of the objects.
    pub watches: Arc<Watches>,
    /// What is kept from one collection to the next.
    pub collecting: Collecting,
    /// All tasks, joined at the shutdown.
    pub tasks: TaskTracker,
    /// Cancelled at the shutdown.
    pub closing: CancellationToken,
}

impl Shared {
    /// The cluster of this name.
    pub(crate) fn cluster(&self, name: &str) -> Result<&Arc<Cluster>> {
        self.clusters.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.clusters.keys().map(String::as_str).collect();
            Error::invalid(
                "spec.cluster",
                format!(
                    "there is no cluster {name:?}; the configuration has {}",
                    known.join(", ")
                ),
            )
        })
    }

    /// The cluster that a handle is of.
    pub(crate) fn cluster_of(&self, data: &HandleData) -> Result<&Arc<Cluster>> {
        self.cluster(&data.cluster)
    }

    /// What an operation came to: the handle, and the status by the server's own answers, from which on the object is
    /// watched.
    pub(crate) fn settled(&self, guid: Guid, data: &HandleData, live: &[DynamicObject]) -> Result<Applied> {
        let status = self.watches.applied(guid, data, live)?;
        Ok(Applied::new(data.write(), status))
    }

    /// What is wrong with a spec, as far as that can be told without asking a server.
    pub(crate) fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        let mut found = kinds::validate(spec);
        if found.is_empty()
            && let Ok(parsed) = Spec::parse(spec)
            && let Err(error) = self.wanted_cluster(&parsed)
        {
            found.push(Diagnostic::error("spec.cluster", error.message()));
        }
        found
    }

    /// Refuses calls after the shutdown.
    pub(crate) fn open(&self, operation: &str) -> Result<()> {
        if self.closing.is_cancelled() {
            let message = "the kubernetes driver was shut down";
            return Err(Error::new(ErrorKind::Unavailable, message).with_operation(operation));
        }
        Ok(())
    }
}

/// What is left of `total` since `since`.
pub(crate) fn left(total: Duration, since: tokio::time::Instant) -> Duration {
    total.saturating_sub(since.elapsed())
}
