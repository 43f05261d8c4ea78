//! From what is known to what is said: the status of an object, told when it says something new.

use std::sync::Arc;

use agent_api_driver::model::{Condition, Evidence, EvidenceSource, Guid};
use agent_api_driver::{ObjectState, ObjectStatus, Observed};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::core::DynamicObject;

use super::key::WatchKey;
use super::record::{EventLog, Record, next_revision};
use super::state::{State, Touched};
use super::thing::{Place, Thing};
use crate::handle::ObjectRef;
use crate::kinds::KubeKind;
use crate::mark;
use crate::status::aggregate::{self, Known, Part};
use crate::status::conditions::{keep_since, says_the_same};

impl State {
    /// Says what is new of these objects.
    pub(crate) fn settle_all(&mut self, touched: Touched) {
        for guid in touched {
            self.settle(guid, true);
        }
    }

    /// Works out the status of an object and keeps it where it says something new; then it is told too where `tell`
    /// is set. Does nothing while not all of the object is known.
    pub(crate) fn settle(&mut self, guid: Guid, tell: bool) {
        let Some((mut status, uids)) = self.status_now(guid) else {
            return;
        };
        let unsettled = self.is_unsettled(guid);
        let Some(record) = self.records.get_mut(&guid) else {
            return;
        };
        if status.state == ObjectState::Gone && record.changing > 0 {
            // It is being replaced by ourselves.
            return;
        }
        if unsettled {
            // Of drift nothing new is said before our own change is noted.
            let before = record.last.iter().flat_map(|last| &last.conditions);
            let before = before.filter(|c| c.kind == Condition::DRIFTED).cloned();
            status.conditions.retain(|c| c.kind != Condition::DRIFTED);
            status.conditions.extend(before);
        }
        let moved = !uids.is_empty();
        for (at, uid) in uids {
            record.data.objects[at].uid = Some(uid);
        }
        if let Some(last) = &record.last {
            keep_since(&mut status.conditions, &last.conditions);
            if says_the_same(&status, last) && !moved {
                return;
            }
        }
        record.revision = next_revision(record.revision);
        status.evidence.revision = record.revision;
        record.drifted |= drifted(&status);
        record.last = Some(status.clone());
        if tell {
            self.events.status(Observed {
                guid,
                handle: moved.then(|| record.data.write()),
                status,
            });
        }
    }

    /// Whether an operation of ours is changing the object, or has and its answer is not noted yet.
    fn is_unsettled(&self, guid: Guid) -> bool {
        let Some(record) = self.records.get(&guid) else {
            return false;
        };
        let newer = |part: &super::record::Part| {
            let item = self
                .shelves
                .get(&part.key)
                .and_then(|shelf| shelf.get(&part.place));
            item.is_some_and(|item| {
                item.thing.guid == Some(guid)
                    && item.thing.op_id.is_some_and(|op_id| op_id > record.data.op_id)
            })
        };
        record.changing > 0 || record.parts.iter().any(newer)
    }

    /// What is known of an object now, and the uids of its things that are new.
    fn status_now(&self, guid: Guid) -> Option<(ObjectStatus, Vec<(usize, String)>)> {
        let record = self.records.get(&guid)?;
        let evidence = Evidence::now(EvidenceSource::Event, 0);
        if record.data.kind == KubeKind::Cluster {
            return Some((self.cluster_status(record, evidence)?, Vec::new()));
        }
        let mut uids = Vec::new();
        let mut parts = Vec::with_capacity(record.parts.len());
        for (at, (part, reference)) in record.parts.iter().zip(&record.data.objects).enumerate() {
            let shelf = self.shelves.get(&part.key)?;
            let thing = match shelf.get(&part.place) {
                Some(item) => Some(&item.thing),
                None if shelf.knows_absent(&part.place) => None,
                None => return None,
            };
            let other = thing.filter(|t| reference.uid.as_deref() != Some(&*t.uid));
            let replaced = match (other, &reference.uid) {
                (Some(other), Some(_)) => !record.data.owned || other.guid != Some(guid),
                _ => false,
            };
            if let Some(other) = other.filter(|_| !replaced) {
                uids.push((at, other.uid.to_string()));
            }
            parts.push(Part {
                reference,
                verdict: thing.map(|thing| &thing.verdict),
                replaced,
                drift: thing
                    .filter(|_| record.data.owned && !replaced)
                    .and_then(|thing| drift(reference, thing)),
                ended: part.ended.as_ref(),
            });
        }
        let status = aggregate::status(
            &Known {
                data: &record.data,
                parts,
                pods: self.pods(guid),
                events: record.events.all(),
                namespace_ends: self.namespace_ends(record),
                drifted_before: record.drifted,
            },
            evidence,
        );
        Some((status, uids))
    }

    /// A cluster is its nodes.
    fn cluster_status(&self, record: &Record, evidence: Evidence) -> Option<ObjectStatus> {
        let shelf = self
            .shelves
            .get(&WatchKey::of_nodes())
            .filter(|shelf| shelf.synced())?;
        let mut nodes: Vec<(&Place, &Thing)> =
            shelf.iter().map(|(place, item)| (place, &*item.thing)).collect();
        nodes.sort_by_key(|(place, _)| (*place).clone());
        let references: Vec<ObjectRef> = nodes
            .iter()
            .map(|(place, thing)| ObjectRef {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                namespace: None,
                name: place.name.to_string(),
                uid: Some(thing.uid.to_string()),
                fingerprint: None,
            })
            .collect();
        let parts = nodes.iter().zip(&references).map(|((_, thing), reference)| Part {
            reference,
            verdict: Some(&thing.verdict),
            replaced: false,
            drift: None,
            ended: None,
        });
        let mut status = aggregate::status(
            &Known {
                data: &record.data,
                parts: parts.collect(),
                pods: Vec::new(),
                events: record.events.all(),
                namespace_ends: None,
                drifted_before: false,
            },
            evidence,
        );
        // A cluster whose nodes are not all well is there all the same.
        status.state = ObjectState::Running;
        Some(status)
    }

