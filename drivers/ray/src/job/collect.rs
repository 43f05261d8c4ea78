//! Telemetry of jobs: lines of their logs, what Ray says of them, and Ray's metrics of those that use it.

use std::sync::atomic::Ordering;

use agent_api_driver::model::{Guid, LogRecord, LogStream, Loss, Signal, TelemetryBatch, Timestamp};
use agent_api_driver::{CollectRequest, CollectTarget};
use tokio::time::Instant;

use super::JobKind;
use super::cursor::{MAX_LINE, Place, Splitter};
use super::data::JobHandle;
use super::logs::Attempted;
use super::source::Known;
use super::state::is_over;
use crate::metrics::Source;

/// So much of a file is read at once.
const PIECE: usize = 1 << 20;

/// How much may be taken.
#[derive(Clone, Copy)]
struct Budget {
    /// A fair share, which one line may go beyond.
    share: usize,
    /// What nothing goes beyond.
    most: usize,
    /// Whether a line that is longer is given in pieces of that many bytes, instead of being left for later.
    cut: bool,
}

impl JobKind {
    /// See [`agent_api_driver::ObjectDriver::collect`].
    pub(super) async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) {
        let until = Instant::now() + request.deadline;
        if request.signals.contains(&Signal::Logs) {
            self.collect_logs(&request, until, out, cursors).await;
        }
        if request.signals.contains(&Signal::Metrics) {
            let left = until.saturating_duration_since(Instant::now());
            let sources = self.metric_sources(request.targets);
            self.shared
                .metrics
                .collect(&self.shared, sources, left, out)
                .await;
        }
    }

    /// Those of the targets that run and use Ray, each with its cluster.
    fn metric_sources(&self, targets: &[CollectTarget<'_>]) -> Vec<(Guid, String, Source)> {
        let table = self.table.lock();
        let source = |target: &CollectTarget<'_>| {
            let entry = table.get(target.guid)?;
            let id = entry.info.as_ref()?.job_id.clone()?;
            let runs = !is_over(entry.status.state);
            runs.then(|| (target.guid, entry.handle.cluster.clone(), Source::Job(id)))
        };
        targets.iter().filter_map(source).collect()
    }

    async fn collect_logs(
        &self,
        request: &CollectRequest<'_>,
        until: Instant,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) {
        let count = request.targets.len();
        // Each collection begins with another one, so that a small limit is not always used up by the same.
        let first = self.rounds.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let mut left = request.max_log_bytes;
        for i in 0..count {
            let target = &request.targets[(first + i) % count];
            if Instant::now() >= until {
                return;
            }
            let budget = Budget {
                share: left / (count - i),
                most: left,
                cut: left == request.max_log_bytes,
            };
            left -= self.collect_one(target, budget, out, cursors).await.min(left);
        }
    }

    /// Returns how many bytes of lines were added.
    async fn collect_one(
        &self,
        target: &CollectTarget<'_>,
        budget: Budget,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> usize {
        let guid = target.guid;
        if JobHandle::read(target.handle).is_ok_and(|handle| handle.guid != guid) {
            return 0;
        }
        let Some(attempts) = self.attempts(guid) else {
            return 0;
        };
        let loss = |reason: String| Loss {
            guid: Some(guid),
            signal: Signal::Logs,
            count: 1,
            reason,
        };
        let given = target.log_cursor.and_then(|text| Place::parse(text, guid).ok());
        let mut place = match given {
            Some(place) => place,
            None if target.from_start => Place::start(attempts.first().map_or(1, |a| a.attempt)),
            None => match self.present_end(&attempts).await {
                Ok(place) => place,
                Err(error) => {
                    out.losses.push(loss(error.to_string()));
                    return 0;
                }
            },
        };
        let mut spent = self.collect_notes(guid, budget.most, out);
        for (i, attempt) in attempts.iter().enumerate() {
            if attempt.attempt < place.attempt {
                continue;
            }
            if attempt.attempt > place.attempt {
                place = Place::start(attempt.attempt);
            }
            let rest = Budget {
                share: budget.share.saturating_sub(spent),
                most: budget.most.saturating_sub(spent),
                cut: budget.cut && spent == 0,
            };
            match self.collect_attempt(guid, attempt, &mut place, rest, out).await {
                Ok((taken, all)) => {
                    spent += taken;
                    if !all || !attempt.ended {
                        break;
                    }
                }
                Err(error) => {
                    out.losses.push(loss(error.to_string()));
                    if i + 1 == attempts.len() {
                        break;
                    }
                }
            }
        }
        cursors.push((guid, place.write(guid)));
        spent
    }

    /// Adds what Ray said of an object since the last collection, as far as it fits; how many bytes.
    fn collect_notes(&self, guid: Guid, most: usize, out: &mut TelemetryBatch) -> usize {
        let mut table = self.table.lock();
        let Some(entry) = table.get_mut(guid) else {
            return 0;
        };
        let head = self.shared.heads.get(&entry.handle.cluster);
        if !head.is_some_and(|head| head.config.events_in_logs) {
            return 0;
        }
        let notes = &mut entry.notes;
        let lost = std::mem::take(&mut notes.lost);
        if lost > 0 {
            out.losses.push(Loss {
                guid: Some(guid),
                signal: Signal::Logs,
                count: lost,
                reason: "more was said of the job than is kept between two collections".to_owned(),
            });
        }
        let mut taken = 0;
        while notes
            .lines
            .front()
            .is_some_and(|(_, line)| taken + line.len() <= most)
            && let Some((at, line)) = notes.lines.pop_front()
        {
            taken += line.len();
            out.logs.push(LogRecord {
                guid,
                at,
                stream: LogStream::System,
                body: line.into(),
                attributes: Vec::new(),
            });
        }
        taken
    }

    /// Adds lines of one attempt; how many bytes, and whether all of it was read.
    async fn collect_attempt(
        &self,
        guid: Guid,
        attempt: &Attempted,
        place: &mut Place,
        budget: Budget,
        out: &mut TelemetryBatch,
    ) -> agent_api_driver::Result<(usize, bool)> {
        let Some(file) = &attempt.file else {
            return Ok((0, true));
        };
        let known = self.sources.lock().at(guid, *place).cloned();
        if known.as_ref().is_some_and(|known| known.done) {
            return Ok((0, true));
        }
        if budget.most == 0 {
            return Ok((0, false));
        }
        let anchor = known.map(|known| known.anchor);
        let from = place.offset;
        let fetched = file
            .after(place.offset, anchor.as_ref(), PIECE.max(budget.most))
            .await?;
        let mut splitter = Splitter::new(*place, &file.id, file.entrypoint.as_deref());
        splitter.push(&fetched.bytes);
        let flush = fetched.at_end && attempt.ended;
        let at = Timestamp::now();
        let (mut taken, mut whole) = (0, true);
        loop {
            let before = splitter.place();
            let room = budget.most - taken;
            let most = if budget.cut && taken == 0 {
                MAX_LINE.min(room)
            } else {
                MAX_LINE
            };
            if taken >= budget.share && taken > 0 {
                whole = splitter.next(most, flush).is_none();
                *place = before;
                break;
            }
            let Some(line) = splitter.next(most, flush) else {
                *place = splitter.place();
                break;
            };
            if line.len() > room {
                *place = before;
                whole = false;
                break;
            }
            taken += line.len();
            out.logs.push(LogRecord {
                guid,
                at,
                stream: LogStream::Stdout,
                body: line,
                attributes: Vec::new(),
            });
        }
        let all = whole && fetched.at_end;
        let mut anchor = anchor.unwrap_or_default();
        let passed = usize::try_from(place.offset.saturating_sub(from)).unwrap_or(usize::MAX);
        anchor.push(&fetched.bytes[..passed.min(fetched.bytes.len())]);
        self.sources.lock().set(
            guid,
            Known {
                place: *place,
                anchor,
                done: all && attempt.ended,
            },
        );
        Ok((taken, all))
    }

    /// The end of what is written now, of the present attempt.
    async fn present_end(&self, attempts: &[Attempted]) -> agent_api_driver::Result<Place> {
        let Some(present) = attempts.last() else {
            return Ok(Place::start(1));
        };
        let start = Place::start(present.attempt);
        match &present.file {
            // Nothing is written yet.
            None => Ok(start),
            Some(file) => Ok(Place {
                offset: file.size().await?,
                ..start
            }),
        }
    }
}
