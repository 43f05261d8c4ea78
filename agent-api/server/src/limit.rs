//! Requests at once, and requests per second and caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Callers whose rate is known at once. A caller that is forgotten begins with a full allowance.
const CALLERS: usize = 1_024;

/// A bounded number of things at once.
#[derive(Clone)]
pub(crate) struct Places {
    taken: Arc<AtomicUsize>,
    all: usize,
    what: &'static str,
}

/// One of them; given back when dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    pub(crate) fn new(all: usize, what: &'static str) -> Self {
        Self {
            taken: Arc::default(),
            all,
            what,
        }
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> Result<Place> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.taken));
        if before < self.all {
            return Ok(place);
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("{} {} are under way, which is the limit", self.all, self.what),
        )
        .retry_after(Duration::from_millis(50)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A token bucket for each caller.
pub(crate) struct Rate {
    per_second: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second.max(1)),
            buckets: Mutex::default(),
        }
    }

    pub(crate) fn take(&self, caller: &str) -> Result<()> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        if !buckets.contains_key(caller) {
            if buckets.len() >= CALLERS {
                // Whoever has asked nothing for a second has a full allowance anyway.
                let second = Duration::from_secs(1);
                buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < second);
            }
            if buckets.len() >= CALLERS {
                buckets.clear();
            }
            let left = self.per_second;
            buckets.insert(caller.to_owned(), Bucket { left, at: now });
        }
        let Some(bucket) = buckets.get_mut(caller) else {
            return Ok(());
        };
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + passed * self.per_second).min(self.per_second);
        bucket.at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("more than {} requests per second of one caller", self.per_second),
        )
        .retry_after(Duration::from_millis(100)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let places = Places::new(2, "requests");
        let (a, _b) = (places.take().unwrap(), places.take().unwrap());
        assert_eq!(
            places.take().err().map(|error| error.kind()),
            Some(ErrorKind::Busy)
        );
        assert_eq!(places.taken(), 2);
        drop(a);
        assert!(places.take().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_has_an_allowance_of_its_own() {
        let rate = Rate::new(10);
        for _ in 0..10 {
            rate.take("a").unwrap();
        }
        let error = rate.take("a").unwrap_err();
        assert!(error.is_retryable() && error.retry_delay().is_some());
        rate.take("b").unwrap();
        tokio::time::advance(Duration::from_millis(150)).await;
        rate.take("a").unwrap();
        assert!(rate.take("a").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn callers_without_number_cost_bounded_memory() {
        let rate = Rate::new(10);
        for i in 0..10 * CALLERS {
            rate.take(&format!("caller-{i}")).unwrap();
        }
        assert!(rate.buckets.lock().len() <= CALLERS);
    }
}
