//! Logs of an application: the files that Serve writes for its replicas, one for each, on the nodes that these are on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Error, ErrorKind, Guid, LogRecord, LogStream, Loss, Signal, TelemetryBatch, Timestamp,
};
use agent_api_driver::{CollectRequest, LogChunk, LogReadRequest, LogStreamOut, Result, Target};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};

use super::ServeKind;
use super::file::{self, Anchor};
use super::handle::ServeHandle;
use super::render::mark_of;
use crate::head::Head;
use crate::sdk::{Application, ApplicationStatus};
use crate::shared::Shared;

/// Serve's logs are its own words about the replicas' work, and what the code logs by Serve's logger.
const STREAM: LogStream = LogStream::Stdout;
/// At most so many bytes of one file in one chunk.
const CHUNK: usize = 256 << 10;
/// How often a reader that follows looks for new lines.
const PAUSE: Duration = Duration::from_secs(1);
/// How many looks at the files are made before it is asked again which replicas there are.
const LOOKS: u32 = 5;
/// At most so many files of one application.
const MAX_FILES: usize = 256;

/// Where reading goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cursor {
    guid: Guid,
    /// By file: the node it is on, and the offset after what was read.
    files: BTreeMap<String, (String, u64)>,
}

/// The file of one replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ReplicaFile {
    name: String,
    node: String,
    deployment: String,
    replica: String,
}

impl Cursor {
    fn new(guid: Guid) -> Self {
        Self {
            guid,
            files: BTreeMap::new(),
        }
    }

    fn parse(text: &str, guid: Guid) -> Result<Self> {
        let wrong = || Error::invalid("cursor", "this is not a place in the logs of this object");
        let cursor: Self = serde_json::from_str(text).map_err(|_| wrong())?;
        if cursor.guid == guid {
            Ok(cursor)
        } else {
            Err(wrong())
        }
    }

    fn write(&self) -> String {
        serde_json::to_string(self).expect("keys are texts")
    }

    /// What is to be read: the files of the replicas there are, and of those that were there when it was read last.
    fn with_past(&self, now: &[ReplicaFile]) -> Vec<ReplicaFile> {
        let mut all: BTreeMap<String, ReplicaFile> = self
            .files
            .iter()
            .map(|(name, (node, _))| {
                let file = ReplicaFile {
                    name: name.clone(),
                    node: node.clone(),
                    deployment: String::new(),
                    replica: String::new(),
                };
                (name.clone(), file)
            })
            .collect();
        all.extend(now.iter().map(|file| (file.name.clone(), file.clone())));
        all.into_values().take(MAX_FILES).collect()
    }
}

fn files_of(app: &Application) -> Vec<ReplicaFile> {
    let mut files: Vec<ReplicaFile> = app
        .deployments
        .iter()
        .flat_map(|(deployment, d)| d.replicas.iter().map(move |replica| (deployment, replica)))
        .filter_map(|(deployment, replica)| {
            let name = replica
                .log_file_path
                .as_deref()?
                .trim_start_matches('/')
                .to_owned();
            Some(ReplicaFile {
                name,
                node: replica.node_id.clone()?,
                deployment: deployment.clone(),
                replica: replica.replica_id.clone(),
            })
        })
        .collect();
    files.sort();
    files.truncate(MAX_FILES);
    files
}

