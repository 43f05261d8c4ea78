//! Reads a driver's stream of events, and holds it to its promises while reading.

use std::collections::HashMap;

use agent_api_driver::model::{Condition, DriverState, Guid};
use agent_api_driver::{DriverEvent, EventStream, ObjectDriver, ObjectStatus};
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;

use crate::support::PATIENCE;

/// The one reader of a driver's events.
pub(crate) struct Eyes {
    stream: EventStream,
    last: HashMap<Guid, ObjectStatus>,
    /// How often each object was spoken of.
    pub(crate) said: HashMap<Guid, usize>,
    pub(crate) gaps: usize,
    pub(crate) health: Option<DriverState>,
}

impl Eyes {
    pub(crate) fn of(driver: &dyn ObjectDriver) -> Self {
        Self {
            stream: driver.events(),
            last: HashMap::new(),
            said: HashMap::new(),
            gaps: 0,
            health: None,
        }
    }

    fn take(&mut self, event: DriverEvent) -> Option<(Guid, ObjectStatus)> {
        match event {
            DriverEvent::Gap(_) => self.gaps += 1,
            DriverEvent::Health(state) => {
                assert_ne!(self.health.as_ref(), Some(&state), "the same health twice");
                self.health = Some(state);
            }
            DriverEvent::Status(observed) => {
                let (guid, status) = (observed.guid, observed.status);
                if let Some(before) = self.last.insert(guid, status.clone()) {
                    let revision = status.evidence.revision;
                    assert!(revision > before.evidence.revision, "{before:?} then {status:?}");
                    let mut same = before;
                    same.evidence = status.evidence.clone();
                    assert!(
                        same != status || observed.handle.is_some(),
                        "said twice: {status:?}"
                    );
                }
                *self.said.entry(guid).or_default() += 1;
                return Some((guid, status));
            }
        }
        None
    }

    async fn read(&mut self, what: &str) -> Option<(Guid, ObjectStatus)> {
        let next = timeout(PATIENCE, self.stream.next()).await;
        let next = next.unwrap_or_else(|_| panic!("not seen: {what}; last: {:#?}", self.last));
        let event = next.expect("the stream goes on");
        self.take(event)
    }

    /// The first status of an object from now on that is so.
    pub(crate) async fn until(
        &mut self,
        guid: Guid,
        what: &str,
        is_so: impl Fn(&ObjectStatus) -> bool,
    ) -> ObjectStatus {
        loop {
            if let Some((of, status)) = self.read(what).await
                && of == guid
                && is_so(&status)
            {
                return status;
            }
        }
    }

    /// Waits until each of these was last said to be so.
    pub(crate) async fn until_all(
        &mut self,
        guids: &[Guid],
        what: &str,
        is_so: impl Fn(&ObjectStatus) -> bool,
    ) {
        while !guids.iter().all(|guid| self.last.get(guid).is_some_and(&is_so)) {
            self.read(what).await;
        }
    }

    /// Waits for a health.
    pub(crate) async fn until_health(&mut self, what: &str, is_so: impl Fn(&DriverState) -> bool) {
        while !self.health.as_ref().is_some_and(&is_so) {
            self.read(what).await;
        }
    }

    /// What was said of an object last.
    pub(crate) fn last(&self, guid: Guid) -> &ObjectStatus {
        &self.last[&guid]
    }

    /// Reads what is there already.
    pub(crate) fn drain(&mut self) {
        while let Some(Some(event)) = self.stream.next().now_or_never() {
            self.take(event);
        }
    }
}

pub(crate) fn condition<'a>(status: &'a ObjectStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
}

pub(crate) fn trouble(status: &ObjectStatus) -> Option<&str> {
    condition(status, "PodTrouble").map(|condition| condition.reason.as_str())
}

pub(crate) fn drifted(status: &ObjectStatus) -> Option<bool> {
    condition(status, Condition::DRIFTED).map(|condition| condition.status)
}
