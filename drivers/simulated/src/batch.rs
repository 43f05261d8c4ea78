//! The calls for many objects at once: `observe`, `recover`, `collect`.

use std::borrow::Cow;
use std::time::Duration;

use agent_api_driver::model::{
    Error, Evidence, EvidenceSource, Guid, LogRecord, LogStream, Loss, MetricKind, MetricPoint, MetricValue,
    Result, Signal, TelemetryBatch, Timestamp,
};
use agent_api_driver::{
    CollectRequest, CollectTarget, ObjectState, ObjectStatus, Observed, Recovered, RecoveredState, Target,
};

use crate::behavior::{Fate, purpose};
use crate::draw::Draw;
use crate::driver::SimulatedDriver;
use crate::logs::{line, read_cursor, write_cursor};
use crate::spec::Operation;
use crate::thing::{State, Thing, read_handle};
use crate::world::{Miss, OLD_REVISION, World, stranger};

/// How many objects are worked on under one lock.
const SLICE: usize = 1_024;

/// What befalls a batch: the worst of what befalls its objects.
#[derive(Default)]
struct BatchFate {
    hang: bool,
    panic: bool,
    latency: Duration,
    failed: Option<Error>,
}

impl BatchFate {
    /// Takes in one object's; whether the call for that object fails.
    fn add(&mut self, fate: &Fate) -> bool {
        self.hang |= fate.hang;
        self.panic |= fate.panic;
        self.latency = self.latency.max(fate.latency);
        if let Some(fail) = &fate.fail {
            self.failed = Some(fate.error(fail));
        }
        fate.fail.is_some()
    }

    async fn endure(&self, operation: Operation) {
        assert!(!self.panic, "simulated panic in {}", operation.as_str());
        if self.hang {
            std::future::pending::<()>().await;
        }
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }
}

fn evidence(source: EvidenceSource, now: i64, revision: u64) -> Evidence {
    Evidence {
        source,
        at: Timestamp::from_micros(now),
        revision,
    }
}

impl SimulatedDriver {
    pub(crate) async fn observe_all(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        let mut befalls = BatchFate::default();
        out.reserve(targets.len());
        for slice in targets.chunks(SLICE) {
            self.substrate.with(|world, now| {
                for target in slice {
                    self.observe_one(world, target, now, &mut befalls, out);
                }
            });
            tokio::task::yield_now().await;
        }
        befalls.endure(Operation::Observe).await;
        Ok(())
    }

    fn observe_one(
        &self,
        world: &mut World,
        target: &Target<'_>,
        now: i64,
        befalls: &mut BatchFate,
        out: &mut Vec<Observed>,
    ) {
        let guid = target.guid;
        let newest = world.revision();
        let nothing = |state, source| Observed {
            guid,
            handle: None,
            status: ObjectStatus::new(state, evidence(source, now, newest)),
        };
        let observed = match world.ours(guid, target.handle, self.owner, now) {
            Err(Miss::Unreadable) => nothing(ObjectState::Unknown, EvidenceSource::Inferred),
            Err(Miss::Gone | Miss::Foreign) => nothing(ObjectState::Gone, EvidenceSource::Poll),
            Ok(thing) => {
                let revision = thing.revision;
                if thing.behavior.disturbs(Operation::Observe)
                    && befalls.add(&World::fate(thing, Operation::Observe))
                {
                    let status = ObjectStatus::new(
                        ObjectState::Unknown,
                        evidence(EvidenceSource::Inferred, now, revision),
                    );
                    out.push(Observed {
                        guid,
                        handle: None,
                        status,
                    });
                    return;
                }
                let handle = thing.handle_after(guid, target.handle);
                let mut status = thing.status(EvidenceSource::Poll, now);
                if !thing.behavior.spec.garbage.is_none() {
                    thing.draws = thing.draws.wrapping_add(1);
                    out.extend(stranger(thing, now));
                    spoil(thing, &mut status);
                }
                Observed { guid, handle, status }
            }
        };
        out.push(observed);
    }

