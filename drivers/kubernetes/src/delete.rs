//! Removing objects, or leaving them without our marks.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{ErrorKind, Guid};
use agent_api_driver::{DeleteRequest, Deleted, Result};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use tokio::time::Instant;

use crate::apply::AT_ONCE;
use crate::handle::{HandleData, ObjectRef};
use crate::kinds::rank;
use crate::mark;
use crate::sdk::Cluster;
use crate::shared::Shared;
use crate::target::{Target, whole_seconds};

/// How long pods take to end by themselves where nobody says otherwise: the cluster's own default.
const GRACE: Duration = Duration::from_secs(30);

impl Shared {
    pub(crate) async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.open("delete")?;
        self.delete_one(&request)
            .await
            .map_err(|error| error.with_operation("delete").with_object(request.guid))
    }

    async fn delete_one(&self, request: &DeleteRequest<'_>) -> Result<Deleted> {
        let until = Instant::now() + request.deadline.mul_f64(0.95);
        let parts = match request.handle {
            Some(handle) => vec![HandleData::read(handle)?],
            None => self.find(request.guid).await?,
        };
        let _changing = self.watches.changing(request.guid);
        for data in &parts {
            // The handle of another object is not followed.
            if data.guid == request.guid && data.owned {
                self.delete_objects(data, request, until).await?;
            }
        }
        if parts.iter().all(|data| data.guid == request.guid) {
            self.watches.forget(request.guid);
            self.collecting.forget(request.guid);
        }
        Ok(Deleted::default())
    }

    async fn delete_objects(
        &self,
        data: &HandleData,
        request: &DeleteRequest<'_>,
        until: Instant,
    ) -> Result<()> {
        let cluster = self.cluster_of(data)?;
        let grace = grace(request);
        // What was applied last goes first, and what it needs goes after it is gone.
        let objects: Vec<&ObjectRef> = data.objects.iter().rev().collect();
        for group in objects.chunk_by(|a, b| rank(&a.kind) == rank(&b.kind)) {
            let calls: Vec<_> = group
                .iter()
                .map(|place| self.delete_place(cluster, data, place, request, grace, until))
                .collect();
            let answers: Vec<Result<()>> = futures_util::stream::iter(calls)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            answers.into_iter().collect::<Result<()>>()?;
        }
        Ok(())
    }

    async fn delete_place(
        &self,
        cluster: &Arc<Cluster>,
        data: &HandleData,
        place: &ObjectRef,
        request: &DeleteRequest<'_>,
        grace: Option<Duration>,
        until: Instant,
    ) -> Result<()> {
        let Some(uid) = place.uid.as_deref() else {
            return Ok(());
        };
        let target = match Target::of(cluster, place).await {
            Ok(target) => target,
            // Its type is gone, and all of that type with it.
            Err(error) if error.kind() == ErrorKind::Invalid => return Ok(()),
            Err(error) => return Err(error),
        };
        if request.orphan {
            return target.release(uid).await;
        }
        let own = grace.filter(|_| place.kind == "Pod");
        if target.delete(uid, data.deletion, own).await? {
            return Ok(());
        }
        if let (Some(grace), true) = (grace, has_pods(&place.kind)) {
            self.hurry_pods(cluster, place, request.guid, grace).await?;
        }
        target.until_gone(uid, until).await
    }

    /// Tells the pods of a workload that is being deleted how long they have.
    async fn hurry_pods(
        &self,
        cluster: &Arc<Cluster>,
        place: &ObjectRef,
        guid: Guid,
        grace: Duration,
    ) -> Result<()> {
        let api = cluster.typed::<Pod>(place.namespace.as_deref());
        let params = DeleteParams {
            grace_period_seconds: Some(whole_seconds(grace)),
            ..DeleteParams::default()
        };
        let list = ListParams::default().labels(&mark::selector_of_object(&self.agent, guid));
        let call = api.delete_collection(&params, &list);
        let answer = cluster
            .call_typed::<Pod, _>("deletecollection", place.namespace.as_deref(), "", call)
            .await;
        match answer {
            // They end in their own time then.
            Err(error) if error.kind() == ErrorKind::Denied => {
                tracing::warn!(%error, "pods cannot be given the grace that was asked for");
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// What bears the mark of an object whose handle nobody has.
    async fn find(&self, guid: Guid) -> Result<Vec<HandleData>> {
        let mut found = Vec::new();
        for cluster in self.clusters.values() {
            let marked = self
                .marked(cluster, &mark::selector_of_object(&self.agent, guid))
                .await?;
            found.extend(marked.into_iter().map(|(_, data)| data));
        }
        Ok(found)
    }
}

/// How long pods have to end by themselves, where that is asked for or the deadline leaves less than they usually have.
fn grace(request: &DeleteRequest<'_>) -> Option<Duration> {
    let longest = request.deadline.mul_f64(0.7);
    match request.grace {
        Some(grace) => Some(grace.min(longest)),
        None if longest < GRACE => Some(longest),
        None => None,
    }
}

fn has_pods(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "ReplicaSet"
            | "ReplicationController"
            | "Job"
            | "CronJob"
    )
}
