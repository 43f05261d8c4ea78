//! What is known of one cluster: the shelves of its watches, and the objects of the agent that are on them.
//!
//! All changes go through here, under one lock that is held briefly: so statuses leave in the order in which they came
//! about.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use agent_api_driver::ObjectStatus;
use agent_api_driver::model::{AgentId, Guid};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{DynamicObject, Selector, SelectorExt};

use super::key::WatchKey;
use super::record::Record;
use super::shelf::{Change, Shelf};
use super::thing::{Place, Thing, revision};
use crate::events::Events;
use crate::handle::HandleData;
use crate::sdk::Cluster;

/// So many uids of what is gone are remembered, as Events about it come late.
const UIDS_LEFT: usize = 1024;

/// What is known of one cluster.
pub(crate) struct State {
    pub(super) agent: AgentId,
    pub(super) manager: String,
    /// Rights are per namespace.
    pub(super) single: bool,
    pub(super) events: Arc<Events>,
    pub(super) shelves: HashMap<WatchKey, Shelf<Place, Arc<Thing>>>,
    pub(super) records: HashMap<Guid, Record>,
    /// Whose things are where.
    pub(super) owners: HashMap<WatchKey, HashMap<Place, Vec<Guid>>>,
    /// Pods by the object whose mark they bear.
    pub(super) children: HashMap<Guid, BTreeSet<Place>>,
    /// Whose objects are not ours.
    pub(super) adopted: BTreeSet<Guid>,
    pub(super) uids: HashMap<Box<str>, Guid>,
    left_uids: VecDeque<Box<str>>,
    /// Kubernetes Events about what is not known yet: they overtake what they are about.
    pub(super) unmatched: VecDeque<Arc<Event>>,
    /// Watches that do not work, and why.
    pub(super) troubles: BTreeMap<WatchKey, String>,
}

/// The objects that a change touches.
pub(crate) type Touched = BTreeSet<Guid>;

/// Where news comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The watch.
    Watch,
    /// A list that the watch begins with.
    List,
    /// The answer to a call.
    Answer,
}

impl State {
    pub(crate) fn new(agent: AgentId, manager: &str, single: bool, events: Arc<Events>) -> Self {
        Self {
            agent,
            manager: manager.to_owned(),
            single,
            events,
            shelves: HashMap::new(),
            records: HashMap::new(),
            owners: HashMap::new(),
            children: HashMap::new(),
            adopted: BTreeSet::new(),
            uids: HashMap::new(),
            left_uids: VecDeque::new(),
            unmatched: VecDeque::new(),
            troubles: BTreeMap::new(),
        }
    }

    /// One that nobody hears of: to look at objects without tracking them.
    pub(crate) fn apart(cluster: &Cluster) -> Self {
        let single = !cluster.config.namespaces.is_empty();
        Self::new(cluster.agent.clone(), cluster.manager(), single, Events::new(1))
    }

    /// Whether an object is tracked.
    pub(crate) fn is_tracked(&self, guid: Guid) -> bool {
        self.records.contains_key(&guid)
    }

    /// What was said of an object last.
    pub(crate) fn last_status(&self, guid: Guid) -> Option<ObjectStatus> {
        self.records.get(&guid)?.last.clone()
    }

    /// The revision of what was said of an object last; 0 where nothing was.
    pub(crate) fn last_revision(&self, guid: Guid) -> u64 {
        self.records.get(&guid).map_or(0, |record| record.revision)
    }

    /// Begins to keep what a watch shows.
    pub(crate) fn open_shelf(&mut self, key: &WatchKey) {
        self.shelves
            .entry(key.clone())
            .or_insert_with(|| Shelf::new(key.keeps_all()));
    }

    /// Ends that.
    pub(crate) fn close_shelf(&mut self, key: &WatchKey) {
        self.troubles.remove(key);
        let Some(shelf) = self.shelves.remove(key) else {
            return;
        };
        for (place, item) in shelf.iter() {
            self.unlist(key, place, &item.thing);
        }
    }

