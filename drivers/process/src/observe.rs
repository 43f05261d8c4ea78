//! Asking the system how objects are, and what they use.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent_api_driver::model::{
    Evidence, EvidenceSource, ExitStatus, Guid, LogRecord, Loss, MetricKind, MetricPoint, MetricValue,
    Signal, TelemetryBatch, Timestamp,
};
use agent_api_driver::{CollectRequest, CollectTarget, ObjectState, ObjectStatus, Observed, Result, Target};

use crate::handle::{HandleData, Used};
use crate::logs::{Cursor, to_stream};
use crate::sdk::identity::Found;
use crate::sdk::logfile::Stream;
use crate::sdk::logread::{self, Budget, Start};
use crate::sdk::procfs;
use crate::shared::Shared;
use crate::table::details;

/// So many objects are looked at before other tasks get their turn: about 0.3 ms.
const TURN: usize = 64;

impl Shared {
    /// See [`agent_api_driver::ObjectDriver::observe`].
    pub(crate) async fn observe(
        self: &Arc<Self>,
        targets: &[Target<'_>],
        out: &mut Vec<Observed>,
    ) -> Result<()> {
        self.check_open()?;
        for turn in targets.chunks(TURN) {
            out.extend(turn.iter().map(|target| self.observe_one(*target)));
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn observe_one(&self, target: Target<'_>) -> Observed {
        let guid = target.guid;
        let known = {
            let table = self.table.lock();
            table.objects.get(&guid).map(|e| {
                let stored = HandleData::read(target.handle).ok().map(|d| d.identity);
                let handle = (stored.as_ref() != Some(&e.data.identity)).then(|| e.data.write());
                (
                    e.status(),
                    e.data.identity.pid,
                    e.data.identity.start_ticks,
                    e.group.clone(),
                    handle,
                )
            })
        };
        let Some((mut status, pid, start_ticks, group, handle)) = known else {
            return Observed {
                guid,
                handle: None,
                status: self.observe_unknown(target),
            };
        };
        if status.state != ObjectState::Exited {
            // A revision is given to changes only: what is seen again keeps its own.
            match procfs::stat(pid) {
                Ok(stat) if stat.start_ticks == start_ticks && !stat.is_dead() => {
                    let held = group.is_frozen().unwrap_or(false) || stat.state == b'T';
                    status.state = if held {
                        ObjectState::Paused
                    } else {
                        ObjectState::Running
                    };
                    status.evidence.source = EvidenceSource::Poll;
                    status.evidence.at = Timestamp::now();
                }
                // Its end is on its way as an event, with the code.
                Ok(_) => {}
                Err(e)
                    if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {}
                Err(_) => status.state = ObjectState::Unknown,
            }
        }
        Observed { guid, handle, status }
    }

    /// An object that is not in the table: its handle says where to look. Nothing is adopted by looking.
    fn observe_unknown(&self, target: Target<'_>) -> ObjectStatus {
        let gone =
            |revision| ObjectStatus::new(ObjectState::Gone, Evidence::now(EvidenceSource::Poll, revision));
        let data = match HandleData::read(target.handle) {
            Ok(data) => data,
            Err(_) => {
                return ObjectStatus::new(ObjectState::Unknown, Evidence::now(EvidenceSource::Inferred, 0));
            }
        };
        let revision = data.revision;
        match data.identity.find(&target.guid.to_string()) {
            _ if self.orphan_mark(target.guid).exists() => gone(revision),
            Ok(Found::Alive(_)) => ObjectStatus {
                details: details(&data),
                ..ObjectStatus::new(
                    ObjectState::Running,
                    Evidence::now(EvidenceSource::Poll, revision),
                )
            },
            Ok(Found::Ended(_) | Found::Stranger(_)) if self.files(target.guid).dir().exists() => {
                ObjectStatus {
                    exit: Some(ExitStatus {
                        reason: Some("ended while the agent was away".into()),
                        ..ExitStatus::default()
                    }),
                    details: details(&data),
                    ..ObjectStatus::new(
                        ObjectState::Exited,
                        Evidence::now(EvidenceSource::Inferred, revision),
                    )
                }
            }
            Ok(Found::Ended(_) | Found::Stranger(_)) => gone(revision),
            Err(_) => ObjectStatus::new(
                ObjectState::Unknown,
                Evidence::now(EvidenceSource::Inferred, revision),
            ),
        }
    }

    /// See [`agent_api_driver::ObjectDriver::collect`].
    pub(crate) async fn collect(
        self: &Arc<Self>,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        self.check_open()?;
        if request.signals.contains(&Signal::Metrics) {
            for turn in request.targets.chunks(TURN) {
                {
                    let mut sampling = self.sampling.lock();
                    for target in turn {
                        self.sample_one(target.guid, &mut sampling, out);
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        if request.signals.contains(&Signal::Logs) {
            let count = request.targets.len();
            // Each collection begins with another one, so that a small limit is not always used up by the same.
            let first = self.turns.fetch_add(1, Ordering::Relaxed) % count.max(1);
            let mut left = request.max_log_bytes;
            for i in 0..count {
                let target = &request.targets[(first + i) % count];
                // A fair share, so that one that writes much does not starve the others.
                let budget = Budget {
                    share: left / (count - i),
                    most: left,
                    cut: left == request.max_log_bytes,
                };
                left -= self.collect_logs(target, budget, out, cursors).min(left);
                if i % 16 == 15 {
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }

    fn sample_one(&self, guid: Guid, sampling: &mut crate::shared::Sampling, out: &mut TelemetryBatch) {
        let object = {
            let table = self.table.lock();
            let Some(entry) = table.objects.get(&guid).filter(|e| e.pidfd.is_some()) else {
                return;
            };
            let id = &entry.data.identity;
            (
                id.pid,
                id.start_ticks,
                entry.group.procs_file(),
                entry.data.used,
                entry.data.restarts,
                entry.data.started_at,
            )
        };
        let (pid, start_ticks, procs, before, restarts, started_at): (_, _, Option<PathBuf>, _, _, _) =
            object;
        let kept = sampling.kept.entry(guid).or_default();
        if kept.start_ticks != start_ticks {
            kept.files = None;
            kept.start_ticks = start_ticks;
            kept.used = before;
        }
        let sample = match sampling
            .sampler
            .sample(pid, start_ticks, procs.as_deref(), &mut kept.files)
        {
            Ok(Some(sample)) => sample,
            Ok(None) => return,
            Err(error) => {
                out.losses.push(Loss {
                    guid: Some(guid),
                    signal: Signal::Metrics,
                    count: 1,
                    reason: error.to_string(),
                });
                return;
            }
        };
        let at = Timestamp::now();
        let (read, written) = sample.io.unwrap_or_default();
        // A member that ended without being waited for takes its share along: never back.
        let used = &mut kept.used;
        used.cpu_nanos = used
            .cpu_nanos
            .max(before.cpu_nanos.saturating_add(sample.cpu_nanos));
        used.io_read = used.io_read.max(before.io_read.saturating_add(read));
        used.io_write = used.io_write.max(before.io_write.saturating_add(written));
        let Used {
            cpu_nanos,
            io_read,
            io_write,
        } = *used;
        let mut push = |name: &'static str,
                        unit: &'static str,
                        kind: MetricKind,
                        value: MetricValue,
                        direction: Option<&'static str>| {
            let attributes = direction
                .map(|d| (Cow::Borrowed("disk.io.direction"), Cow::Borrowed(d)))
                .into_iter()
                .collect();
            out.metrics.push(MetricPoint {
                guid,
                name: Cow::Borrowed(name),
                unit: Cow::Borrowed(unit),
                kind,
                value,
                at,
                attributes,
            });
        };
        let int = MetricValue::Int;
        push(
            "process.cpu.time",
            "s",
            MetricKind::Counter,
            MetricValue::Float(cpu_nanos as f64 / 1e9),
            None,
        );
        push(
            "process.memory.usage",
            "By",
            MetricKind::Gauge,
            int(sample.memory_bytes),
            None,
        );
        if sample.io.is_some() {
            push(
                "process.disk.io",
                "By",
                MetricKind::Counter,
                int(io_read),
                Some("read"),
            );
            push(
                "process.disk.io",
                "By",
                MetricKind::Counter,
                int(io_write),
                Some("write"),
            );
        }
        push(
            "process.thread.count",
            "{thread}",
            MetricKind::Gauge,
            int(sample.threads),
            None,
        );
        push(
            "agent.process.count",
            "{process}",
            MetricKind::Gauge,
            int(sample.processes),
            None,
        );
        if let Some(fds) = sample.fds {
            push(
                "process.unix.file_descriptor.count",
                "{file_descriptor}",
                MetricKind::Gauge,
                int(fds),
                None,
            );
        }
        push(
            "agent.object.restarts",
            "{restart}",
            MetricKind::Counter,
            int(restarts),
            None,
        );
        push(
            "process.uptime",
            "s",
            MetricKind::Gauge,
            MetricValue::Float(at.since(started_at).as_secs_f64()),
            None,
        );
    }

    /// Returns how many bytes of lines were added.
    fn collect_logs(
        &self,
        target: &CollectTarget<'_>,
        budget: Budget,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> usize {
        let guid = target.guid;
        let files = self.files(guid);
        let ended = !self.is_running(guid);
        let (mut next, begin) = match target.log_cursor.map(|text| Cursor::parse(text, guid)) {
            // A stream that is not in it was not reached yet.
            Some(Ok(cursor)) if target.from_start => (cursor, Start::Oldest),
            Some(Ok(cursor)) => (cursor, Start::End),
            None if target.from_start => (Cursor::new(guid), Start::Oldest),
            // Without one, or with one that is not ours: from now on.
            _ => (Cursor::new(guid), Start::End),
        };
        let mut spent = 0;
        for stream in Stream::BOTH {
            let from = next.get(stream).map_or(begin, Start::At);
            if let Start::At(position) = from
                && logread::is_unchanged(&files, stream, position)
            {
                continue;
            }
            let left = Budget {
                share: budget.share.saturating_sub(spent),
                most: budget.most.saturating_sub(spent),
                cut: budget.cut && spent == 0,
            };
            if left.most == 0 {
                continue;
            }
            let chunk = match logread::read(&files, stream, from, left, ended) {
                Ok(Some(chunk)) => chunk,
                Ok(None) => continue,
                Err(error) => {
                    out.losses.push(Loss {
                        guid: Some(guid),
                        signal: Signal::Logs,
                        count: 1,
                        reason: error.to_string(),
                    });
                    continue;
                }
            };
            let loss = |count: u64, reason: &str| Loss {
                guid: Some(guid),
                signal: Signal::Logs,
                count,
                reason: reason.to_owned(),
            };
            if chunk.lost_bytes > 0 {
                out.losses
                    .push(loss(chunk.lost_bytes, "bytes rotated away before they were read"));
            }
            if chunk.lost_files {
                out.losses
                    .push(loss(1, "a log file was replaced before it was read"));
            }
            let at = Timestamp::now();
            for line in chunk.lines {
                spent += line.text.len();
                out.logs.push(LogRecord {
                    guid,
                    at,
                    stream: to_stream(stream),
                    body: line.text,
                    attributes: Vec::new(),
                });
            }
            next.set(stream, chunk.next);
        }
        if !next.is_empty() {
            cursors.push((guid, next.to_string()));
        }
        spent
    }
}
