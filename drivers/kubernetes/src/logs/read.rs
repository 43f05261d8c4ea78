//! Reading the logs of an object for people: all pods and containers as one stream.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, LogStream, Result};
use agent_api_driver::{LogChunk, LogReadRequest, LogStreamOut, Target};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::{Instant, sleep, sleep_until};

use super::cursor::{Cursor, Key};
use super::kubelet::{Source, sources};
use super::last::last;
use super::reach::{Reach, line};
use super::tail::{Batch, Mode, Tail};
use crate::handle::HandleData;
use crate::kinds::KubeKind;
use crate::pods;
use crate::shared::Shared;

/// How much is read of a container at once.
const PIECE: usize = 256 * 1024;
/// How often new pods and Kubernetes Events are looked for, in what the watches have seen.
const LOOK: Duration = Duration::from_millis(200);
/// How often a container is read that finds no room among the followers.
const POLL: Duration = Duration::from_secs(2);
/// At most so many containers of one object are read: cursors are of that size.
pub(crate) const MOST: usize = 256;

type Running = BoxFuture<'static, (Tail, Result<Option<Batch>>)>;

struct Reader {
    reach: Arc<Reach>,
    data: HandleData,
    cursor: Cursor,
    follow: bool,
    lines: bool,
    system: bool,
    running: FuturesUnordered<Running>,
    /// Containers that are read, or were.
    known: BTreeSet<Key>,
    /// The container of the last lines given, where there are several.
    last: Option<String>,
    ready: VecDeque<LogChunk>,
    look: Instant,
    over: bool,
}

/// See [`agent_api_driver::Logs::read`].
pub(crate) async fn read(
    shared: &Arc<Shared>,
    target: Target<'_>,
    request: LogReadRequest,
) -> Result<LogStreamOut> {
    shared.open("logs")?;
    let guid = target.guid;
    let data = HandleData::read(target.handle)?;
    if data.kind == KubeKind::Cluster {
        let message = "a cluster has no logs of its own; its pods do";
        return Err(Error::new(ErrorKind::Unsupported, message).with_object(guid));
    }
    let cursor = request
        .cursor
        .as_deref()
        .map(|text| Cursor::parse(text, guid))
        .transpose()?;
    let wants = |stream: LogStream| request.streams.is_empty() || request.streams.contains(&stream);
    let reach = Arc::new(Reach {
        shared: Arc::clone(shared),
        cluster: Arc::clone(shared.cluster_of(&data)?),
        guid,
    });
    let tail = request.tail.filter(|_| cursor.is_none());
    let mut reader = Reader {
        reach,
        data,
        cursor: cursor.unwrap_or_else(|| Cursor::new(guid)),
        follow: request.follow,
        // Kubernetes gives both as one; which is which it does not tell.
        lines: wants(LogStream::Stdout),
        system: wants(LogStream::System),
        running: FuturesUnordered::new(),
        known: BTreeSet::new(),
        last: None,
        ready: VecDeque::new(),
        look: Instant::now(),
        over: false,
    };
    if let Some(count) = tail {
        reader.begin_at_tail(count).await?;
    }
    reader.look().await?;
    Ok(Box::pin(stream::unfold(reader, |mut reader| async move {
        let item = reader.next().await?;
        Some((item, reader))
    })))
}

/// The containers of an object with their pods.
pub(crate) async fn containers(
    shared: &Arc<Shared>,
    guid: agent_api_driver::model::Guid,
    data: &HandleData,
) -> Result<Vec<(Source, Arc<Pod>)>> {
    let pods = pods::of(shared, guid, data).await?;
    let all = pods.into_iter().flat_map(|pod| {
        let sources = sources(&pod);
        sources.into_iter().map(move |source| (source, Arc::clone(&pod)))
    });
    Ok(all.take(MOST).collect())
}

impl Reader {
    async fn begin_at_tail(&mut self, count: u64) -> Result<()> {
        let guid = self.reach.guid;
        self.cursor.events = Some(self.reach.shared.watches.events_since(guid, 0).cursor);
        if !self.lines {
            return Ok(());
        }
        let sources = containers(&self.reach.shared, guid, &self.data).await?;
        let names: Vec<(Key, String)> = sources
            .iter()
            .map(|(source, _)| (source.key.clone(), name(source)))
            .collect();
        let found = last(&*self.reach, sources, count).await?;
        self.cursor.places.extend(found.before);
        for line in found.lines {
            let source = names
                .iter()
                .find(|(key, _)| *key == line.key)
                .map(|(_, name)| name.clone());
            self.cursor.places.insert(line.key, line.place);
            self.name(source.unwrap_or_default(), names.len() > 1);
            self.push(LogStream::Stdout, vec![line.text], 0);
        }
        Ok(())
    }

