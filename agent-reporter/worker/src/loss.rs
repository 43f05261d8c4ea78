//! What was lost and is not told yet.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use agent_api_model::{Guid, LeaseId, Topic};
use serde::{Deserialize, Serialize};

/// The CloudEvents type of a loss report.
pub const LOSS_EVENT: &str = "agent.telemetry.loss";

/// So many different losses are kept apart; what comes beyond is added up by topic.
const MAX_PENDING: usize = 1_024;
/// So many different reasons are kept apart in the totals.
const MAX_REASONS: usize = 64;
const MANY: &str = "several reasons";

/// The data of a loss report: what is missing on the topic it comes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossReport {
    /// Whose lease it was; none where lifecycle events are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// Of which object, where it is known to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<Guid>,
    /// `metrics`, `logs`, `traces` or `events`.
    pub signal: Cow<'static, str>,
    /// How many points, lines, spans or events; bytes of logs where lines could not be counted.
    pub count: u64,
    /// Why.
    pub reason: Cow<'static, str>,
    /// The number of the first message that is missing, as in the ids of telemetry events; none where the loss was
    /// before messages were numbered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The number of the last message that is missing; all between are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

/// A loss that is not told yet.
#[derive(Debug)]
struct Pending {
    /// Its number, once somebody tried to tell it: a repeat has the same, so nothing is added to it any more.
    number: Option<u64>,
    topic: Topic,
    loss: LossReport,
}

/// What was lost and is not told yet, and the totals.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pending: VecDeque<Pending>,
    in_flight: bool,
    totals: BTreeMap<String, u64>,
    numbered: u64,
}

impl Losses {
    /// Counts a loss, and has it told.
    pub(crate) fn add(&mut self, topic: &Topic, loss: LossReport) {
        let known = self.totals.contains_key(&*loss.reason);
        let reason = if known || self.totals.len() < MAX_REASONS {
            &*loss.reason
        } else {
            MANY
        };
        let total = self.totals.entry(reason.to_owned()).or_default();
        *total = total.saturating_add(loss.count);
        self.tell(topic, loss);
    }

    fn tell(&mut self, topic: &Topic, loss: LossReport) {
        let same = |pending: &&mut Pending| {
            let known = &pending.loss;
            pending.number.is_none()
                && (
                    &pending.topic,
                    known.lease,
                    known.guid,
                    &known.signal,
                    &known.reason,
                ) == (topic, loss.lease, loss.guid, &loss.signal, &loss.reason)
        };
        // Drops come in runs, so the entry to go on with is nearly always among the last.
        if let Some(Pending { loss: known, .. }) = self.pending.iter_mut().rev().take(64).find(same)
            && goes_on(known, &loss)
        {
            known.count = known.count.saturating_add(loss.count);
            known.last = loss.last.or(known.last);
            return;
        }
        if self.pending.len() < MAX_PENDING {
            self.pending.push_back(Pending {
                number: None,
                topic: topic.clone(),
                loss,
            });
            return;
        }
        let open = |pending: &&mut Pending| pending.number.is_none();
        let same_topic = |pending: &&mut Pending| open(pending) && pending.topic == *topic;
        if let Some(Pending { loss: known, .. }) = self.pending.iter_mut().find(same_topic) {
            known.count = known.count.saturating_add(loss.count);
            if known.signal != loss.signal || known.lease != loss.lease || known.reason != loss.reason {
                (known.lease, known.guid, known.reason) = (None, None, MANY.into());
                (known.first, known.last) = (None, None);
            }
        } else if let Some(other) = self.pending.iter_mut().rev().find(open) {
            // More topics than entries: at least the number is right, on a topic of this agent.
            tracing::warn!(%topic, told_on = %other.topic, "more losses than can be kept apart by topic");
            let known = &mut other.loss;
            known.count = known.count.saturating_add(loss.count);
            (known.lease, known.guid, known.reason) = (None, None, MANY.into());
            (known.first, known.last) = (None, None);
        }
    }

    /// Has a loss told again that could not be told.
    pub(crate) fn put_back(&mut self, number: u64, topic: Topic, loss: LossReport) {
        self.pending.push_front(Pending {
            number: Some(number),
            topic,
            loss,
        });
    }

    /// Takes what is to be told, oldest first, with the number of each.
    pub(crate) fn take(&mut self, most: usize) -> Vec<(u64, Topic, LossReport)> {
        let count = most.min(self.pending.len());
        self.in_flight = count > 0;
        let numbered = &mut self.numbered;
        self.pending
            .drain(..count)
            .map(|pending| {
                let number = pending.number.unwrap_or_else(|| {
                    *numbered += 1;
                    *numbered
                });
                (number, pending.topic, pending.loss)
            })
            .collect()
    }

    /// What was taken is told.
    pub(crate) fn done(&mut self) {
        self.in_flight = false;
    }

    pub(crate) fn all_told(&self) -> bool {
        self.pending.is_empty() && !self.in_flight
    }

    pub(crate) fn totals(&self) -> &BTreeMap<String, u64> {
        &self.totals
    }
}

/// Whether `next` continues `known` without a gap, so that one range says both.
fn goes_on(known: &LossReport, next: &LossReport) -> bool {
    match (known.last, next.first) {
        (None, None) => true,
        (Some(last), Some(first)) => first == last + 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(lease: LeaseId, range: Option<(u64, u64)>, reason: &'static str) -> LossReport {
        LossReport {
            lease: Some(lease),
            guid: None,
            signal: "metrics".into(),
            count: 10,
            reason: reason.into(),
            first: range.map(|(first, _)| first),
            last: range.map(|(_, last)| last),
        }
    }

    #[test]
    fn ranges_grow_only_without_a_gap() {
        let topic = Topic::new("t").unwrap();
        let lease = LeaseId::generate();
        let mut losses = Losses::default();
        for range in [(1, 1), (2, 2), (3, 5), (7, 7), (8, 8)] {
            losses.add(&topic, loss(lease, Some(range), "no room"));
        }
        let told: Vec<_> = losses
            .take(10)
            .into_iter()
            .map(|(number, _, loss)| (number, loss.first, loss.last, loss.count))
            .collect();
        assert_eq!(told, [(1, Some(1), Some(5), 30), (2, Some(7), Some(8), 20)]);
        assert!(!losses.all_told());
        losses.done();
        assert!(losses.all_told());
        assert_eq!(losses.totals()["no room"], 50);
    }

    #[test]
    fn hostile_reasons_and_topics_stay_bounded_and_no_count_is_lost() {
        let mut losses = Losses::default();
        for number in 0..10_000_u32 {
            let topic = Topic::new(format!("t.{}", number % 3_000)).unwrap();
            let mut loss = loss(LeaseId::generate(), None, "x");
            loss.reason = format!("reason {number}").into();
            losses.add(&topic, loss);
        }
        assert!(losses.totals().len() <= MAX_REASONS + 1);
        assert_eq!(losses.totals().values().sum::<u64>(), 100_000);
        let told = losses.take(usize::MAX);
        assert!(told.len() <= MAX_PENDING);
        assert_eq!(told.iter().map(|(_, _, loss)| loss.count).sum::<u64>(), 100_000);
    }
}
