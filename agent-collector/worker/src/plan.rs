//! The plan: objects, leases and classes. No waiting, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::{DriverSet, Handle};
use agent_api_model::{DriverName, Guid, Lease, LeaseId, ObjectView, Signal, Timestamp};
use tokio::time::Instant;

use crate::layer::{Layer, Layering};

/// What leases must share to be collected together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClassKey {
    pub(crate) interval: Duration,
    metrics: bool,
    logs: bool,
    traces: bool,
}

impl ClassKey {
    pub(crate) fn of(lease: &Lease) -> Self {
        let has = |signal| lease.signals.contains(&signal);
        Self {
            // A lease is checked where it is granted; this keeps a wrong one from spinning.
            interval: lease.interval.max(Duration::from_millis(10)),
            metrics: has(Signal::Metrics),
            logs: has(Signal::Logs),
            traces: has(Signal::Traces),
        }
    }

    pub(crate) fn has_logs(self) -> bool {
        self.logs
    }

    pub(crate) fn signals(self) -> Vec<Signal> {
        [
            (self.metrics, Signal::Metrics),
            (self.logs, Signal::Logs),
            (self.traces, Signal::Traces),
        ]
        .into_iter()
        .filter_map(|(has, signal)| has.then_some(signal))
        .collect()
    }
}

/// An object that can be collected from.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) view: Arc<ObjectView>,
    pub(crate) handle: Arc<Handle>,
}

/// A lease in force.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) lease: Arc<Lease>,
    pub(crate) class: ClassKey,
    pub(crate) ends: Option<Instant>,
    /// It was ended, and stays only until the last lines of objects that were taken out before are collected.
    pub(crate) ending: bool,
    /// It is of the `monitor` part that its object was created with, so its logs begin with the first line.
    pub(crate) from_start: bool,
    /// Where the logs of each object go on.
    pub(crate) cursors: HashMap<Guid, Arc<str>>,
}

impl Held {
    /// Whether it is of its object's own `monitor` part, and so lasts as long as the object: over restarts too.
    fn is_own(&self) -> bool {
        is_own(&self.lease)
    }

    /// The object is not there any more. It comes back where it is restarted, and an own lease goes on with its logs.
    pub(crate) fn left(&mut self, guid: Guid) {
        if !self.is_own() {
            self.cursors.remove(&guid);
        }
    }
}

/// Whether a lease is of an object's own `monitor` part.
fn is_own(lease: &Lease) -> bool {
    lease.guid.is_some() && lease.expires.is_none() && lease.ttl.is_none()
}

/// The last lines of an object that was taken out.
#[derive(Clone, Debug)]
pub(crate) struct LastLines {
    pub(crate) lease: LeaseId,
    pub(crate) object: Object,
    /// After that they are given up.
    pub(crate) until: Instant,
}

/// One class on one driver.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) layers: Vec<Arc<Layer>>,
    /// Calls of the present round that have not ended.
    pub(crate) outstanding: usize,
    /// Whether the present round is that of a tick.
    pub(crate) in_tick: bool,
    /// Whether a tick waits for the present round, which is none.
    pub(crate) tick_waits: bool,
    /// Leases and objects that have not been collected yet.
    pub(crate) fresh_leases: BTreeSet<LeaseId>,
    pub(crate) fresh_objects: BTreeSet<Guid>,
    pub(crate) last_lines: Vec<LastLines>,
    /// When logs are looked at again before the next tick.
    pub(crate) again: Option<Instant>,
    pub(crate) again_delay: Duration,
    /// How many bytes of lines the sink seems to take at a time.
    pub(crate) log_bytes: usize,
    /// Counts rounds: log rounds begin with another object each time.
    pub(crate) rounds: usize,
    /// Whether the last collection failed; told once.
    pub(crate) failing: bool,
}

impl Group {
    /// Whether it can be let go.
    fn is_idle(&self) -> bool {
        self.layers.is_empty() && self.outstanding == 0 && self.last_lines.is_empty()
    }
}

/// Leases that are collected together.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) leases: BTreeSet<LeaseId>,
    pub(crate) next: Instant,
    pub(crate) groups: BTreeMap<DriverName, Group>,
    /// The version of the plan that the layers are of.
    built: u64,
}

/// Objects, leases and classes.
#[derive(Debug)]
pub(crate) struct Plan {
    drivers: DriverSet,
    /// When it was made. What was created before was perhaps collected from before.
    since: Timestamp,
    pub(crate) objects: HashMap<Guid, Object>,
    pub(crate) leases: HashMap<LeaseId, Held>,
    pub(crate) classes: BTreeMap<ClassKey, Class>,
    /// Grows with each change of objects or leases.
    version: u64,
}

impl Plan {
    pub(crate) fn new(drivers: DriverSet) -> Self {
        Self {
            drivers,
            since: Timestamp::now(),
            objects: HashMap::new(),
            leases: HashMap::new(),
            classes: BTreeMap::new(),
            version: 1,
        }
    }

