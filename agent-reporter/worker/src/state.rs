//! What the worker's handle and its task share.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_api_model::{Envelope, Lease, LeaseId, MetricValue, Signal, TelemetryBatch, Timestamp, Topic};
use agent_reporter_rpc_client::Message;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::entry::{Entry, Records};
use crate::instruments::Instruments;
use crate::lane::Lane;
use crate::loss::{LOSS_EVENT, LossReport, Losses};
use crate::registry::Change;

pub(crate) const NO_ROOM: &str = "no room";
pub(crate) const STOPPED: &str = "the agent stopped";

/// What the worker's handle and its task share.
pub(crate) struct Shared {
    pub(crate) config: WorkerConfig,
    pub(crate) source: String,
    /// Part of the ids of this run's messages.
    pub(crate) run: String,
    pub(crate) state: Mutex<State>,
    pub(crate) events_wake: Notify,
    pub(crate) telemetry_wake: Notify,
    pub(crate) registry_wake: Notify,
    /// Told after each step forward, for those that flush.
    pub(crate) progress: Notify,
    pub(crate) cancel: CancellationToken,
    pub(crate) published: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) instruments: Instruments,
}

/// What waits.
pub(crate) struct State {
    pub(crate) events: Lane<Message>,
    pub(crate) values: Lane<Entry>,
    pub(crate) logs: Lane<Entry>,
    pub(crate) registry: VecDeque<Change>,
    pub(crate) losses: Losses,
    /// What is lost of the telemetry being written should the task end now.
    pub(crate) writing: Vec<(Topic, LossReport)>,
    /// The topics of the events being written.
    pub(crate) writing_events: Vec<Topic>,
    /// The last message number of each lease and signal.
    pub(crate) sequences: HashMap<(LeaseId, Signal), u64>,
    pub(crate) closed: bool,
}

impl State {
    /// Shares the room for telemetry: each lane may have what the other leaves, but never the last quarter. So a flood
    /// of lines leaves room for metrics, and the other way round.
    fn share_room(&mut self, all: usize) {
        let most = all / 4 * 3;
        self.values
            .set_capacity(most.min(all.saturating_sub(self.logs.bytes())));
        self.logs
            .set_capacity(most.min(all.saturating_sub(self.values.bytes())));
    }
}

/// How far a flush must come.
pub(crate) struct Mark {
    events: u64,
    values: u64,
    logs: u64,
}

