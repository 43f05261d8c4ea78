//! What one watch has shown: the things of one resource, each in its newest revision.
//!
//! Pure bookkeeping. Three sources bring things, in any order: the watch, its lists, and answers to calls. A thing never
//! goes back to an older revision, and what is gone does not come back with news from before.

use std::collections::HashMap;
use std::hash::Hash;

/// A thing with the revision of the cluster that it is known in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item<T> {
    pub revision: u64,
    pub thing: T,
}

/// The things that one watch is of.
#[derive(Debug)]
pub(crate) struct Shelf<P, T> {
    items: HashMap<P, Item<T>>,
    /// Known to be gone at a revision that the watch has not come to yet.
    removed: HashMap<P, u64>,
    /// All up to here has been seen by the watch.
    position: u64,
    /// A list has been taken in.
    synced: bool,
    /// Whether all that the watch shows is kept. Where only some is, what is not here may still be there.
    complete: bool,
}

/// What a change did to one place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change<T> {
    /// It is there, new or newer.
    Put,
    /// It is gone; what it was.
    Removed(T),
    /// It was known.
    Nothing,
}

impl<P: Clone + Eq + Hash, T> Shelf<P, T> {
    pub(crate) fn new(complete: bool) -> Self {
        Self {
            items: HashMap::new(),
            removed: HashMap::new(),
            position: 0,
            synced: false,
            complete,
        }
    }

    pub(crate) fn get(&self, place: &P) -> Option<&Item<T>> {
        self.items.get(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&P, &Item<T>)> {
        self.items.iter()
    }

    pub(crate) fn synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn complete(&self) -> bool {
        self.complete
    }

    /// The watch must be listed again before absence means anything.
    pub(crate) fn unsync(&mut self) {
        self.synced = false;
    }

    /// Forgets a thing of which nothing is wanted any more.
    pub(crate) fn drop_place(&mut self, place: &P) -> Option<T> {
        self.removed.remove(place);
        self.items.remove(place).map(|item| item.thing)
    }

    /// Whether news of this revision would change anything: asked before a thing is made of them.
    pub(crate) fn is_news(&self, place: &P, revision: u64) -> bool {
        let known = self.items.get(place).map(|item| item.revision);
        let gone = self.removed.get(place).copied();
        revision == 0 || known.max(gone).is_none_or(|known| revision > known)
    }

    /// The watch has shown something that is not kept.
    pub(crate) fn passed(&mut self, revision: u64) {
        self.advance(revision);
    }

    /// The watch shows a thing.
    pub(crate) fn shown(&mut self, place: P, revision: u64, thing: T) -> Change<T> {
        // It was there already: this comes again.
        if self.synced && revision != 0 && revision <= self.position {
            return Change::Nothing;
        }
        self.advance(revision);
        self.listed(place, revision, thing)
    }

    /// A list of the watch shows a thing.
    pub(crate) fn listed(&mut self, place: P, revision: u64, thing: T) -> Change<T> {
        if !self.is_news(&place, revision) {
            return Change::Nothing;
        }
        self.removed.remove(&place);
        self.items.insert(place, Item { revision, thing });
        Change::Put
    }

    /// The watch shows that a thing is gone.
    pub(crate) fn gone(&mut self, place: &P, revision: u64) -> Change<T> {
        self.advance(revision);
        self.remove_until(place, revision)
    }

    /// The answer to a call shows a thing.
    pub(crate) fn told(&mut self, place: P, revision: u64, thing: T) -> Change<T> {
        // The watch was there already and has seen it go.
        let seen_go = self.synced && self.complete && revision != 0 && revision <= self.position;
        if !self.is_news(&place, revision) || (seen_go && !self.items.contains_key(&place)) {
            return Change::Nothing;
        }
        self.removed.remove(&place);
        self.items.insert(place, Item { revision, thing });
        Change::Put
    }

    /// The answer to a call shows that at this revision there was no such thing; 0 where the resource is not served.
    pub(crate) fn told_absent(&mut self, place: &P, revision: u64) -> Change<T> {
        let change = self.remove_until(place, revision);
        if self.items.contains_key(place) {
            return change;
        }
        if revision == 0 || revision > self.position {
            let gone = self.removed.entry(place.clone()).or_insert(revision);
            *gone = revision.max(*gone);
        }
        change
    }

    /// Begins to take in a list of this revision. A list from before what was seen means that the cluster was put
    /// back: then all that was known is void, and true is returned.
    pub(crate) fn list_begins(&mut self, revision: u64) -> bool {
        let put_back = revision != 0 && revision < self.position;
        if put_back {
            self.position = 0;
            self.removed.clear();
            for item in self.items.values_mut() {
                item.revision = 0;
            }
        }
        put_back
    }

    /// Ends taking in a list whose places are told by `listed`: what it lacks is gone.
    pub(crate) fn list_ends(&mut self, revision: u64, listed: impl Fn(&P) -> bool) -> Vec<(P, T)> {
        let gone: Vec<P> = self
            .items
            .iter()
            .filter(|(place, item)| item.revision <= revision && !listed(place))
            .map(|(place, _)| place.clone())
            .collect();
        self.advance(revision);
        self.synced = true;
        gone.into_iter()
            .filter_map(|place| {
                let item = self.items.remove(&place)?;
                Some((place, item.thing))
            })
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn is_before(&self, revision: u64) -> bool {
        revision < self.position
    }

    /// Nothing is there any more.
    pub(crate) fn clear(&mut self) -> Vec<(P, T)> {
        self.synced = true;
        self.removed.clear();
        self.items
            .drain()
            .map(|(place, item)| (place, item.thing))
            .collect()
    }

    /// Whether it is known that there is no such thing.
    pub(crate) fn knows_absent(&self, place: &P) -> bool {
        (self.synced || self.removed.contains_key(place)) && !self.items.contains_key(place)
    }

    fn remove_until(&mut self, place: &P, revision: u64) -> Change<T> {
        match self.items.get(place) {
            // Made again since.
            Some(item) if revision != 0 && item.revision > revision => Change::Nothing,
            Some(_) => self
                .items
                .remove(place)
                .map_or(Change::Nothing, |item| Change::Removed(item.thing)),
            None => Change::Nothing,
        }
    }

    fn advance(&mut self, revision: u64) {
        if revision > self.position {
            self.position = revision;
            if !self.removed.is_empty() {
                self.removed.retain(|_, gone| *gone > revision);
            }
        }
    }
}
