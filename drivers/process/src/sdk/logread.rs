//! Reading an object's log files: from a cursor, from the beginning, the last lines; with gaps counted.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::logfile::{self, LogFiles, Stream, incarnation};

/// Longer lines are given in pieces of this many bytes.
pub(crate) const MAX_LINE: usize = 64 * 1024;
const BLOCK: usize = 256 * 1024;

/// A place in the output of one stream: which file, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub incarnation: u64,
    pub offset: u64,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Oldest,
    /// The last so many lines.
    Tail(u64),
    /// After everything that is there.
    End,
    At(Position),
}

/// One line without its end, or a piece of a line that is longer than [`MAX_LINE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub text: Bytes,
    /// The line goes on in the next piece.
    pub continues: bool,
    /// Right after it.
    pub next: Position,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub lines: Vec<Line>,
    /// Where to go on.
    pub next: Position,
    /// Bytes that were freed by rotation before they were read.
    pub lost_bytes: u64,
    /// Whole files were replaced before they were read; how much they had is not known.
    pub lost_files: bool,
    /// There is nothing more now.
    pub at_end: bool,
}

/// How much may be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Bytes of lines; one line may go beyond it.
    pub share: usize,
    /// Bytes of lines that nothing goes beyond.
    pub most: usize,
    /// Whether a line that is longer than `most` is given in pieces of that many bytes, instead of being left for later.
    pub cut: bool,
}

impl Budget {
    /// So many bytes; a line that is longer comes nevertheless.
    pub(crate) fn about(share: usize) -> Self {
        Self {
            share,
            most: usize::MAX,
            cut: false,
        }
    }
}

/// Reads whole lines within the budget. `ended`: nobody writes any more, so a last line without an end is whole.
///
/// `Ok(None)` where the object never had a file.
pub(crate) fn read(
    files: &LogFiles,
    stream: Stream,
    start: Start,
    budget: Budget,
    ended: bool,
) -> io::Result<Option<Chunk>> {
    let Some(Located {
        file,
        position,
        is_current,
        lost_files,
    }) = locate(files, stream, start, ended)?
    else {
        return Ok(None);
    };
    let mut chunk = file.lines(position, budget, ended || !is_current)?;
    chunk.lost_files = lost_files;
    // After the last line of the previous file comes the first of the current one.
    chunk.at_end = chunk.at_end && is_current;
    Ok(Some(chunk))
}

/// Where a start is, without reading from there; `None` where the object never had a file.
pub(crate) fn place(
    files: &LogFiles,
    stream: Stream,
    start: Start,
    ended: bool,
) -> io::Result<Option<Position>> {
    Ok(locate(files, stream, start, ended)?.map(|located| located.position))
}

struct Located {
    file: LogFile,
    position: Position,
    is_current: bool,
    lost_files: bool,
}

fn locate(files: &LogFiles, stream: Stream, start: Start, ended: bool) -> io::Result<Option<Located>> {
    let Some(current) = LogFile::open(&files.current(stream))? else {
        return Ok(None);
    };
    let previous = LogFile::open(&files.previous(stream))?;
    let mut lost_files = false;
    let (file, position, is_current) = match start {
        Start::End => {
            let offset = current.end_of_lines(ended)?;
            let at = current.at(offset);
            (current, at, true)
        }
        Start::Tail(lines) => {
            let at = current.at(current.tail(lines, ended)?);
            (current, at, true)
        }
        Start::At(at) if at.incarnation == current.incarnation => (current, at, true),
        other => match (previous, other) {
            (Some(previous), Start::At(at)) if at.incarnation == previous.incarnation => {
                if at.offset >= previous.size()? {
                    let at = current.at(0);
                    (current, at, true)
                } else {
                    (previous, at, false)
                }
            }
            (previous, other) => {
                lost_files = matches!(other, Start::At(_));
                let is_current = previous.is_none();
                let file = previous.unwrap_or(current);
                let at = file.at(0);
                (file, at, is_current)
            }
        },
    };
    Ok(Some(Located {
        file,
        position,
        is_current,
        lost_files,
    }))
}