    /// Adds an object or replaces it, and marks what was never collected of its logs.
    pub(crate) fn add(&mut self, object: Object) -> Vec<ClassKey> {
        self.version += 1;
        let guid = object.view.guid;
        let driver = self.driver(&object).filter(|driver| {
            let driver = self.drivers.get(driver.as_str());
            driver.is_some_and(|driver| driver.capabilities(&object.view.kind).is_some_and(|can| can.logs))
        });
        let mut fresh = Vec::new();
        for (key, class) in self.classes.iter_mut().filter(|(key, _)| key.logs) {
            for group in class.groups.values_mut() {
                // It is there again: its cursor goes on with the rest.
                group.last_lines.retain(|last| last.object.view.guid != guid);
            }
            let uncovered = |lease: &LeaseId| {
                let held = &self.leases[lease];
                !held.ending && covers(&held.lease, &object.view) && !held.cursors.contains_key(&guid)
            };
            if let Some(driver) = &driver
                && class.leases.iter().any(uncovered)
            {
                let group = class.groups.entry(driver.clone()).or_default();
                group.fresh_objects.insert(guid);
                fresh.push(*key);
            }
        }
        self.objects.insert(guid, object);
        fresh
    }

    /// Takes an object out, and marks its last lines.
    pub(crate) fn remove(&mut self, guid: Guid, until: Instant) -> Vec<ClassKey> {
        let Some(object) = self.objects.remove(&guid) else {
            return Vec::new();
        };
        self.version += 1;
        let Some(driver) = self.driver(&object) else {
            return Vec::new();
        };
        let mut classes = Vec::new();
        for (key, class) in self.classes.iter_mut().filter(|(key, _)| key.logs) {
            for lease in &class.leases {
                // Without a cursor nothing was promised of its lines, but where they come from the first on.
                let held = &self.leases[lease];
                let promised = held.cursors.contains_key(&guid)
                    || (held.from_start && covers(&held.lease, &object.view));
                if !held.ending && promised {
                    let group = class.groups.entry(driver.clone()).or_default();
                    group.last_lines.push(LastLines {
                        lease: *lease,
                        object: object.clone(),
                        until,
                    });
                    classes.push(*key);
                }
            }
        }
        classes
    }

    /// Begins with a lease, or renews it. Returns the class, and whether it begins.
    pub(crate) fn start(&mut self, lease: Lease, ends: Option<Instant>, now: Instant) -> (ClassKey, bool) {
        let class = ClassKey::of(&lease);
        let id = lease.id;
        let before = self.leases.remove(&id);
        let mut cursors = HashMap::new();
        let mut same = false;
        let from_start = match &before {
            Some(before) => before.from_start,
            None => is_own(&lease) && self.is_new(lease.guid),
        };
        if let Some(before) = before {
            same = !before.ending
                && before.class == class
                && before.lease.guid == lease.guid
                && before.lease.selector == lease.selector;
            cursors = before.cursors;
            if before.class != class {
                self.leave(before.class, id);
            }
        }
        self.leases.insert(
            id,
            Held {
                lease: Arc::new(lease),
                class,
                ends,
                ending: false,
                from_start,
                cursors,
            },
        );
        self.classes
            .entry(class)
            .or_insert_with(|| Class {
                leases: BTreeSet::new(),
                next: now + class.interval,
                groups: BTreeMap::new(),
                built: 0,
            })
            .leases
            .insert(id);
        if !same {
            self.version += 1;
        }
        (class, !same)
    }

    /// Whether an object was created since, and never changed: its `monitor` part is that of its beginning.
    fn is_new(&self, guid: Option<Guid>) -> bool {
        let object = guid.and_then(|guid| self.objects.get(&guid));
        object.is_some_and(|object| object.view.created >= self.since && object.view.generation == 1)
    }

    /// Has a lease cover nothing any more, where last lines are still to be collected for it. Returns whether they are.
    pub(crate) fn end_after_last_lines(&mut self, id: LeaseId) -> bool {
        if !self.has_last_lines(id) {
            return false;
        }
        if let Some(held) = self.leases.get_mut(&id) {
            held.ending = true;
            self.version += 1;
            if let Some(class) = self.classes.get_mut(&held.class) {
                class.groups.values_mut().for_each(|group| {
                    group.fresh_leases.remove(&id);
                });
            }
        }
        true
    }

    /// Whether last lines are still to be collected for a lease.
    pub(crate) fn has_last_lines(&self, id: LeaseId) -> bool {
        let class = self
            .leases
            .get(&id)
            .and_then(|held| self.classes.get(&held.class));
        class.is_some_and(|class| {
            class
                .groups
                .values()
                .any(|group| group.last_lines.iter().any(|last| last.lease == id))
        })
    }

    /// Ends a lease.
    pub(crate) fn stop(&mut self, id: LeaseId) -> Option<Held> {
        let held = self.leases.remove(&id)?;
        self.version += 1;
        self.leave(held.class, id);
        Some(held)
    }

