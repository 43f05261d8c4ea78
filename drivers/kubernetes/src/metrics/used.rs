//! Sums that only grow, over containers that are started again and pods that are replaced.

use std::collections::HashMap;

/// One sum of an object, made of the counters of its parts.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    /// Of parts and runs that have ended.
    past: u64,
    parts: HashMap<String, Part>,
}

#[derive(Debug)]
struct Part {
    /// Which run of it the value is of.
    run: String,
    value: u64,
    seen: bool,
}

impl Sum {
    /// Takes in the counter of one part.
    pub(crate) fn add(&mut self, part: &str, run: &str, value: u64) {
        match self.parts.get_mut(part) {
            Some(known) => {
                if known.run != run || value < known.value {
                    self.past += known.value;
                    run.clone_into(&mut known.run);
                }
                known.value = value;
                known.seen = true;
            }
            None => {
                let part_ = Part {
                    run: run.to_owned(),
                    value,
                    seen: true,
                };
                self.parts.insert(part.to_owned(), part_);
            }
        }
    }

    /// The sum. Parts that `exists` no more than this count on with their last value.
    pub(crate) fn total(&mut self, exists: impl Fn(&str) -> bool) -> u64 {
        let past = &mut self.past;
        self.parts.retain(|name, part| {
            let keep = part.seen || exists(name);
            part.seen = false;
            if !keep {
                *past += part.value;
            }
            keep
        });
        self.past + self.parts.values().map(|part| part.value).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_only_grow() {
        let mut sum = Sum::default();
        sum.add("a", "1", 100);
        sum.add("b", "1", 50);
        assert_eq!(sum.total(|_| true), 150);
        // Started again, known by its run and by a smaller value.
        sum.add("a", "2", 300);
        sum.add("b", "1", 10);
        assert_eq!(sum.total(|_| true), 100 + 300 + 50 + 10);
        // Not told of this time, and then gone; another takes its place.
        sum.add("b", "1", 20);
        assert_eq!(sum.total(|_| true), 470);
        sum.add("c", "1", 1);
        assert_eq!(sum.total(|name| name != "a"), 471);
        assert_eq!(sum.parts.len(), 2);
        assert_eq!(sum.total(|_| false), 471);
        assert_eq!(sum.total(|_| false), 471);
    }
}
