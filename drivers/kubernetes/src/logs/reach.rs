//! A cluster as the reading of one object's logs sees it: pods from the watches, logs by requests.

use std::sync::Arc;

use agent_api_driver::async_trait;
use agent_api_driver::model::{Guid, Result};
use k8s_openapi::api::core::v1::{Event, Pod};

use super::kubelet::{Kubelet, Source, Wanted};
use super::line::Lines;
use crate::sdk::Cluster;
use crate::shared::Shared;
use crate::watch::parse_revision;

/// The logs of one object.
pub(crate) struct Reach {
    pub shared: Arc<Shared>,
    pub cluster: Arc<Cluster>,
    pub guid: Guid,
}

#[async_trait]
impl Kubelet for Reach {
    async fn pod(&self, source: &Source) -> Result<Option<Arc<Pod>>> {
        self.cluster.pod(source).await
    }

    async fn look(&self, source: &Source) -> Result<Option<Arc<Pod>>> {
        let seen = self.shared.watches.pods(self.guid);
        match seen
            .into_iter()
            .find(|pod| pod.metadata.uid.as_deref() == Some(&source.key.uid))
        {
            Some(pod) => Ok(Some(pod)),
            None => self.cluster.pod(source).await,
        }
    }

    async fn log(&self, source: &Source, wanted: Wanted) -> Result<Option<Lines>> {
        self.cluster.log(source, wanted).await
    }
}

/// A Kubernetes Event as a line: `Warning BackOff Pod/web-1: Back-off restarting failed container (3 times)`.
pub(crate) fn line(event: &Event) -> String {
    let about = &event.involved_object;
    let mut line = format!(
        "{} {} {}/{}: {}",
        event.type_.as_deref().unwrap_or("Normal"),
        event.reason.as_deref().unwrap_or("Event"),
        about.kind.as_deref().unwrap_or_default(),
        about.name.as_deref().unwrap_or_default(),
        event.message.as_deref().unwrap_or_default().trim(),
    )
    .replace('\n', " ");
    if let Some(count) = event.count.filter(|count| *count > 1) {
        line.push_str(&format!(" ({count} times)"));
    }
    line
}

/// Its version, which cursors hold.
pub(crate) fn version(event: &Event) -> u64 {
    parse_revision(event.metadata.resource_version.as_deref())
}

/// When it happened last, in nanoseconds.
pub(crate) fn time(event: &Event) -> i64 {
    let time = event
        .last_timestamp
        .as_ref()
        .map(|time| time.0)
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0));
    time.and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_as_lines() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {"name": "web.1"}, "type": "Warning", "reason": "BackOff", "count": 3,
            "message": "Back-off restarting\nfailed container ",
            "lastTimestamp": "2026-11-22T21:30:53Z",
            "involvedObject": {"kind": "Pod", "name": "web-1"},
        }))
        .unwrap();
        assert_eq!(
            line(&event),
            "Warning BackOff Pod/web-1: Back-off restarting failed container (3 times)"
        );
        assert_eq!(time(&event), 1_795_383_053_000_000_000);
    }
}
