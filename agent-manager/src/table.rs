//! All objects, by GUID and by name. Readers wait for nobody: the locks are held for microseconds.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use agent_api_model::{Guid, ListRequest, ObjectName, ObjectView, Target};
use dashmap::DashMap;
use parking_lot::RwLock;

use crate::record::Object;
use crate::view;

/// So many objects are taken out of the name index at a time, so that a long list holds up no create.
const PAGE: usize = 256;

#[derive(Default)]
pub(crate) struct Table {
    by_guid: DashMap<Guid, Arc<Object>>,
    /// Sorted, so that a list needs no sorting and a page no full walk.
    by_name: RwLock<BTreeMap<ObjectName, Arc<Object>>>,
}

impl Table {
    /// Adds an object; `false` where its name or GUID is taken.
    pub(crate) fn insert(&self, object: &Arc<Object>) -> bool {
        let mut names = self.by_name.write();
        if names.contains_key(&object.name) {
            return false;
        }
        match self.by_guid.entry(object.guid) {
            dashmap::Entry::Occupied(_) => false,
            dashmap::Entry::Vacant(vacant) => {
                vacant.insert(object.clone());
                names.insert(object.name.clone(), object.clone());
                true
            }
        }
    }

    pub(crate) fn remove(&self, object: &Object) {
        self.by_guid.remove(&object.guid);
        self.by_name.write().remove(&object.name);
    }

    pub(crate) fn get(&self, guid: Guid) -> Option<Arc<Object>> {
        self.by_guid.get(&guid).map(|object| object.clone())
    }

    pub(crate) fn named(&self, name: &ObjectName) -> Option<Arc<Object>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn resolve(&self, target: &Target) -> Option<Guid> {
        match target {
            Target::Guid(guid) => self.by_guid.contains_key(guid).then_some(*guid),
            Target::Name(name) => self.named(name).map(|object| object.guid),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_guid.len()
    }

    /// Calls `visit` for each object, by name, until it answers `false`.
    pub(crate) fn walk(&self, after: Option<&ObjectName>, mut visit: impl FnMut(&Arc<Object>) -> bool) {
        let mut last = after.cloned();
        let mut page: Vec<Arc<Object>> = Vec::with_capacity(PAGE);
        loop {
            page.clear();
            {
                let names = self.by_name.read();
                let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                page.extend(
                    names
                        .range::<ObjectName, _>((from, Bound::Unbounded))
                        .take(PAGE)
                        .map(|(_, object)| object.clone()),
                );
            }
            for object in &page {
                if !visit(object) {
                    return;
                }
            }
            match page.last() {
                Some(object) if page.len() == PAGE => last = Some(object.name.clone()),
                _ => return,
            }
        }
    }

    /// The views of those chosen, by name.
    pub(crate) fn list(&self, request: &ListRequest) -> Vec<Arc<ObjectView>> {
        let limit = request.limit.unwrap_or(usize::MAX);
        let expected = if request.selector.is_everything() && request.phase.is_none() {
            self.len().min(limit)
        } else {
            0
        };
        let mut views = Vec::with_capacity(expected);
        if limit == 0 {
            return views;
        }
        self.walk(request.after.as_ref(), |object| {
            let state = object.state.lock();
            if !state.gone
                && request.phase.is_none_or(|phase| phase == state.phase)
                && request.selector.matches(&state.labels, &object.kind)
            {
                views.push(view::build(object, &state));
            }
            views.len() < limit
        });
        views
    }
}
