//! Reading the log of one container from a place on: over its restarts, over connections that end, and over rotation.
//!
//! The kubelet keeps the log of the present run and of the one before. Which run a request reads is known for sure
//! only when the pod's status names the same runs before and after the request was answered; the status that the
//! caller has is the one before, and each opened log costs one more request for the one after.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::Result;
use bytes::Bytes;
use futures_util::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::sleep;

use super::cursor::Place;
use super::kubelet::{Kubelet, Runs, Source, Wanted};
use super::line::Lines;
use super::position::{Position, Tracker, Verdict};

/// The first and the longest wait before a log that ended by itself is opened again.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MOST: Duration = Duration::from_secs(10);
/// How long to wait for a container that does not run.
const NOT_YET: Duration = Duration::from_millis(500);
/// A line that is longer comes in pieces.
const PIECE: usize = 64 * 1024;
/// Kubernetes does not tell how much was rotated away: this stands for "some".
pub(super) const SOME: u64 = 1;

/// How long to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To the present end.
    Once,
    /// As long as the pod exists.
    Follow,
}

/// Some lines of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// With their times in nanoseconds, and the position after each.
    pub lines: Vec<(i64, Bytes, Position)>,
    /// Where to go on after them.
    pub place: Place,
    /// What could not be read before them.
    pub lost: u64,
}

impl Batch {
    pub(crate) fn bytes(&self) -> usize {
        self.lines.iter().map(|(_, line, _)| line.len()).sum()
    }
}

/// Reads one container. Cancelling a call by drop loses nothing.
pub(crate) struct Tail {
    pub source: Source,
    place: Option<Place>,
    pod: Option<Arc<Pod>>,
    open: Option<Open>,
    failures: u32,
    /// In [`Mode::Once`]: the present end was reached.
    at_end: bool,
    /// The log of the run at the place was followed to an end that was no cut: the run's own, as a rule.
    followed: bool,
}

struct Open {
    lines: Lines,
    tracker: Tracker,
    instance: String,
    restarts: u32,
    follow: bool,
    /// The run has ended: what is in its log is all of it.
    whole: bool,
    /// The kubelet said something itself, for example that the log is not there.
    odd: bool,
    /// Nothing of this container was read before.
    begins: bool,
    /// An end or an error that comes after lines that were given first.
    then: Option<io::Result<()>>,
}

/// What to read next.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    instance: String,
    restarts: u32,
    previous: bool,
    position: Position,
    lost: bool,
}

/// From a place on: the rest of that run, then those after it, as far as they are kept. `followed` says that the run at
/// the place was very likely read to its end.
fn next(place: Option<&Place>, runs: &Runs, followed: bool) -> Option<Next> {
    let current = runs.current.as_ref()?;
    let whole = |instance: &str, restarts: u32, previous: bool, lost: bool| {
        Some(Next {
            instance: instance.to_owned(),
            restarts,
            previous,
            position: Position::default(),
            lost,
        })
    };
    let previous = runs
        .previous
        .as_ref()
        .map(|name| (name, runs.restarts.saturating_sub(1)));
    let Some(place) = place else {
        return match previous {
            Some((name, restarts)) => whole(name, restarts, true, false),
            None => whole(current, runs.restarts, false, false),
        };
    };
    let on = |previous| {
        Some(Next {
            instance: place.instance.clone(),
            restarts: place.restarts,
            previous,
            position: place.position,
            lost: false,
        })
    };
    if place.instance == *current {
        return if place.done { None } else { on(false) };
    }
    let read = place.done || followed;
    match previous {
        Some((name, _)) if *name == place.instance && !place.done => on(true),
        Some((name, _)) if *name == place.instance => whole(current, runs.restarts, false, false),
        // Neither: what the run at the place still wrote, and the runs between, are gone.
        Some((name, restarts)) => whole(
            name,
            restarts,
            true,
            !read || restarts > place.restarts.saturating_add(1),
        ),
        None => {
            let lost = !read || runs.restarts > place.restarts.saturating_add(1);
            whole(current, runs.restarts, false, lost)
        }
    }
}

impl Tail {
    pub(crate) fn new(source: Source, place: Option<Place>) -> Self {
        Self {
            source,
            place,
            pod: None,
            open: None,
            failures: 0,
            at_end: false,
            followed: false,
        }
    }

