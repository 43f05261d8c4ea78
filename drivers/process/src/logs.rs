//! Reading logs for people, and cursors.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Error, Guid, LogStream};
use agent_api_driver::{LogChunk, LogReadRequest, LogStreamOut, Result, Target};

use crate::error;
use crate::sdk::logfile::Stream;
use crate::sdk::logread::{self, Budget, Position, Start};
use crate::shared::Shared;

/// How much is read of a stream at once.
const PIECE: usize = 256 * 1024;
/// How often a reader that follows looks for more.
const FOLLOW: Duration = Duration::from_millis(50);

/// A place in the output of an object: in both streams. On the wire `1;<guid>;o=<file>:<offset>;e=<file>:<offset>`, in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    guid: Guid,
    stdout: Option<Position>,
    stderr: Option<Position>,
}

impl Cursor {
    pub(crate) fn new(guid: Guid) -> Self {
        Self {
            guid,
            stdout: None,
            stderr: None,
        }
    }

    pub(crate) fn get(&self, stream: Stream) -> Option<Position> {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    pub(crate) fn set(&mut self, stream: Stream, position: Position) {
        match stream {
            Stream::Stdout => self.stdout = Some(position),
            Stream::Stderr => self.stderr = Some(position),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Reads a cursor of this object.
    pub(crate) fn parse(text: &str, guid: Guid) -> Result<Self> {
        Self::read(text)
            .filter(|cursor| cursor.guid == guid)
            .ok_or_else(|| {
                Error::invalid(
                    "cursor",
                    "this is not a cursor of this object's logs; give one from an earlier answer, or none",
                )
                .with_object(guid)
            })
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        parts.next().filter(|version| *version == "1")?;
        let mut cursor = Self::new(parts.next()?.parse().ok()?);
        for part in parts {
            let (stream, place) = part.split_once('=')?;
            let (incarnation, offset) = place.split_once(':')?;
            let hex = |digits: &str| {
                u64::from_str_radix(digits, 16)
                    .ok()
                    .filter(|_| !digits.starts_with('+'))
            };
            let position = Position {
                incarnation: hex(incarnation)?,
                offset: hex(offset)?,
            };
            cursor.set(Stream::BOTH.into_iter().find(|s| short(*s) == stream)?, position);
        }
        Some(cursor)
    }
}

fn short(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "o",
        Stream::Stderr => "e",
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1;{}", self.guid)?;
        for stream in Stream::BOTH {
            if let Some(at) = self.get(stream) {
                write!(f, ";{}={:x}:{:x}", short(stream), at.incarnation, at.offset)?;
            }
        }
        Ok(())
    }
}

/// The contract's word for a stream.
pub(crate) fn to_stream(stream: Stream) -> LogStream {
    match stream {
        Stream::Stdout => LogStream::Stdout,
        Stream::Stderr => LogStream::Stderr,
    }
}

struct Reader {
    shared: Arc<Shared>,
    guid: Guid,
    cursor: Cursor,
    tail: Option<u64>,
    follow: bool,
    streams: Vec<Stream>,
    /// Chunks read and not yet given.
    ready: VecDeque<LogChunk>,
    /// Streams that were read to the end in this round.
    at_end: usize,
    turn: usize,
    failed: bool,
    /// Where each stream begins is known, so that every cursor stands for all of them.
    placed: bool,
}

impl Shared {
    /// See [`agent_api_driver::Logs::read`].
    pub(crate) fn read_logs(
        self: &Arc<Self>,
        target: Target<'_>,
        request: &LogReadRequest,
    ) -> Result<LogStreamOut> {
        self.check_open()?;
        let guid = target.guid;
        if !self.files(guid).dir().exists() {
            return Err(error::not_found(guid, "it has no log files"));
        }
        let cursor = request
            .cursor
            .as_deref()
            .map(|text| Cursor::parse(text, guid))
            .transpose()?;
        let wanted =
            |stream: Stream| request.streams.is_empty() || request.streams.contains(&to_stream(stream));
        let reader = Reader {
            shared: Arc::clone(self),
            guid,
            tail: request.tail.filter(|_| cursor.is_none()),
            cursor: cursor.unwrap_or_else(|| Cursor::new(guid)),
            follow: request.follow,
            streams: Stream::BOTH.into_iter().filter(|s| wanted(*s)).collect(),
            ready: VecDeque::new(),
            at_end: 0,
            turn: 0,
            failed: false,
            placed: false,
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

impl Reader {
    async fn next(&mut self) -> Option<Result<LogChunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if self.failed || self.streams.is_empty() {
                return None;
            }
            if self.at_end >= self.streams.len() {
                if !self.follow || !self.shared.files(self.guid).dir().exists() {
                    return None;
                }
                tokio::select! {
                    () = self.shared.closing.cancelled() => return None,
                    () = tokio::time::sleep(FOLLOW) => {}
                }
                self.at_end = 0;
            }
            if !self.placed {
                self.placed = true;
                if let Err(error) = self.place() {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
            let stream = self.streams[self.turn % self.streams.len()];
            self.turn += 1;
            if let Err(error) = self.read(stream).await {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }

    fn place(&mut self) -> Result<()> {
        let Some(lines) = self.tail else { return Ok(()) };
        let files = self.shared.files(self.guid);
        let ended = !self.follow || !self.shared.is_running(self.guid);
        for stream in self.streams.clone() {
            let place = logread::place(&files, stream, Start::Tail(lines), ended);
            if let Some(position) =
                place.map_err(|e| error::system(&e, "cannot read its log files", self.guid))?
            {
                self.cursor.set(stream, position);
            }
        }
        Ok(())
    }

    async fn read(&mut self, stream: Stream) -> Result<()> {
        let files = self.shared.files(self.guid);
        let start = self.cursor.get(stream).map_or(Start::Oldest, Start::At);
        if let Start::At(position) = start
            && self.follow
            && self.shared.is_running(self.guid)
            && logread::is_unchanged(&files, stream, position)
        {
            self.at_end += 1;
            return Ok(());
        }
        // Nobody writes any more, or the reader wants what is there now, be it a whole line or not.
        let ended = !self.follow || !self.shared.is_running(self.guid);
        let read = tokio::task::spawn_blocking(move || {
            logread::read(&files, stream, start, Budget::about(PIECE), ended)
        })
        .await;
        let chunk = match read {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => {
                self.at_end += 1;
                return Ok(());
            }
            Ok(Err(e)) => return Err(error::system(&e, "cannot read its log files", self.guid)),
            Err(_) => return Err(Error::internal("reading log files was interrupted").with_object(self.guid)),
        };
        if chunk.at_end {
            self.at_end += 1;
        } else {
            self.at_end = 0;
        }
        self.cursor.set(stream, chunk.next);
        if !chunk.lines.is_empty() || chunk.lost_bytes > 0 {
            self.ready.push_back(LogChunk {
                stream: to_stream(stream),
                lines: chunk.lines.into_iter().map(|line| line.text).collect(),
                cursor: self.cursor.to_string(),
                lost_bytes: chunk.lost_bytes,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_of_one_object() {
        let guid = Guid::generate();
        let mut cursor = Cursor::new(guid);
        assert_eq!(Cursor::parse(&cursor.to_string(), guid).unwrap(), cursor);
        cursor.set(
            Stream::Stdout,
            Position {
                incarnation: u64::MAX,
                offset: 7,
            },
        );
        cursor.set(
            Stream::Stderr,
            Position {
                incarnation: 1,
                offset: 0,
            },
        );
        assert_eq!(Cursor::parse(&cursor.to_string(), guid).unwrap(), cursor);
        assert!(Cursor::parse(&cursor.to_string(), Guid::generate()).is_err());
        for bad in [
            "",
            "1",
            "2;x",
            &format!("1;{guid};x=1:1"),
            &format!("1;{guid};o=g:1"),
            &format!("1;{guid};o=+1:1"),
        ] {
            let error = Cursor::parse(bad, guid).unwrap_err();
            assert_eq!(error.path(), Some("cursor"), "{bad:?}");
        }
    }
}
