//! The reporter of an agent that was given no bus: nothing is reported, and whoever asks for it is told so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_api::model::{
    Error, ErrorKind, Guid, Lease, LeaseId, MonitorRequest, ObjectView, Result, TelemetryBatch,
};
use agent_api::reporter::{Report, ReportSink, ReporterApi, ReporterStats};
use async_trait::async_trait;

/// Counts what it is given and keeps nothing.
#[derive(Default)]
pub(crate) struct Quiet(Arc<Unheard>);

#[derive(Default)]
struct Unheard {
    reports: AtomicU64,
    telemetry: AtomicU64,
}

impl ReportSink for Unheard {
    fn offer(&self, _: &Lease, batch: TelemetryBatch) -> bool {
        self.telemetry.fetch_add(batch.len() as u64, Ordering::Relaxed);
        true
    }

    fn room(&self) -> f64 {
        1.0
    }
}

#[async_trait]
impl ReporterApi for Quiet {
    fn guid(&self) -> Guid {
        Guid::generate()
    }

    fn register(&self, _: &Arc<ObjectView>) {}

    fn withdraw(&self, _: Guid) {}

    fn report(&self, _: Report) {
        self.0.reports.fetch_add(1, Ordering::Relaxed);
    }

    fn subscribe(&self, _: &MonitorRequest, _: Option<Guid>) -> Result<Lease> {
        Err(
            Error::new(ErrorKind::Unsupported, "this agent has no bus to report on")
                .with_operation("monitor")
                .with_hint("give it one: AgentBuilder::bus_out"),
        )
    }

    fn unsubscribe(&self, _: LeaseId) -> bool {
        false
    }

    fn sink(&self) -> Arc<dyn ReportSink> {
        Arc::clone(&self.0) as Arc<dyn ReportSink>
    }

    async fn flush(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    fn stats(&self) -> ReporterStats {
        let lost = [
            ("no_bus_reports", &self.0.reports),
            ("no_bus_telemetry", &self.0.telemetry),
        ];
        ReporterStats {
            lost: lost
                .into_iter()
                .map(|(reason, count)| (reason.to_owned(), count.load(Ordering::Relaxed)))
                .collect::<BTreeMap<_, _>>(),
            ..ReporterStats::default()
        }
    }

    async fn shutdown(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}
