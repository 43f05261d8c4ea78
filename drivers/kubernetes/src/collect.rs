//! Collecting metrics and logs of many objects.
//!
//! Logs: the logs of containers that are collected from stay open from one collection to the next, and are read without
//! waiting: a collection over 100 pods that runs every second makes no request, where asking with `sinceTime` would make
//! 200 (each log and the pod's status), and the kubelet would read each file from its beginning 100 times. An open log
//! costs a connection (the client speaks HTTP/1.1), so there are at most [`KEPT`]; containers beyond are asked, two
//! requests each. No task runs for them: what is not read waits in the connection, whose window bounds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Error, ErrorKind, Guid, LogRecord, LogStream, Loss, Signal, TelemetryBatch, Timestamp,
};
use agent_api_driver::{CollectRequest, CollectTarget, ObjectState, Result};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::handle::HandleData;
use crate::kinds::KubeKind;
use crate::logs::cursor::{Cursor, Key};
use crate::logs::last::last;
use crate::logs::reach::{Reach, line, time, version};
use crate::logs::tail::{Batch, Mode, Tail};
use crate::logs::{MOST, containers};
use crate::metrics::{self, Metrics};
use crate::shared::Shared;

/// Logs kept open from one collection to the next.
const KEPT: usize = 256;
/// Logs that readers follow at one time; further ones are polled.
const FOLLOWERS: usize = 256;
/// An open log that was not read for so long is closed.
const UNUSED: Duration = Duration::from_secs(120);
/// Logs that are opened at one time.
const AT_ONCE: usize = 16;
/// How long a log that was just opened may take to bring its first lines; what comes later comes the next time.
const FIRST_LINES: Duration = Duration::from_millis(100);

/// What is kept from one collection to the next.
pub(crate) struct Collecting {
    pub metrics: Metrics,
    /// Of readers that follow.
    pub followers: Arc<Semaphore>,
    kept: Mutex<HashMap<(Guid, Key), Kept>>,
}

struct Kept {
    tail: Tail,
    used: Instant,
}

impl Default for Collecting {
    fn default() -> Self {
        Self {
            metrics: Metrics::default(),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            kept: Mutex::default(),
        }
    }
}

impl Collecting {
    /// Closes the logs of an object.
    pub(crate) fn forget(&self, guid: Guid) {
        self.kept.lock().retain(|(of, _), _| *of != guid);
    }

    fn take(&self, guid: Guid, key: &Key) -> Option<Tail> {
        self.kept
            .lock()
            .remove(&(guid, key.clone()))
            .map(|kept| kept.tail)
    }

    fn keep(&self, guid: Guid, tail: Tail) {
        let mut kept = self.kept.lock();
        if kept.len() < KEPT && tail.is_open() {
            let used = Instant::now();
            kept.insert((guid, tail.source.key.clone()), Kept { tail, used });
        }
    }

    fn has_room(&self) -> bool {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.retain(|_, kept| kept.used.elapsed() < UNUSED);
        }
        kept.len() < KEPT
    }
}