impl Shared {
    pub(crate) fn new(config: WorkerConfig) -> Self {
        let run = LeaseId::generate().0.simple().to_string();
        Self {
            source: format!("/agents/{}", config.agent),
            // The end of a UUIDv7 is random.
            run: run[24..].to_owned(),
            state: Mutex::new(State {
                events: Lane::new(config.event_bytes),
                values: Lane::new(config.telemetry_bytes),
                logs: Lane::new(config.telemetry_bytes),
                registry: VecDeque::new(),
                losses: Losses::default(),
                writing: Vec::new(),
                writing_events: Vec::new(),
                sequences: HashMap::new(),
                closed: false,
            }),
            config,
            events_wake: Notify::new(),
            telemetry_wake: Notify::new(),
            registry_wake: Notify::new(),
            progress: Notify::new(),
            cancel: CancellationToken::new(),
            published: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            instruments: Instruments::new(),
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        let state = self.state.lock();
        state.events.bytes() + state.values.bytes() + state.logs.bytes()
    }

    /// Counts a loss and has it told.
    pub(crate) fn lose(&self, state: &mut State, topic: &Topic, loss: LossReport) {
        self.instruments.lost(loss.count, &loss.signal);
        state.losses.add(topic, loss);
        self.events_wake.notify_one();
    }

    pub(crate) fn lose_event(&self, state: &mut State, topic: &Topic, reason: &'static str) {
        let loss = LossReport {
            lease: None,
            guid: None,
            signal: "events".into(),
            count: 1,
            reason: reason.into(),
            first: None,
            last: None,
        };
        self.lose(state, topic, loss);
    }

    pub(crate) fn lose_entry(&self, state: &mut State, entry: &Entry, reason: &'static str) {
        let loss = LossReport {
            lease: Some(entry.lease),
            guid: None,
            signal: entry.records.signal().as_str().into(),
            count: entry.records.len(),
            reason: reason.into(),
            first: Some(entry.sequence),
            last: Some(entry.sequence),
        };
        self.lose(state, &entry.topic, loss);
    }

    /// Takes an event; the oldest that wait make room.
    pub(crate) fn event(&self, message: Message) {
        let bytes = message_bytes(&message);
        let mut state = self.state.lock();
        let mut dropped = Vec::new();
        if state.closed {
            dropped.push(message);
        } else {
            state
                .events
                .push_dropping_oldest(bytes, message, |message| dropped.push(message));
        }
        let reason = if state.closed { STOPPED } else { NO_ROOM };
        for message in dropped {
            self.lose_event(&mut state, &message.topic, reason);
        }
        drop(state);
        self.events_wake.notify_one();
    }

    /// Takes a batch for a lease.
    pub(crate) fn offer(&self, lease: &Lease, mut batch: TelemetryBatch) -> bool {
        let lease_topic = Topic::new(&lease.topic).ok();
        let topic = |signal| {
            lease_topic
                .as_ref()
                .unwrap_or_else(|| self.config.topics.of(signal))
        };
        let numbers = batch.metrics.len();
        batch
            .metrics
            .retain(|point| !matches!(point.value, MetricValue::Float(value) if !value.is_finite()));
        let not_numbers = numbers - batch.metrics.len();
        // JSON takes about three times the room of the records in memory.
        let limit = self.config.message_bytes / if lease.json { 3 } else { 1 };
        let objects = Arc::new(batch.objects);
        let logs = Records::Logs(batch.logs).split(limit);
        let log_bytes = logs.iter().map(|(bytes, _)| bytes).sum();
        let mut parts = Records::Metrics(batch.metrics).split(limit);
        parts.append(&mut Records::Traces(batch.spans).split(limit));
        let has_logs = !logs.is_empty();
        parts.extend(logs);
        let mut state = self.state.lock();
        state.share_room(self.config.telemetry_bytes);
        if state.closed || (has_logs && !state.logs.fits(log_bytes)) {
            drop(state);
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.instruments.deferred.add(1, &[]);
            return false;
        }
        if not_numbers > 0 {
            let report = LossReport {
                lease: Some(lease.id),
                guid: None,
                signal: Signal::Metrics.as_str().into(),
                count: not_numbers as u64,
                reason: "not a finite number".into(),
                first: None,
                last: None,
            };
            self.lose(&mut state, topic(Signal::Metrics), report);
        }
        for loss in batch.losses {
            let report = LossReport {
                lease: Some(lease.id),
                guid: loss.guid,
                signal: loss.signal.as_str().into(),
                count: loss.count,
                reason: loss.reason.into(),
                first: None,
                last: None,
            };
            self.lose(&mut state, topic(loss.signal), report);
        }
        for (bytes, records) in parts {
            let signal = records.signal();
            let sequence = state.sequences.entry((lease.id, signal)).or_insert(0);
            *sequence += 1;
            let entry = Entry {
                lease: lease.id,
                topic: topic(signal).clone(),
                json: lease.json,
                sequence: *sequence,
                records,
                objects: objects.clone(),
            };
            if signal == Signal::Logs {
                state.logs.push(bytes, entry);
                continue;
            }
            let mut dropped = Vec::new();
            state
                .values
                .push_dropping_oldest(bytes, entry, |entry| dropped.push(entry));
            for entry in dropped {
                self.lose_entry(&mut state, &entry, NO_ROOM);
            }
        }
        drop(state);
        self.telemetry_wake.notify_one();
        true
    }

    /// Lets go what is kept for a lease.
    pub(crate) fn end(&self, lease: LeaseId) {
        let mut state = self.state.lock();
        for signal in [Signal::Metrics, Signal::Logs, Signal::Traces] {
            state.sequences.remove(&(lease, signal));
        }
    }

    pub(crate) fn change_registry(&self, change: Change) {
        let mut state = self.state.lock();
        state.registry.push_back(change);
        if state.registry.len() > self.config.registry_length {
            state.registry.pop_front();
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.instruments.failed.add(1, &[]);
        }
        drop(state);
        self.registry_wake.notify_one();
    }

    /// How far all that was taken until now reaches.
    pub(crate) fn mark(&self) -> Mark {
        let state = self.state.lock();
        Mark {
            events: state.events.next_number(),
            values: state.values.next_number(),
            logs: state.logs.next_number(),
        }
    }

    /// Whether all before the mark is written or given up, and every loss told.
    pub(crate) fn reached(&self, mark: &Mark) -> bool {
        let state = self.state.lock();
        let past = |oldest: Option<u64>, mark| oldest.is_none_or(|oldest| oldest >= mark);
        past(state.events.oldest(), mark.events)
            && past(state.values.oldest(), mark.values)
            && past(state.logs.oldest(), mark.logs)
            && state.losses.all_told()
    }

    pub(crate) fn loss_message(&self, number: u64, topic: Topic, loss: &LossReport) -> Message {
        Message {
            topic,
            envelope: Envelope {
                id: format!("loss-{}-{number}", self.run),
                source: self.source.clone(),
                event_type: LOSS_EVENT.into(),
                subject: loss.lease.map(|lease| lease.to_string()),
                time: Timestamp::now(),
                content_type: Envelope::JSON,
                traceparent: None,
                data: serde_json::to_vec(loss)
                    .expect("strings and numbers always serialise")
                    .into(),
            },
        }
    }
}

/// About how much a message takes.
pub(crate) fn message_bytes(message: &Message) -> usize {
    let envelope = &message.envelope;
    size_of::<Message>()
        + envelope.data.len()
        + envelope.id.len()
        + envelope.source.len()
        + envelope.event_type.len()
        + envelope.subject.as_ref().map_or(0, String::len)
}

/// Telemetry of one object is about the object, telemetry of more about the lease.
pub(crate) fn subject(entry: &Entry) -> String {
    match entry.objects.as_slice() {
        [only] => only.name.to_string(),
        _ => entry.lease.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use agent_api_model::{AgentId, Guid, MetricKind, MetricPoint, Selector};

    use super::*;
    use crate::config::SignalTopics;

    #[test]
    fn nothing_is_kept_for_a_lease_that_has_ended() {
        let topic = Topic::new("t").unwrap();
        let topics = SignalTopics {
            metrics: topic.clone(),
            logs: topic.clone(),
            traces: topic,
        };
        let shared = Shared::new(WorkerConfig::new(AgentId::new("a1").unwrap(), topics));
        let leases: Vec<_> = (0..1_000)
            .map(|_| Lease {
                id: LeaseId::generate(),
                guid: None,
                selector: Selector::everything(),
                signals: vec![Signal::Metrics],
                interval: std::time::Duration::from_secs(1),
                topic: String::new(),
                json: false,
                expires: None,
                ttl: None,
            })
            .collect();
        let batch = TelemetryBatch {
            metrics: vec![MetricPoint {
                guid: Guid::generate(),
                name: "x".into(),
                unit: "1".into(),
                kind: MetricKind::Gauge,
                value: MetricValue::Int(1),
                at: Timestamp::EPOCH,
                attributes: Vec::new(),
            }],
            ..TelemetryBatch::default()
        };
        for lease in &leases {
            assert!(shared.offer(lease, batch.clone()));
        }
        assert_eq!(shared.state.lock().sequences.len(), 1_000);
        leases.iter().for_each(|lease| shared.end(lease.id));
        assert!(shared.state.lock().sequences.is_empty());
    }
}
