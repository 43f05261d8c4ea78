//! Chance that is the same for the same seed.

/// A small generator (SplitMix64): its numbers need no quality but that they are the same again.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// The generator of the `n`th event of this sort.
    pub(super) fn new(seed: u64, sort: &str, n: u64) -> Self {
        Self(mix(seed ^ of_text(sort)) ^ mix(n))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from 0 to below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }
}

/// A number with all bits mixed.
pub(super) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number for a text (FNV-1a).
pub(super) fn of_text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_gives_others() {
        let draw = |seed, sort, n| {
            let mut dice = Dice::new(seed, sort, n);
            (0..4).map(|_| dice.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, "apply", 3), draw(7, "apply", 3));
        assert_ne!(draw(7, "apply", 3), draw(8, "apply", 3));
        assert_ne!(draw(7, "apply", 3), draw(7, "delete", 3));
        assert_ne!(draw(7, "apply", 3), draw(7, "apply", 4));
    }

    #[test]
    fn what_is_likely_happens_about_so_often() {
        let count = (0..10_000)
            .filter(|n| Dice::new(1, "apply", *n).happens(0.2))
            .count();
        assert!((1_800..2_200).contains(&count), "{count}");
        assert!(!(0..1_000).any(|n| Dice::new(1, "apply", n).happens(0.0)));
        assert!((0..1_000).all(|n| Dice::new(1, "apply", n).happens(1.0)));
    }
}
