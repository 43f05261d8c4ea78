//! The last lines over all containers of an object, and where to go on after them.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_driver::model::Result;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;

use super::cursor::{Key, Place};
use super::kubelet::{Kubelet, Runs, Source, Wanted};
use super::position::{Position, Tracker};

/// So many containers at one time.
const AT_ONCE: usize = 16;

/// One of the last lines.
pub(crate) struct LastLine {
    pub at: i64,
    pub key: Key,
    pub text: Bytes,
    /// Where to go on after it in its container.
    pub place: Place,
}

/// The last lines of all, in the order of their times, and where each container is before them.
#[derive(Default)]
pub(crate) struct Last {
    pub before: BTreeMap<Key, Place>,
    pub lines: Vec<LastLine>,
}

/// Reads the last `count` lines of the present runs. With 0 it only finds their ends.
pub(crate) async fn last(
    kubelet: &dyn Kubelet,
    sources: Vec<(Source, Arc<Pod>)>,
    count: u64,
) -> Result<Last> {
    let ends: Vec<Result<_>> = stream::iter(sources)
        .map(|(source, pod)| async move { of_one(kubelet, source, &pod, count).await })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut found = Last::default();
    for end in ends {
        let Some((key, start, lines)) = end? else { continue };
        found.before.insert(key, start);
        found.lines.extend(lines);
    }
    found.lines.sort_by_key(|line| line.at);
    let surplus = found
        .lines
        .len()
        .saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
    for line in found.lines.drain(..surplus) {
        found.before.insert(line.key, line.place);
    }
    Ok(found)
}

type End = (Key, Place, Vec<LastLine>);

async fn of_one(kubelet: &dyn Kubelet, source: Source, pod: &Pod, count: u64) -> Result<Option<End>> {
    let runs = Runs::of(pod, &source.key.container);
    let Some(current) = runs.current else {
        return Ok(None);
    };
    let asked = count.max(1);
    let wanted = Wanted {
        tail: Some(asked),
        ..Wanted::default()
    };
    let place = |position, done| Place {
        instance: current.clone(),
        restarts: runs.restarts,
        position,
        done,
    };
    let Some(mut lines) = kubelet.log(&source, wanted).await? else {
        return Ok(Some((source.key, place(Position::default(), false), Vec::new())));
    };
    let mut tracker = Tracker::new(Position::default());
    let mut read = Vec::new();
    while let Ok(Some(line)) = lines.next().await {
        tracker.see(&line);
        if let Some(at) = line.at {
            read.push((at, line.text.clone(), tracker.here(&line)));
        }
    }
    // Fewer than were asked for are all: then their numbers are right. Else only times are known.
    let all = (read.len() as u64) < asked;
    let exact = |position: Position, at: i64| match all {
        true => position,
        false => Position::after(position.latest.max(at)),
    };
    let start = match (all, read.first()) {
        (false, Some((at, ..))) => Position::after(at - 1),
        _ => Position::default(),
    };
    let lines = read
        .into_iter()
        .map(|(at, text, position)| LastLine {
            at,
            key: source.key.clone(),
            text,
            place: place(exact(position, at), false),
        })
        .collect();
    Ok(Some((source.key, place(start, false), lines)))
}
