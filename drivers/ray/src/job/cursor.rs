//! A place in the logs of an object, and lines out of raw bytes.

use std::fmt;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, Guid};
use bytes::Bytes;

/// Longer lines are given in pieces of this many bytes.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// A place in the log of one attempt. On the wire `1;<guid>;<attempt>;<offset>;<p or ->`, numbers in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub attempt: u32,
    /// Bytes of the file before it.
    pub offset: u64,
    /// What Ray itself writes at the start of the file lies not yet wholly before it.
    pub preface: bool,
}

impl Place {
    /// The start of an attempt's log.
    pub(super) fn start(attempt: u32) -> Self {
        Self {
            attempt,
            offset: 0,
            preface: true,
        }
    }

    pub(super) fn write(self, guid: Guid) -> String {
        Cursor { guid, place: self }.to_string()
    }

    /// Reads a cursor of this object.
    pub(super) fn parse(text: &str, guid: Guid) -> Result<Self> {
        read(text)
            .filter(|cursor| cursor.guid == guid)
            .map(|cursor| cursor.place)
            .ok_or_else(|| {
                Error::invalid(
                    "cursor",
                    "this is not a cursor of this object's logs; give one from an earlier answer, or none",
                )
                .with_object(guid)
            })
    }
}

struct Cursor {
    guid: Guid,
    place: Place,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place {
            attempt,
            offset,
            preface,
        } = self.place;
        let preface = if preface { 'p' } else { '-' };
        write!(f, "1;{};{attempt:x};{offset:x};{preface}", self.guid)
    }
}

fn read(text: &str) -> Option<Cursor> {
    let hex = |digits: &str| {
        u64::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with('+'))
    };
    let mut parts = text.split(';');
    parts.next().filter(|version| *version == "1")?;
    let cursor = Cursor {
        guid: parts.next()?.parse().ok()?,
        place: Place {
            attempt: u32::try_from(hex(parts.next()?)?).ok()?,
            offset: hex(parts.next()?)?,
            preface: match parts.next()? {
                "p" => true,
                "-" => false,
                _ => return None,
            },
        },
    };
    parts.next().is_none().then_some(cursor)
}

/// Makes lines of raw bytes, and takes out what Ray itself wrote at the start of the file: the line that says what it runs, which may
/// come after the first output and in the middle of a line, and lines of its manager of jobs before it.
pub(super) struct Splitter {
    place: Place,
    /// Bytes from the place on.
    pending: Vec<u8>,
    /// The line that Ray writes, with its end; only how it begins where what it runs is not known.
    header: Vec<u8>,
    whole: bool,
    /// The header was taken out of `pending`: so far from its start, and so long.
    gap: Option<(usize, usize)>,
}

impl Splitter {
    /// Goes on at this place of the log of this submission with this entrypoint.
    pub(super) fn new(place: Place, id: &str, entrypoint: Option<&str>) -> Self {
        let begin = format!("Running entrypoint for job {id}: ");
        Self {
            place,
            pending: Vec::new(),
            header: match entrypoint {
                Some(entrypoint) => format!("{begin}{entrypoint}\n").into_bytes(),
                None => begin.into_bytes(),
            },
            whole: entrypoint.is_some(),
            gap: None,
        }
    }

    /// Right after the last line that was taken.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The bytes that were pushed and not taken.
    pub(super) fn pending(&self) -> u64 {
        let gap = self.gap.map_or(0, |(_, len)| len);
        (self.pending.len() + gap) as u64
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.place.preface
            && self.gap.is_none()
            && let Some((at, len)) = self.find_header()
        {
            self.pending.drain(at..at + len);
            self.gap = Some((at, len));
            self.consume(0);
        }
    }

    /// Where the header begins, and how long it is, where all of it is there.
    fn find_header(&self) -> Option<(usize, usize)> {
        let at = find(&self.pending, &self.header)?;
        if self.whole {
            return Some((at, self.header.len()));
        }
        let end = self.pending[at..].iter().position(|b| *b == b'\n')?;
        Some((at, end + 1))
    }

    /// The next line without its end, or a piece of it of at most this many bytes. With `flush` a last line without an end counts as
    /// whole.
    pub(super) fn next(&mut self, most: usize, flush: bool) -> Option<Bytes> {
        loop {
            let usable = self.usable(flush);
            let (line, ended) = match self.pending[..usable].iter().position(|b| *b == b'\n') {
                Some(end) if end <= most => (end, true),
                _ if usable >= most && usable > 0 => (most, false),
                None if flush && usable > 0 => (usable, false),
                _ => return None,
            };
            let text = Bytes::copy_from_slice(&self.pending[..line]);
            let before_header = self.place.preface;
            self.consume(line + usize::from(ended));
            if before_header && is_rays_own(&text) {
                continue;
            }
            return Some(text);
        }
    }

    /// How much can be cut into lines: not what may be the beginning of the header.
    fn usable(&self, flush: bool) -> usize {
        if flush || !self.place.preface || self.gap.is_some() {
            return self.pending.len();
        }
        if !self.whole
            && let Some(at) = find(&self.pending, &self.header)
        {
            return at;
        }
        let longest = self.header.len().min(self.pending.len());
        let held = (1..=longest)
            .rev()
            .find(|n| self.pending.ends_with(&self.header[..*n]))
            .unwrap_or(0);
        self.pending.len() - held
    }

    fn consume(&mut self, bytes: usize) {
        self.pending.drain(..bytes);
        self.place.offset += bytes as u64;
        match &mut self.gap {
            Some((distance, len)) if *distance <= bytes => {
                self.place.offset += *len as u64;
                self.place.preface = false;
                self.gap = None;
            }
            Some((distance, _)) => *distance -= bytes,
            None => {}
        }
    }
}

