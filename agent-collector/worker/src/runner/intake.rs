//! What changed of objects and leases.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use agent_api_model::{Lease, LeaseId};
use tokio::time::Instant;

use super::Runner;
use crate::inbox::LeaseChange;
use crate::plan::{ClassKey, Object};
use crate::wheel::Due;

impl Runner {
    /// Takes in what changed.
    pub(super) fn take_in(&mut self) {
        let changes = self.inbox.take();
        if changes.objects.is_empty() && changes.leases.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut touched = BTreeSet::new();
        // A lease may have come with an object that has gone since, and go with one: so the objects come first, and the
        // ends of leases last.
        let mut gone = Vec::new();
        for (guid, change) in changes.objects {
            if let Some((view, handle)) = change.latest {
                touched.extend(self.plan.add(Object { view, handle }));
            }
            if change.removed {
                gone.push(guid);
            }
        }
        let (mut begun, mut stopped) = (Vec::new(), Vec::new());
        for (id, change) in changes.leases {
            match change {
                LeaseChange::Start(lease, ends) => begun.extend(self.start(*lease, ends)),
                LeaseChange::Retune(interval) => {
                    if let Some(held) = self.plan.leases.get(&id) {
                        let (mut lease, ends) = ((*held.lease).clone(), held.ends);
                        lease.interval = interval;
                        self.start(lease, ends);
                    }
                }
                LeaseChange::Stop => stopped.push(id),
            }
        }
        for guid in gone {
            touched.extend(self.plan.remove(guid, now + self.config.last_lines));
        }
        for id in stopped {
            self.end_lease(id);
        }
        self.instruments
            .objects
            .store(self.plan.objects.len(), Ordering::Relaxed);
        for (class, id) in begun {
            self.plan.build(class, self.config.log_bytes);
            if let Some(class) = self.plan.classes.get_mut(&class) {
                for group in class.groups.values_mut() {
                    group.fresh_leases.insert(id);
                }
            }
            touched.insert(class);
        }
        for class in touched {
            self.plan.build(class, self.config.log_bytes);
            for driver in self.drivers_of(class) {
                self.advance(class, &driver);
            }
        }
    }

    /// Begins with a lease or renews it; says where it is new.
    fn start(&mut self, lease: Lease, ends: Option<Instant>) -> Option<(ClassKey, LeaseId)> {
        let id = lease.id;
        self.ending.remove(&id);
        let before = self.plan.leases.get(&id).map(|held| (held.class, held.ends));
        if let Some((_, Some(at))) = before {
            self.wheel.remove(at, Due::LeaseEnds(id));
        }
        let (class, begins) = self.plan.start(lease, ends, Instant::now());
        if let Some(at) = ends {
            self.wheel.add(at, Due::LeaseEnds(id));
        }
        if let Some(next) = self.plan.classes.get(&class).map(|class| class.next) {
            self.wheel.add(next, Due::Tick(class));
        }
        if let Some((before, _)) = before
            && before != class
        {
            self.let_go(before);
        }
        begins.then_some((class, id))
    }

    /// Ends a lease; where last lines are still to be collected for it, after them.
    pub(super) fn end_lease(&mut self, id: LeaseId) {
        if self.plan.end_after_last_lines(id) {
            self.ending.insert(id);
            return;
        }
        self.ending.remove(&id);
        if let Some(held) = self.plan.stop(id) {
            if let Some(at) = held.ends {
                self.wheel.remove(at, Due::LeaseEnds(id));
            }
            self.let_go(held.class);
        }
        self.sink.end(id);
    }

    pub(super) fn end_those_without_last_lines(&mut self) {
        let done: Vec<_> = self
            .ending
            .iter()
            .copied()
            .filter(|id| !self.plan.has_last_lines(*id))
            .collect();
        for id in done {
            self.end_lease(id);
        }
    }

    pub(super) fn let_go(&mut self, class: ClassKey) {
        if let Some(next) = self.plan.let_go(class) {
            self.wheel.remove(next, Due::Tick(class));
        }
    }
}
