//! Reading the file of one attempt from a byte on.
//!
//! Ray gives the last lines of a file, or all of it, and takes no offset. A stream that follows a file holds one of a hundred places on
//! the head until the file gets its next line, which for a job that ended is never: so no stream is held here, and what follows is
//! asked for. A small file is read as a whole. Of a large one the last lines are read, and where what was read last is found in them
//! exactly once, what comes after it is new. Else the whole file is read, and what is known is passed over.

use std::collections::HashMap;
use std::sync::Arc;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind, Guid};
use bytes::Bytes;
use futures_util::StreamExt;

use super::cursor::{Place, find};
use crate::head::Head;

/// A file of which no more is known than this is read as a whole.
const SMALL: u64 = 128 * 1024;
/// So much of what was read last is looked for in the last lines of a file.
const ANCHOR: usize = 16 * 1024;
/// So many last lines are read, one after the other, before the whole file.
const LAST_LINES: [u64; 2] = [256, 8_192];

/// One attempt's file.
#[derive(Clone)]
pub(super) struct LogFile {
    pub head: Arc<Head>,
    pub node: String,
    pub id: String,
    /// What Ray was told to run, where that is known.
    pub entrypoint: Option<String>,
}

/// The end of what was read of a file, to find it again.
#[derive(Clone, Debug, Default)]
pub(super) struct Anchor {
    bytes: Vec<u8>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Fetched {
    pub bytes: Vec<u8>,
    /// There is nothing more now.
    pub at_end: bool,
}

impl Anchor {
    /// Takes what was read after what it knows.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(ANCHOR);
        self.bytes.extend_from_slice(&bytes[from..]);
        let extra = self.bytes.len().saturating_sub(ANCHOR);
        self.bytes.drain(..extra);
    }

    /// What comes after it, where it is there exactly once.
    fn after<'a>(&self, all: &'a [u8]) -> Option<&'a [u8]> {
        if self.bytes.len() < ANCHOR {
            return None;
        }
        let at = find(all, &self.bytes)?;
        if find(&all[at + 1..], &self.bytes).is_some() {
            return None;
        }
        Some(&all[at + self.bytes.len()..])
    }
}

impl LogFile {
    fn name(&self) -> String {
        format!("job-driver-{}.log", self.id)
    }

    /// The whole file in pieces.
    pub(super) async fn pieces(&self) -> Result<crate::sdk::Pieces> {
        let client = &self.head.client;
        let answer = client.log_file(&self.node, &self.name(), None).send().await;
        answer
            .map(|answer| answer.pieces(client))
            .map_err(|e| self.explain(e))
    }

    /// What comes after so many bytes, at most about so much.
    pub(super) async fn after(&self, offset: u64, anchor: Option<&Anchor>, most: usize) -> Result<Fetched> {
        if offset > SMALL
            && let Some(anchor) = anchor
        {
            for lines in LAST_LINES {
                let Ok(last) = self.last_lines(lines).await else {
                    break;
                };
                if let Some(new) = anchor.after(&last) {
                    return Ok(Fetched {
                        bytes: new.to_vec(),
                        at_end: true,
                    });
                }
            }
        }
        let mut pieces = self.pieces().await?;
        let mut skip = offset;
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let from = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= from as u64;
            bytes.extend_from_slice(&piece[from..]);
            if bytes.len() >= most {
                return Ok(Fetched { bytes, at_end: false });
            }
        }
        Ok(Fetched { bytes, at_end: true })
    }

    async fn last_lines(&self, lines: u64) -> Result<Bytes> {
        self.head
            .client
            .log_file(&self.node, &self.name(), Some(lines))
            .body()
            .await
    }

    /// How many bytes the file has.
    pub(super) async fn size(&self) -> Result<u64> {
        let mut pieces = self.pieces().await?;
        let mut size = 0;
        while let Some(piece) = pieces.next().await {
            size += piece?.len() as u64;
        }
        Ok(size)
    }

    fn explain(&self, error: Error) -> Error {
        let node_is_gone = || {
            let nodes = self.head.known_nodes();
            nodes.is_some_and(|nodes| {
                !nodes
                    .iter()
                    .any(|node| node.node_id == self.node && node.is_alive())
            })
        };
        if error.kind() == ErrorKind::NotFound || node_is_gone() {
            return Error::new(
                ErrorKind::NotFound,
                format!(
                    "the log of {} is gone: Ray keeps it on its node {}, which does not have it",
                    self.id, self.node
                ),
            )
            .with_source(error);
        }
        error
    }
}

/// Where the logs of objects were collected to.
#[derive(Default)]
pub(super) struct Sources {
    known: HashMap<Guid, Known>,
}

/// Where one object's log was collected to.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub place: Place,
    pub anchor: Anchor,
    /// The attempt has ended and all of its log was read.
    pub done: bool,
}

impl Sources {
    /// What is known of this place.
    pub(super) fn at(&self, guid: Guid, place: Place) -> Option<&Known> {
        self.known.get(&guid).filter(|known| known.place == place)
    }

    pub(super) fn set(&mut self, guid: Guid, known: Known) {
        self.known.insert(guid, known);
    }

    pub(super) fn forget(&mut self, guid: Guid) {
        self.known.remove(&guid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_once_tells_what_is_new() {
        let numbered = |range: std::ops::Range<u32>| -> Vec<u8> {
            range.flat_map(|n| format!("line {n}\n").into_bytes()).collect()
        };
        let mut anchor = Anchor::default();
        anchor.push(&numbered(0..100));
        assert_eq!(anchor.after(&numbered(0..200)), None, "too little is known");
        anchor.push(&numbered(100..5_000));
        let last = numbered(1_000..5_010);
        assert_eq!(anchor.after(&last), Some(&numbered(5_000..5_010)[..]));
        assert_eq!(
            anchor.after(&numbered(4_999..5_010)),
            None,
            "more was written than the last lines show"
        );
    }

    #[test]
    fn what_repeats_tells_nothing() {
        let mut anchor = Anchor::default();
        let ticks = b"tick\n".repeat(5_000);
        anchor.push(&ticks);
        assert_eq!(anchor.after(&ticks), None);
    }
}