/// Reads one application's logs.
struct Reader {
    shared: Arc<Shared>,
    head: Arc<Head>,
    handle: ServeHandle,
    cursor: Cursor,
    anchors: BTreeMap<String, Anchor>,
    files: Vec<ReplicaFile>,
    /// Lines that were cut already, with the cursor after them.
    ready: Vec<(Vec<Bytes>, String)>,
    /// Files of the present look that are still to be read.
    todo: Vec<ReplicaFile>,
    looks: u32,
    follow: bool,
    done: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl ServeKind {
    /// The files of an application that is ours; none where it is not there.
    async fn files(shared: &Shared, head: &Head, handle: &ServeHandle) -> Result<Option<Vec<ReplicaFile>>> {
        let instance = head.client.serve(head.config.list_timeout).await?;
        Ok(instance
            .applications
            .get(&handle.application)
            .filter(|app| app.status != ApplicationStatus::Deleting)
            .filter(|app| {
                let mark = app.deployed_app_config.as_ref().and_then(mark_of);
                mark.is_some_and(|mark| mark.agent == shared.agent && mark.guid == handle.guid)
            })
            .map(files_of))
    }

    pub(super) async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        let handle = ServeHandle::read(target.handle)?;
        let head = Arc::clone(self.head_of(&handle)?);
        let given = request
            .cursor
            .as_deref()
            .map(|text| Cursor::parse(text, target.guid))
            .transpose()?;
        if handle.guid != target.guid {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the application is another object's",
            ));
        }
        if !request.streams.is_empty() && !request.streams.contains(&STREAM) {
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        let place = if request.follow {
            let busy = || {
                Error::new(
                    ErrorKind::Busy,
                    format!(
                        "so many readers follow logs of {} already as `followers` allows",
                        head.name
                    ),
                )
            };
            Some(
                Arc::clone(&head.followers)
                    .try_acquire_owned()
                    .map_err(|_| busy())?,
            )
        } else {
            None
        };
        let files = Self::files(&self.shared, &head, &handle).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "the application is not there any more, and its logs with it",
            )
        })?;
        let mut reader = Reader {
            shared: Arc::clone(&self.shared),
            head,
            handle,
            cursor: given.clone().unwrap_or_else(|| Cursor::new(target.guid)),
            anchors: BTreeMap::new(),
            files: files.clone(),
            ready: Vec::new(),
            todo: Vec::new(),
            looks: 0,
            follow: request.follow,
            done: false,
            _place: place,
        };
        if let (None, Some(lines)) = (&given, request.tail) {
            reader.begin_with_tail(&files, lines).await?;
        }
        reader.todo = reader.cursor.with_past(&files);
        Ok(Box::pin(futures_util::stream::unfold(
            reader,
            |mut reader| async move {
                let item = reader.next().await?;
                Some((item, reader))
            },
        )))
    }

    pub(super) async fn collect_logs(
        &self,
        request: &CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) {
        let deadline = Instant::now() + request.deadline;
        let mut left = request.max_log_bytes;
        let count = request.targets.len();
        for (i, target) in request.targets.iter().enumerate() {
            let share = left / (count - i).max(1);
            let Ok(handle) = ServeHandle::read(target.handle) else {
                continue;
            };
            let Ok(head) = self.head_of(&handle) else { continue };
            let known = target
                .log_cursor
                .and_then(|text| Cursor::parse(text, target.guid).ok());
            let mut lose = |reason: String| {
                out.losses.push(Loss {
                    guid: Some(target.guid),
                    signal: Signal::Logs,
                    count: 1,
                    reason,
                });
            };
            let collected = timeout_at(
                deadline,
                self.collect_one(head, &handle, known, target.from_start, share),
            )
            .await;
            match collected {
                Ok(Ok(Some((cursor, records, problems)))) => {
                    problems.into_iter().for_each(&mut lose);
                    left = left.saturating_sub(records.iter().map(|record| record.body.len()).sum());
                    out.logs.extend(records);
                    cursors.push((target.guid, cursor.write()));
                }
                Ok(Ok(None)) => {}
                // Nothing is lost: it is there the next time.
                Ok(Err(error)) => {
                    tracing::debug!(guid = %target.guid, %error, "the logs of an application were not read")
                }
                Err(_) => return,
            }
        }
    }

    /// New lines of all replicas of one application, within a share of bytes.
    async fn collect_one(
        &self,
        head: &Head,
        handle: &ServeHandle,
        known: Option<Cursor>,
        from_start: bool,
        share: usize,
    ) -> Result<Option<(Cursor, Vec<LogRecord>, Vec<String>)>> {
        let Some(now) = Self::files(&self.shared, head, handle).await? else {
            return Ok(None);
        };
        let at_end = known.is_none() && !from_start;
        let mut cursor = known.unwrap_or_else(|| Cursor::new(handle.guid));
        let alive: BTreeSet<&str> = now.iter().map(|file| file.name.as_str()).collect();
        let (mut records, mut problems) = (Vec::new(), Vec::new());
        let mut left = share;
        for file in cursor.with_past(&now) {
            let mut anchor = self
                .anchors
                .lock()
                .remove(&(handle.guid, file.name.clone()))
                .unwrap_or_default();
            let offset = cursor.files.get(&file.name).map_or(0, |(_, offset)| *offset);
            let gone = !alive.contains(file.name.as_str());
            let read = if at_end {
                file::end(head, &file.node, &file.name, &mut anchor)
                    .await
                    .map(|next| file::Read {
                        next,
                        ..file::Read::default()
                    })
            } else if left == 0 {
                Ok(file::Read {
                    next: offset,
                    more: true,
                    ..file::Read::default()
                })
            } else {
                file::after(head, &file.node, &file.name, offset, &mut anchor, left, gone).await
            };
            let read = match read {
                Ok(read) => read,
                // The node is gone, and the file with it.
                Err(error) if gone => {
                    problems.push(format!("the log of a replica that ended cannot be read: {error}"));
                    cursor.files.remove(&file.name);
                    continue;
                }
                // It has not written anything yet.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let at = Timestamp::now();
            for line in read.lines {
                left = left.saturating_sub(line.len());
                let attributes = [
                    ("ray.serve.deployment", &file.deployment),
                    ("ray.serve.replica", &file.replica),
                ];
                records.push(LogRecord {
                    guid: handle.guid,
                    at,
                    stream: STREAM,
                    body: line,
                    attributes: attributes
                        .into_iter()
                        .filter(|(_, value)| !value.is_empty())
                        .map(|(key, value)| (key.into(), value.clone().into()))
                        .collect(),
                });
            }
            if gone && !read.more {
                cursor.files.remove(&file.name);
            } else {
                cursor
                    .files
                    .insert(file.name.clone(), (file.node.clone(), read.next));
                self.anchors.lock().insert((handle.guid, file.name), anchor);
            }
        }
        Ok(Some((cursor, records, problems)))
    }
}