    /// Tracks an object, or takes a newer handle of it. Returns the watches to list again, as they passed over what is
    /// wanted now.
    pub(crate) fn track(&mut self, guid: Guid, data: HandleData) -> Vec<WatchKey> {
        let before = self.records.remove(&guid);
        if let Some(before) = &before {
            self.disown(guid, before);
        }
        let record = Record::new(data, self.single, before);
        let mut again = Vec::new();
        for (part, reference) in record.parts.iter().zip(&record.data.objects) {
            let places = self.owners.entry(part.key.clone()).or_default();
            let owners = places.entry(part.place.clone()).or_default();
            if !owners.contains(&guid) {
                owners.push(guid);
            }
            if let Some(uid) = &reference.uid {
                self.uids.insert(uid.as_str().into(), guid);
            }
            if let Some(shelf) = self.shelves.get_mut(&part.key)
                && !shelf.complete()
                && shelf.synced()
                && shelf.get(&part.place).is_none()
            {
                shelf.unsync();
                again.push(part.key.clone());
            }
        }
        if !record.data.owned {
            self.adopted.insert(guid);
        }
        for key in &record.keys {
            self.open_shelf(key);
        }
        self.records.insert(guid, record);
        self.read_parts(guid);
        self.match_events(guid);
        again
    }

    /// Forgets an object; what was watched for it.
    pub(crate) fn forget(&mut self, guid: Guid) -> Vec<WatchKey> {
        let Some(record) = self.records.remove(&guid) else {
            return Vec::new();
        };
        self.disown(guid, &record);
        self.adopted.remove(&guid);
        for (part, reference) in record.parts.iter().zip(&record.data.objects) {
            if let Some(uid) = &reference.uid {
                self.uids.remove(uid.as_str());
            }
            if let Some(shelf) = self.shelves.get_mut(&part.key).filter(|shelf| !shelf.complete()) {
                shelf.drop_place(&part.place);
            }
        }
        record.keys
    }

    fn disown(&mut self, guid: Guid, record: &Record) {
        for part in &record.parts {
            let Some(places) = self.owners.get_mut(&part.key) else {
                continue;
            };
            if let Some(owners) = places.get_mut(&part.place) {
                owners.retain(|owner| *owner != guid);
                if owners.is_empty() {
                    places.remove(&part.place);
                }
            }
            if places.is_empty() {
                self.owners.remove(&part.key);
            }
        }
    }

    /// What was on the shelves before the object was tracked.
    fn read_parts(&mut self, guid: Guid) {
        let Some(record) = self.records.get_mut(&guid) else {
            return;
        };
        for (part, reference) in record.parts.iter_mut().zip(&record.data.objects) {
            let Some(item) = self.shelves.get(&part.key).and_then(|s| s.get(&part.place)) else {
                continue;
            };
            learn(part, reference.fingerprint, record.data.owned, &item.thing, None);
        }
    }

    /// Takes in a thing as it is. Returns the objects that it touches.
    pub(crate) fn put(&mut self, key: &WatchKey, object: DynamicObject, from: From) -> Touched {
        if key.of_events() {
            return self.put_event(object);
        }
        let (place, revision) = (Place::of(&object), revision(&object));
        let owners = self
            .owners
            .get(key)
            .and_then(|places| places.get(&place))
            .cloned()
            .unwrap_or_default();
        let Some(shelf) = self.shelves.get_mut(key) else {
            return Touched::new();
        };
        if !shelf.is_news(&place, revision) || (owners.is_empty() && !shelf.complete()) {
            if from == From::Watch {
                shelf.passed(revision);
            }
            return Touched::new();
        }
        let expected = owners.iter().find_map(|guid| {
            let record = self.records.get(guid)?;
            let at = record
                .parts
                .iter()
                .position(|p| p.key == *key && p.place == place)?;
            let wanted = record.data.objects[at].fingerprint?;
            Some((wanted, record.parts[at].baseline.as_deref()))
        });
        let selector = owners
            .iter()
            .any(|guid| self.adopted.contains(guid))
            .then(|| selector(&object))
            .flatten();
        let thing = Arc::new(Thing::new(object, &self.agent, &self.manager, expected));
        let change = match from {
            From::Watch => shelf.shown(place.clone(), revision, Arc::clone(&thing)),
            From::List => shelf.listed(place.clone(), revision, Arc::clone(&thing)),
            From::Answer => shelf.told(place.clone(), revision, Arc::clone(&thing)),
        };
        if !matches!(change, Change::Put) {
            return Touched::new();
        }
        for guid in &owners {
            let Some(record) = self.records.get_mut(guid) else {
                continue;
            };
            for (part, reference) in record.parts.iter_mut().zip(&record.data.objects) {
                if part.key == *key && part.place == place {
                    learn(
                        part,
                        reference.fingerprint,
                        record.data.owned,
                        &thing,
                        selector.clone(),
                    );
                }
            }
        }
        self.list(key, &place, &thing);
        self.touched(key, &place, &thing, owners)
    }