    pub(crate) async fn recover_all(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>> {
        let mut befalls = BatchFate::default();
        let mut answers = Vec::with_capacity(targets.len());
        for slice in targets.chunks(SLICE) {
            self.substrate.with(|world, now| {
                for target in slice {
                    let state = self.recover_one(world, target, now, &mut befalls);
                    answers.push(Recovered {
                        guid: target.guid,
                        state,
                    });
                }
            });
            tokio::task::yield_now().await;
        }
        befalls.endure(Operation::Recover).await;
        // There is no answer for one object that says "ask again": the whole batch does.
        befalls.failed.map_or(Ok(answers), Err)
    }

    fn recover_one(
        &self,
        world: &mut World,
        target: &Target<'_>,
        now: i64,
        befalls: &mut BatchFate,
    ) -> RecoveredState {
        let thing = match world.ours(target.guid, target.handle, self.owner, now) {
            Ok(thing) => thing,
            Err(Miss::Unreadable) => {
                return RecoveredState::Lost(format!(
                    "the handle (version {}) is not one of a simulated object",
                    target.handle.version
                ));
            }
            Err(Miss::Gone) => {
                return RecoveredState::Lost("the simulated substrate has no such object".into());
            }
            Err(Miss::Foreign) => {
                return RecoveredState::Foreign(match read_handle(target.handle) {
                    Some((guid, _)) if guid != target.guid => format!("the handle is of object {guid}"),
                    _ => "it does not bear the mark of this agent".into(),
                });
            }
        };
        if thing.behavior.disturbs(Operation::Recover) {
            befalls.add(&World::fate(thing, Operation::Recover));
        }
        let status = thing.status(EvidenceSource::Poll, now);
        if thing.state == State::Exited {
            return RecoveredState::Exited(status);
        }
        RecoveredState::Adopted(status, thing.handle_after(target.guid, target.handle))
    }

    pub(crate) async fn collect_all(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        let mut befalls = BatchFate::default();
        let wants = |signal| request.signals.contains(&signal);
        let mut room = request.max_log_bytes;
        for slice in request.targets.chunks(SLICE) {
            self.substrate.with(|world, now| {
                for target in slice {
                    let Ok(thing) = world.ours(target.guid, target.handle, self.owner, now) else {
                        continue;
                    };
                    if thing.behavior.disturbs(Operation::Collect) {
                        let fate = World::fate(thing, Operation::Collect);
                        if befalls.add(&fate) {
                            let lost = |signal| Loss {
                                guid: Some(target.guid),
                                signal,
                                count: 1,
                                reason: "simulated failure of collect".into(),
                            };
                            out.losses
                                .extend(request.signals.iter().map(|signal| lost(*signal)));
                            continue;
                        }
                    }
                    if wants(Signal::Metrics) && thing.state != State::Exited {
                        metrics(target.guid, thing, now, &mut out.metrics);
                    }
                    if wants(Signal::Logs) && thing.behavior.logs().is_some() {
                        cursors.push((target.guid, logs(target, thing, now, &mut room, out)));
                    }
                }
            });
            tokio::task::yield_now().await;
        }
        befalls.endure(Operation::Collect).await;
        Ok(())
    }
}

/// Makes nonsense of a status where the spec asks for it.
fn spoil(thing: &Thing, status: &mut ObjectStatus) {
    let garbage = &thing.behavior.spec.garbage;
    let mut draw = Draw::new(thing.key, purpose::GARBAGE, thing.draws);
    if draw.happens(garbage.revision.0) {
        status.evidence.revision = OLD_REVISION;
    }
    if draw.happens(garbage.exit.0) && status.state == ObjectState::Running {
        status.state = ObjectState::Exited;
        status.evidence.source = EvidenceSource::Inferred;
    }
}

fn metrics(guid: Guid, thing: &Thing, now: i64, out: &mut Vec<MetricPoint>) {
    let count = thing.behavior.spec.metrics.unwrap_or(3);
    let at = Timestamp::from_micros(now);
    let ran = thing.ran_in_all(now);
    let mut draw = Draw::new(thing.key, purpose::METRICS, 0);
    let (load, size) = (draw.unit(), draw.unit());
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of a run are far below 2^52"
    )]
    let seconds = ran as f64 / 1_000_000.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 1 MiB to 256 MiB"
    )]
    let memory = ((1.0 + 255.0 * size) * f64::from(1 << 20)) as u64;
    let point = |name: &'static str, unit: &'static str, kind, value| MetricPoint {
        guid,
        name: Cow::Borrowed(name),
        unit: Cow::Borrowed(unit),
        kind,
        value,
        at,
        attributes: Vec::new(),
    };
    for index in 0..count {
        out.push(match index {
            0 => point(
                "process.cpu.time",
                "s",
                MetricKind::Counter,
                MetricValue::Float(seconds * load),
            ),
            1 => point(
                "process.memory.usage",
                "By",
                MetricKind::Gauge,
                MetricValue::Int(memory),
            ),
            2 => point(
                "simulated.work",
                "{item}",
                MetricKind::Counter,
                MetricValue::Int(ran / 1_000),
            ),
            _ => MetricPoint {
                attributes: vec![(Cow::Borrowed("index"), Cow::Owned(index.to_string()))],
                ..point(
                    "simulated.value",
                    "1",
                    MetricKind::Gauge,
                    MetricValue::Float(seconds * f64::from(index)),
                )
            },
        });
    }
}

/// Adds lines as far as there is room, and returns the cursor after them.
fn logs(
    target: &CollectTarget<'_>,
    thing: &Thing,
    now: i64,
    room: &mut usize,
    out: &mut TelemetryBatch,
) -> String {
    let Some(spec) = thing.behavior.logs() else {
        return String::new();
    };
    let written = thing.written(now);
    let oldest = written.saturating_sub(spec.keep);
    let loss = |count, reason: &str| Loss {
        guid: Some(target.guid),
        signal: Signal::Logs,
        count,
        reason: reason.into(),
    };
    let mut next = match target.log_cursor.map(|cursor| read_cursor(target.guid, cursor)) {
        None if target.from_start => oldest,
        None => written,
        Some(Some(next)) => next.min(written),
        Some(None) => {
            out.losses
                .push(loss(1, "the log cursor cannot be read; going on at the end"));
            written
        }
    };
    if next < oldest {
        out.losses
            .push(loss(oldest - next, "rotated away before they were read"));
        next = oldest;
    }
    while next < written {
        let pieces = line(next, spec.bytes);
        let bytes: usize = pieces.iter().map(bytes::Bytes::len).sum();
        if bytes > *room {
            break;
        }
        *room -= bytes;
        let stream = if spec.is_stderr(next) {
            LogStream::Stderr
        } else {
            LogStream::Stdout
        };
        let at = Timestamp::from_micros(now);
        out.logs.extend(pieces.into_iter().map(|body| LogRecord {
            guid: target.guid,
            at,
            stream,
            body,
            attributes: Vec::new(),
        }));
        next += 1;
    }
    write_cursor(target.guid, next)
}
