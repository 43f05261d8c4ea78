//! One object of the agent: what it consists of, and what was said of it last.

use std::collections::VecDeque;
use std::sync::Arc;

use agent_api_driver::ObjectStatus;
use agent_api_driver::model::{ExitStatus, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::core::Selector;

use super::key::WatchKey;
use super::thing::{Place, parse_revision};
use crate::handle::HandleData;
use crate::status::fingerprint::Field;

/// So many Kubernetes Events are kept of an object.
const EVENTS_KEPT: usize = 32;

/// One object of the agent.
pub(crate) struct Record {
    pub data: HandleData,
    pub parts: Vec<Part>,
    /// What is watched for it.
    pub keys: Vec<WatchKey>,
    /// What was said last.
    pub last: Option<ObjectStatus>,
    pub revision: u64,
    /// It was said to have drifted: it is said when that is over.
    pub drifted: bool,
    /// So many operations of ours are changing it now.
    pub changing: usize,
    pub events: EventLog,
}

/// One thing of an object; in the order of the handle's objects.
pub(crate) struct Part {
    pub key: WatchKey,
    pub place: Place,
    /// The fields that we applied, as they were then.
    pub baseline: Option<Arc<[Field]>>,
    /// How it ended, should it be taken away after that.
    pub ended: Option<ExitStatus>,
    /// Its pods, where it is not ours and they bear no mark.
    pub selector: Option<Selector>,
}

impl Record {
    /// A record of what is tracked from now on, or of what a new handle is of.
    pub(crate) fn new(data: HandleData, single: bool, before: Option<Self>) -> Self {
        let mut before = before;
        let parts = data
            .objects
            .iter()
            .map(|reference| {
                let known = before.as_mut().and_then(|before| {
                    let at = before
                        .data
                        .objects
                        .iter()
                        .position(|old| old.same_place(reference) && old.uid == reference.uid)?;
                    let same = before.data.objects[at].fingerprint == reference.fingerprint;
                    let part = &mut before.parts[at];
                    Some((
                        part.baseline.take().filter(|_| same),
                        part.ended.take(),
                        part.selector.take(),
                    ))
                });
                let (baseline, ended, selector) = known.unwrap_or_default();
                Part {
                    key: WatchKey::of_reference(reference, data.owned, single),
                    place: Place::of_reference(reference),
                    baseline,
                    ended,
                    selector,
                }
            })
            .collect();
        let keys = WatchKey::all_of(&data, single);
        match before {
            Some(before) => Self {
                data,
                parts,
                keys,
                ..before
            },
            None => Self {
                data,
                parts,
                keys,
                last: None,
                revision: 0,
                drifted: false,
                changing: 0,
                events: EventLog::default(),
            },
        }
    }
}

/// A revision after this one that is, wall clock permitting, also after those of an agent before this one.
pub(crate) fn next_revision(revision: u64) -> u64 {
    u64::try_from(Timestamp::now().as_micros())
        .unwrap_or(0)
        .max(revision.saturating_add(1))
}

/// The last Kubernetes Events about an object, oldest first.
#[derive(Default)]
pub(crate) struct EventLog {
    kept: VecDeque<Arc<Event>>,
    /// The newest revision that was dropped for want of room.
    dropped: u64,
}

/// What came after a cursor.
#[derive(Default)]
pub(crate) struct EventsSince {
    /// The Events, oldest first.
    pub events: Vec<Arc<Event>>,
    /// The cursor to go on from.
    pub cursor: u64,
    /// Some were dropped before they were asked for.
    pub lost: bool,
}

impl EventLog {
    /// Takes one in; whether it is news. A repetition takes the place of what it repeats.
    pub(crate) fn push(&mut self, event: Arc<Event>) -> bool {
        let revision = revision_of(&event);
        let same = |known: &Arc<Event>| known.metadata.uid == event.metadata.uid;
        if let Some(at) = self.kept.iter().position(same) {
            if revision_of(&self.kept[at]) >= revision {
                return false;
            }
            self.kept.remove(at);
        } else if revision <= self.dropped {
            return false;
        }
        let at = self.kept.partition_point(|known| revision_of(known) <= revision);
        self.kept.insert(at, event);
        if self.kept.len() > EVENTS_KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.dropped = self.dropped.max(revision_of(&oldest));
        }
        true
    }

    pub(crate) fn all(&self) -> &VecDeque<Arc<Event>> {
        &self.kept
    }

    pub(crate) fn since(&self, cursor: u64) -> EventsSince {
        let events: Vec<_> = self
            .kept
            .iter()
            .filter(|event| revision_of(event) > cursor)
            .cloned()
            .collect();
        EventsSince {
            cursor: events.last().map_or(cursor, |event| revision_of(event)),
            lost: cursor > 0 && self.dropped > cursor,
            events,
        }
    }
}

pub(crate) fn revision_of(event: &Event) -> u64 {
    parse_revision(event.metadata.resource_version.as_deref())
}
