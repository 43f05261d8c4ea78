//! Idempotency keys: the same key gets the same reply, also after a restart.
//!
//! Bounds: the newest [`ManagerConfig::keys`](crate::ManagerConfig::keys) keys, each for
//! [`ManagerConfig::key_retention`](crate::ManagerConfig::key_retention). A request that comes again later than that is a
//! new request. Only what was accepted has its key kept; what a repeated request says besides its key is not looked at.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{Accepted, Generation, Guid, ObjectName, OpId, RequestId, Timestamp};
use parking_lot::Mutex;

pub(crate) struct Keys {
    inner: Mutex<Inner>,
    most: usize,
    retention: Duration,
}

#[derive(Default)]
struct Inner {
    kept: HashMap<RequestId, Entry>,
    order: VecDeque<(Timestamp, RequestId)>,
}

#[derive(Clone)]
struct Entry {
    guid: Guid,
    name: ObjectName,
    generation: Generation,
    op_id: OpId,
    /// The journal position of the acceptance; none while it is being decided.
    position: Option<u64>,
    at: Timestamp,
}

/// What is known of a key.
pub(crate) enum Found {
    /// Nothing. It is reserved now: to be [kept](Keys::keep) or [dropped](Keys::drop_key).
    Reserved,
    /// It is being decided on another shard at this moment.
    Undecided,
    /// It was answered with this, at this position of the journal.
    Known(Accepted, u64),
}

impl Entry {
    fn accepted(&self) -> Accepted {
        Accepted {
            guid: self.guid,
            name: self.name.clone(),
            generation: self.generation,
            op_id: self.op_id,
            repeated: true,
        }
    }
}

impl Keys {
    pub(crate) fn new(most: usize, retention: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            most,
            retention,
        }
    }

    /// Looks a key up and reserves it where it is new.
    pub(crate) fn begin(&self, key: &RequestId, draft: &Accepted, now: Timestamp) -> Found {
        let mut inner = self.inner.lock();
        self.prune(&mut inner, now);
        match inner.kept.get(key) {
            Some(entry) => match entry.position {
                Some(position) => Found::Known(entry.accepted(), position),
                None => Found::Undecided,
            },
            None => {
                inner.kept.insert(key.clone(), entry(draft, None, now));
                Found::Reserved
            }
        }
    }

    /// The request was accepted.
    pub(crate) fn keep(&self, key: &RequestId, accepted: &Accepted, position: u64, now: Timestamp) {
        let mut inner = self.inner.lock();
        inner
            .kept
            .insert(key.clone(), entry(accepted, Some(position), now));
        inner.order.push_back((now, key.clone()));
        self.prune(&mut inner, now);
    }

    /// The request was refused, or its record did not get to the disk.
    pub(crate) fn drop_key(&self, key: &RequestId) {
        self.inner.lock().kept.remove(key);
    }

    pub(crate) fn replied(&self, key: &RequestId) -> Option<Accepted> {
        let inner = self.inner.lock();
        let entry = inner.kept.get(key)?;
        entry.position.map(|_| entry.accepted())
    }

    /// All that is kept, oldest first.
    pub(crate) fn all(&self, now: Timestamp) -> Vec<(RequestId, Accepted, Timestamp)> {
        let mut inner = self.inner.lock();
        self.prune(&mut inner, now);
        inner
            .order
            .iter()
            .filter_map(|(at, key)| {
                let entry = inner.kept.get(key)?;
                (entry.position.is_some() && entry.at == *at).then(|| (key.clone(), entry.accepted(), *at))
            })
            .collect()
    }

    /// Forgets what is too old or too much. What comes from before a jump of the clock into the past stays until the
    /// count decides.
    fn prune(&self, inner: &mut Inner, now: Timestamp) {
        while let Some((at, key)) = inner.order.front() {
            if inner.order.len() <= self.most && now.since(*at) < self.retention {
                return;
            }
            // A key that was dropped and taken again has a later place of its own.
            if inner.kept.get(key).is_some_and(|entry| entry.at == *at) {
                inner.kept.remove(key);
            }
            inner.order.pop_front();
        }
    }
}

fn entry(accepted: &Accepted, position: Option<u64>, at: Timestamp) -> Entry {
    Entry {
        guid: accepted.guid,
        name: accepted.name.clone(),
        generation: accepted.generation,
        op_id: accepted.op_id,
        position,
        at,
    }
}

/// Drops a reserved key unless it was kept.
pub(crate) struct Reservation {
    keys: Arc<Keys>,
    key: Option<RequestId>,
}

impl Reservation {
    pub(crate) fn new(keys: &Arc<Keys>, key: RequestId) -> Self {
        Self {
            keys: keys.clone(),
            key: Some(key),
        }
    }

    pub(crate) fn keep(mut self, accepted: &Accepted, position: u64, now: Timestamp) {
        if let Some(key) = self.key.take() {
            self.keys.keep(&key, accepted, position, now);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.keys.drop_key(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> Accepted {
        Accepted {
            guid: Guid::generate(),
            name: ObjectName::new("a").unwrap(),
            generation: 1,
            op_id: OpId::generate(),
            repeated: false,
        }
    }

    fn key(n: usize) -> RequestId {
        RequestId::new(format!("k{n}")).unwrap()
    }

    #[test]
    fn bounded_by_number_and_age() {
        let keys = Keys::new(3, Duration::from_secs(10));
        for n in 0..5 {
            let now = Timestamp::from_micros(n as i64);
            assert!(matches!(keys.begin(&key(n), &accepted(), now), Found::Reserved));
            keys.keep(&key(n), &accepted(), 1, now);
        }
        let kept: Vec<_> = (0..5).filter(|n| keys.replied(&key(*n)).is_some()).collect();
        assert_eq!(kept, [2, 3, 4]);
        assert_eq!(keys.all(Timestamp::from_micros(20_000_000)).len(), 0);
    }

    #[test]
    fn a_refused_request_leaves_its_key_free() {
        let keys = Arc::new(Keys::new(3, Duration::from_secs(10)));
        let now = Timestamp::from_micros(1);
        assert!(matches!(keys.begin(&key(1), &accepted(), now), Found::Reserved));
        let reservation = Reservation::new(&keys, key(1));
        assert!(matches!(keys.begin(&key(1), &accepted(), now), Found::Undecided));
        assert!(keys.replied(&key(1)).is_none());
        drop(reservation);
        assert!(matches!(keys.begin(&key(1), &accepted(), now), Found::Reserved));
    }
}
