//! Reading logs for people.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, Guid, LogStream};
use agent_api_driver::{LogChunk, LogReadRequest, LogStreamOut, Result};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::JobKind;
use super::cursor::{MAX_LINE, Place, Splitter};
use super::data::JobHandle;
use super::source::{Anchor, LogFile};
use super::state;
use crate::sdk::Pieces;

/// So many bytes of lines make a chunk.
const CHUNK: usize = 256 * 1024;
/// So much of the last lines is kept, however many were asked for.
const MAX_TAIL: usize = 16 << 20;
/// The first wait of a reader that follows; it doubles while nothing comes.
const FOLLOW_FIRST: Duration = Duration::from_millis(250);
/// The longest wait of a reader that follows.
const FOLLOW_MOST: Duration = Duration::from_secs(2);

/// One attempt as a reader sees it.
pub(super) struct Attempted {
    pub attempt: u32,
    /// Its file, once it is on a node.
    pub file: Option<LogFile>,
    /// Nobody writes to it any more.
    pub ended: bool,
}

impl JobKind {
    /// The attempts whose logs may be there, the oldest first; none where there is no such object.
    pub(super) fn attempts(&self, guid: Guid) -> Option<Vec<Attempted>> {
        let table = self.table.lock();
        let entry = table.get(guid)?;
        let head = self.shared.heads.get(&entry.handle.cluster)?;
        let info = entry.info.as_ref();
        let file = |id: &str, node: Option<&String>, entrypoint: Option<String>| {
            node.map(|node| LogFile {
                head: Arc::clone(head),
                node: node.clone(),
                id: id.to_owned(),
                entrypoint,
            })
        };
        let mut all: Vec<Attempted> = entry
            .handle
            .past
            .iter()
            .map(|past| Attempted {
                attempt: past.attempt,
                file: file(&past.submission_id, past.node_id.as_ref(), None),
                ended: true,
            })
            .collect();
        all.push(Attempted {
            attempt: entry.handle.attempt,
            file: file(
                &entry.handle.id,
                info.and_then(|info| info.driver_node_id.as_ref()),
                info.map(|info| info.entrypoint.clone()),
            ),
            ended: state::is_over(entry.status.state),
        });
        Some(all)
    }

    /// See [`agent_api_driver::Logs::read`].
    pub(super) fn read_logs(
        &self,
        guid: Guid,
        handle: JobHandle,
        request: LogReadRequest,
    ) -> Result<LogStreamOut> {
        if handle.guid != guid {
            return Err(Self::not_found("the handle is of another object"));
        }
        let place = request
            .cursor
            .as_deref()
            .map(|text| Place::parse(text, guid))
            .transpose()?;
        let attempts = self
            .attempts(guid)
            .ok_or_else(|| Self::not_found("it was deleted"))?;
        let head = self.head_of(&handle)?;
        let permit = request
            .follow
            .then(|| {
                Arc::clone(&head.followers).try_acquire_owned().map_err(|_| {
                    Error::new(
                        ErrorKind::Busy,
                        format!(
                            "{} readers follow logs of the Ray cluster {} already",
                            head.config.followers, head.name
                        ),
                    )
                    .with_hint("read without `follow`, or raise `followers` in the driver's configuration")
                })
            })
            .transpose()?;
        let wanted = request.streams.is_empty() || request.streams.contains(&LogStream::Stdout);
        let tail = request.tail.filter(|_| place.is_none());
        let first = match tail {
            // Of the present attempt.
            Some(_) => attempts.last().map_or(1, |attempt| attempt.attempt),
            None => attempts.first().map_or(1, |attempt| attempt.attempt),
        };
        let reader = Reader {
            kind: self.this.upgrade().ok_or_else(crate::error::closed)?,
            guid,
            place: place.unwrap_or_else(|| Place::start(first)),
            tail,
            follow: request.follow,
            reading: None,
            ready: VecDeque::new(),
            wait: FOLLOW_FIRST,
            over: !wanted,
            _permit: permit,
        };
        Ok(Box::pin(futures_util::stream::unfold(
            reader,
            |mut reader| async move {
                let item = reader.next().await?;
                Some((item, reader))
            },
        )))
    }
}

