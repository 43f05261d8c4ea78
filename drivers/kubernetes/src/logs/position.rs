//! A place in the log of one container, found again by what the kubelet offers.
//!
//! The kubelet gives lines by `sinceTime` only, in whole seconds, and times are not strictly in order: standard
//! output and error are stamped apart. A position is therefore a second, how many lines from that second on were
//! taken, and a checksum over their times and lengths. Going on asks for the lines from that second, passes over so
//! many and compares the sum. Where it differs, the kubelet has rotated some of them away: lines later than the
//! latest one that was taken are given then, and the loss is told.

use super::line::Line;

const NANOS: i64 = 1_000_000_000;

/// Where to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Lines are asked for from this second on; 0 for all.
    pub base: i64,
    /// How many lines from there on were taken.
    pub count: u64,
    /// Over their times and lengths.
    pub sum: u32,
    /// How many bytes were taken of the line after these.
    pub part: u64,
    /// The latest time of all lines taken, in nanoseconds; 0 for none.
    pub latest: i64,
}

impl Position {
    /// After all that was written up to this time.
    pub(crate) fn after(latest: i64) -> Self {
        Self {
            base: second(latest) - 1,
            latest,
            ..Self::default()
        }
    }

    /// What `sinceTime` to ask with.
    pub(crate) fn since(&self) -> Option<i64> {
        (self.base > 0).then_some(self.base)
    }
}

fn second(at: i64) -> i64 {
    at.div_euclid(NANOS)
}