impl Reader {
    /// The last lines over all replicas, in the order of their times; reading goes on after them.
    async fn begin_with_tail(&mut self, files: &[ReplicaFile], lines: u64) -> Result<()> {
        let mut all = Vec::new();
        for file in files {
            let anchor = self.anchors.entry(file.name.clone()).or_default();
            // Its end first: lines that are written in between come twice rather than never.
            let end = match file::end(&self.head, &file.node, &file.name, anchor).await {
                Ok(end) => end,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if lines > 0 {
                all.push(file::tail(&self.head, &file.node, &file.name, lines).await?);
            }
            self.cursor
                .files
                .insert(file.name.clone(), (file.node.clone(), end));
        }
        let last = last_by_time(all, usize::try_from(lines).unwrap_or(usize::MAX));
        if !last.is_empty() {
            self.ready.push((last, self.cursor.write()));
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<LogChunk>> {
        loop {
            if let Some((lines, cursor)) = self.ready.pop() {
                return Some(Ok(LogChunk {
                    stream: STREAM,
                    lines,
                    cursor,
                    lost_bytes: 0,
                }));
            }
            if self.done {
                return None;
            }
            if let Some(file) = self.todo.pop() {
                if let Err(error) = self.read_file(file).await {
                    self.done = true;
                    return Some(Err(error));
                }
                continue;
            }
            if !self.follow {
                return None;
            }
            tokio::select! {
                () = self.shared.closing.cancelled() => return None,
                () = sleep(PAUSE) => {}
            }
            self.looks += 1;
            if self.looks.is_multiple_of(LOOKS) {
                match ServeKind::files(&self.shared, &self.head, &self.handle).await {
                    Ok(Some(files)) => self.files = files,
                    // It was deleted: what its replicas wrote last is read, and that is all.
                    Ok(None) => {
                        self.files.clear();
                        self.follow = false;
                    }
                    // It hangs or is away: it is asked again.
                    Err(error) if error.is_retryable() => {}
                    Err(error) => {
                        self.done = true;
                        return Some(Err(error));
                    }
                }
            }
            self.todo = self.cursor.with_past(&self.files);
        }
    }

    async fn read_file(&mut self, file: ReplicaFile) -> Result<()> {
        let offset = self.cursor.files.get(&file.name).map_or(0, |(_, offset)| *offset);
        let anchor = self.anchors.entry(file.name.clone()).or_default();
        let gone = !self.files.iter().any(|now| now.name == file.name);
        let last = gone || !self.follow;
        let read = file::after(&self.head, &file.node, &file.name, offset, anchor, CHUNK, last).await;
        let read = match read {
            Ok(read) => read,
            Err(error) if gone || error.kind() == ErrorKind::NotFound => {
                if gone {
                    self.cursor.files.remove(&file.name);
                }
                return Ok(());
            }
            Err(error) if self.follow && error.is_retryable() => return Ok(()),
            Err(error) => return Err(error),
        };
        if gone && !read.more {
            self.cursor.files.remove(&file.name);
            self.anchors.remove(&file.name);
        } else {
            self.cursor
                .files
                .insert(file.name.clone(), (file.node.clone(), read.next));
        }
        if read.more {
            self.todo.push(file);
        }
        if !read.lines.is_empty() {
            self.ready.push((read.lines, self.cursor.write()));
        }
        Ok(())
    }
}

/// The last lines of several files, in the order of the times that Serve writes into them. A line without one belongs to the one before.
fn last_by_time(files: Vec<Vec<Bytes>>, count: usize) -> Vec<Bytes> {
    let mut all: Vec<(String, usize, usize, Bytes)> = Vec::new();
    for (f, lines) in files.into_iter().enumerate() {
        let mut time = String::new();
        for (n, line) in lines.into_iter().enumerate() {
            if let Some(found) = time_of(&line) {
                time = found;
            }
            all.push((time.clone(), f, n, line));
        }
    }
    all.sort_by(|a, b| (&a.0, a.1, a.2).cmp(&(&b.0, b.1, b.2)));
    let skip = all.len().saturating_sub(count);
    all.into_iter().skip(skip).map(|(_, _, _, line)| line).collect()
}

/// `INFO 2026-11-22 21:36:23,591 web_Tiny 8eub6dlq -- …`: date and time.
fn time_of(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line.get(..line.len().min(48))?).ok()?;
    let mut words = text.split(' ').skip(1);
    let (date, time) = (words.next()?, words.next()?);
    let is_date = date.len() == 10 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let is_time = time.len() >= 8 && time.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b',');
    (is_date && is_time).then(|| format!("{date} {time}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::tests::app;

    #[test]
    fn cursors_are_of_one_object() {
        let guid = Guid::generate();
        let mut cursor = Cursor::new(guid);
        cursor
            .files
            .insert("serve/replica_web_D_r1.log".into(), ("n1".into(), 12));
        assert_eq!(Cursor::parse(&cursor.write(), guid).unwrap(), cursor);
        for (text, guid) in [
            (cursor.write(), Guid::generate()),
            ("x".into(), guid),
            ("{}".into(), guid),
        ] {
            assert_eq!(Cursor::parse(&text, guid).unwrap_err().path(), Some("cursor"));
        }
    }

    #[test]
    fn replicas_that_ended_are_read_to_their_end() {
        let mut web = app("RUNNING", &[("D", 2, vec!["RUNNING", "STARTING"])]);
        let replicas = &mut web.deployments.get_mut("D").unwrap().replicas;
        replicas[0].log_file_path = Some("/serve/replica_web_D_r0.log".into());
        replicas[0].node_id = Some("n1".into());
        let files = files_of(&web);
        assert_eq!(files.len(), 1, "one that has no file yet is left out");
        assert_eq!(
            (files[0].name.as_str(), files[0].replica.as_str()),
            ("serve/replica_web_D_r0.log", "r0")
        );
        let mut cursor = Cursor::new(Guid::generate());
        cursor.files.insert("serve/old.log".into(), ("n2".into(), 7));
        cursor.files.insert(files[0].name.clone(), ("n1".into(), 3));
        let names: Vec<_> = cursor
            .with_past(&files)
            .into_iter()
            .map(|f| (f.name, f.node))
            .collect();
        assert_eq!(
            names,
            [
                ("serve/old.log".to_owned(), "n2".to_owned()),
                ("serve/replica_web_D_r0.log".to_owned(), "n1".to_owned())
            ]
        );
    }

    #[test]
    fn the_last_lines_are_in_the_order_of_their_times() {
        let lines = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| Bytes::copy_from_slice(t.as_bytes()))
                .collect::<Vec<_>>()
        };
        let a = lines(&[
            "INFO 2026-11-22 21:36:01,000 a",
            "  traceback of a",
            "INFO 2026-11-22 21:36:09,000 a",
        ]);
        let b = lines(&["INFO 2026-11-22 21:36:05,000 b"]);
        let all = last_by_time(vec![a.clone(), b.clone()], 10);
        assert_eq!(all, [a[0].clone(), a[1].clone(), b[0].clone(), a[2].clone()]);
        assert_eq!(
            last_by_time(vec![a.clone(), b.clone()], 2),
            [b[0].clone(), a[2].clone()]
        );
        assert!(last_by_time(vec![a, b], 0).is_empty());
    }
}
