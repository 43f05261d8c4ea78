//! Logs: never stored, since line `n` is always the same.

use std::collections::VecDeque;
use std::time::Duration;

use agent_api_driver::model::{Error, Guid, LogStream, Result};
use agent_api_driver::{Handle, LogChunk, LogReadRequest, LogStreamOut, Logs, Target, async_trait};
use bytes::Bytes;
use futures_util::stream;

use crate::Substrate;
use crate::driver::SimulatedDriver;
use crate::spec::{LogSpec, Operation};
use crate::thing::{Owner, State, Thing};
use crate::world::World;

/// The longest piece of a line.
const PIECE: usize = 64 * 1024;
/// The most lines of one chunk.
const CHUNK_LINES: u64 = 512;
/// A chunk is full after so many bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// How soon a follower looks again where no line is due before: notes deletes and restarts.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl LogSpec {
    pub(crate) fn is_stderr(&self, n: u64) -> bool {
        self.stderr_every
            .is_some_and(|every| (n + 1).is_multiple_of(every))
    }

    /// When the next line comes, roughly.
    fn pace(&self) -> Duration {
        let seconds = if self.rate > 0.0 {
            1.0 / self.rate
        } else {
            f64::INFINITY
        };
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(Duration::MAX)
            .clamp(Duration::from_millis(1), LOOK_AGAIN)
    }
}

/// Line `n` in pieces.
pub(crate) fn line(n: u64, bytes: usize) -> Vec<Bytes> {
    let mut text = format!("line {n}").into_bytes();
    text.resize(text.len().max(bytes), b'.');
    let mut rest = Bytes::from(text);
    let mut pieces = Vec::with_capacity(1);
    while rest.len() > PIECE {
        pieces.push(rest.split_to(PIECE));
    }
    pieces.push(rest);
    pieces
}

/// How many bytes the lines from `first` to before `end` take, with their ends.
fn bytes_of(first: u64, end: u64, bytes: usize) -> u64 {
    let (mut total, mut from) = (0_u64, first);
    while from < end {
        // All numbers with as many digits at once.
        let digits = from.checked_ilog10().unwrap_or(0) + 1;
        let until = 10_u64.checked_pow(digits).unwrap_or(u64::MAX).min(end);
        let length = (5 + u64::from(digits)).max(bytes as u64) + 1;
        total = total.saturating_add((until - from).saturating_mul(length));
        from = until;
    }
    total
}

/// A cursor is the object and the number of the next line.
pub(crate) fn write_cursor(guid: Guid, next: u64) -> String {
    format!("{guid}:{next}")
}

/// The number of the next line, where the cursor is of this object.
pub(crate) fn read_cursor(guid: Guid, cursor: &str) -> Option<u64> {
    let (of, next) = cursor.split_once(':')?;
    (of.parse() == Ok(guid)).then_some(())?;
    next.parse().ok()
}

struct Reader {
    substrate: Substrate,
    guid: Guid,
    owner: Owner,
    next: u64,
    /// Where to end; none for a follower.
    end: Option<u64>,
    streams: Vec<LogStream>,
    lost: u64,
    ready: VecDeque<LogChunk>,
}

/// What a look at the object brought.
enum Look {
    /// Some lines were passed, perhaps into chunks.
    Passed,
    Wait(Duration),
    End,
}