    fn namespace_ends(&self, record: &Record) -> Option<String> {
        let shelf = self.shelves.get(&WatchKey::of_namespaces())?;
        record.data.objects.iter().find_map(|reference| {
            let name = reference.namespace.as_deref()?;
            let place = Place {
                namespace: None,
                name: name.into(),
            };
            let why = shelf.get(&place)?.thing.verdict.terminating.as_ref()?;
            Some(format!("namespace {name} is {why}"))
        })
    }

    /// The pods of an object, by name.
    pub(crate) fn pods(&self, guid: Guid) -> Vec<Arc<Pod>> {
        let Some(record) = self.records.get(&guid) else {
            return Vec::new();
        };
        if record.data.owned {
            let places = self.children.get(&guid);
            return places
                .into_iter()
                .flatten()
                .filter_map(|place| {
                    let key = WatchKey::of_pods(place.namespace.as_deref()?, true, self.single);
                    self.shelves.get(&key)?.get(place)?.thing.pod.clone()
                })
                .collect();
        }
        let mut found: Vec<(&Place, &Arc<Pod>)> = Vec::new();
        for (part, reference) in record.parts.iter().zip(&record.data.objects) {
            let Some(namespace) = reference.namespace.as_deref() else {
                continue;
            };
            let key = WatchKey::of_pods(namespace, false, self.single);
            let Some(shelf) = self.shelves.get(&key) else {
                continue;
            };
            let bare = reference.kind == "Pod" && reference.group().is_empty();
            for (place, item) in shelf.iter() {
                let Some(pod) = item.thing.pod.as_ref() else {
                    continue;
                };
                let its = if bare {
                    *place == part.place
                } else {
                    self.adopters(place, &item.thing).contains(&guid)
                };
                if its {
                    found.push((place, pod));
                }
            }
        }
        found.sort_by_key(|(place, _)| *place);
        found.dedup_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, pod)| Arc::clone(pod)).collect()
    }

    /// Takes in a Kubernetes Event.
    pub(super) fn put_event(&mut self, object: DynamicObject) -> Touched {
        let Some(event) = super::thing::event(object).map(Arc::new) else {
            return Touched::new();
        };
        let owners = self.subjects(&event);
        if owners.is_empty() {
            self.unmatched.push_back(event);
            if self.unmatched.len() > super::UNMATCHED {
                self.unmatched.pop_front();
            }
            return Touched::new();
        }
        let mut touched = Touched::new();
        for guid in owners {
            let log = self.records.get_mut(&guid).map(|record| &mut record.events);
            if log.is_some_and(|log: &mut EventLog| log.push(Arc::clone(&event))) {
                touched.insert(guid);
            }
        }
        touched
    }

    /// The objects that a Kubernetes Event is about.
    fn subjects(&self, event: &Event) -> Vec<Guid> {
        let about = &event.involved_object;
        let known = about.uid.as_deref().and_then(|uid| self.uids.get(uid));
        if let Some(guid) = known.filter(|guid| self.records.contains_key(guid)) {
            return vec![*guid];
        }
        let (Some(namespace), Some(name)) = (about.namespace.as_deref(), about.name.as_deref()) else {
            return Vec::new();
        };
        if about.kind.as_deref() != Some("Pod") || self.adopted.is_empty() {
            return Vec::new();
        }
        let place = Place {
            namespace: Some(namespace.into()),
            name: name.into(),
        };
        let shelf = self
            .shelves
            .get(&WatchKey::of_pods(namespace, false, self.single));
        match shelf.and_then(|shelf| shelf.get(&place)) {
            Some(item) => self.adopters(&place, &item.thing),
            None => Vec::new(),
        }
    }

    /// Gives an object the Events that came before it was known.
    pub(super) fn match_events(&mut self, guid: Guid) {
        let Some(record) = self.records.get_mut(&guid) else {
            return;
        };
        let uids = &self.uids;
        self.unmatched.retain(|event| {
            let uid = event.involved_object.uid.as_deref();
            let its = uid.and_then(|uid| uids.get(uid)) == Some(&guid);
            if its {
                record.events.push(Arc::clone(event));
            }
            !its
        });
    }
}

/// How a thing differs from what was applied; none where it does not.
fn drift(reference: &ObjectRef, thing: &Thing) -> Option<String> {
    let wanted = reference.fingerprint?;
    if thing.fingerprint == Some(wanted) {
        return None;
    }
    Some(match &*thing.drift {
        "" => "changed".to_owned(),
        how => how.to_owned(),
    })
}

fn drifted(status: &ObjectStatus) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.kind == Condition::DRIFTED && condition.status)
}

/// The label selector of all that bears our mark.
pub(crate) fn selector_of(key: &WatchKey, agent: &agent_api_driver::model::AgentId) -> Option<String> {
    key.ours.then(|| mark::selector_of_agent(agent))
}
