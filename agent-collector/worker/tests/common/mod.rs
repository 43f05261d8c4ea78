//! A driver that does as it is told, a sink that keeps what it gets, and objects and leases.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, DeleteRequest, Deleted, DriverInfo, EventStream,
    KindSchema, Mark, Observed, PlanRequest, Recovered, ShutdownMode, Target,
};
use agent_api_driver::{DriverSet, Handle, ObjectDriver, async_trait};
use agent_api_model::{
    Diagnostic, DriverName, DriverState, Error, ErrorKind, Evidence, EvidenceSource, Guid, Kind, Lease,
    LeaseId, LogRecord, LogStream, MetricKind, MetricPoint, MetricValue, ObjectName, ObjectSpec, ObjectView,
    Phase, Plan, ResourcesView, Result, Signal, TelemetryBatch, Timestamp,
};
use agent_api_reporter::ReportSink;
use agent_collector_worker::{CollectWorker, WorkerConfig};
use parking_lot::Mutex;
use tokio::time::Instant;

/// What the fake driver does in `collect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Work,
    Hang,
    Panic,
    Fail,
    /// Works, but takes so long.
    Slow(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: Duration,
    pub(crate) guids: Vec<Guid>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) max_log_bytes: usize,
}

pub(crate) struct FakeDriver {
    info: DriverInfo,
    capabilities: Capabilities,
    started: Instant,
    pub(crate) mode: Mutex<Mode>,
    pub(crate) calls: Mutex<Vec<Call>>,
    /// The lines of each object; a cursor is the number of lines read.
    pub(crate) lines: Mutex<HashMap<Guid, Vec<String>>>,
    pub(crate) most_in_flight: Mutex<(usize, usize)>,
}

impl FakeDriver {
    pub(crate) fn new(name: &str, batch_size: usize) -> Arc<Self> {
        let mut capabilities = Capabilities::default();
        capabilities.metrics = true;
        capabilities.logs = true;
        capabilities.batch_size = batch_size;
        Arc::new(Self {
            info: DriverInfo {
                name: DriverName::new(name).unwrap(),
                version: "0".into(),
                summary: "a fake".into(),
                kinds: vec![Kind::new(name).unwrap()],
            },
            capabilities,
            started: Instant::now(),
            mode: Mutex::new(Mode::Work),
            calls: Mutex::default(),
            lines: Mutex::default(),
            most_in_flight: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// When the calls were made, in milliseconds since the driver was made.
    pub(crate) fn times(&self) -> Vec<u128> {
        self.calls.lock().iter().map(|call| call.at.as_millis()).collect()
    }

    pub(crate) fn write(&self, guid: Guid, lines: impl IntoIterator<Item = String>) {
        self.lines.lock().entry(guid).or_default().extend(lines);
    }

    fn fill(&self, request: CollectRequest<'_>, out: &mut TelemetryBatch, cursors: &mut Vec<(Guid, String)>) {
        let mut room = request.max_log_bytes;
        for target in request.targets {
            if request.signals.contains(&Signal::Metrics) {
                out.metrics.push(MetricPoint {
                    guid: target.guid,
                    name: "process.cpu.time".into(),
                    unit: "s".into(),
                    kind: MetricKind::Counter,
                    value: MetricValue::Float(1.5),
                    at: Timestamp::now(),
                    attributes: Vec::new(),
                });
            }
            if request.signals.contains(&Signal::Logs) {
                let lines = self.lines.lock();
                let empty = Vec::new();
                let lines = lines.get(&target.guid).unwrap_or(&empty);
                let begin = if target.from_start { 0 } else { lines.len() };
                let mut read = target.log_cursor.map_or(begin, |cursor| cursor.parse().unwrap());
                while read < lines.len() && lines[read].len() < room {
                    room -= lines[read].len() + 1;
                    out.logs.push(LogRecord {
                        guid: target.guid,
                        at: Timestamp::now(),
                        stream: LogStream::Stdout,
                        body: lines[read].clone().into(),
                        attributes: Vec::new(),
                    });
                    read += 1;
                }
                cursors.push((target.guid, read.to_string()));
            }
        }
    }
}

#[async_trait]
impl ObjectDriver for FakeDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn schema(&self, _: &Kind) -> Option<&KindSchema> {
        None
    }

    fn capabilities(&self, _: &Kind) -> Option<&Capabilities> {
        Some(&self.capabilities)
    }

    fn health(&self) -> DriverState {
        DriverState::Healthy
    }

    async fn validate(&self, _: &ObjectSpec) -> Vec<Diagnostic> {
        Vec::new()
    }

    async fn plan(&self, _: PlanRequest<'_>) -> Result<Plan> {
        Err(unsupported())
    }

    async fn apply(&self, _: ApplyRequest<'_>) -> Result<Applied> {
        Err(unsupported())
    }

    async fn delete(&self, _: DeleteRequest<'_>) -> Result<Deleted> {
        Err(unsupported())
    }

    async fn recover(&self, _: &[Target<'_>]) -> Result<Vec<Recovered>> {
        Err(unsupported())
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        Err(unsupported())
    }

    async fn observe(&self, _: &[Target<'_>], _: &mut Vec<Observed>) -> Result<()> {
        Err(unsupported())
    }

    fn events(&self) -> EventStream {
        Box::pin(futures_util::stream::empty())
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        let guids: HashSet<_> = request.targets.iter().map(|target| target.guid).collect();
        assert_eq!(
            guids.len(),
            request.targets.len(),
            "an object twice in one request"
        );
        self.calls.lock().push(Call {
            at: self.started.elapsed(),
            guids: request.targets.iter().map(|target| target.guid).collect(),
            signals: request.signals.to_vec(),
            max_log_bytes: request.max_log_bytes,
        });
        {
            let mut in_flight = self.most_in_flight.lock();
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        let _guard = Guard(self);
        let mode = *self.mode.lock();
        match mode {
            Mode::Work => {}
            Mode::Hang => std::future::pending().await,
            Mode::Panic => panic!("told to"),
            Mode::Fail => return Err(Error::new(ErrorKind::Unavailable, "told to")),
            Mode::Slow(time) => tokio::time::sleep(time).await,
        }
        self.fill(request, out, cursors);
        Ok(())
    }

    async fn shutdown(&self, _: ShutdownMode, _: Duration) -> Result<()> {
        Ok(())
    }
}

struct Guard<'a>(&'a FakeDriver);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.most_in_flight.lock().0 -= 1;
    }
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "a fake")
}

#[derive(Default)]
pub(crate) struct FakeSink {
    pub(crate) offers: Mutex<Vec<(LeaseId, TelemetryBatch)>>,
    pub(crate) ended: Mutex<Vec<LeaseId>>,
    /// Refuses log lines.
    pub(crate) full: Mutex<bool>,
    pub(crate) refused: Mutex<usize>,
    /// What `room` answers, in percent less than 100.
    pub(crate) used: Mutex<u32>,
}

impl ReportSink for FakeSink {
    fn offer(&self, lease: &Lease, batch: TelemetryBatch) -> bool {
        assert!(
            batch.logs.is_empty() || batch.metrics.is_empty(),
            "logs are offered apart, so that a refusal costs no metrics"
        );
        if !batch.logs.is_empty() && *self.full.lock() {
            *self.refused.lock() += 1;
            return false;
        }
        self.offers.lock().push((lease.id, batch));
        true
    }