struct Reader {
    kind: Arc<JobKind>,
    guid: Guid,
    place: Place,
    tail: Option<u64>,
    follow: bool,
    reading: Option<Reading>,
    /// Chunks read and not yet given.
    ready: VecDeque<LogChunk>,
    wait: Duration,
    over: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

/// One attempt's file that is being read.
struct Reading {
    attempt: u32,
    splitter: Splitter,
    anchor: Anchor,
    /// The file as a whole, while it is read for the first time.
    pieces: Option<Pieces>,
    skip: u64,
    /// It had ended before this pass began, so that its end is the end.
    ended: bool,
    progress: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<LogChunk>> {
        loop {
            // The last lines are known at the end only.
            if self.tail.is_none()
                && let Some(chunk) = self.ready.pop_front()
            {
                return Some(Ok(chunk));
            }
            if self.over || self.kind.shared.closing.is_cancelled() {
                return None;
            }
            match self.step().await {
                Ok(true) => {}
                Ok(false) => self.over = true,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error.with_object(self.guid)));
                }
            }
        }
    }

    /// Goes on by one piece; `false` at the end.
    async fn step(&mut self) -> Result<bool> {
        let changed = Arc::clone(&self.kind.changed);
        // Before looking, so that no change between is missed.
        let changed = changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let Some(attempts) = self.kind.attempts(self.guid) else {
            return Ok(false);
        };
        // One whose place is not known any more: the next one that is.
        let Some(at) = attempts.iter().position(|a| a.attempt >= self.place.attempt) else {
            return Ok(false);
        };
        let current = &attempts[at];
        if current.attempt != self.place.attempt {
            self.place = Place::start(current.attempt);
        }
        let more = at + 1 < attempts.len();
        let Some(file) = &current.file else {
            if more {
                self.place = Place::start(attempts[at + 1].attempt);
                return Ok(true);
            }
            // It is on no node yet, or ended before it was.
            if !self.follow {
                return Ok(false);
            }
            changed.await;
            return Ok(true);
        };
        let at_end = match self.read(file, current.attempt, current.ended).await {
            Ok(at_end) => at_end,
            // The log of an earlier attempt may be gone with its node: the later ones are not.
            Err(error) if more && error.kind() == ErrorKind::NotFound => {
                self.reading = None;
                self.place = Place::start(attempts[at + 1].attempt);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        if !at_end {
            return Ok(true);
        }
        if more && current.ended {
            self.reading = None;
            self.place = Place::start(attempts[at + 1].attempt);
            return Ok(true);
        }
        if !self.follow {
            return Ok(false);
        }
        if !self.ready.is_empty() {
            return Ok(true);
        }
        if current.ended {
            // Only a new attempt brings more.
            tokio::select! {
                () = changed => {}
                () = self.kind.shared.closing.cancelled() => {}
            }
            return Ok(true);
        }
        tokio::select! {
            () = tokio::time::sleep(self.wait) => self.wait = (self.wait * 2).min(FOLLOW_MOST),
            () = changed => {}
            () = self.kind.shared.closing.cancelled() => {}
        }
        Ok(true)
    }

    /// Reads some of an attempt's file; whether all of it was read.
    async fn read(&mut self, file: &LogFile, attempt: u32, ended: bool) -> Result<bool> {
        let place = self.place;
        let fresh = self
            .reading
            .as_ref()
            .is_none_or(|reading| reading.attempt != attempt);
        if fresh {
            self.reading = Some(Reading {
                attempt,
                splitter: Splitter::new(place, &file.id, file.entrypoint.as_deref()),
                anchor: Anchor::default(),
                pieces: Some(file.pieces().await?),
                skip: place.offset,
                ended,
                progress: false,
            });
        }
        let reading = self.reading.as_mut().expect("set above");
        let mut at_end = false;
        if let Some(pieces) = &mut reading.pieces {
            match pieces.next().await {
                Some(Ok(piece)) => {
                    let from = usize::try_from(reading.skip)
                        .unwrap_or(usize::MAX)
                        .min(piece.len());
                    reading.skip -= from as u64;
                    reading.anchor.push(&piece);
                    reading.splitter.push(&piece[from..]);
                    reading.progress |= from < piece.len();
                }
                None => {
                    reading.pieces = None;
                    at_end = true;
                }
                // Cut off, for example because the reader is slow: once more from where it is.
                Some(Err(error)) if reading.progress => {
                    tracing::debug!(id = file.id, %error, "a log is read on from where it was cut off");
                    self.place = reading.splitter.place();
                    self.reading = None;
                    return Ok(false);
                }
                Some(Err(error)) => return Err(error),
            }
        } else {
            reading.ended = ended;
            let offset = reading.splitter.place().offset + reading.splitter.pending();
            let fetched = file.after(offset, Some(&reading.anchor), CHUNK).await?;
            reading.anchor.push(&fetched.bytes);
            reading.splitter.push(&fetched.bytes);
            at_end = fetched.at_end;
        }
        let flush = at_end && (reading.ended || !self.follow);
        if self.tail.is_some() {
            self.take_tail(at_end, flush);
        } else {
            self.take_chunks(flush);
        }
        // Its end is only the end where it had ended before the reading began.
        let reading = self.reading.as_ref().expect("set above");
        Ok(at_end && (reading.ended || !ended || !self.follow))
    }

    fn take_chunks(&mut self, flush: bool) {
        let Some(reading) = &mut self.reading else { return };
        loop {
            let mut lines: Vec<Bytes> = Vec::new();
            let mut size = 0;
            while size < CHUNK
                && let Some(line) = reading.splitter.next(MAX_LINE, flush)
            {
                size += line.len() + 1;
                lines.push(line);
            }
            self.place = reading.splitter.place();
            if lines.is_empty() {
                return;
            }
            self.wait = FOLLOW_FIRST;
            self.ready.push_back(LogChunk {
                stream: LogStream::Stdout,
                lines,
                cursor: self.place.write(self.guid),
                lost_bytes: 0,
            });
        }
    }

    /// Keeps the last lines until the end is there, and gives them then.
    fn take_tail(&mut self, at_end: bool, flush: bool) {
        let wanted = usize::try_from(self.tail.unwrap_or(0)).unwrap_or(usize::MAX);
        self.take_chunks(flush);
        let mut kept: VecDeque<Bytes> = VecDeque::new();
        let mut size = 0;
        for chunk in self.ready.drain(..) {
            for line in chunk.lines {
                size += line.len() + 1;
                kept.push_back(line);
                while kept.len() > wanted || size > MAX_TAIL {
                    size -= kept.pop_front().map_or(0, |line| line.len() + 1);
                }
            }
        }
        if at_end {
            self.tail = None;
        }
        if kept.is_empty() {
            return;
        }
        self.ready.push_back(LogChunk {
            stream: LogStream::Stdout,
            lines: kept.into(),
            cursor: self.place.write(self.guid),
            lost_bytes: 0,
        });
    }
}
