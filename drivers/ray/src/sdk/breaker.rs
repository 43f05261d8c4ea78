//! Stops calls to a side that does not answer, so that they fail at once and do not add to its load.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::BreakerConfig;

/// Open after some calls in a row without an answer; then one call at a time tries whether it answers again.
#[derive(Debug)]
pub(crate) struct Breaker {
    config: BreakerConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
        }
    }

    /// Whether a call may be made; else how long none is.
    pub(crate) fn admit(&self) -> Result<(), Duration> {
        let mut state = self.state.lock();
        let now = Instant::now();
        match state.open_until {
            Some(until) if until > now => Err(until - now),
            Some(_) => {
                // This one tries; the others wait for what it finds.
                state.open_until = Some(now + self.config.pause);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What became of a call: an answer of any sort, or none.
    pub(crate) fn note(&self, answered: bool) {
        let mut state = self.state.lock();
        if answered {
            *state = State::default();
            return;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.config.failures {
            state.open_until = Some(Instant::now() + self.config.pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_tries_once_and_closes() {
        let breaker = Breaker::new(BreakerConfig {
            failures: 2,
            pause: Duration::from_secs(5),
        });
        breaker.note(false);
        assert_eq!(breaker.admit(), Ok(()));
        breaker.note(true);
        breaker.note(false);
        assert_eq!(breaker.admit(), Ok(()), "an answer begins the count anew");
        breaker.note(false);
        assert_eq!(breaker.admit(), Err(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        assert!(breaker.admit().is_err(), "one tries, the others wait");
        breaker.note(true);
        assert_eq!(breaker.admit(), Ok(()));
    }
}