    /// Takes in that a thing is gone.
    pub(crate) fn remove(&mut self, key: &WatchKey, place: &Place, revision: u64, from: From) -> Touched {
        let Some(shelf) = self.shelves.get_mut(key) else {
            return Touched::new();
        };
        let change = match from {
            From::Watch | From::List => shelf.gone(place, revision),
            From::Answer => shelf.told_absent(place, revision),
        };
        match change {
            Change::Removed(thing) => self.after_removal(key, place, &thing),
            Change::Put | Change::Nothing => Touched::new(),
        }
    }

    fn after_removal(&mut self, key: &WatchKey, place: &Place, thing: &Thing) -> Touched {
        self.unlist(key, place, thing);
        let owners = self
            .owners
            .get(key)
            .and_then(|places| places.get(place))
            .cloned()
            .unwrap_or_default();
        self.touched(key, place, thing, owners)
    }

    /// Takes in a whole list. Returns the objects that it touches, and whether the cluster was put back to an earlier
    /// state.
    pub(crate) fn replace(
        &mut self,
        key: &WatchKey,
        objects: Vec<DynamicObject>,
        revision: u64,
    ) -> (Touched, bool) {
        let Some(shelf) = self.shelves.get_mut(key) else {
            return (Touched::new(), false);
        };
        let first = !shelf.synced();
        let put_back = shelf.list_begins(revision);
        let mut touched = Touched::new();
        let mut listed = std::collections::HashSet::new();
        for object in objects {
            listed.insert(Place::of(&object));
            touched.append(&mut self.put(key, object, From::List));
        }
        let gone = match self.shelves.get_mut(key) {
            Some(shelf) => shelf.list_ends(revision, |place| listed.contains(place)),
            None => Vec::new(),
        };
        for (place, thing) in gone {
            touched.append(&mut self.after_removal(key, &place, &thing));
        }
        if first {
            // Of what is not on the list the absence is news.
            touched.extend(
                self.records
                    .iter()
                    .filter(|(_, record)| record.keys.contains(key))
                    .map(|(guid, _)| *guid),
            );
        }
        (touched, put_back)
    }

    /// Nothing of a resource is there any more.
    pub(crate) fn clear(&mut self, key: &WatchKey) -> Touched {
        let gone = self.shelves.get_mut(key).map(Shelf::clear).unwrap_or_default();
        let mut touched: Touched = self
            .records
            .iter()
            .filter(|(_, record)| record.keys.contains(key))
            .map(|(guid, _)| *guid)
            .collect();
        for (place, thing) in gone {
            touched.append(&mut self.after_removal(key, &place, &thing));
        }
        touched
    }

    /// The watch that shows a thing of an object.
    pub(crate) fn key_of(&self, guid: Guid, object: &DynamicObject) -> Option<WatchKey> {
        let record = self.records.get(&guid)?;
        let place = Place::of(object);
        let types = object.types.as_ref()?;
        record
            .parts
            .iter()
            .map(|part| (&part.key, &part.place))
            .find(|(key, at)| {
                **at == place && *key.kind == types.kind && *key.api_version == types.api_version
            })
            .map(|(key, _)| key.clone())
    }

