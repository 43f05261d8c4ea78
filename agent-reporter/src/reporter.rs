//! The reporter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{Guid, Kind, Lease, LeaseId, MonitorRequest, ObjectView, Result, TelemetryBatch, Verb};
use agent_api_reporter::{Report, ReportSink, ReporterApi, ReporterStats, Topics};
use agent_reporter_rpc_client::{Registration, RpcClient};
use agent_reporter_worker::ReportWorker;
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::config::ReporterConfig;
use crate::events;
use crate::leases::Leases;

/// The verbs every object answers to.
const COMMON: [Verb; 6] = [
    Verb::Update,
    Verb::Delete,
    Verb::Describe,
    Verb::Plan,
    Verb::Monitor,
    Verb::Explain,
];

/// The reporter: see the [crate].
pub struct Reporter {
    source: String,
    topics: Topics,
    methods: HashMap<Kind, Arc<[Verb]>>,
    common: Arc<[Verb]>,
    leases: Mutex<Leases>,
    rpc: Arc<dyn RpcClient>,
    sink: Arc<Sink>,
}

/// The sink: the report worker itself, nothing in between.
struct Sink(ReportWorker);

impl ReportSink for Sink {
    fn offer(&self, lease: &Lease, batch: TelemetryBatch) -> bool {
        self.0.offer(lease, batch)
    }

    fn end(&self, lease: LeaseId) {
        self.0.end(lease);
    }

    fn room(&self) -> f64 {
        self.0.room()
    }
}

impl Reporter {
    /// Starts the reporter and its worker's task on the present runtime.
    ///
    /// # Panics
    ///
    /// Where `config.root` is not a word of a topic; outside a runtime.
    #[must_use]
    pub fn start(config: ReporterConfig, rpc: Arc<dyn RpcClient>) -> Arc<Self> {
        let with_common = |verbs: &[Verb]| -> Arc<[Verb]> {
            let mut all = COMMON.to_vec();
            all.extend(verbs.iter().filter(|verb| !COMMON.contains(verb)));
            all.into()
        };
        Arc::new(Self {
            source: format!("/agents/{}", config.agent),
            topics: Topics::new(&config.root, &config.agent),
            methods: config
                .methods
                .iter()
                .map(|(kind, verbs)| (kind.clone(), with_common(verbs)))
                .collect(),
            common: with_common(&[]),
            leases: Mutex::new(Leases::new(config.max_leases, config.root)),
            sink: Arc::new(Sink(ReportWorker::start(config.worker, rpc.clone()))),
            rpc,
        })
    }

    /// The agent's topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.topics
    }
}

#[async_trait]
impl ReporterApi for Reporter {
    fn guid(&self) -> Guid {
        self.rpc.guid()
    }

    fn register(&self, view: &Arc<ObjectView>) {
        self.sink.0.register(Registration {
            guid: view.guid,
            name: view.name.clone(),
            kind: view.kind.clone(),
            methods: self.methods.get(&view.kind).unwrap_or(&self.common).clone(),
        });
    }

    fn withdraw(&self, guid: Guid) {
        self.sink.0.withdraw(guid);
    }

    fn report(&self, report: Report) {
        self.sink
            .0
            .event(events::message(&self.topics, &self.source, &report));
    }

    fn subscribe(&self, request: &MonitorRequest, guid: Option<Guid>) -> Result<Lease> {
        self.leases.lock().subscribe(&self.topics, request, guid)
    }

    fn unsubscribe(&self, id: LeaseId) -> bool {
        self.leases.lock().unsubscribe(id)
    }

    fn sink(&self) -> Arc<dyn ReportSink> {
        self.sink.clone()
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.sink.0.flush(deadline).await
    }

    fn stats(&self) -> ReporterStats {
        let worker = self.sink.0.stats();
        ReporterStats {
            tasks: worker.tasks,
            leases: self.leases.lock().len(),
            published: worker.published,
            failed: worker.failed,
            lost: worker.lost,
            queue: worker.queue,
        }
    }

    async fn shutdown(&self, deadline: Duration) -> Result<()> {
        self.sink.0.shutdown(deadline).await
    }
}
