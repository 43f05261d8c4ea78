//! The pods of an object: from the watches, or asked for where nobody watches them.

use std::sync::Arc;

use agent_api_driver::Result;
use agent_api_driver::model::Guid;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use crate::handle::HandleData;
use crate::mark;
use crate::shared::Shared;

/// The pods of an object, the oldest first.
pub(crate) async fn of(shared: &Shared, guid: Guid, data: &HandleData) -> Result<Vec<Arc<Pod>>> {
    let mut pods = shared.watches.pods(guid);
    // A watch may be behind, or not there yet. The pods of what was adopted bear no mark to ask by.
    if pods.is_empty() && data.owned {
        pods = ask(shared, guid, data).await?;
    }
    pods.sort_by(|a, b| age(a).cmp(&age(b)));
    Ok(pods)
}

fn age(pod: &Pod) -> (Option<jiff::Timestamp>, Option<&str>) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, pod.metadata.name.as_deref())
}

async fn ask(shared: &Shared, guid: Guid, data: &HandleData) -> Result<Vec<Arc<Pod>>> {
    let cluster = shared.cluster_of(data)?;
    let mut namespaces: Vec<&str> = data
        .objects
        .iter()
        .filter_map(|object| object.namespace.as_deref())
        .collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let params = ListParams::default().labels(&mark::selector_of_object(&shared.agent, guid));
    let mut pods = Vec::new();
    for namespace in namespaces {
        let api: Api<Pod> = cluster.typed(Some(namespace));
        let list = cluster.call_typed::<Pod, _>("list", Some(namespace), "", api.list(&params));
        pods.extend(list.await?.into_iter().map(Arc::new));
    }
    Ok(pods)
}

/// Whether a pod is on its way out.
pub(crate) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The phase of a pod, `Unknown` where it has none.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Unknown")
}

/// Whether a container of a pod runs.
pub(crate) fn runs(pod: &Pod, container: &str) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|status| {
        status.name == container && status.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

/// Whether a pod counts as ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
