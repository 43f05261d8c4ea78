//! What the reading of logs needs of a cluster.

use std::sync::Arc;

use agent_api_driver::async_trait;
use agent_api_driver::model::{ErrorKind, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, LogParams};

use super::cursor::{Key, instance};
use super::line::Lines;
use crate::sdk::Cluster;

/// Where the log of one container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub key: Key,
    pub namespace: String,
    pub pod: String,
}

/// Which log of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Of the run before the present one.
    pub previous: bool,
    /// Stay and bring what is written later.
    pub follow: bool,
    /// Only lines from this second on.
    pub since: Option<i64>,
    /// Only so many last lines.
    pub tail: Option<u64>,
}

/// What a cluster offers.
#[async_trait]
pub(crate) trait Kubelet: Send + Sync {
    /// The pod as it is now at the server; none where it is not there.
    async fn pod(&self, source: &Source) -> Result<Option<Arc<Pod>>>;

    /// The pod as it was last seen: dearer only where nobody watches it.
    async fn look(&self, source: &Source) -> Result<Option<Arc<Pod>>> {
        self.pod(source).await
    }

    /// A log; none where there is none yet, or none any more.
    async fn log(&self, source: &Source, wanted: Wanted) -> Result<Option<Lines>>;
}

#[async_trait]
impl Kubelet for Cluster {
    async fn pod(&self, source: &Source) -> Result<Option<Arc<Pod>>> {
        let api: Api<Pod> = self.typed(Some(&source.namespace));
        let get = self.call_typed::<Pod, _>(
            "get",
            Some(&source.namespace),
            &source.pod,
            api.get_opt(&source.pod),
        );
        let pod = get.await?;
        Ok(pod
            .filter(|pod| pod.metadata.uid.as_deref() == Some(&source.key.uid))
            .map(Arc::new))
    }

    async fn log(&self, source: &Source, wanted: Wanted) -> Result<Option<Lines>> {
        let params = LogParams {
            container: Some(source.key.container.clone()),
            follow: wanted.follow,
            previous: wanted.previous,
            since_time: wanted
                .since
                .and_then(|second| jiff::Timestamp::from_second(second).ok()),
            tail_lines: wanted.tail.map(|lines| i64::try_from(lines).unwrap_or(i64::MAX)),
            timestamps: true,
            ..LogParams::default()
        };
        let api: Api<Pod> = self.typed(Some(&source.namespace));
        let open = self.call_typed::<Pod, _>(
            "get the log of",
            Some(&source.namespace),
            &source.pod,
            api.log_stream(&source.pod, &params),
        );
        match open.await {
            Ok(body) => Ok(Some(Lines::new(Box::pin(body)))),
            // 400: `container "a" in pod "b" is waiting to start`, `previous terminated container "a" not found`.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The runs of a container that the kubelet still has logs of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// The one that the log is of without `previous`.
    pub current: Option<String>,
    pub previous: Option<String>,
    /// Whether the current one runs.
    pub running: bool,
    pub restarts: u32,
}

impl Runs {
    /// As the status of a pod has them.
    pub(crate) fn of(pod: &Pod, container: &str) -> Self {
        let Some(status) = status_of(pod, container) else {
            return Self::default();
        };
        let state = status.state.as_ref();
        let running = state.is_some_and(|s| s.running.is_some());
        let ended = state
            .and_then(|s| s.terminated.as_ref())
            .and_then(|t| t.container_id.as_deref());
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let before = last.and_then(|t| t.container_id.as_deref()).and_then(instance);
        let now = match running {
            true => status.container_id.as_deref().and_then(instance),
            false => ended.and_then(instance),
        };
        let restarts = u32::try_from(status.restart_count).unwrap_or(0);
        match now {
            Some(now) => Self {
                previous: before.filter(|before| *before != now),
                current: Some(now),
                running,
                restarts,
            },
            // It waits to be started again: the kubelet gives the run before for both.
            None => Self {
                current: before,
                previous: None,
                running: false,
                restarts: restarts.saturating_sub(1),
            },
        }
    }
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flatten()
    .flatten()
    .find(|status| status.name == container)
}

/// The containers of a pod, those that run first before the others.
pub(crate) fn sources(pod: &Pod) -> Vec<Source> {
    let (Some(uid), Some(name), Some(spec)) = (&pod.metadata.uid, &pod.metadata.name, &pod.spec) else {
        return Vec::new();
    };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers)
        .map(|container| Source {
            key: Key {
                uid: uid.clone(),
                container: container.name.clone(),
            },
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            pod: name.clone(),
        })
        .collect()
}