/// Whether nothing was written since; one system call.
pub(crate) fn is_unchanged(files: &LogFiles, stream: Stream, position: Position) -> bool {
    logfile::look(&files.current(stream))
        .is_ok_and(|(incarnation, size)| incarnation == position.incarnation && size == position.offset)
}

struct LogFile {
    fd: OwnedFd,
    incarnation: u64,
}

impl LogFile {
    fn open(path: &std::path::Path) -> io::Result<Option<Self>> {
        match rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(Self {
                incarnation: incarnation(&fd)?,
                fd,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn at(&self, offset: u64) -> Position {
        Position {
            incarnation: self.incarnation,
            offset,
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    /// The first byte that is still there.
    fn base(&self) -> io::Result<u64> {
        match rustix::fs::seek(&self.fd, SeekFrom::Data(0)) {
            Ok(base) => Ok(base),
            Err(Errno::NXIO) => self.size(),
            // A file system that does not tell has no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    fn lines(&self, from: Position, budget: Budget, ended: bool) -> io::Result<Chunk> {
        let size = self.size()?;
        let mut chunk = Chunk {
            lines: Vec::new(),
            next: from,
            lost_bytes: 0,
            lost_files: false,
            at_end: false,
        };
        let base = self.base()?;
        // A file that was cut short by somebody else: begin again where it ends.
        let mut offset = from.offset.min(size);
        // The rest of a line whose beginning was freed is no line.
        let mut skipping = false;
        if offset < base {
            chunk.lost_bytes = base - offset;
            offset = base;
            skipping = true;
        }
        chunk.next.offset = offset;
        let mut block = vec![0; BLOCK.min(budget.share.max(MAX_LINE + 1))];
        let longest = if budget.cut {
            MAX_LINE.min(budget.most.max(1))
        } else {
            MAX_LINE
        };
        let mut spent: usize = 0;
        loop {
            let count = rustix::io::pread(&self.fd, &mut block[..], offset)?;
            // Freed while we read: the zeros in the block are not what was written.
            let base = self.base()?;
            if base > offset {
                if !chunk.lines.is_empty() {
                    // A loss stands before the lines of a chunk: this one comes with the next.
                    return Ok(chunk);
                }
                chunk.lost_bytes += base - offset;
                offset = base;
                chunk.next.offset = base;
                skipping = true;
                continue;
            }
            let text = Bytes::copy_from_slice(&block[..count]);
            let mut used = 0;
            while let Some(piece) = piece(&text[used..], longest, ended && count < block.len()) {
                let after = spent.saturating_add(piece.text);
                let is_over = after > budget.share && !chunk.lines.is_empty() || after > budget.most;
                if is_over && !skipping {
                    return Ok(chunk);
                }
                let line = text.slice(used..used + piece.text);
                used += piece.whole;
                chunk.next.offset = offset + used as u64;
                if skipping {
                    chunk.lost_bytes += piece.whole as u64;
                    skipping = piece.continues;
                } else {
                    spent = after;
                    chunk.lines.push(Line {
                        text: line,
                        continues: piece.continues,
                        next: chunk.next,
                    });
                }
            }
            offset += used as u64;
            if count < block.len() {
                chunk.at_end = true;
                return Ok(chunk);
            }
        }
    }

    /// The end of the last whole line.
    fn end_of_lines(&self, ended: bool) -> io::Result<u64> {
        if ended {
            return self.size();
        }
        self.tail(0, false)
    }

    /// Where the last `wanted` lines begin.
    fn tail(&self, wanted: u64, ended: bool) -> io::Result<u64> {
        let (size, base) = (self.size()?, self.base()?);
        let mut block = vec![0; BLOCK];
        let mut end = size;
        let mut found = 0;
        // The end of the last line ends a line; it does not begin one more.
        let mut last_line_open = true;
        while end > base {
            let begin = end.saturating_sub(BLOCK as u64).max(base);
            let length = usize::try_from(end - begin).unwrap_or(BLOCK);
            let count = rustix::io::pread(&self.fd, &mut block[..length], begin)?;
            for i in (0..count).rev() {
                if block[i] != b'\n' {
                    if last_line_open && ended && begin + i as u64 + 1 == size {
                        found += 1; // A last line without an end counts once nobody writes any more.
                    }
                    continue;
                }
                last_line_open = false;
                if found == wanted {
                    return Ok(begin + i as u64 + 1);
                }
                found += 1;
            }
            end = begin;
        }
        Ok(base)
    }
}

struct Piece {
    /// Bytes of text.
    text: usize,
    /// Bytes with the end of the line.
    whole: usize,
    continues: bool,
}

/// The first line of the text, or the first piece of a long one; `None` where there is no whole one yet.
fn piece(text: &[u8], longest: usize, last: bool) -> Option<Piece> {
    let window = &text[..text.len().min(longest + 1)];
    if let Some(end) = window.iter().position(|b| *b == b'\n') {
        return Some(Piece {
            text: end,
            whole: end + 1,
            continues: false,
        });
    }
    if text.len() > longest {
        return Some(Piece {
            text: longest,
            whole: longest,
            continues: true,
        });
    }
    (last && !text.is_empty()).then_some(Piece {
        text: text.len(),
        whole: text.len(),
        continues: false,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::sdk::logfile::Rotation;

    const ROTATION: Rotation = Rotation {
        max_size: 64 * 1024,
        keep: 1,
        fresh_over: 1 << 40,
    };

    struct Fixture {
        _dir: tempfile::TempDir,
        files: LogFiles,
        writer: std::fs::File,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let files = LogFiles::new(dir.path(), "g");
        files.create_dir().unwrap();
        let writer = files.open(Stream::Stdout, &ROTATION).unwrap().into();
        Fixture {
            _dir: dir,
            files,
            writer,
        }
    }

    impl Fixture {
        fn read(&self, start: Start, ended: bool) -> Chunk {
            read(&self.files, Stream::Stdout, start, Budget::about(1 << 20), ended)
                .unwrap()
                .unwrap()
        }
    }

    fn texts(chunk: &Chunk) -> Vec<&[u8]> {
        chunk.lines.iter().map(|l| &l.text[..]).collect()
    }

    #[test]
    fn a_line_without_end_is_kept_back_until_the_writer_has_ended() {
        let mut f = fixture();
        f.writer.write_all(b"one\n\xff\0two\n\nthr").unwrap();
        let chunk = f.read(Start::Oldest, false);
        assert_eq!(texts(&chunk), [&b"one"[..], b"\xff\0two", b""]);
        assert!(chunk.at_end);
        f.writer.write_all(b"ee").unwrap();
        assert_eq!(texts(&f.read(Start::At(chunk.next), false)), [&b""[..]; 0]);
        let rest = f.read(Start::At(chunk.next), true);
        assert_eq!(texts(&rest), [b"three"]);
        assert_eq!(texts(&f.read(Start::At(rest.next), true)), [&b""[..]; 0]);
    }

    #[test]
    fn the_last_lines() {
        let mut f = fixture();
        f.writer.write_all(b"a\nb\nc\n").unwrap();
        assert_eq!(texts(&f.read(Start::Tail(2), false)), [b"b", b"c"]);
        assert_eq!(texts(&f.read(Start::Tail(9), false)), [b"a", b"b", b"c"]);
        assert_eq!(texts(&f.read(Start::Tail(0), false)), [&b""[..]; 0]);
        assert_eq!(texts(&f.read(Start::End, false)), [&b""[..]; 0]);
        f.writer.write_all(b"d").unwrap();
        assert_eq!(texts(&f.read(Start::Tail(2), false)), [b"b", b"c"]);
        assert_eq!(texts(&f.read(Start::Tail(2), true)), [b"c", b"d"]);
        assert_eq!(f.read(Start::End, false).next.offset, 6);
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let mut f = fixture();
        let mut long = vec![b'x'; MAX_LINE * 2 + 10];
        long.push(b'\n');
        f.writer.write_all(&long).unwrap();
        f.writer.write_all(b"short\n").unwrap();
        let chunk = f.read(Start::Oldest, false);
        let shape: Vec<_> = chunk.lines.iter().map(|l| (l.text.len(), l.continues)).collect();
        assert_eq!(
            shape,
            [(MAX_LINE, true), (MAX_LINE, true), (10, false), (5, false)]
        );
    }

    #[test]
    fn a_small_budget_loses_nothing() {
        let mut f = fixture();
        for n in 0..5_000 {
            writeln!(f.writer, "line {n}").unwrap();
        }
        let mut start = Start::Oldest;
        let mut seen = 0;
        loop {
            let chunk = read(&f.files, Stream::Stdout, start, Budget::about(100), false)
                .unwrap()
                .unwrap();
            for line in &chunk.lines {
                assert_eq!(&line.text[..], format!("line {seen}").as_bytes());
                seen += 1;
            }
            start = Start::At(chunk.next);
            if chunk.at_end {
                break;
            }
        }
        assert_eq!(seen, 5_000);
    }

    #[test]
    fn nothing_goes_beyond_the_most() {
        let mut f = fixture();
        f.writer.write_all(b"12345\n1234567890\n1\n").unwrap();
        let read = |start, share, most, cut| {
            let chunk = read(
                &f.files,
                Stream::Stdout,
                start,
                Budget { share, most, cut },
                false,
            )
            .unwrap()
            .unwrap();
            (
                texts(&chunk).iter().map(|t| t.len()).collect::<Vec<_>>(),
                chunk.next,
            )
        };
        let (lengths, next) = read(Start::Oldest, 6, 9, true);
        assert_eq!(lengths, [5]);
        assert_eq!(read(Start::At(next), 6, 9, false).0, [0usize; 0]);
        let (lengths, next) = read(Start::At(next), 6, 9, true);
        assert_eq!(lengths, [9]);
        assert_eq!(read(Start::At(next), 6, 9, true).0, [1, 1]);
    }

    #[test]
    fn what_was_freed_before_it_was_read_is_counted() {
        let mut f = fixture();
        for n in 0..40_000 {
            writeln!(f.writer, "line {n}").unwrap();
        }
        f.writer.sync_all().unwrap();
        let total = f.writer.metadata().unwrap().len();
        match f.files.check(Stream::Stdout, &ROTATION) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return,
            other => assert!(other.unwrap().freed),
        }
        let chunk = f.read(Start::Oldest, false);
        let read_bytes: u64 = chunk.lines.iter().map(|l| l.text.len() as u64 + 1).sum();
        assert!(chunk.lost_bytes >= ROTATION.base(total), "{}", chunk.lost_bytes);
        assert_eq!(chunk.lost_bytes + read_bytes, total);
        assert!(chunk.lines[0].text.starts_with(b"line "));
        assert_eq!(&chunk.lines.last().unwrap().text[..], b"line 39999");
    }

    #[test]
    fn a_cursor_goes_on_in_the_next_file() {
        let mut f = fixture();
        f.writer.write_all(b"a\nb\n").unwrap();
        let first = read(&f.files, Stream::Stdout, Start::Oldest, Budget::about(1), false)
            .unwrap()
            .unwrap();
        let fresh = Rotation {
            fresh_over: 0,
            ..ROTATION
        };
        let mut second: std::fs::File = f.files.open(Stream::Stdout, &fresh).unwrap().into();
        f.writer.write_all(b"c").unwrap();
        second.write_all(b"d\n").unwrap();
        let mut seen = Vec::new();
        let mut start = Start::At(Position {
            offset: 2,
            ..first.next
        });
        for _ in 0..3 {
            let chunk = f.read(start, false);
            seen.extend(chunk.lines.iter().map(|l| l.text.to_vec()));
            start = Start::At(chunk.next);
        }
        assert_eq!(seen, [b"b", b"c", b"d"]);
        let stranger = Start::At(Position {
            incarnation: 1,
            offset: 9,
        });
        let chunk = f.read(stranger, false);
        assert!(chunk.lost_files);
        assert_eq!(texts(&chunk), [b"a", b"b", b"c"]);
    }
}