/// Whether a line at the start of the file is one of Ray's manager of jobs, such as
/// `2026-11-22 21:39:14,326⇥INFO job_manager.py:581 -- Runtime env is setting up.`
fn is_rays_own(line: &[u8]) -> bool {
    let form = b"dddd-dd-dd dd:dd:dd,ddd";
    line.len() > form.len()
        && form.iter().zip(line).all(|(form, b)| match form {
            b'd' => b.is_ascii_digit(),
            other => b == other,
        })
        && find(&line[..line.len().min(120)], b" job_manager.py:").is_some()
}

/// Where a text begins in another.
pub(super) fn find(all: &[u8], part: &[u8]) -> Option<usize> {
    let first = part.first()?;
    let mut from = 0;
    while let Some(at) = all[from..].iter().position(|b| b == first) {
        let at = from + at;
        if all[at..].starts_with(part) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "2026-11-22 21:39:14,326\tINFO job_manager.py:581 -- Runtime env is setting up.\n";
    const HEADER: &str = "Running entrypoint for job j-1: exec a 'b\nc'\n";

    fn splitter(place: Place) -> Splitter {
        Splitter::new(place, "j-1", Some("exec a 'b\nc'"))
    }

    /// All lines of a file that comes in pieces of this size, each with the place after it.
    fn split(file: &str, size: usize) -> Vec<(String, Place)> {
        let mut splitter = splitter(Place::start(1));
        let mut lines = Vec::new();
        let pieces: Vec<&[u8]> = file.as_bytes().chunks(size).collect();
        for (i, piece) in pieces.iter().enumerate() {
            splitter.push(piece);
            let last = i + 1 == pieces.len();
            while let Some(line) = splitter.next(MAX_LINE, last) {
                lines.push((String::from_utf8(line.to_vec()).unwrap(), splitter.place()));
            }
        }
        assert_eq!(splitter.pending(), 0);
        lines
    }

    #[test]
    fn what_ray_writes_is_taken_out_wherever_it_comes() {
        for file in [
            format!("{OWN}{HEADER}one\ntwo\n\nend"),
            format!("{HEADER}one\ntwo\n\nend"),
            format!("{OWN}one\n{HEADER}two\n\nend"),
            format!("one\ntw{HEADER}o\n\nend"),
        ] {
            for size in [1, 2, 3, 7, 64, 10_000] {
                let lines = split(&file, size);
                let texts: Vec<_> = lines.iter().map(|(text, _)| text.as_str()).collect();
                assert_eq!(texts, ["one", "two", "", "end"], "{file:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn going_on_from_each_place_gives_the_rest() {
        for file in [
            format!("{OWN}{HEADER}one\ntwo\nthree\n"),
            format!("one\n{OWN}{HEADER}two\nthree\n"),
        ] {
            let all = split(&file, 5);
            for (i, (_, place)) in all.iter().enumerate() {
                let mut splitter = splitter(*place);
                let offset = usize::try_from(place.offset).unwrap();
                splitter.push(&file.as_bytes()[offset..]);
                let mut rest = Vec::new();
                while let Some(line) = splitter.next(MAX_LINE, true) {
                    rest.push(String::from_utf8(line.to_vec()).unwrap());
                }
                let expected: Vec<_> = all[i + 1..].iter().map(|(text, _)| text.clone()).collect();
                assert_eq!(rest, expected, "after {place:?}");
            }
        }
    }

    #[test]
    fn only_the_first_header_is_rays() {
        let file = format!("{HEADER}{HEADER}");
        let lines = split(&file, 100);
        assert_eq!(lines.len(), 2, "a program may print the same: {lines:?}");
    }

    #[test]
    fn the_header_of_an_unknown_entrypoint_is_one_line() {
        for size in [1, 9, 1_000] {
            let mut splitter = Splitter::new(Place::start(1), "j-1", None);
            let mut lines = Vec::new();
            for piece in b"one\nRunning entrypoint for job j-1: exec b\ntwo\n".chunks(size) {
                splitter.push(piece);
                lines.extend(std::iter::from_fn(|| splitter.next(MAX_LINE, false)));
            }
            assert_eq!(lines, ["one", "two"], "in pieces of {size}");
        }
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let mut splitter = splitter(Place {
            preface: false,
            ..Place::start(1)
        });
        splitter.push(&[b'x'; 25]);
        splitter.push(b"\ny");
        let sizes: Vec<usize> = std::iter::from_fn(|| splitter.next(10, false))
            .map(|l| l.len())
            .collect();
        assert_eq!(sizes, [10, 10, 5]);
        assert_eq!(splitter.next(10, false), None, "no end yet");
        assert_eq!(splitter.next(10, true).unwrap(), "y");
        assert_eq!(splitter.place().offset, 27);
    }

    #[test]
    fn cursors_are_of_one_object() {
        let guid = Guid::generate();
        for place in [
            Place::start(1),
            Place {
                attempt: u32::MAX,
                offset: u64::MAX,
                preface: false,
            },
        ] {
            let text = place.write(guid);
            assert_eq!(Place::parse(&text, guid).unwrap(), place);
            assert!(Place::parse(&text, Guid::generate()).is_err());
            assert!(Place::parse(&format!("{text};x"), guid).is_err());
        }
        for bad in [
            "",
            "1",
            "nonsense",
            "../../etc/passwd",
            &format!("1;{guid};+1;0;p"),
            &format!("2;{guid};1;0;p"),
        ] {
            assert_eq!(
                Place::parse(bad, guid).unwrap_err().path(),
                Some("cursor"),
                "{bad:?}"
            );
        }
    }
}
