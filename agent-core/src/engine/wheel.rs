//! The timer wheel of a shard.
//!
//! Seven levels of 64 slots, a slot of the lowest level being one millisecond: inserting, moving and removing cost the
//! same whatever is in it, and the next due time is found by looking at one bit map per level. An entry costs about
//! 80 bytes with its key, less than a `tokio_util` `DelayQueue` with the map from keys that it needs beside it, and a
//! wheel that holds nothing due never wakes its shard.

use std::collections::HashMap;
use std::hash::Hash;

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 7;
/// The latest time that can be kept, 139 years; later ones are kept as this.
const HORIZON: u64 = (1 << (BITS * LEVELS as u32)) - 1;
const NONE: u32 = u32::MAX;

/// Keyed timers in milliseconds of the shard's clock. One entry per key.
pub(crate) struct Wheel<K> {
    now: u64,
    levels: [Level; LEVELS],
    entries: Vec<Entry<K>>,
    free: u32,
    index: HashMap<K, u32>,
}

struct Level {
    occupied: u64,
    heads: [u32; SLOTS],
}

struct Entry<K> {
    key: K,
    due: u64,
    prev: u32,
    next: u32,
    /// Level × 64 + slot.
    place: u16,
}

impl<K: Copy + Eq + Hash> Wheel<K> {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            levels: std::array::from_fn(|_| Level {
                occupied: 0,
                heads: [NONE; SLOTS],
            }),
            entries: Vec::new(),
            free: NONE,
            index: HashMap::new(),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.index.len()
    }

    /// Sets the time of a key, replacing an earlier one. What is due already fires a millisecond later.
    pub(crate) fn insert(&mut self, key: K, due: u64) {
        self.remove(&key);
        let due = due.clamp(self.now + 1, HORIZON.max(self.now + 1));
        let entry = Entry {
            key,
            due,
            prev: NONE,
            next: NONE,
            place: 0,
        };
        let at = if self.free == NONE {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer than four thousand million timers")
        } else {
            let at = self.free;
            self.free = self.entries[at as usize].next;
            self.entries[at as usize] = entry;
            at
        };
        self.index.insert(key, at);
        self.link(at);
    }

    /// Forgets a key; `false` where it was not there.
    pub(crate) fn remove(&mut self, key: &K) -> bool {
        let Some(at) = self.index.remove(key) else {
            return false;
        };
        self.unlink(at);
        self.release(at);
        true
    }

    /// When to look again: never later than the next due time, now and then earlier.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, at)| at)
    }

    /// Moves the clock and takes at most `limit` keys that are due. Where there are more, the clock stays behind and
    /// the next call goes on.
    pub(crate) fn advance(&mut self, to: u64, limit: usize, out: &mut Vec<K>) {
        while out.len() < limit {
            match self.next_slot() {
                Some((level, slot, at)) if at <= to => {
                    self.now = self.now.max(at);
                    self.empty_slot(level, slot, limit, out);
                }
                _ => {
                    self.now = self.now.max(to);
                    return;
                }
            }
        }
    }

    fn empty_slot(&mut self, level: usize, slot: usize, limit: usize, out: &mut Vec<K>) {
        while out.len() < limit {
            let at = self.levels[level].heads[slot];
            if at == NONE {
                return;
            }
            self.unlink(at);
            let entry = &self.entries[at as usize];
            if entry.due <= self.now {
                out.push(entry.key);
                let key = entry.key;
                self.index.remove(&key);
                self.release(at);
            } else {
                self.link(at);
            }
        }
    }

    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        self.levels
            .iter()
            .enumerate()
            .find(|(_, level)| level.occupied != 0)
            .map(|(number, level)| {
                let shift = BITS * number as u32;
                let current = (self.now >> shift) as u32 & (SLOTS as u32 - 1);
                // Entries are never behind the clock, so the first slot at or after its hand is the next.
                let ahead = level.occupied.rotate_right(current).trailing_zeros();
                let slot = (current + ahead) as usize % SLOTS;
                let base = self.now >> (shift + BITS) << (shift + BITS);
                (number, slot, base + ((slot as u64) << shift))
            })
    }

    fn link(&mut self, at: u32) {
        let due = self.entries[at as usize].due;
        // The level is that of the highest group of six bits in which clock and due time differ.
        let differ = (self.now ^ due) | 1;
        let level = ((63 - differ.leading_zeros()) / BITS) as usize;
        let slot = (due >> (BITS * level as u32)) as usize % SLOTS;
        let head = self.levels[level].heads[slot];
        let entry = &mut self.entries[at as usize];
        entry.prev = NONE;
        entry.next = head;
        entry.place = (level * SLOTS + slot) as u16;
        if head != NONE {
            self.entries[head as usize].prev = at;
        }
        self.levels[level].heads[slot] = at;
        self.levels[level].occupied |= 1 << slot;
    }

    fn unlink(&mut self, at: u32) {
        let Entry {
            prev, next, place, ..
        } = self.entries[at as usize];
        let (level, slot) = (place as usize / SLOTS, place as usize % SLOTS);
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        if prev != NONE {
            self.entries[prev as usize].next = next;
        } else {
            self.levels[level].heads[slot] = next;
            if next == NONE {
                self.levels[level].occupied &= !(1 << slot);
            }
        }
    }

    fn release(&mut self, at: u32) {
        self.entries[at as usize].next = self.free;
        self.free = at;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u64),
        Remove(u8),
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let span = prop_oneof![0_u64..70, 0_u64..5_000, 0_u64..400_000_000];
        let step = prop_oneof![
            (any::<u8>(), span.clone()).prop_map(|(key, after)| Step::Insert(key, after)),
            any::<u8>().prop_map(Step::Remove),
            span.prop_map(Step::Advance),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn fires_what_a_sorted_map_would_fire(steps in steps(), start in 0_u64..1_000_000_000) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), BTreeMap::<u8, u64>::new(), start);
            wheel.advance(now, 1, &mut Vec::new());
            for step in steps {
                match step {
                    Step::Insert(key, after) => {
                        wheel.insert(key, now + after);
                        model.insert(key, now + after.max(1));
                    }
                    Step::Remove(key) => prop_assert_eq!(wheel.remove(&key), model.remove(&key).is_some()),
                    Step::Advance(by) => {
                        now += by;
                        let (mut fired, mut expected) = (Vec::new(), Vec::new());
                        wheel.advance(now, usize::MAX, &mut fired);
                        model.retain(|key, due| {
                            let is_due = *due <= now;
                            if is_due {
                                expected.push(*key);
                            }
                            !is_due
                        });
                        fired.sort_unstable();
                        prop_assert_eq!(fired, expected);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let earliest = model.values().min().copied();
                prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
                prop_assert!(wheel.next() <= earliest);
            }
        }
    }

    #[test]
    fn a_bounded_advance_loses_nothing() {
        let mut wheel = Wheel::new();
        for key in 0..1_000_u32 {
            wheel.insert(key, 1 + u64::from(key % 7));
        }
        let mut all = Vec::new();
        for _ in 0..100 {
            let mut fired = Vec::new();
            wheel.advance(50, 64, &mut fired);
            assert!(fired.len() <= 64);
            all.append(&mut fired);
        }
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn an_entry_is_small() {
        // What 100,000 timers cost is this and the index.
        assert!(size_of::<Entry<(agent_api::model::Guid, u8)>>() <= 48);
    }
}