impl Reader {
    async fn next(&mut self) -> Option<LogChunk> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            let substrate = self.substrate.clone();
            match substrate.with(|world, now| self.look(world, now)) {
                Look::Passed => {}
                Look::Wait(wait) => tokio::time::sleep(wait).await,
                Look::End => return None,
            }
        }
    }

    fn look(&mut self, world: &mut World, now: i64) -> Look {
        let Some(thing) = world
            .get(self.guid, now)
            .filter(|thing| thing.owner == self.owner)
        else {
            return Look::End;
        };
        let written = thing.written(now);
        let end = self.end.unwrap_or(written).min(written);
        let Some(spec) = thing.behavior.logs() else {
            return if self.end.is_some() {
                Look::End
            } else {
                Look::Wait(LOOK_AGAIN)
            };
        };
        let oldest = written.saturating_sub(spec.keep);
        if self.next < oldest {
            self.lost += bytes_of(self.next, oldest, spec.bytes);
            self.next = oldest;
        }
        if self.next >= end {
            return match self.end {
                Some(_) => Look::End,
                None if thing.state == State::Running => Look::Wait(spec.pace()),
                None => Look::Wait(LOOK_AGAIN),
            };
        }
        let spec = spec.clone();
        self.pass(&spec, end);
        Look::Passed
    }

    /// Makes chunks of the next lines: one for each run of lines of one stream.
    fn pass(&mut self, spec: &LogSpec, end: u64) {
        let until = end.min(self.next + CHUNK_LINES);
        let mut bytes = 0;
        while self.next < until && bytes < CHUNK_BYTES {
            let stream = if spec.is_stderr(self.next) {
                LogStream::Stderr
            } else {
                LogStream::Stdout
            };
            let wanted = self.streams.is_empty() || self.streams.contains(&stream);
            let n = self.next;
            self.next += 1;
            if !wanted {
                continue;
            }
            let lines = line(n, spec.bytes);
            bytes += lines.iter().map(Bytes::len).sum::<usize>();
            let cursor = write_cursor(self.guid, self.next);
            match self.ready.back_mut() {
                Some(chunk) if chunk.stream == stream => {
                    chunk.lines.extend(lines);
                    chunk.cursor = cursor;
                }
                _ => {
                    let lost_bytes = std::mem::take(&mut self.lost);
                    self.ready.push_back(LogChunk {
                        stream,
                        lines,
                        cursor,
                        lost_bytes,
                    });
                }
            }
        }
    }
}

/// Where to begin and, without follow, to end.
fn range(guid: Guid, thing: &Thing, request: &LogReadRequest, now: i64) -> Result<(u64, Option<u64>)> {
    let written = thing.written(now);
    let keep = thing.behavior.logs().map_or(0, |spec| spec.keep);
    let oldest = written.saturating_sub(keep);
    let begin = match (&request.cursor, request.tail) {
        (Some(cursor), _) => read_cursor(guid, cursor)
            .ok_or_else(|| Error::invalid("cursor", "this is not a cursor of this object's logs"))?,
        (None, Some(tail)) => written.saturating_sub(tail).max(oldest),
        (None, None) => oldest,
    };
    Ok((begin, (!request.follow).then_some(written)))
}

#[async_trait]
impl Logs for SimulatedDriver {
    async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        self.open("logs")?;
        let (guid, handle): (Guid, &Handle) = (target.guid, target.handle);
        let named = |error: Error| error.with_operation("logs").with_object(guid);
        let fate = self
            .substrate
            .with(|world, now| {
                let thing = world
                    .ours(guid, handle, self.owner, now)
                    .map_err(|miss| Self::missed(miss, guid))?;
                Ok(World::fate(thing, Operation::Logs))
            })
            .map_err(named)?;
        fate.before().await.map_err(named)?;
        let (next, end) = self
            .substrate
            .with(|world, now| {
                let thing = world
                    .ours(guid, handle, self.owner, now)
                    .map_err(|miss| Self::missed(miss, guid))?;
                range(guid, thing, &request, now)
            })
            .map_err(named)?;
        let reader = Reader {
            substrate: self.substrate.clone(),
            guid,
            owner: self.owner,
            next,
            end,
            streams: request.streams,
            lost: 0,
            ready: VecDeque::new(),
        };
        Ok(Box::pin(stream::unfold(reader, |mut reader| async move {
            let chunk = reader.next().await?;
            Some((Ok(chunk), reader))
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_bytes_are_those_of_the_lines() {
        for (first, end, bytes) in [(0, 0, 0), (0, 25, 0), (7, 1_203, 0), (95, 105, 7), (0, 2_000, 80)] {
            let slow: usize = (first..end)
                .map(|n| line(n, bytes).iter().map(Bytes::len).sum::<usize>() + 1)
                .sum();
            assert_eq!(
                bytes_of(first, end, bytes),
                slow as u64,
                "{first}..{end} of {bytes}"
            );
        }
    }

    #[test]
    fn cursors_are_of_one_object() {
        let (guid, other) = (Guid::generate(), Guid::generate());
        assert_eq!(read_cursor(guid, &write_cursor(guid, 17)), Some(17));
        for bad in [
            write_cursor(other, 17),
            String::new(),
            format!("{guid}:"),
            format!("{guid}:-1"),
            "x:1".into(),
        ] {
            assert_eq!(read_cursor(guid, &bad), None, "{bad:?}");
        }
    }
}