    fn touched(&self, key: &WatchKey, place: &Place, thing: &Thing, owners: Vec<Guid>) -> Touched {
        let mut touched: Touched = owners.into_iter().collect();
        match &*key.kind {
            "Pod" if key.ours => touched.extend(thing.guid),
            "Pod" => touched.extend(self.adopters(place, thing)),
            "Namespace" if !key.ours => {
                let name = Some(&*place.name);
                let within =
                    |record: &&Record| record.data.objects.iter().any(|o| o.namespace.as_deref() == name);
                let found = self.records.iter().filter(|(_, record)| within(record));
                touched.extend(found.map(|(guid, _)| *guid));
            }
            "Node" if !key.ours => {
                let clusters = self
                    .records
                    .iter()
                    .filter(|(_, record)| record.data.kind == crate::kinds::KubeKind::Cluster);
                touched.extend(clusters.map(|(guid, _)| *guid));
            }
            _ => {}
        }
        touched
    }

    /// The adopted objects that a pod belongs to.
    pub(super) fn adopters(&self, place: &Place, thing: &Thing) -> Vec<Guid> {
        let Some(pod) = thing.pod.as_ref() else {
            return Vec::new();
        };
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        let has = |record: &Record| {
            record.parts.iter().any(|part| {
                part.place.namespace == place.namespace
                    && part
                        .selector
                        .as_ref()
                        .is_some_and(|selector| selector.matches(labels))
            })
        };
        self.adopted
            .iter()
            .filter(|guid| self.records.get(guid).is_some_and(has))
            .copied()
            .collect()
    }

    /// Notes whose a thing is.
    fn list(&mut self, key: &WatchKey, place: &Place, thing: &Thing) {
        let Some(guid) = thing.guid.filter(|_| key.ours) else {
            return;
        };
        if self.uids.insert(thing.uid.clone(), guid).is_none() {
            self.match_events(guid);
        }
        if &*key.kind == "Pod" {
            self.children.entry(guid).or_default().insert(place.clone());
        }
    }

    fn unlist(&mut self, key: &WatchKey, place: &Place, thing: &Thing) {
        let Some(guid) = thing.guid.filter(|_| key.ours) else {
            return;
        };
        self.left_uids.push_back(thing.uid.clone());
        if self.left_uids.len() > UIDS_LEFT
            && let Some(uid) = self.left_uids.pop_front()
        {
            self.uids.remove(&uid);
        }
        if &*key.kind == "Pod"
            && let Some(pods) = self.children.get_mut(&guid)
        {
            pods.remove(place);
            if pods.is_empty() {
                self.children.remove(&guid);
            }
        }
    }
}

/// What a part learns of the thing that is there.
fn learn(
    part: &mut super::record::Part,
    expected: Option<u64>,
    owned: bool,
    thing: &Thing,
    selector: Option<Selector>,
) {
    part.ended = thing
        .verdict
        .exit
        .clone()
        .filter(|_| thing.verdict.progress.ended());
    if expected.is_some() && thing.fingerprint == expected {
        part.baseline.clone_from(&thing.fields);
    }
    if !owned && selector.is_some() {
        part.selector = selector;
    }
}

/// The selector of a workload for its pods.
fn selector(object: &DynamicObject) -> Option<Selector> {
    let value = object.data.pointer("/spec/selector")?.clone();
    let label_selector = match serde_json::from_value::<LabelSelector>(value.clone()) {
        Ok(found) if found.match_labels.is_some() || found.match_expressions.is_some() => found,
        // ReplicationControllers have plain labels there.
        _ => LabelSelector {
            match_labels: serde_json::from_value(value).ok(),
            ..LabelSelector::default()
        },
    };
    let selector = Selector::try_from(label_selector).ok()?;
    // One that selects everything selects what is not its own.
    (!selector.selects_all()).then_some(selector)
}
