//! The driver: the contract's calls handed to the parts that do them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Diagnostic, DriverState, Error, ErrorKind, Guid, Kind, ObjectSpec, Plan, Result, TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Build, Capabilities, CollectRequest, Control, ControlRequest, DeleteRequest,
    Deleted, DriverInfo, EventStream, Exec, ExecRequest, ExecStream, Handle, InputStream, KindSchema,
    LogReadRequest, LogStreamOut, Logs, Mark, ObjectDriver, Observed, PlanRequest, Recovered, ShutdownMode,
    Target, async_trait,
};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capabilities::{Features, capabilities};
use crate::collect::Collecting;
use crate::config::KubernetesConfig;
use crate::events::Events;
use crate::kinds::{self, KubeKind};
use crate::sdk::Cluster;
use crate::sdk::cluster::Version;
use crate::shared::{Shared, left};
use crate::status::details::KubernetesDetails;
use crate::types::Types;
use crate::watch::Watches;
use crate::{exec, factory, handle, logs};

/// How long the clusters have to answer while the driver is built.
const FIRST_CONTACT: Duration = Duration::from_secs(3);
/// How often a cluster that cannot be reached is tried again, where nothing else is asked of it.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Objects that are removed at one time at a shutdown.
const REMOVED_AT_ONCE: usize = 32;

/// Manages the workloads of Kubernetes clusters.
pub(crate) struct KubernetesDriver {
    shared: Arc<Shared>,
    info: DriverInfo,
    schemas: BTreeMap<KubeKind, KindSchema>,
    capabilities: BTreeMap<KubeKind, Capabilities>,
}

impl KubernetesDriver {
    pub(crate) async fn start(build: Build, config: KubernetesConfig) -> Result<Self> {
        let clusters: BTreeMap<String, Arc<Cluster>> = config
            .clusters
            .iter()
            .map(|(name, cluster)| (name.clone(), Cluster::new(name, &build.agent, cluster)))
            .collect();
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let events = Events::new(config.event_capacity);
        let types = Types::open(&build.state_dir).await?;
        let features = features(&clusters).await;
        let watches = Watches::new(&clusters, &events, &tasks, &closing);
        for cluster in clusters.values() {
            tasks.spawn(stay_in_touch(Arc::clone(cluster), closing.clone()));
        }
        let status = schemars::schema_for!(KubernetesDetails).to_value();
        Ok(Self {
            info: DriverInfo {
                name: factory::name(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                summary: "Workloads of Kubernetes clusters.".to_owned(),
                kinds: KubeKind::ALL.map(KubeKind::kind).into(),
            },
            schemas: KubeKind::ALL
                .into_iter()
                .map(|kind| (kind, kinds::schema(kind, status.clone())))
                .collect(),
            capabilities: KubeKind::ALL
                .into_iter()
                .map(|kind| (kind, capabilities(kind, features, config.max_in_flight)))
                .collect(),
            shared: Arc::new(Shared {
                agent: build.agent,
                config,
                clusters,
                types,
                events,
                watches,
                collecting: Collecting::default(),
                tasks,
                closing,
            }),
        })
    }
}

impl Drop for KubernetesDriver {
    fn drop(&mut self) {
        // Without `shutdown`: the tasks end by themselves at their next turn.
        self.shared.closing.cancel();
        self.shared.events.close();
    }
}

/// What all clusters that can be reached have. What cannot be reached now is taken for a new one: a server that lacks
/// something says so when it is asked for it.
async fn features(clusters: &BTreeMap<String, Arc<Cluster>>) -> Features {
    let asked = clusters.values().map(|cluster| async move {
        let resize = async {
            let pods = cluster.resource("v1", "Pod").await?;
            Ok::<_, Error>((pods.has("resize"), cluster.server_version().await?))
        };
        timeout(FIRST_CONTACT, resize).await.ok()?.ok()
    });
    let answers: Vec<(bool, Version)> = futures_util::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect();
    Features {
        pod_resize: answers.iter().all(|(resize, _)| *resize),
        job_suspend: answers
            .iter()
            .all(|(_, version)| *version >= Version { major: 1, minor: 22 }),
    }
}

/// Tries to reach a cluster while it cannot be reached, so that it is known when it is back.
async fn stay_in_touch(cluster: Arc<Cluster>, closing: CancellationToken) {
    let mut states = cluster.health_changes();
    loop {
        let away = matches!(*states.borrow_and_update(), DriverState::Unavailable { .. });
        tokio::select! {
            () = closing.cancelled() => return,
            changed = states.changed(), if !away => if changed.is_err() { return },
            () = tokio::time::sleep(TRY_AGAIN), if away => {
                if let Err(error) = cluster.probe().await {
                    tracing::debug!(cluster = cluster.name, %error, "still not reached");
                }
            }
        }
    }
}

#[async_trait]
impl ObjectDriver for KubernetesDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn schema(&self, kind: &Kind) -> Option<&KindSchema> {
        self.schemas.get(&KubeKind::find(kind)?)
    }

