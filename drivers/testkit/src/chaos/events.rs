//! Faults of events.

use std::collections::VecDeque;

use agent_api_driver::DriverEvent;

use super::dice::Dice;
use super::faults::Faults;

/// How many of the last events may come again.
const KEPT: usize = 8;

/// What becomes of events on their way.
#[derive(Debug)]
pub(super) struct EventFaults {
    seed: u64,
    faults: Faults,
    count: u64,
    last: VecDeque<DriverEvent>,
}

impl EventFaults {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            seed,
            faults,
            count: 0,
            last: VecDeque::new(),
        }
    }

    /// What comes in place of this event. Only those of a status are touched: a gap and the health stay.
    pub(super) fn pass(&mut self, event: DriverEvent) -> Vec<DriverEvent> {
        let DriverEvent::Status(observed) = &event else {
            return vec![event];
        };
        let mut dice = Dice::new(self.seed, "events", self.count);
        self.count += 1;
        if dice.happens(self.faults.gap) {
            let of_all = dice.happens(0.5);
            return vec![DriverEvent::Gap((!of_all).then_some(observed.guid))];
        }
        let mut out = vec![event.clone()];
        if dice.happens(self.faults.duplicate) {
            out.push(event.clone());
        }
        if dice.happens(self.faults.reorder) && !self.last.is_empty() {
            out.push(self.last[dice.below(self.last.len())].clone());
        }
        self.last.push_back(event);
        if self.last.len() > KEPT {
            self.last.pop_front();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::{Evidence, EvidenceSource, Guid};
    use agent_api_driver::{ObjectState, ObjectStatus, Observed};

    use super::*;

    fn event(guid: Guid, revision: u64) -> DriverEvent {
        DriverEvent::Status(Observed {
            guid,
            handle: None,
            status: ObjectStatus::new(
                ObjectState::Running,
                Evidence::now(EvidenceSource::Event, revision),
            ),
        })
    }

    fn pass(faults: Faults) -> Vec<Vec<DriverEvent>> {
        let guid = Guid::generate();
        let mut faults = EventFaults::new(5, faults);
        (0..3).map(|n| faults.pass(event(guid, n))).collect()
    }

    fn revisions(events: &[DriverEvent]) -> Vec<Option<u64>> {
        let revision = |event: &DriverEvent| match event {
            DriverEvent::Status(observed) => Some(observed.status.evidence.revision),
            _ => None,
        };
        events.iter().map(revision).collect()
    }

    #[test]
    fn events_come_twice_come_late_or_become_a_gap() {
        let twice = pass(Faults {
            duplicate: 1.0,
            ..Faults::NONE
        });
        assert_eq!(revisions(&twice[1]), [Some(1), Some(1)]);
        let late = pass(Faults {
            reorder: 1.0,
            ..Faults::NONE
        });
        assert_eq!(revisions(&late[0]), [Some(0)]);
        assert_eq!(revisions(&late[1]), [Some(1), Some(0)]);
        assert!(revisions(&late[2])[1].is_some_and(|revision| revision < 2));
        let gap = pass(Faults {
            gap: 1.0,
            ..Faults::NONE
        });
        assert!(
            gap.iter()
                .all(|events| matches!(events[..], [DriverEvent::Gap(_)]))
        );
        let none = pass(Faults::NONE);
        assert_eq!(revisions(&none.concat()), [Some(0), Some(1), Some(2)]);
    }
}
