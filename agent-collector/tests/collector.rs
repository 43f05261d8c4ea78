//! The collector's face: leases are taken, limited, and ended at the sink. What is collected is tested in the worker.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_api_collector::CollectorApi;
use agent_api_model::{ErrorKind, Guid, Lease, LeaseId, Selector, Signal, TelemetryBatch};
use agent_api_reporter::ReportSink;
use agent_collector::{Collector, CollectorConfig, DriverSet};

#[derive(Default)]
struct Sink {
    ended: AtomicUsize,
}

impl ReportSink for Sink {
    fn offer(&self, _: &Lease, _: TelemetryBatch) -> bool {
        true
    }

    fn end(&self, _: LeaseId) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn room(&self) -> f64 {
        1.0
    }
}

fn lease() -> Lease {
    Lease {
        id: LeaseId::generate(),
        guid: None,
        selector: Selector::everything(),
        signals: vec![Signal::Metrics],
        interval: Duration::from_secs(1),
        topic: String::new(),
        json: false,
        expires: None,
        ttl: Some(Duration::from_secs(10)),
    }
}

#[tokio::test(start_paused = true)]
async fn leases_are_taken_limited_and_ended() {
    let sink = Arc::new(Sink::default());
    let config = CollectorConfig {
        max_leases: 2,
        ..CollectorConfig::default()
    };
    let collector = Collector::start(config, DriverSet::default(), sink.clone());
    let (first, second) = (lease(), lease());
    collector.start(first.clone()).unwrap();
    collector.start(second.clone()).unwrap();
    assert_eq!(collector.start(lease()).unwrap_err().kind(), ErrorKind::Busy);
    collector.remove(Guid::generate());
    assert!(collector.retune(first.id, Duration::from_millis(50)));
    assert!(collector.stop(first.id) && !collector.stop(first.id));
    assert_eq!((collector.stats().leases, collector.stats().tasks), (1, 1));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(collector.stats().leases, 0);
    assert!(!collector.retune(second.id, Duration::from_secs(1)));
    assert_eq!(sink.ended.load(Ordering::Relaxed), 2);
    collector.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(collector.stats().tasks, 0);
    assert_eq!(
        collector.start(lease()).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}