    /// Where it is; none at the very beginning.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Takes a newer status of the pod.
    pub(crate) fn know(&mut self, pod: Arc<Pod>) {
        self.pod = Some(pod);
    }

    /// Opens the log to follow it, where there is one. What is known to be lost before it comes with the next lines.
    pub(crate) async fn prepare(&mut self, kubelet: &dyn Kubelet) -> Result<Option<Batch>> {
        match self.open.is_none() {
            true => match self.open(kubelet, Mode::Follow).await? {
                Opened::Yes(lost) => Ok(lost),
                Opened::Nothing | Opened::Gone => Ok(None),
            },
            false => Ok(None),
        }
    }

    /// Whether a log is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The next lines, at most about `most` bytes; waits for them with [`Mode::Follow`]. None at the end: of what is
    /// there now, or of the pod.
    pub(crate) async fn next(
        &mut self,
        kubelet: &dyn Kubelet,
        mode: Mode,
        most: usize,
    ) -> Result<Option<Batch>> {
        if mode == Mode::Once && std::mem::take(&mut self.at_end) {
            return Ok(None);
        }
        loop {
            if self.open.is_none() {
                match self.open(kubelet, mode).await {
                    Ok(Opened::Yes(None)) => {}
                    Ok(Opened::Yes(Some(lost))) => return Ok(Some(lost)),
                    Ok(Opened::Nothing) if mode == Mode::Once => return Ok(None),
                    Ok(Opened::Nothing) => {
                        sleep(NOT_YET).await;
                        match kubelet.look(&self.source).await {
                            Ok(None) => return Ok(None),
                            Ok(pod) => self.pod = pod,
                            Err(error) => {
                                tracing::debug!(pod = self.source.pod, %error, "a pod cannot be read")
                            }
                        }
                    }
                    Ok(Opened::Gone) => return Ok(None),
                    Err(error) if mode == Mode::Follow && error.is_retryable() => self.pause().await,
                    Err(error) => return Err(error),
                }
                continue;
            }
            match self.read(mode, most).await {
                Ok(Some(batch)) => {
                    self.failures = 0;
                    return Ok(Some(batch));
                }
                Ok(None) => {
                    if let Some(lost) = self.ended(mode) {
                        return Ok(Some(lost));
                    }
                    if mode == Mode::Once && std::mem::take(&mut self.at_end) {
                        return Ok(None);
                    }
                    if mode == Mode::Follow {
                        self.pause().await;
                    }
                }
                Err(error) => {
                    tracing::debug!(pod = self.source.pod, %error, "a log was cut; going on from its place");
                    self.open = None;
                    self.pod = None;
                    self.pause().await;
                }
            }
        }
    }

    async fn pause(&mut self) {
        let wait = AGAIN.saturating_mul(1 << self.failures.min(7)).min(AGAIN_MOST);
        self.failures += 1;
        // Spread, so that all followers of a server that was restarted do not come at once.
        sleep(wait.mul_f64(0.5 + rand::random::<f64>())).await;
    }

    /// Reads what is ready; waits only for the first line.
    async fn read(&mut self, mode: Mode, most: usize) -> io::Result<Option<Batch>> {
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        if let Some(then) = open.then.take() {
            return then.map(|()| None);
        }
        let mut batch = Batch::default();
        let mut bytes = 0;
        while bytes < most.max(1) {
            let read = match batch.lines.is_empty() {
                true => open.lines.next().await,
                false => match open.lines.next().now_or_never() {
                    Some(read) => read,
                    None => break,
                },
            };
            let line = match read {
                Ok(Some(line)) => line,
                end if batch.lines.is_empty() => return end.map(|_| None),
                end => {
                    open.then = Some(end.map(drop));
                    break;
                }
            };
            open.odd |= line.at.is_none();
            // What is cut off where somebody still writes comes whole the next time.
            if !line.last && open.lines.at_end() && !open.whole && mode == Mode::Follow {
                continue;
            }
            let from = match open.tracker.see(&line) {
                Verdict::Skip => continue,
                Verdict::Take(from) => from,
                Verdict::TakeAfterLoss(from) => {
                    batch.lost += SOME;
                    from
                }
            };
            let at = line.at.unwrap_or_default();
            let position = open.tracker.here(&line);
            let mut text = line.text.slice(from..);
            bytes += text.len() + 1;
            let pieces = text.len().div_ceil(PIECE).max(1);
            for _ in 1..pieces {
                batch.lines.push((at, text.split_to(PIECE), position));
            }
            batch.lines.push((at, text, position));
        }
        let position = batch
            .lines
            .last()
            .map(|(.., position)| *position)
            .unwrap_or_default();
        batch.place = Place {
            instance: open.instance.clone(),
            restarts: open.restarts,
            position,
            done: false,
        };
        self.place = Some(batch.place.clone());
        Ok(Some(batch))
    }

