//! A bus that does as it is told and keeps what it gets, objects and records.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_out::{BusOut, Message};
use agent_api_model::{
    AgentId, Cause, Error, ErrorKind, Evidence, EvidenceSource, Guid, Kind, Lease, LifecycleEvent,
    LifecycleKind, LogRecord, LogStream, MetricKind, MetricPoint, MetricValue, MonitorRequest, ObjectName,
    ObjectView, Phase, ResourcesView, Result, Signal, TelemetryBatch, Timestamp, Transition,
};
use agent_reporter::{BusRpcClient, LOSS_EVENT, LossReport, Reporter, ReporterConfig, RpcConfig};
use bytes::Bytes;
use parking_lot::Mutex;

/// What the fake bus does with a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Work,
    /// Answers `Unavailable`.
    Away,
    /// Never answers.
    Hang,
    /// Publishes what it gets, and says that it did not.
    Forgetful,
    /// Refuses messages of this type for good.
    Refuses(&'static str),
    Panic,
    /// Takes so long for each publish.
    Slow(Duration),
}

pub(crate) struct FakeBus {
    pub(crate) mode: Mutex<Mode>,
    pub(crate) published: Mutex<Vec<Message>>,
    pub(crate) tries: Mutex<usize>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) answer: Mutex<ErrorKind>,
}

impl FakeBus {
    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    /// The messages of a type, in order.
    pub(crate) fn of_type(&self, wanted: &str) -> Vec<Message> {
        let published = self.published.lock();
        let of_type = |message: &&Message| message.envelope.event_type.starts_with(wanted);
        published.iter().filter(of_type).cloned().collect()
    }

    pub(crate) fn losses(&self) -> Vec<(Message, LossReport)> {
        self.of_type(LOSS_EVENT)
            .into_iter()
            .map(|message| {
                let loss = serde_json::from_slice(&message.envelope.data).unwrap();
                (message, loss)
            })
            .collect()
    }
}

#[async_trait::async_trait]
impl BusOut for FakeBus {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn publish(&self, messages: &[Message]) -> Result<()> {
        *self.tries.lock() += 1;
        let mode = *self.mode.lock();
        match mode {
            Mode::Work | Mode::Forgetful => {}
            Mode::Away => return Err(Error::new(ErrorKind::Unavailable, "away")),
            Mode::Hang => std::future::pending().await,
            Mode::Refuses(refused) if messages.iter().any(|m| m.envelope.event_type == refused) => {
                return Err(Error::new(ErrorKind::Denied, "not this"));
            }
            Mode::Refuses(_) => {}
            Mode::Panic => panic!("told to"),
            Mode::Slow(time) => tokio::time::sleep(time).await,
        }
        self.published.lock().extend_from_slice(messages);
        if mode == Mode::Forgetful {
            return Err(Error::new(ErrorKind::Timeout, "no answer"));
        }
        Ok(())
    }

    async fn call(&self, method: &str, _: Bytes, _: Duration) -> Result<Bytes> {
        self.calls.lock().push(method.into());
        Err(Error::new(*self.answer.lock(), "told to"))
    }
}

pub(crate) fn agent() -> AgentId {
    AgentId::new("a1").unwrap()
}

pub(crate) fn config() -> ReporterConfig {
    ReporterConfig::new(agent(), "agent")
}

/// A reporter over a fake bus.
pub(crate) fn reporter(config: ReporterConfig) -> (Arc<Reporter>, Arc<FakeBus>) {
    let bus = Arc::new(FakeBus {
        mode: Mutex::new(Mode::Work),
        published: Mutex::default(),
        tries: Mutex::default(),
        calls: Mutex::default(),
        answer: Mutex::new(ErrorKind::Unsupported),
    });
    let rpc = BusRpcClient::new(RpcConfig::new(agent()), bus.clone());
    (Reporter::start(config, Arc::new(rpc)), bus)
}