    /// New pods, pods that went, and Kubernetes Events.
    async fn look(&mut self) -> Result<()> {
        self.look = Instant::now() + LOOK;
        let guid = self.reach.guid;
        if self.system {
            let since = self
                .reach
                .shared
                .watches
                .events_since(guid, self.cursor.events.unwrap_or(0));
            self.cursor.events = Some(since.cursor);
            let lines: Vec<Bytes> = since
                .events
                .iter()
                .map(|event| Bytes::from(line(event)))
                .collect();
            if !lines.is_empty() {
                self.push(LogStream::System, lines, u64::from(since.lost));
            }
        }
        if !self.lines {
            return Ok(());
        }
        let sources = containers(&self.reach.shared, guid, &self.data).await?;
        self.cursor
            .keep(|key| sources.iter().any(|(source, _)| source.key == *key));
        for (source, pod) in sources {
            if self.known.insert(source.key.clone()) {
                let mut tail = Tail::new(source.clone(), self.cursor.places.get(&source.key).cloned());
                tail.know(pod);
                self.running.push(self.run(tail));
            }
        }
        Ok(())
    }

    fn run(&self, mut tail: Tail) -> Running {
        let reach = Arc::clone(&self.reach);
        let follow = self.follow;
        async move {
            if !follow {
                let read = tail.next(&*reach, Mode::Once, PIECE).await;
                return (tail, read);
            }
            let slots = Arc::clone(&reach.shared.collecting.followers);
            // A log that is open keeps its place only while it is read.
            loop {
                match Arc::clone(&slots).try_acquire_owned() {
                    Ok(_slot) => {
                        let read = tail.next(&*reach, Mode::Follow, PIECE).await;
                        return (tail, read);
                    }
                    Err(_) => match tail.next(&*reach, Mode::Once, PIECE).await {
                        Ok(None) => sleep(POLL).await,
                        read => return (tail, read),
                    },
                }
            }
        }
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<LogChunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if self.over || (!self.follow && self.running.is_empty()) {
                return None;
            }
            let closing = &self.reach.shared.closing;
            tokio::select! {
                () = closing.cancelled() => return None,
                Some((tail, read)) = self.running.next(), if !self.running.is_empty() => match read {
                    Ok(Some(batch)) => self.take(tail, batch),
                    // The end of it: with `follow` its pod is gone.
                    Ok(None) => {}
                    Err(error) => {
                        self.over = true;
                        return Some(Err(error.with_object(self.reach.guid)));
                    }
                },
                () = sleep_until(self.look), if self.follow => {
                    if !self.reach.shared.watches.tracks(self.reach.guid) {
                        return None;
                    }
                    if let Err(error) = self.look().await
                        && !error.is_retryable()
                    {
                        self.over = true;
                        return Some(Err(error.with_object(self.reach.guid)));
                    }
                }
            }
        }
    }

    fn take(&mut self, tail: Tail, batch: Batch) {
        self.cursor.places.insert(tail.source.key.clone(), batch.place);
        if !batch.lines.is_empty() {
            self.name(name(&tail.source), self.known.len() > 1);
        }
        let lines: Vec<Bytes> = batch.lines.into_iter().map(|(_, line, _)| line).collect();
        self.push(LogStream::Stdout, lines, batch.lost);
        self.running.push(self.run(tail));
    }

    /// Says whose lines follow, where there are several.
    fn name(&mut self, source: String, several: bool) {
        if self.last.as_ref() == Some(&source) {
            return;
        }
        if several && self.system {
            self.push(LogStream::System, vec![Bytes::from(source.clone())], 0);
        }
        self.last = Some(source);
    }

    fn push(&mut self, stream: LogStream, lines: Vec<Bytes>, lost_bytes: u64) {
        self.ready.push_back(LogChunk {
            stream,
            lines,
            cursor: self.cursor.to_string(),
            lost_bytes,
        });
    }
}

/// `pod web-1, container main`.
fn name(source: &Source) -> String {
    format!("pod {}, container {}", source.pod, source.key.container)
}
