//! When to ask, and for what: pure.

use std::time::Duration;

use crate::config::PollConfig;

/// So long after the agent changed something its effect is looked for often.
const AFTER_CHANGE: Duration = Duration::from_secs(10);
/// So many jobs are asked for one by one at the pace that is set; with more the pace falls, so that the cost stays.
const AT_PACE: usize = 16;
/// A list costs about as much as asking for every seventh job in it.
const LIST_WORTH: usize = 7;
/// The event file is looked at where so many jobs are active: below, asking for each costs less.
const FILE_WORTH: usize = 16;

/// What decides the pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long ago the agent changed something on this head.
    pub touched: Option<Duration>,
    /// Jobs that have not ended.
    pub active: usize,
    /// Whether the head tells of changes by itself.
    pub tells: bool,
}

impl Pace {
    fn is_fresh(&self) -> bool {
        self.touched.is_some_and(|since| since < AFTER_CHANGE)
    }

    /// Until a job that has not ended is asked for again.
    pub(crate) fn job_interval(&self, config: &PollConfig) -> Duration {
        let pace = if self.tells || self.uses_file() {
            return config.idle;
        } else if self.is_fresh() {
            config.fast
        } else {
            config.busy
        };
        let rounds = u32::try_from(self.active.div_ceil(AT_PACE)).unwrap_or(u32::MAX);
        pace.saturating_mul(rounds.max(1)).min(config.idle.max(pace))
    }

    /// Until the next turn, at the latest.
    pub(crate) fn turn_interval(&self, config: &PollConfig) -> Duration {
        if self.active == 0 {
            config.idle
        } else if self.is_fresh() && !self.tells {
            config.fast
        } else {
            config.busy
        }
    }

    /// Whether the event file is read at each turn: its cost is the same whatever the number of jobs.
    pub(crate) fn uses_file(&self) -> bool {
        !self.tells && self.active > FILE_WORTH
    }
}

/// Whether one list of all costs less than asking for each of these. `history` is how many jobs the last list had.
pub(crate) fn lists(due: usize, history: Option<usize>) -> bool {
    due > 4 && history.is_some_and(|history| due * LIST_WORTH > history)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PollConfig = PollConfig {
        fast: Duration::from_millis(500),
        busy: Duration::from_secs(2),
        idle: Duration::from_secs(30),
        audit: Duration::from_secs(300),
    };

    fn pace(touched: Option<u64>, active: usize, tells: bool) -> Pace {
        Pace {
            touched: touched.map(Duration::from_secs),
            active,
            tells,
        }
    }

    #[test]
    fn fast_after_a_change_slow_when_nothing_runs() {
        assert_eq!(pace(Some(1), 3, false).job_interval(&CONFIG), CONFIG.fast);
        assert_eq!(pace(Some(11), 3, false).job_interval(&CONFIG), CONFIG.busy);
        assert_eq!(pace(None, 3, false).turn_interval(&CONFIG), CONFIG.busy);
        assert_eq!(pace(None, 0, false).turn_interval(&CONFIG), CONFIG.idle);
        assert_eq!(pace(Some(1), 0, false).turn_interval(&CONFIG), CONFIG.idle);
    }

    #[test]
    fn a_head_that_tells_is_only_audited() {
        assert_eq!(pace(Some(1), 3, true).job_interval(&CONFIG), CONFIG.idle);
        assert!(!pace(None, 1_000, true).uses_file());
    }

    #[test]
    fn the_cost_does_not_grow_with_the_jobs() {
        assert_eq!(pace(Some(1), 16, false).job_interval(&CONFIG), CONFIG.fast);
        let many = pace(None, 1_000, false);
        assert!(many.uses_file());
        assert_eq!(many.job_interval(&CONFIG), CONFIG.idle);
    }

    #[test]
    fn a_list_is_for_many_of_few() {
        assert!(lists(100, Some(100)));
        assert!(!lists(5, Some(5_000)));
        assert!(!lists(100, None));
        assert!(!lists(2, Some(3)));
    }
}