    fn leave(&mut self, key: ClassKey, id: LeaseId) {
        if let Some(class) = self.classes.get_mut(&key) {
            class.leases.remove(&id);
            for group in class.groups.values_mut() {
                group.fresh_leases.remove(&id);
                group.last_lines.retain(|last| last.lease != id);
            }
        }
    }

    /// Lets a class go that has no lease and no call in flight. Returns when its tick would have been.
    pub(crate) fn let_go(&mut self, key: ClassKey) -> Option<Instant> {
        let class = self.classes.get(&key)?;
        if !class.leases.is_empty() || class.groups.values().any(|group| group.outstanding > 0) {
            return None;
        }
        self.classes.remove(&key).map(|class| class.next)
    }

    /// Brings the layers of a class up to date.
    pub(crate) fn build(&mut self, key: ClassKey, log_bytes: usize) {
        let Some(class) = self.classes.get_mut(&key) else {
            return;
        };
        if class.built == self.version {
            return;
        }
        class.built = self.version;
        let mut layering = Layering::new(&self.drivers, !key.logs);
        for held in class.leases.iter().map(|id| &self.leases[id]) {
            if held.ending {
                continue;
            }
            cover(&self.objects, &held.lease, |object| {
                layering.add(held, &object.view, &object.handle);
            });
        }
        let mut layers = layering.finish();
        for (driver, group) in &mut class.groups {
            group.layers = layers.remove(driver).unwrap_or_default();
        }
        for (driver, layers) in layers {
            class.groups.insert(
                driver,
                Group {
                    layers,
                    ..Group::default()
                },
            );
        }
        class.groups.retain(|_, group| !group.is_idle());
        for group in class.groups.values_mut().filter(|group| group.log_bytes == 0) {
            group.log_bytes = log_bytes;
        }
    }

    /// The layers of what was never collected, and forgets the marks.
    pub(crate) fn fresh_layers(&mut self, key: ClassKey, driver: &DriverName) -> Vec<Arc<Layer>> {
        let Some(class) = self.classes.get_mut(&key) else {
            return Vec::new();
        };
        let Some(group) = class.groups.get_mut(driver) else {
            return Vec::new();
        };
        let leases = std::mem::take(&mut group.fresh_leases);
        let objects = std::mem::take(&mut group.fresh_objects);
        if leases.len() == class.leases.len() {
            return group.layers.clone();
        }
        let mut layering = Layering::new(&self.drivers, !key.logs);
        for id in &class.leases {
            let Some(held) = self.leases.get(id).filter(|held| !held.ending) else {
                continue;
            };
            if leases.contains(id) {
                cover(&self.objects, &held.lease, |object| {
                    layering.add(held, &object.view, &object.handle);
                });
                continue;
            }
            for guid in &objects {
                if let Some(object) = self.objects.get(guid)
                    && covers(&held.lease, &object.view)
                    && !held.cursors.contains_key(guid)
                {
                    layering.add(held, &object.view, &object.handle);
                }
            }
        }
        layering.finish().remove(driver).unwrap_or_default()
    }

    /// The layers of last lines; what is too late or of no lease is dropped.
    pub(crate) fn last_layers(
        &mut self,
        key: ClassKey,
        driver: &DriverName,
        now: Instant,
    ) -> Vec<Arc<Layer>> {
        let Some(group) = self
            .classes
            .get_mut(&key)
            .and_then(|class| class.groups.get_mut(driver))
        else {
            return Vec::new();
        };
        let leases = &mut self.leases;
        group.last_lines.retain(|last| {
            let in_time = last.until > now;
            if !in_time && let Some(held) = leases.get_mut(&last.lease) {
                held.left(last.object.view.guid);
            }
            in_time
        });
        let mut layering = Layering::new(&self.drivers, false);
        for last in &group.last_lines {
            if let Some(held) = leases.get(&last.lease) {
                layering.add(held, &last.object.view, &last.object.handle);
            }
        }
        layering.finish().remove(driver).unwrap_or_default()
    }

    pub(crate) fn group(&mut self, key: ClassKey, driver: &DriverName) -> Option<&mut Group> {
        self.classes.get_mut(&key)?.groups.get_mut(driver)
    }

    fn driver(&self, object: &Object) -> Option<DriverName> {
        let driver = self.drivers.for_kind(&object.view.kind)?;
        Some(driver.info().name.clone())
    }
}

fn covers(lease: &Lease, view: &ObjectView) -> bool {
    match lease.guid {
        Some(guid) => guid == view.guid,
        None => lease.selector.matches(&view.labels, &view.kind),
    }
}

fn cover(objects: &HashMap<Guid, Object>, lease: &Lease, mut each: impl FnMut(&Object)) {
    match lease.guid {
        Some(guid) => {
            if let Some(object) = objects.get(&guid) {
                each(object);
            }
        }
        None => objects
            .values()
            .filter(|object| lease.selector.matches(&object.view.labels, &object.view.kind))
            .for_each(each),
    }
}