    fn end(&self, lease: LeaseId) {
        self.ended.lock().push(lease);
    }

    fn room(&self) -> f64 {
        1.0 - f64::from(*self.used.lock()) / 100.0
    }
}

impl FakeSink {
    /// The lines of an object that were taken for a lease, in order.
    pub(crate) fn lines(&self, lease: LeaseId, guid: Guid) -> Vec<String> {
        let offers = self.offers.lock();
        let batches = offers.iter().filter(|(id, _)| *id == lease);
        batches
            .flat_map(|(_, batch)| &batch.logs)
            .filter(|record| record.guid == guid)
            .map(|record| String::from_utf8(record.body.to_vec()).unwrap())
            .collect()
    }

    /// How many points each lease got of each object.
    pub(crate) fn points(&self) -> BTreeMap<(LeaseId, Guid), usize> {
        let mut points = BTreeMap::new();
        for (lease, batch) in &*self.offers.lock() {
            for point in &batch.metrics {
                assert!(
                    batch.objects.iter().any(|view| view.guid == point.guid),
                    "the view comes with the points"
                );
                *points.entry((*lease, point.guid)).or_default() += 1;
            }
        }
        points
    }
}

/// A worker with these drivers, and its sink.
pub(crate) fn worker(drivers: &[&Arc<FakeDriver>], config: WorkerConfig) -> (CollectWorker, Arc<FakeSink>) {
    let sink = Arc::new(FakeSink::default());
    let set = DriverSet::new(
        drivers
            .iter()
            .map(|driver| (*driver).clone() as Arc<dyn ObjectDriver>),
    );
    (CollectWorker::start(config, set, sink.clone()), sink)
}

pub(crate) fn object(kind: &str, name: &str, label: &str) -> Arc<ObjectView> {
    Arc::new(ObjectView {
        guid: Guid::generate(),
        name: ObjectName::new(name).unwrap(),
        kind: Kind::new(kind).unwrap(),
        labels: Arc::new([("app".to_owned(), label.to_owned())].into()),
        phase: Phase::Running,
        since: Timestamp::EPOCH,
        created: Timestamp::EPOCH,
        generation: 1,
        observed_generation: 1,
        evidence: Evidence::now(EvidenceSource::Event, 1),
        resources: ResourcesView::default(),
        conditions: Vec::new(),
        details: serde_json::Value::Null,
        restarts: 0,
        exit: None,
        health: None,
        operation: None,
        adopted: false,
    })
}

/// Adds an object and returns its GUID.
pub(crate) fn add(worker: &CollectWorker, view: &Arc<ObjectView>) -> Guid {
    let handle = Arc::new(Handle::new(1, serde_json::Value::Null));
    worker.add(view, &handle);
    view.guid
}

pub(crate) fn lease(selector: &str, signals: &[Signal], interval_ms: u64) -> Lease {
    Lease {
        id: LeaseId::generate(),
        guid: None,
        selector: selector.parse().unwrap(),
        signals: signals.to_vec(),
        interval: Duration::from_millis(interval_ms),
        topic: "t".into(),
        json: false,
        expires: None,
        ttl: None,
    }
}

/// Lets so much time pass; a little more, so that what is due at the end has happened.
pub(crate) async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
