//! However events, lists and answers interleave, are cut, repeated or late: a shelf ends with what the cluster has, and
//! no thing ever goes back to an older revision.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::watch::shelf::{Change, Shelf};

/// What the cluster did: at revision `i + 1`.
#[derive(Clone, Copy, Debug)]
enum Write {
    Put(u8),
    Delete(u8),
}

/// What then reaches the shelf.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The watch brings so many of the events that it has not brought.
    Deliver(u8),
    /// The stream is cut and resumed a few events before where it was: they come again.
    Resume(u8),
    /// The server has forgotten the place: a list of now, or of a revision not older than what was seen.
    List,
    /// A list is read now, and taken in after so many more events of other sources.
    ListMeanwhileTold(u8),
    /// The answer to a call of some time ago.
    Told(u8),
    /// The answer to a call at some revision that there is nothing there.
    Absent(u8),
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let one = prop_oneof![3 => (0u8..4).prop_map(Write::Put), 2 => (0u8..4).prop_map(Write::Delete)];
    proptest::collection::vec(one, 1..40)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        4 => (1u8..6).prop_map(Step::Deliver),
        1 => (0u8..5).prop_map(Step::Resume),
        1 => Just(Step::List),
        1 => any::<u8>().prop_map(Step::ListMeanwhileTold),
        3 => any::<u8>().prop_map(Step::Told),
        2 => any::<u8>().prop_map(Step::Absent),
    ];
    proptest::collection::vec(one, 1..40)
}

/// The cluster's history: things by place with their revision, at each revision.
struct History {
    events: Vec<(u64, u8, bool)>,
    states: Vec<BTreeMap<u8, u64>>,
}

fn history(writes: &[Write]) -> History {
    let (mut events, mut states) = (Vec::new(), vec![BTreeMap::new()]);
    for write in writes {
        let mut state = states.last().cloned().unwrap_or_default();
        let revision = states.len() as u64;
        match write {
            Write::Put(place) => {
                state.insert(*place, revision);
                events.push((revision, *place, true));
            }
            Write::Delete(place) => {
                if state.remove(place).is_some() {
                    events.push((revision, *place, false));
                }
            }
        }
        states.push(state);
    }
    History { events, states }
}

/// The shelf under test, and the highest revision that each place was ever seen in.
struct Trial {
    shelf: Shelf<u8, u64>,
    highest: BTreeMap<u8, u64>,
    /// How many events the watch has brought.
    at: usize,
}

impl Trial {
    fn check(&mut self) {
        for (place, item) in self.shelf.iter() {
            assert_eq!(item.revision, item.thing);
            let highest = self.highest.entry(*place).or_default();
            assert!(
                item.revision >= *highest,
                "{place} went back from {highest} to {}",
                item.revision
            );
            *highest = item.revision;
        }
    }

    fn put(&mut self, change: &Change<u64>, place: u8, revision: u64) {
        if *change == Change::Put {
            assert_eq!(self.shelf.get(&place).map(|item| item.revision), Some(revision));
        }
    }

    fn deliver(&mut self, history: &History, count: usize) {
        for (revision, place, there) in history.events.iter().skip(self.at).take(count).copied() {
            if there {
                let change = self.shelf.shown(place, revision, revision);
                self.put(&change, place, revision);
            } else {
                self.shelf.gone(&place, revision);
            }
            self.at += 1;
            self.check();
        }
    }

    fn list(&mut self, history: &History, revision: usize) {
        let state = &history.states[revision];
        assert!(
            !self.shelf.list_begins(revision as u64),
            "lists are never from before"
        );
        for (place, made) in state {
            let change = self.shelf.listed(*place, *made, *made);
            self.put(&change, *place, *made);
        }
        self.shelf
            .list_ends(revision as u64, |place| state.contains_key(place));
        self.at = history
            .events
            .iter()
            .take_while(|(at, ..)| *at <= revision as u64)
            .count();
        self.check();
    }

    fn told(&mut self, history: &History, seed: u8) {
        let revision = usize::from(seed) % history.states.len();
        let place = seed % 4;
        if let Some(made) = history.states[revision].get(&place) {
            let change = self.shelf.told(place, *made, *made);
            self.put(&change, place, *made);
        }
        self.check();
    }

    fn absent(&mut self, history: &History, seed: u8) {
        let revision = usize::from(seed) % history.states.len();
        let place = seed % 4;
        if !history.states[revision].contains_key(&place) && revision > 0 {
            self.shelf.told_absent(&place, revision as u64);
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_comes_in_whatever_order(writes in writes(), steps in steps()) {
        let history = history(&writes);
        let mut trial = Trial { shelf: Shelf::new(true), highest: BTreeMap::new(), at: 0 };
        let last = history.states.len() - 1;
        // A watch begins with a list.
        trial.list(&history, 0);
        for step in steps {
            match step {
                Step::Deliver(count) => trial.deliver(&history, usize::from(count)),
                Step::Resume(back) => trial.at = trial.at.saturating_sub(usize::from(back)),
                Step::List => trial.list(&history, last),
                Step::ListMeanwhileTold(seed) => {
                    // The answer is newer than the list that is under way.
                    let seen = trial.at.checked_sub(1).map_or(0, |i| history.events[i].0 as usize);
                    let revision = seen + usize::from(seed) % (last - seen + 1);
                    trial.told(&history, seed);
                    // A resumed stream has seen more than `at` says.
                    if !trial.shelf.is_before(revision as u64) {
                        trial.list(&history, revision);
                    }
                }
                Step::Told(seed) => trial.told(&history, seed),
                Step::Absent(seed) => trial.absent(&history, seed),
            }
        }
        trial.deliver(&history, usize::MAX);
        let kept: BTreeMap<u8, u64> = trial.shelf.iter().map(|(place, item)| (*place, item.revision)).collect();
        prop_assert_eq!(&kept, &history.states[last]);
    }
}

#[test]
fn a_cluster_that_was_put_back_is_taken_as_it_is() {
    let mut shelf: Shelf<u8, u64> = Shelf::new(true);
    shelf.list_begins(100);
    shelf.listed(1, 90, 90);
    shelf.listed(2, 95, 95);
    shelf.list_ends(100, |_| true);
    assert!(shelf.list_begins(50), "the list is from before what was seen");
    shelf.listed(1, 40, 40);
    let gone = shelf.list_ends(50, |place| *place == 1);
    assert_eq!(gone, vec![(2, 95)]);
    assert_eq!(shelf.get(&1).map(|item| item.revision), Some(40));
}
