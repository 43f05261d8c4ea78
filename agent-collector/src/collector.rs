//! The collector.

use std::sync::Arc;
use std::time::Duration;

use agent_api_collector::{CollectorApi, CollectorStats};
use agent_api_model::{Guid, Lease, LeaseId, ObjectView, Result};
use agent_api_reporter::ReportSink;
use agent_collector_worker::{CollectWorker, DriverSet, Handle};
use async_trait::async_trait;

use crate::CollectorConfig;

/// The collector: see the [crate].
pub struct Collector {
    worker: CollectWorker,
}

impl Collector {
    /// Starts the collector and its worker's task on the present runtime.
    #[must_use]
    pub fn start(config: CollectorConfig, drivers: DriverSet, sink: Arc<dyn ReportSink>) -> Arc<Self> {
        Arc::new(Self {
            worker: CollectWorker::start(config, drivers, sink),
        })
    }
}

#[async_trait]
impl CollectorApi for Collector {
    fn add(&self, view: &Arc<ObjectView>, handle: &Arc<Handle>) {
        self.worker.add(view, handle);
    }

    fn remove(&self, guid: Guid) {
        self.worker.remove(guid);
    }

    fn start(&self, lease: Lease) -> Result<()> {
        self.worker.begin(lease)
    }

    fn stop(&self, id: LeaseId) -> bool {
        self.worker.end(id)
    }

    fn retune(&self, id: LeaseId, interval: Duration) -> bool {
        self.worker.retune(id, interval)
    }

    fn stats(&self) -> CollectorStats {
        let worker = self.worker.stats();
        CollectorStats {
            tasks: worker.tasks,
            objects: worker.objects,
            leases: worker.leases,
            collections: worker.collections,
            skipped: worker.skipped,
            queue: worker.queue,
        }
    }

    async fn shutdown(&self, deadline: Duration) -> Result<()> {
        self.worker.shutdown(deadline).await
    }
}
