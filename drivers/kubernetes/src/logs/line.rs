//! Lines of a container's log as the kubelet sends them with `timestamps=true`.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::io::{AsyncBufRead, AsyncBufReadExt};

/// The runtime cuts what a container writes without a line end into pieces of this size; servers before 1.27 put a
/// time before each of them.
const PIECE: usize = 16 * 1024;
/// What is longer is handed on before its end has come.
const LONGEST: usize = 1024 * 1024;
/// The longest time at the beginning of a line.
const STAMP: usize = 40;

/// One line, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// When it was written, in nanoseconds since the Unix epoch; none where the kubelet says something itself.
    pub at: Option<i64>,
    /// What was written.
    pub text: Bytes,
    /// Whether the line begins with it.
    pub first: bool,
    /// Whether the line ends with it.
    pub last: bool,
}

/// Reads lines from a response. Cancelling by drop of a call loses nothing.
pub(crate) struct Lines {
    body: Pin<Box<dyn AsyncBufRead + Send>>,
    raw: Vec<u8>,
    /// The time of the line whose beginning was handed on already.
    begun: Option<Option<i64>>,
    at_end: bool,
}

impl Lines {
    pub(crate) fn new(body: Pin<Box<dyn AsyncBufRead + Send>>) -> Self {
        Self {
            body,
            raw: Vec::new(),
            begun: None,
            at_end: false,
        }
    }

    /// Whether all has been read.
    pub(crate) fn at_end(&self) -> bool {
        self.at_end
    }

    /// The next line; none at the end. A last line without an end comes with [`Line::last`] false.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if self.at_end {
                return Ok((!self.raw.is_empty()).then(|| self.take(false)));
            }
            let (used, ended) = {
                let buffer = self.body.fill_buf().await?;
                if buffer.is_empty() {
                    self.at_end = true;
                    continue;
                }
                // Bounded, however much has come at once.
                let room = (LONGEST + 2 * STAMP)
                    .saturating_sub(self.raw.len())
                    .min(buffer.len());
                let buffer = &buffer[..room];
                let end = buffer.iter().position(|byte| *byte == b'\n');
                let used = end.map_or(buffer.len(), |end| end + 1);
                self.raw.extend_from_slice(&buffer[..end.unwrap_or(used)]);
                (used, end.is_some())
            };
            self.body.as_mut().consume(used);
            if ended {
                return Ok(Some(self.take(true)));
            }
            if self.raw.len() >= LONGEST + STAMP {
                return Ok(Some(self.take_whole_pieces()));
            }
        }
    }

    fn take(&mut self, last: bool) -> Line {
        let raw = std::mem::take(&mut self.raw);
        self.line(&raw, last)
    }

    /// Leaves the begun piece for later, so that what follows begins where a time may stand.
    fn take_whole_pieces(&mut self) -> Line {
        let whole = whole_pieces(&self.raw);
        let rest = self.raw.split_off(whole);
        let raw = std::mem::replace(&mut self.raw, rest);
        self.line(&raw, false)
    }

    fn line(&mut self, raw: &[u8], last: bool) -> Line {
        let first = self.begun.is_none();
        let (stamp, text) = join(raw);
        let at = self.begun.take().unwrap_or(stamp);
        if !last && !self.at_end {
            self.begun = Some(at);
        }
        Line {
            at,
            text,
            first,
            last,
        }
    }
}

/// Splits the time off: `2026-11-22T21:30:53.247755599Z text`.
fn stamp(raw: &[u8]) -> Option<(i64, usize)> {
    let end = raw.iter().take(STAMP).position(|byte| *byte == b' ')?;
    let text = std::str::from_utf8(&raw[..end]).ok()?;
    let at: jiff::Timestamp = text.parse().ok()?;
    Some((i64::try_from(at.as_nanosecond()).ok()?, end + 1))
}

/// The time of the first piece and the text of all, without the times between them.
fn join(raw: &[u8]) -> (Option<i64>, Bytes) {
    let mut rest = raw;
    let mut first = None;
    let mut text = Vec::with_capacity(raw.len());
    loop {
        if let Some((at, length)) = stamp(rest) {
            first = first.or(Some(at));
            rest = &rest[length..];
        }
        let (piece, after) = rest.split_at(rest.len().min(PIECE));
        text.extend_from_slice(piece);
        rest = after;
        if rest.is_empty() {
            return (first, text.into());
        }
    }
}

/// How much of it is whole pieces.
fn whole_pieces(raw: &[u8]) -> usize {
    let mut whole = 0;
    loop {
        let length = stamp(&raw[whole..]).map_or(0, |(_, length)| length);
        let next = whole + length + PIECE;
        if next + STAMP > raw.len() {
            return whole;
        }
        whole = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: Vec<u8>) -> Vec<Line> {
        let mut lines = Lines::new(Box::pin(futures_util::io::Cursor::new(input)));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    const AT: &str = "2026-11-22T21:30:53.247755599Z ";
    const NANOS: i64 = 1_795_383_053_247_755_599;

    #[tokio::test]
    async fn whole_lines_and_a_last_one_without_an_end() {
        let text =
            format!("{AT}one\n{AT}\n2026-11-22T22:30:53.247755599+01:00  two \nrpc error: no\n{AT}end");
        let all = lines(text.into_bytes()).await;
        let short: Vec<_> = all
            .iter()
            .map(|l| {
                (
                    l.at,
                    String::from_utf8_lossy(&l.text).into_owned(),
                    l.first,
                    l.last,
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                (Some(NANOS), "one".to_owned(), true, true),
                (Some(NANOS), String::new(), true, true),
                (Some(NANOS), " two ".to_owned(), true, true),
                (None, "rpc error: no".to_owned(), true, true),
                (Some(NANOS), "end".to_owned(), true, false),
            ]
        );
    }

    #[tokio::test]
    async fn times_within_a_long_line_are_taken_out() {
        let pieces = ["a".repeat(PIECE), "b".repeat(PIECE), "c".repeat(100)];
        let old = format!("{AT}{}{AT}{}{AT}{}\n", pieces[0], pieces[1], pieces[2]);
        let new = format!("{AT}{}\n", pieces.concat());
        for text in [old, new] {
            let all = lines(text.into_bytes()).await;
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].text, pieces.concat().as_bytes());
            assert_eq!(all[0].at, Some(NANOS));
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_bounded() {
        let mut text = String::new();
        for i in 0..200u8 {
            text.push_str(AT);
            text.push_str(&char::from(b'a' + i % 26).to_string().repeat(PIECE));
        }
        text.push('\n');
        text.push_str(AT);
        text.push_str("next\n");
        let all = lines(text.into_bytes()).await;
        assert!(all.len() > 2, "{}", all.len());
        let (next, long) = all.split_last().unwrap();
        assert_eq!((&next.text[..], next.first), (&b"next"[..], true));
        assert_eq!(long.iter().map(|l| l.text.len()).sum::<usize>(), 200 * PIECE);
        assert!(long[0].first && long[1..].iter().all(|l| !l.first));
        assert!(
            long.iter()
                .all(|l| l.at == Some(NANOS) && l.text.len() <= LONGEST + STAMP)
        );
        assert_eq!(long.iter().filter(|l| l.last).count(), 1);
        assert!(
            !long.iter().any(|l| l.text.contains(&b':')),
            "a time is left in the text"
        );
    }
}