    fn capabilities(&self, kind: &Kind) -> Option<&Capabilities> {
        self.capabilities.get(&KubeKind::find(kind)?)
    }

    fn health(&self) -> DriverState {
        match self.shared.open("health") {
            Ok(()) => self.shared.watches.health(),
            Err(error) => DriverState::Unavailable {
                reason: error.message().to_owned(),
            },
        }
    }

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic> {
        self.shared.validate(spec)
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        self.shared.plan(request).await
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.shared.apply(request).await
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.shared.delete(request).await
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        self.shared.recover(targets).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.shared.discover().await
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        self.shared.open("observe")?;
        self.shared.watches.observe(targets, out).await
    }

    fn events(&self) -> EventStream {
        self.shared.events.stream()
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        self.shared.collect(request, out, cursors).await
    }

    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()> {
        let begun = Instant::now();
        if mode == ShutdownMode::StopObjects && !self.shared.closing.is_cancelled() {
            self.remove_all(deadline.mul_f64(0.8)).await;
        }
        self.shared.closing.cancel();
        self.shared.tasks.close();
        let ended = timeout(left(deadline, begun), self.shared.tasks.wait()).await;
        self.shared.events.close();
        self.shared.clusters.values().for_each(|cluster| cluster.close());
        ended.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                "tasks of the kubernetes driver did not end in time",
            )
            .with_operation("shutdown")
        })
    }

    fn redact(&self, spec: &mut ObjectSpec) {
        kinds::redact(spec);
    }

    fn control(&self) -> Option<&dyn Control> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn handle_version(&self) -> u32 {
        handle::VERSION
    }
}

impl KubernetesDriver {
    /// Removes what this agent made, as much as the time allows.
    async fn remove_all(&self, within: Duration) {
        let begun = Instant::now();
        let Ok(Ok(found)) = timeout(within, self.shared.discover()).await else {
            tracing::warn!("objects are left: the clusters do not say what there is");
            return;
        };
        futures_util::stream::iter(found)
            .for_each_concurrent(REMOVED_AT_ONCE, |(mark, handle)| async move {
                let request = DeleteRequest {
                    guid: mark.guid,
                    op_id: mark.op_id,
                    handle: Some(&handle),
                    grace: None,
                    orphan: false,
                    deadline: left(within, begun),
                };
                if let Err(error) = self.shared.delete(request).await {
                    tracing::warn!(guid = %mark.guid, %error, "not removed at the shutdown");
                }
            })
            .await;
    }
}

#[async_trait]
impl Exec for KubernetesDriver {
    async fn exec(&self, target: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream> {
        exec::exec(&self.shared, target, request, input).await
    }
}

#[async_trait]
impl Control for KubernetesDriver {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        self.shared.control(request).await
    }
}

#[async_trait]
impl Logs for KubernetesDriver {
    async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        logs::read(&self.shared, target, request).await
    }
}