/// FNV-1a.
fn add(mut sum: u32, at: i64, length: u64) -> u32 {
    for byte in at.to_le_bytes().into_iter().chain(length.to_le_bytes()) {
        sum = (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    sum
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    count: u64,
    sum: u32,
}

impl Run {
    fn add(&mut self, at: i64, length: u64) {
        self.count += 1;
        self.sum = add(self.sum, at, length);
    }
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was taken before.
    Skip,
    /// It is new, from this byte on.
    Take(usize),
    /// As `Take`, and some lines before it were rotated away.
    TakeAfterLoss(usize),
}

/// Follows the lines of one response and knows the position after each.
#[derive(Debug)]
pub(crate) struct Tracker {
    /// What is looked for again; none once it was found, or given up.
    wanted: Option<Position>,
    /// Lines up to this time were taken before, where they are not found by their number.
    not_before: i64,
    base: i64,
    /// Lines from `base` on, and from a second later on.
    since: Run,
    later: Run,
    latest: i64,
    /// The length so far of a line that came in parts.
    length: u64,
    /// How much of the begun line was taken before.
    part: u64,
    lost: bool,
}

impl Tracker {
    pub(crate) fn new(position: Position) -> Self {
        let counted = position.count > 0 || position.part > 0;
        Self {
            wanted: counted.then_some(position),
            not_before: if counted { 0 } else { position.latest },
            base: position.base,
            since: Run::default(),
            later: Run::default(),
            latest: position.latest,
            length: 0,
            part: 0,
            lost: false,
        }
    }

    /// Looks at the next line of the response.
    pub(crate) fn see(&mut self, line: &Line) -> Verdict {
        let Some(at) = line.at else { return Verdict::Skip };
        if line.first {
            self.length = 0;
            self.part = 0;
            self.search(at);
        }
        let begins = self.length;
        let length = line.text.len() as u64;
        self.length += length;
        let skip = self.wanted.is_some() || (self.not_before != 0 && at <= self.not_before);
        let from = self.part.saturating_sub(begins).min(length);
        if line.last {
            self.count(at);
        }
        if skip {
            return Verdict::Skip;
        }
        // A line that was taken as far as it was written then, and has now only got its end.
        if self.part > 0 && from == length && self.part >= begins + length {
            return Verdict::Skip;
        }
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        match std::mem::take(&mut self.lost) {
            true => Verdict::TakeAfterLoss(from),
            false => Verdict::Take(from),
        }
    }

    /// Whether what is looked for was found, before this line is counted.
    fn search(&mut self, at: i64) {
        let Some(wanted) = self.wanted else { return };
        let same = self.since.sum == wanted.sum;
        if self.since.count == wanted.count && same {
            self.wanted = None;
            self.part = wanted.part;
        } else if self.since.count >= wanted.count || at > wanted.latest {
            self.give_up(wanted);
        }
    }

    fn give_up(&mut self, wanted: Position) {
        self.wanted = None;
        self.not_before = wanted.latest;
        self.lost = true;
    }

    fn count(&mut self, at: i64) {
        let at_second = second(at);
        if at_second >= self.base + 2 {
            self.since = if at_second == self.base + 2 {
                self.later
            } else {
                Run::default()
            };
            self.later = Run::default();
            self.base = at_second - 1;
        }
        if at_second >= self.base {
            self.since.add(at, self.length);
        }
        if at_second > self.base {
            self.later.add(at, self.length);
        }
        self.latest = self.latest.max(at);
    }

    /// The position after the lines seen; `part` bytes of the next one were taken as well.
    pub(crate) fn position(&self, part: u64) -> Position {
        match self.wanted {
            Some(wanted) => wanted,
            None => Position {
                base: self.base,
                count: self.since.count,
                sum: self.since.sum,
                part,
                latest: self.latest,
            },
        }
    }

    /// The position after the line just seen, be it whole or not.
    pub(crate) fn here(&self, line: &Line) -> Position {
        match line.last {
            true => self.position(0),
            false => self.position(self.length),
        }
    }

    /// At the end of a response that had all lines: whether what was looked for was not there.
    pub(crate) fn missed(&mut self) -> bool {
        match self.wanted {
            Some(wanted) if self.since.count == wanted.count && self.since.sum == wanted.sum => {
                self.wanted = None;
                // Nothing came after it; a part of a line that is not there any more stays wanted.
                false
            }
            Some(wanted) => {
                self.give_up(wanted);
                std::mem::take(&mut self.lost)
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const S: i64 = NANOS;

    fn line(at: i64, text: &str) -> Line {
        Line {
            at: Some(at),
            text: Bytes::copy_from_slice(text.as_bytes()),
            first: true,
            last: true,
        }
    }

    /// What the kubelet would answer.
    fn from(log: &[Line], position: &Position) -> Vec<Line> {
        let since = position.since().unwrap_or(0) * S;
        log.iter()
            .filter(|l| l.at.unwrap_or(0) >= since)
            .cloned()
            .collect()
    }

    fn read(log: &[Line], position: Position, most: usize) -> (Vec<String>, Position, bool) {
        let mut tracker = Tracker::new(position);
        let (mut taken, mut lost, mut at) = (Vec::new(), false, position);
        for line in from(log, &position) {
            match tracker.see(&line) {
                Verdict::Skip => continue,
                Verdict::TakeAfterLoss(n) => {
                    lost = true;
                    taken.push(String::from_utf8_lossy(&line.text[n..]).into_owned());
                }
                Verdict::Take(n) => taken.push(String::from_utf8_lossy(&line.text[n..]).into_owned()),
            }
            at = tracker.here(&line);
            if taken.len() == most {
                return (taken, at, lost);
            }
        }
        lost |= tracker.missed();
        (taken, at, lost)
    }

    /// Times as two streams make them: out of order within a second, many the same.
    fn log() -> Vec<Line> {
        let times = [
            0, 5, 5, 5, 3, 900, 990, 1_010, 995, 1_500, 1_500, 2_000, 2_001, 1_999, 5_000, 9_999, 10_000,
        ];
        times
            .iter()
            .enumerate()
            .map(|(i, millis)| line(1_000 * S + millis * 1_000_000, &format!("line {i}")))
            .collect()
    }

    #[test]
    fn goes_on_after_each_line_and_repeats_none() {
        let log = log();
        let all: Vec<_> = (0..log.len()).map(|i| format!("line {i}")).collect();
        for first in 1..log.len() {
            let (taken, position, lost) = read(&log, Position::default(), first);
            assert_eq!((&taken[..], lost), (&all[..first], false));
            for second in 1..=log.len() - first {
                let (taken, position, lost) = read(&log, position, second);
                assert_eq!(
                    (&taken[..], lost),
                    (&all[first..first + second], false),
                    "{first} {second}"
                );
                let (rest, _, lost) = read(&log, position, usize::MAX);
                assert_eq!((&rest[..], lost), (&all[first + second..], false));
            }
        }
    }

    #[test]
    fn a_rotation_gives_what_is_later_and_tells_the_loss() {
        let log = log();
        let (_, position, _) = read(&log, Position::default(), 6);
        // The new file begins with line 9.
        let (rest, after, lost) = read(&log[9..], position, usize::MAX);
        assert!(lost);
        assert_eq!(rest.first().map(String::as_str), Some("line 9"));
        assert_eq!(rest.len(), log.len() - 9);
        let (rest, _, lost) = read(&log[9..], after, usize::MAX);
        assert_eq!((rest.len(), lost), (0, false));
        // And a new file without any line.
        let (rest, _, lost) = read(&[], position, usize::MAX);
        assert_eq!((rest.len(), lost), (0, true));
    }

    #[test]
    fn from_a_time_on() {
        let log = log();
        let (rest, position, lost) = read(&log, Position::after(1_000 * S + 2_001_000_000), usize::MAX);
        assert_eq!(
            (rest, lost),
            (vec!["line 14".into(), "line 15".into(), "line 16".into()], false)
        );
        assert_eq!(read(&log, position, usize::MAX).0.len(), 0);
    }

    #[test]
    fn goes_on_within_a_line() {
        let at = 1_000 * S;
        let begun = |text: &str, first, last| Line {
            first,
            last,
            ..line(at, text)
        };
        let mut tracker = Tracker::new(Position::default());
        assert_eq!(tracker.see(&line(at, "whole")), Verdict::Take(0));
        let part = begun("no end", true, false);
        assert_eq!(tracker.see(&part), Verdict::Take(0));
        let position = tracker.here(&part);
        assert_eq!(position.part, 6);
        // It got more, and its end.
        let (rest, ..) = read(&[line(at, "whole"), line(at, "no end yet")], position, usize::MAX);
        assert_eq!(rest, [" yet"]);
        // It got its end only.
        let (rest, ..) = read(
            &[line(at, "whole"), line(at, "no end"), line(at, "x")],
            position,
            usize::MAX,
        );
        assert_eq!(rest, ["x"]);
        // It comes in parts now.
        let mut tracker = Tracker::new(position);
        assert_eq!(tracker.see(&line(at, "whole")), Verdict::Skip);
        assert_eq!(tracker.see(&begun("no", true, false)), Verdict::Skip);
        assert_eq!(tracker.see(&begun(" end yet", false, false)), Verdict::Take(4));
        assert_eq!(tracker.see(&begun(" more", false, true)), Verdict::Take(0));
    }
}