    /// The open log has ended. Returns what is known to be lost with it.
    fn ended(&mut self, mode: Mode) -> Option<Batch> {
        let mut open = self.open.take()?;
        if open.follow {
            self.pod = None;
        }
        self.followed = open.follow;
        // One that followed may have been cut before it came to its place.
        let missed = !open.follow
            && (open.tracker.missed() || (open.odd && !open.begins && open.tracker.position(0).latest == 0));
        let place = Place {
            instance: open.instance,
            restarts: open.restarts,
            position: match &self.place {
                // With the part of a last line that was taken.
                Some(place) if !missed => place.position,
                _ => open.tracker.position(0),
            },
            done: open.whole,
        };
        self.at_end = mode == Mode::Once && !open.whole;
        self.place = Some(place.clone());
        missed.then_some(Batch {
            lines: Vec::new(),
            place,
            lost: SOME,
        })
    }

    async fn open(&mut self, kubelet: &dyn Kubelet, mode: Mode) -> Result<Opened> {
        loop {
            let pod = match self.pod.take() {
                Some(pod) => pod,
                None => match kubelet.pod(&self.source).await? {
                    Some(pod) => pod,
                    None => return Ok(Opened::Gone),
                },
            };
            let runs = Runs::of(&pod, &self.source.key.container);
            let Some(next) = next(self.place.as_ref(), &runs, self.followed) else {
                return Ok(Opened::Nothing);
            };
            // What is not kept any more when the reading begins is not lost: nobody was to read it.
            let begins = self.place.is_none();
            let follow = mode == Mode::Follow && runs.running && !next.previous;
            let wanted = Wanted {
                previous: next.previous,
                follow,
                since: next.position.since(),
                tail: None,
            };
            let Some(lines) = kubelet.log(&self.source, wanted).await? else {
                let Some(pod) = kubelet.pod(&self.source).await? else {
                    return Ok(Opened::Gone);
                };
                if Runs::of(&pod, &self.source.key.container) != runs {
                    self.pod = Some(pod);
                    continue;
                }
                if !next.previous {
                    return Ok(Opened::Nothing);
                }
                // The run before was taken away by the kubelet.
                let place = Place {
                    instance: next.instance,
                    restarts: next.restarts,
                    position: next.position,
                    done: true,
                };
                self.place = Some(place.clone());
                self.pod = Some(pod);
                return Ok(Opened::Yes((!begins).then_some(Batch {
                    lines: Vec::new(),
                    place,
                    lost: SOME,
                })));
            };
            let after = kubelet.pod(&self.source).await?;
            let same = after.as_ref().is_none_or(|pod| {
                let now = Runs::of(pod, &self.source.key.container);
                (&now.current, &now.previous) == (&runs.current, &runs.previous)
            });
            if !same {
                self.pod = after;
                continue;
            }
            let place = Place {
                instance: next.instance.clone(),
                restarts: next.restarts,
                position: next.position,
                done: false,
            };
            self.open = Some(Open {
                lines,
                tracker: Tracker::new(next.position),
                instance: next.instance,
                restarts: next.restarts,
                follow,
                whole: next.previous || !runs.running,
                odd: false,
                begins,
                then: None,
            });
            self.pod = after;
            self.followed = false;
            self.place = Some(place.clone());
            return Ok(Opened::Yes(next.lost.then_some(Batch {
                lines: Vec::new(),
                place,
                lost: SOME,
            })));
        }
    }
}

enum Opened {
    /// A log is open, or another try is worthwhile; with what is known to be lost.
    Yes(Option<Batch>),
    /// There is nothing to read now.
    Nothing,
    /// The pod is not there.
    Gone,
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