impl Shared {
    /// See [`agent_api_driver::ObjectDriver::collect`].
    pub(crate) async fn collect(
        self: &Arc<Self>,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()> {
        self.open("collect")?;
        if request.signals.contains(&Signal::Metrics) {
            metrics::collect(self, &request, out).await;
        }
        if request.signals.contains(&Signal::Logs) {
            let until = Instant::now() + request.deadline.mul_f64(0.9);
            let count = request.targets.len().max(1);
            let share = (request.max_log_bytes / count).max(1);
            // Targets side by side; the answers in order, so that the limit is held.
            let mut reads = Vec::with_capacity(count);
            for target in request.targets {
                reads.push(async move { (target.guid, self.logs_of(target, share, until).await) }.boxed());
            }
            let mut answers = stream::iter(reads).buffered(AT_ONCE);
            let mut left = request.max_log_bytes;
            while let Some((guid, answer)) = answers.next().await {
                match answer {
                    Ok(Some(mut found)) => {
                        found.put(guid, &mut left, out, self);
                        cursors.push((guid, found.cursor.to_string()));
                    }
                    Ok(None) => {}
                    // It stays where it is, and is read the next time.
                    Err(error) => tracing::debug!(%guid, %error, "logs could not be read"),
                }
            }
        }
        Ok(())
    }

    /// None for what is gone, and what has no logs.
    async fn logs_of(
        self: &Arc<Self>,
        target: &CollectTarget<'_>,
        share: usize,
        until: Instant,
    ) -> Result<Option<Found>> {
        let guid = target.guid;
        let data = HandleData::read(target.handle)?;
        let there = self
            .watches
            .status(guid)
            .is_some_and(|status| status.state != ObjectState::Gone);
        if !there || data.kind == KubeKind::Cluster {
            self.collecting.forget(guid);
            return Ok(None);
        }
        let within = || until.saturating_duration_since(Instant::now());
        let late = |_| Error::new(ErrorKind::Timeout, "logs did not come in time");
        let reach = Reach {
            shared: Arc::clone(self),
            cluster: Arc::clone(self.cluster_of(&data)?),
            guid,
        };
        let sources = timeout(within(), containers(self, guid, &data))
            .await
            .map_err(late)??;
        let known = target.log_cursor.and_then(|text| Cursor::parse(text, guid).ok());
        let Some(mut cursor) = known.or_else(|| target.from_start.then(|| Cursor::new(guid))) else {
            let mut cursor = Cursor::new(guid);
            cursor.events = Some(self.watches.events_since(guid, 0).cursor);
            cursor.places = timeout(within(), last(&reach, sources, 0))
                .await
                .map_err(late)??
                .before;
            return Ok(Some(Found::new(cursor)));
        };
        let mut found = Found::new(cursor.clone());
        let events = self.watches.events_since(guid, cursor.events.unwrap_or(0));
        found.events = events
            .events
            .iter()
            .map(|event| (version(event), time(event), Bytes::from(line(event))))
            .collect();
        found.events_lost = events.lost;
        cursor.keep(|key| sources.iter().any(|(source, _)| source.key == *key));
        found.cursor.places.clone_from(&cursor.places);
        if sources.len() == MOST {
            tracing::debug!(%guid, most = MOST, "only so many containers of one object are read");
        }
        let share = (share / sources.len().max(1)).max(1);
        let mut reads = Vec::with_capacity(sources.len());
        for (source, pod) in sources {
            let place = cursor.places.get(&source.key).cloned();
            let (reach, collecting) = (&reach, &self.collecting);
            let read = async move {
                let kept = collecting
                    .take(guid, &source.key)
                    .filter(|tail| tail.place() == place.as_ref());
                let mut tail = kept.unwrap_or_else(|| {
                    let mut tail = Tail::new(source, place);
                    tail.know(pod);
                    tail
                });
                let read = read(reach, &mut tail, share, collecting.has_room(), within()).await;
                (tail, read)
            };
            reads.push(read.boxed());
        }
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        while let Some((tail, read)) = reads.next().await {
            match read {
                Ok(batches) => found.parts.push(Part { tail, batches }),
                Err(error) => {
                    tracing::debug!(%guid, pod = tail.source.pod, %error, "a log could not be read")
                }
            }
        }
        drop(reads);
        Ok(Some(found))
    }
}

/// What of one container is there now.
async fn read(
    reach: &Reach,
    tail: &mut Tail,
    most: usize,
    stay: bool,
    within: Duration,
) -> Result<Vec<Batch>> {
    let late = |_| Error::new(ErrorKind::Timeout, "the log did not come in time");
    let mut batches = Vec::new();
    if !stay && !tail.is_open() {
        let mut bytes = 0;
        while bytes < most {
            let Some(batch) = timeout(within, tail.next(reach, Mode::Once, most - bytes))
                .await
                .map_err(late)??
            else {
                break;
            };
            bytes += batch.bytes();
            batches.push(batch);
        }
        return Ok(batches);
    }
    let mut wait = Duration::ZERO;
    if !tail.is_open() {
        batches.extend(timeout(within, tail.prepare(reach)).await.map_err(late)??);
        if !tail.is_open() {
            return Ok(batches);
        }
        wait = FIRST_LINES;
    }
    let mut bytes = 0;
    while bytes < most {
        match timeout(wait, tail.next(reach, Mode::Follow, most - bytes)).await {
            Ok(Ok(Some(batch))) => {
                bytes += batch.bytes();
                batches.push(batch);
            }
            Ok(Ok(None)) | Err(_) => break,
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(batches)
}

struct Part {
    tail: Tail,
    batches: Vec<Batch>,
}

/// What was found of one object.
struct Found {
    cursor: Cursor,
    events: Vec<(u64, i64, Bytes)>,
    events_lost: bool,
    parts: Vec<Part>,
}

impl Found {
    fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            events: Vec::new(),
            events_lost: false,
            parts: Vec::new(),
        }
    }

    /// Adds as much as there is room for; the rest comes the next time.
    fn put(&mut self, guid: Guid, left: &mut usize, out: &mut TelemetryBatch, shared: &Shared) {
        let record = |at: i64, stream, body, attributes| LogRecord {
            guid,
            at: Timestamp::from_micros(at / 1000),
            stream,
            body,
            attributes,
        };
        if self.events_lost {
            out.losses.push(Loss {
                guid: Some(guid),
                signal: Signal::Logs,
                count: 1,
                reason: "Kubernetes Events of it came faster than they were collected".to_owned(),
            });
        }
        let begun = *left;
        for (version, at, line) in self.events.drain(..) {
            if line.len() > *left && *left != begun {
                break;
            }
            *left = left.saturating_sub(line.len());
            self.cursor.events = Some(version);
            out.logs.push(record(at, LogStream::System, line, Vec::new()));
        }
        for Part { tail, batches } in self.parts.drain(..) {
            let source = &tail.source;
            let attributes = vec![
                ("k8s.namespace.name".into(), source.namespace.clone().into()),
                ("k8s.pod.name".into(), source.pod.clone().into()),
                ("k8s.container.name".into(), source.key.container.clone().into()),
            ];
            let mut all = true;
            'batches: for batch in batches {
                if batch.lost > 0 {
                    let at = format!("{} {}", source.pod, source.key.container);
                    out.losses.push(Loss {
                        guid: Some(guid),
                        signal: Signal::Logs,
                        count: batch.lost,
                        reason: format!("log lines of {at} were rotated away; how many is not known"),
                    });
                }
                let mut place = batch.place;
                for (at, line, position) in batch.lines {
                    // A line that no limit would let through is given where it is the first.
                    if line.len() > *left && *left != begun {
                        all = false;
                        break 'batches;
                    }
                    *left = left.saturating_sub(line.len());
                    out.logs
                        .push(record(at, LogStream::Stdout, line, attributes.clone()));
                    place.position = position;
                    place.done = false;
                    self.cursor.places.insert(source.key.clone(), place.clone());
                }
            }
            if all {
                if let Some(place) = tail.place() {
                    self.cursor.places.insert(source.key.clone(), place.clone());
                }
                shared.collecting.keep(guid, tail);
            }
        }
    }
}
