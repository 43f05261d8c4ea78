//! How likely each fault is.

use std::time::Duration;

use super::dice::Dice;

/// How likely each fault of [`Chaos`](super::Chaos) is, from 0 (never) to 1 (always). A call has at most one of the
/// first four.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// A call is answered with `Unavailable`, to be tried later: nothing was done.
    pub unavailable: f64,
    /// A call is answered with `Timeout` after it had its effect: the answer is lost.
    pub answer_lost: f64,
    /// A call never returns and ends only when it is dropped; every second one has had its effect.
    pub hang: f64,
    /// A call panics; every second one has had its effect.
    pub panic: f64,
    /// A call is held up before anything else.
    pub delay: f64,
    /// By at most so long.
    pub longest_delay: Duration,
    /// An event comes twice.
    pub duplicate: f64,
    /// After an event an older one of the last ones comes again, with its older revision.
    pub reorder: f64,
    /// A `Gap` comes in place of an event.
    pub gap: f64,
    /// A stream of log lines breaks off with `Unavailable` after some chunks.
    pub log_break: f64,
    /// After so many faults in a row of calls of one method the next one goes through, so that who repeats a call
    /// comes to its end; 0 stands for no such bound.
    pub in_a_row: u32,
}

impl Faults {
    /// No fault ever: to begin from where only some are wanted.
    pub const NONE: Self = Self {
        unavailable: 0.0,
        answer_lost: 0.0,
        hang: 0.0,
        panic: 0.0,
        delay: 0.0,
        longest_delay: Duration::ZERO,
        duplicate: 0.0,
        reorder: 0.0,
        gap: 0.0,
        log_break: 0.0,
        in_a_row: 0,
    };

    /// What becomes of a call.
    pub(super) fn fate(&self, dice: &mut Dice) -> Fate {
        let (mut share, after) = (dice.share(), dice.happens(0.5));
        for (probability, fate) in [
            (self.unavailable, Fate::Unavailable),
            (self.answer_lost, Fate::AnswerLost),
            (self.hang, Fate::Hang { after }),
            (self.panic, Fate::Panic { after }),
        ] {
            if share < probability {
                return fate;
            }
            share -= probability;
        }
        Fate::Through
    }

    /// How long a call is held up.
    pub(super) fn delay(&self, dice: &mut Dice) -> Duration {
        if dice.happens(self.delay) {
            self.longest_delay.mul_f64(dice.share())
        } else {
            Duration::ZERO
        }
    }
}

/// About every third call has a fault; hangs are rare, as each costs a deadline.
impl Default for Faults {
    fn default() -> Self {
        Self {
            unavailable: 0.12,
            answer_lost: 0.12,
            hang: 0.005,
            panic: 0.04,
            delay: 0.2,
            longest_delay: Duration::from_millis(5),
            duplicate: 0.2,
            reorder: 0.2,
            gap: 0.1,
            log_break: 0.2,
            in_a_row: 3,
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Through,
    Unavailable,
    AnswerLost,
    Hang { after: bool },
    Panic { after: bool },
}

impl Fate {
    /// The same for a call that must not be made where its answer does not arrive, as it takes something with it.
    pub(super) fn before(self) -> Self {
        match self {
            Self::AnswerLost => Self::Unavailable,
            Self::Hang { .. } => Self::Hang { after: false },
            Self::Panic { .. } => Self::Panic { after: false },
            fate => fate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_comes_as_likely_as_it_is_said() {
        let faults = Faults {
            unavailable: 0.25,
            answer_lost: 0.25,
            hang: 0.25,
            panic: 0.25,
            ..Faults::NONE
        };
        let mut counts = [0; 5];
        for n in 0..8_000 {
            let at = match faults.fate(&mut Dice::new(3, "apply", n)) {
                Fate::Through => 0,
                Fate::Unavailable => 1,
                Fate::AnswerLost => 2,
                Fate::Hang { .. } => 3,
                Fate::Panic { .. } => 4,
            };
            counts[at] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(
            counts[1..].iter().all(|count| (1_800..2_200).contains(count)),
            "{counts:?}"
        );
        assert!((0..1_000).all(|n| Faults::NONE.fate(&mut Dice::new(3, "apply", n)) == Fate::Through));
    }
}
