//! A breaker per driver: one that keeps failing is left alone for a while, so that its objects wait cheaply and the
//! objects of other drivers do not feel it.

use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) struct Breaker {
    inner: Mutex<Inner>,
    failures: u32,
    first: Duration,
    cap: Duration,
}

#[derive(Default)]
struct Inner {
    /// Failures in a row.
    failed: u32,
    /// Times it opened in a row.
    opened: u32,
    until: Option<Instant>,
    /// A call tries whether the driver is back.
    trial: bool,
}

/// The right to make one call. Dropping it without a word says nothing of the driver.
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    trial: bool,
    said: bool,
}

impl Breaker {
    pub(crate) fn new(failures: u32, first: Duration, cap: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            failures: failures.max(1),
            first,
            cap,
        }
    }

    /// Lets a call through, or says when to come again.
    pub(crate) fn pass(&self) -> Result<Pass<'_>> {
        let mut inner = self.inner.lock();
        let trial = match inner.until {
            None => false,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() || inner.trial {
                    // All that wait come back at about the same time; the jitter spreads them.
                    let wait = left.max(self.first).mul_f64(1.0 + 0.5 * rand::random::<f64>());
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "the driver failed {} times in a row and is left alone for a while",
                            inner.failed
                        ),
                    )
                    .with_operation("breaker")
                    .retry_after(wait));
                }
                inner.trial = true;
                true
            }
        };
        Ok(Pass {
            breaker: self,
            trial,
            said: false,
        })
    }

    /// Whether calls are held back now.
    pub(crate) fn is_open(&self) -> bool {
        self.inner.lock().until.is_some()
    }
}

impl Pass<'_> {
    /// The driver answered, well or not.
    pub(crate) fn answered(mut self) {
        self.said = true;
        let mut inner = self.breaker.inner.lock();
        // An answer to a call from before the breaker opened closes it too: the driver is there.
        *inner = Inner::default();
    }

    /// The driver did not answer, or says that its substrate does not.
    pub(crate) fn failed(mut self) {
        self.fail();
    }

    /// Calls on top of [`failed`](Self::failed) where the call was dropped at its deadline.
    fn fail(&mut self) {
        self.said = true;
        let mut inner = self.breaker.inner.lock();
        inner.failed = inner.failed.saturating_add(1);
        if self.trial {
            inner.trial = false;
        }
        if inner.failed >= self.breaker.failures && (inner.until.is_none() || self.trial) {
            let open = self
                .breaker
                .first
                .saturating_mul(1_u32.checked_shl(inner.opened).unwrap_or(u32::MAX))
                .min(self.breaker.cap);
            inner.opened = inner.opened.saturating_add(1).min(30);
            inner.until = Some(Instant::now() + open);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.said && self.trial {
            self.breaker.inner.lock().trial = false;
        }
    }
}

/// Counts a call that is dropped at its deadline as a failure; one that is dropped before says nothing.
pub(crate) struct Watched<'a> {
    pass: Option<Pass<'a>>,
    began: Instant,
    deadline: Duration,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(pass: Pass<'a>, deadline: Duration) -> Self {
        Self {
            pass: Some(pass),
            began: Instant::now(),
            deadline,
        }
    }

    /// The call returned.
    pub(crate) fn returned(mut self, failed: bool) {
        if let Some(pass) = self.pass.take() {
            if failed { pass.failed() } else { pass.answered() }
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take()
            && self.began.elapsed() >= self.deadline.mul_f64(0.9)
        {
            pass.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_tries_again_and_closes() {
        let breaker = Breaker::new(3, Duration::from_secs(1), Duration::from_secs(4));
        for _ in 0..3 {
            breaker.pass().unwrap().failed();
        }
        let error = breaker.pass().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_retryable() && error.retry_delay().unwrap() >= Duration::from_millis(900));
        tokio::time::advance(Duration::from_millis(1_001)).await;
        let trial = breaker.pass().unwrap();
        assert!(breaker.pass().is_err(), "one trial at a time");
        trial.failed();
        tokio::time::advance(Duration::from_millis(1_001)).await;
        assert!(breaker.pass().is_err(), "twice as long the second time");
        tokio::time::advance(Duration::from_millis(1_000)).await;
        drop(breaker.pass().unwrap());
        breaker.pass().unwrap().answered();
        assert!(!breaker.is_open() && breaker.pass().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_dropped_at_its_deadline_is_a_failure() {
        let breaker = Breaker::new(1, Duration::from_secs(1), Duration::from_secs(4));
        drop(Watched::new(breaker.pass().unwrap(), Duration::from_secs(5)));
        assert!(!breaker.is_open(), "cancelled");
        let call = Watched::new(breaker.pass().unwrap(), Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(call);
        assert!(breaker.is_open());
    }
}
