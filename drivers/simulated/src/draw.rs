//! Chance that repeats: the same seed, object, purpose and number draw the same.
//!
//! Nothing is drawn from a shared sequence, so what one object does never depends on how calls for others interleave.

use std::time::Duration;

use crate::distribution::Distribution;

/// Mixes all bits of its input into all bits of its output (the finaliser of splitmix64).
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key of an object's chance: by name, since a GUID differs in each run.
pub(crate) fn key(seed: u64, name: &str) -> u64 {
    // FNV-1a: stable over versions and platforms, unlike the standard hasher.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash ^ mix(seed))
}

/// One draw: for which object, for what, and the how manieth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    state: u64,
}

impl Draw {
    pub(crate) const fn new(key: u64, purpose: u64, number: u32) -> Self {
        Self {
            state: mix(key ^ mix(purpose.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ number as u64)),
        }
    }

    fn next(&mut self) -> u64 {
        self.state = mix(self.state);
        self.state
    }

    /// From 0 to 1, without 1.
    pub(crate) fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let bits = (self.next() >> 11) as f64;
        bits / (1_u64 << 53) as f64
    }

    /// Whether something of this rate happens.
    pub(crate) fn happens(&mut self, rate: f64) -> bool {
        // Always draws, so that a rate changed to 0 or 1 leaves the draws after it as they were.
        let unit = self.unit();
        unit < rate
    }

    /// Sixteen bytes.
    pub(crate) fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes
    }

    pub(crate) fn duration(&mut self, distribution: &Distribution) -> Duration {
        let (first, second) = (self.unit(), self.unit());
        distribution.sample(first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_drawn_again_and_objects_differ() {
        let draws = |name| {
            (0..4)
                .map(|n| Draw::new(key(7, name), 1, n).unit())
                .collect::<Vec<_>>()
        };
        assert_eq!(draws("a"), draws("a"));
        assert_ne!(draws("a"), draws("b"));
        assert!(draws("a").windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_rate_is_kept_over_many_draws() {
        let count = (0..10_000)
            .filter(|n| Draw::new(key(1, "x"), 3, *n).happens(0.1))
            .count();
        assert!((800..1_200).contains(&count), "{count}");
        assert!((0..1_000).all(|n| Draw::new(key(1, "x"), 3, n).happens(1.0)));
        assert!(!(0..1_000).any(|n| Draw::new(key(1, "x"), 3, n).happens(0.0)));
    }
}
