//! Reading a replica's log from a byte on.
//!
//! Ray gives the last lines of a file, or all of it, and takes no offset; and a stream that follows a file holds one of a hundred places
//! on the head as long as the file is silent. So the last lines are asked for, and where the end of what was read last is found in them
//! exactly once, what comes after it is new. Else the file is read as a whole, and what is known is passed over.

use agent_api_driver::Result;
use agent_api_driver::model::ErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::head::Head;

/// A file of which no more is known than this is read as a whole.
const SMALL: u64 = 128 << 10;
/// So much of what was read last is looked for in the last lines.
const ANCHOR: usize = 8 << 10;
/// So many last lines are asked for before the whole file.
const LAST_LINES: [u64; 2] = [256, 8_192];
/// The longest line that comes in one piece.
const MAX_LINE: usize = 64 << 10;

/// Whole lines of a file, and where the next ones begin.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    pub(super) lines: Vec<Bytes>,
    /// The offset after these lines.
    pub(super) next: u64,
    /// There is more now.
    pub(super) more: bool,
}

/// The end of what was read of a file, to find it again without reading all before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Anchor(Vec<u8>);

impl Anchor {
    fn push(&mut self, bytes: &[u8]) {
        self.0
            .extend_from_slice(&bytes[bytes.len().saturating_sub(ANCHOR)..]);
        let extra = self.0.len().saturating_sub(ANCHOR);
        self.0.drain(..extra);
    }

    /// What comes after it, where it is there exactly once.
    fn after<'a>(&self, all: &'a [u8]) -> Option<&'a [u8]> {
        if self.0.len() < ANCHOR {
            return None;
        }
        let mut found = all
            .windows(ANCHOR)
            .enumerate()
            .filter(|(_, window)| *window == self.0);
        let (at, _) = found.next()?;
        found.next().is_none().then(|| &all[at + ANCHOR..])
    }
}

/// Reads what comes after so many bytes, at most about `most`. `last` brings the end of the file too, where it has no end of line.
pub(super) async fn after(
    head: &Head,
    node: &str,
    name: &str,
    offset: u64,
    anchor: &mut Anchor,
    most: usize,
    last: bool,
) -> Result<Read> {
    if offset > SMALL {
        for lines in LAST_LINES {
            let Ok(end) = head.client.log_file(node, name, Some(lines)).body().await else {
                break;
            };
            if let Some(new) = anchor.after(&end) {
                return Ok(cut(new, offset, most, last, anchor));
            }
        }
    }
    let client = &head.client;
    let mut pieces = client.log_file(node, name, None).send().await?.pieces(client);
    let mut skip = offset;
    let mut new = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= known as u64;
        new.extend_from_slice(&piece[known..]);
        if new.len() > most.saturating_add(MAX_LINE) {
            break;
        }
    }
    if skip == 0 {
        return Ok(cut(&new, offset, most, last, anchor));
    }
    // It is shorter than what was read: Serve began a new file, and what was not read is at the end of the one before.
    *anchor = Anchor::default();
    let mut before = Vec::new();
    match client.log_file(node, &format!("{name}.1"), None).send().await {
        Ok(answer) => {
            let mut pieces = answer.pieces(client);
            let mut skip = offset;
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                skip -= known as u64;
                before.extend_from_slice(&piece[known..]);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let rest = cut(&before, 0, usize::MAX, true, &mut Anchor::default());
    Ok(Read {
        lines: rest.lines,
        next: 0,
        more: true,
    })
}

/// The last lines of a file.
pub(super) async fn tail(head: &Head, node: &str, name: &str, lines: u64) -> Result<Vec<Bytes>> {
    let end = head
        .client
        .log_file(node, name, Some(lines.max(1)))
        .body()
        .await?;
    Ok(cut(&end, 0, usize::MAX, true, &mut Anchor::default()).lines)
}

/// How long a file is, up to the end of its last whole line.
pub(super) async fn end(head: &Head, node: &str, name: &str, anchor: &mut Anchor) -> Result<u64> {
    let client = &head.client;
    let mut pieces = client.log_file(node, name, None).send().await?.pieces(client);
    let (mut size, mut whole) = (0u64, 0u64);
    let mut open = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if let Some(at) = piece.iter().rposition(|b| *b == b'\n') {
            whole = size + at as u64 + 1;
            anchor.push(&open);
            anchor.push(&piece[..=at]);
            open = piece[at + 1..].to_vec();
        } else {
            open.extend_from_slice(&piece);
        }
        size += piece.len() as u64;
    }
    Ok(whole)
}

/// Cuts what was read into whole lines.
fn cut(new: &[u8], offset: u64, most: usize, last: bool, anchor: &mut Anchor) -> Read {
    let mut read = Read {
        next: offset,
        ..Read::default()
    };
    let mut used = 0;
    let mut rest = new;
    while !rest.is_empty() {
        if used >= most {
            read.more = true;
            break;
        }
        let (line, taken) = match rest.iter().position(|b| *b == b'\n') {
            Some(end) if end <= MAX_LINE => (&rest[..end], end + 1),
            // One that is too long comes in pieces.
            _ if rest.len() > MAX_LINE => (&rest[..MAX_LINE], MAX_LINE),
            None if last => (rest, rest.len()),
            _ => break,
        };
        read.lines
            .push(Bytes::copy_from_slice(line.strip_suffix(b"\r").unwrap_or(line)));
        used += taken;
        rest = &rest[taken..];
    }
    anchor.push(&new[..used]);
    read.next = offset + used as u64;
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(read: &Read) -> Vec<String> {
        read.lines
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }

    #[test]
    fn only_whole_lines_come() {
        let mut anchor = Anchor::default();
        let read = cut(b"a\nb\r\n\nhalf", 10, 1_000, false, &mut anchor);
        assert_eq!(
            (texts(&read), read.next, read.more),
            (vec!["a".into(), "b".into(), String::new()], 16, false)
        );
        let read = cut(b"half", 16, 1_000, true, &mut anchor);
        assert_eq!((texts(&read), read.next), (vec!["half".to_owned()], 20));
        let read = cut(b"one\ntwo\nthree\n", 0, 5, false, &mut anchor);
        assert_eq!((texts(&read).len(), read.next, read.more), (2, 8, true));
        let long = [b'x'; MAX_LINE + 10];
        let read = cut(&[&long[..], b"\n"].concat(), 0, usize::MAX, false, &mut anchor);
        assert_eq!(
            read.lines.iter().map(Bytes::len).collect::<Vec<_>>(),
            [MAX_LINE, 10]
        );
    }

    #[test]
    fn what_is_there_once_tells_what_is_new() {
        let numbered = |from: u32, to: u32| -> Vec<u8> {
            (from..to)
                .flat_map(|n| format!("line {n}\n").into_bytes())
                .collect()
        };
        let mut anchor = Anchor::default();
        anchor.push(&numbered(0, 100));
        assert_eq!(anchor.after(&numbered(0, 200)), None, "too little is known");
        anchor.push(&numbered(100, 5_000));
        assert_eq!(
            anchor.after(&numbered(1_000, 5_003)),
            Some(&numbered(5_000, 5_003)[..])
        );
        assert_eq!(
            anchor.after(&numbered(4_999, 5_010)),
            None,
            "the last lines do not reach back"
        );
        let mut same = Anchor::default();
        same.push(&b"tick\n".repeat(5_000));
        assert_eq!(
            same.after(&b"tick\n".repeat(5_000)),
            None,
            "what repeats tells nothing"
        );
    }
}