pub(crate) fn object(name: &str) -> Arc<ObjectView> {
    Arc::new(ObjectView {
        guid: Guid::generate(),
        name: ObjectName::new(name).unwrap(),
        kind: Kind::new("process").unwrap(),
        labels: Arc::new([("app".to_owned(), "web".to_owned())].into()),
        phase: Phase::Running,
        since: Timestamp::EPOCH,
        created: Timestamp::from_micros(1_000_000),
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

pub(crate) fn request(signals: &[Signal]) -> MonitorRequest {
    MonitorRequest {
        signals: signals.to_vec(),
        ..MonitorRequest::default()
    }
}

pub(crate) fn point(guid: Guid, value: MetricValue) -> MetricPoint {
    MetricPoint {
        guid,
        name: "process.cpu.time".into(),
        unit: "s".into(),
        kind: MetricKind::Counter,
        value,
        at: Timestamp::from_micros(2_000_000),
        attributes: Vec::new(),
    }
}

pub(crate) fn line(guid: Guid, body: impl Into<Bytes>) -> LogRecord {
    LogRecord {
        guid,
        at: Timestamp::from_micros(2_000_000),
        stream: LogStream::Stderr,
        body: body.into(),
        attributes: Vec::new(),
    }
}

/// So many points of one object.
pub(crate) fn metrics(view: &Arc<ObjectView>, count: u64) -> TelemetryBatch {
    TelemetryBatch {
        metrics: (0..count)
            .map(|n| point(view.guid, MetricValue::Int(n)))
            .collect(),
        objects: vec![view.clone()],
        ..TelemetryBatch::default()
    }
}

/// One line of one object.
pub(crate) fn logs(view: &Arc<ObjectView>, body: impl Into<Bytes>) -> TelemetryBatch {
    TelemetryBatch {
        logs: vec![line(view.guid, body)],
        objects: vec![view.clone()],
        ..TelemetryBatch::default()
    }
}

pub(crate) fn event(view: &ObjectView, sequence: u64) -> LifecycleEvent {
    LifecycleEvent {
        kind: LifecycleKind::PhaseChanged,
        guid: view.guid,
        name: view.name.clone(),
        object_kind: view.kind.clone(),
        generation: 1,
        transition: Transition {
            at: Timestamp::from_micros(3_000_000),
            from: Some(Phase::Creating),
            to: Some(Phase::Running),
            cause: Cause::Recovered {
                message: "found again".into(),
            },
        },
        sequence,
    }
}

/// The sequence of a telemetry message, from its id.
pub(crate) fn sequence(message: &Message) -> u64 {
    let (_, sequence) = message.envelope.id.rsplit_once('-').unwrap();
    sequence.parse().unwrap()
}

/// That every message of a lease from 1 to `last` is either there or inside exactly one loss report.
pub(crate) fn assert_complete(bus: &FakeBus, lease: &Lease, signal: Signal, last: u64) {
    let mut seen = vec![0_u32; last as usize + 1];
    let prefix = format!("{}-", lease.id);
    let mut previous = 0;
    for message in bus.of_type(&format!("agent.telemetry.{signal}")) {
        if message.envelope.id.starts_with(&prefix) {
            let number = sequence(&message);
            assert!(number > previous, "{number} after {previous}");
            previous = number;
            seen[number as usize] += 1;
        }
    }
    for (message, loss) in bus.losses() {
        if loss.lease == Some(lease.id) && loss.signal == signal.as_str() {
            assert_eq!(message.topic.as_str(), lease.topic);
            for number in loss.first.unwrap()..=loss.last.unwrap() {
                seen[number as usize] += 1;
            }
        }
    }
    let wrong: Vec<_> = seen
        .iter()
        .enumerate()
        .skip(1)
        .filter(|(_, count)| **count != 1)
        .collect();
    assert!(wrong.is_empty(), "not there exactly once: {wrong:?}");
}
