//! The single writer of a shard's objects.

use std::sync::Arc;

use agent_api_driver::{Handle, Observed, Recovered};
use agent_api_manager::{Admission, Command, FollowUp, Now, Outcome, Partition, WakeReason};
use agent_api_model::{DriverName, Guid, Phase, Result, ShardId};

use crate::record::Object;
use crate::shared::{Phases, Shared};
use crate::turn::Turn;

pub(crate) struct Shard {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: ShardId,
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) counts: Counts,
}

/// How many objects are in each phase: of this shard, and added to those of all.
pub(crate) struct Counts {
    own: Phases,
    all: Arc<Phases>,
}

impl Counts {
    fn new(all: Arc<Phases>) -> Self {
        Self {
            own: Phases::default(),
            all,
        }
    }

    pub(crate) fn add(&mut self, phase: Phase) {
        self.own.add(phase);
        self.all.add(phase);
    }

    pub(crate) fn take(&mut self, phase: Phase) {
        self.own.take(phase);
        self.all.take(phase);
    }

    pub(crate) fn moved(&mut self, from: Phase, to: Phase) {
        self.take(from);
        self.add(to);
    }

    pub(crate) fn all(&self) -> Vec<(Phase, usize)> {
        self.own.all()
    }
}

impl Shard {
    /// The shard's part of the objects that were replayed.
    pub(crate) fn new(shared: Arc<Shared>, id: ShardId) -> Self {
        let mut shard = Self {
            shared: shared.clone(),
            id,
            objects: Vec::new(),
            counts: Counts::new(shared.phases.clone()),
        };
        shared.table.walk(None, |object| {
            if shard_of(object.guid, shared.config.shards) == id {
                shard.own(object.clone());
            }
            true
        });
        shard
    }

    pub(crate) fn own(&mut self, object: Arc<Object>) {
        {
            let mut state = object.state.lock();
            state.slot = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
            self.counts.add(state.phase);
        }
        self.objects.push(object);
    }

    /// Takes an object out of everything.
    pub(crate) fn disown(&mut self, object: &Object) {
        let (slot, phase) = {
            let state = object.state.lock();
            (state.slot as usize, state.phase)
        };
        self.counts.take(phase);
        self.objects.swap_remove(slot);
        if let Some(moved) = self.objects.get(slot) {
            moved.state.lock().slot = u32::try_from(slot).unwrap_or(u32::MAX);
        }
        self.shared.table.remove(object);
    }

    /// The object, if it is this shard's.
    pub(crate) fn find(&self, guid: Guid) -> Option<Arc<Object>> {
        let object = self.shared.table.get(guid)?;
        (shard_of(guid, self.shared.config.shards) == self.id).then_some(object)
    }

    /// One decision about one object; takes it out where it is gone afterwards.
    pub(crate) fn turn(&mut self, guid: Guid, now: Now, decide: impl FnOnce(&mut Turn<'_>)) -> Vec<FollowUp> {
        let Some(object) = self.find(guid) else {
            return Vec::new();
        };
        let shared = self.shared.clone();
        let mut turn = Turn::new(&shared, &mut self.counts, &object, now);
        if !turn.state.gone {
            decide(&mut turn);
        }
        let gone = turn.state.gone;
        let out = turn.finish();
        if gone {
            self.disown(&object);
        }
        out
    }
}

impl Partition for Shard {
    fn admit(&mut self, command: Command, now: Now) -> Result<Admission> {
        crate::admit::admit(self, command, now)
    }

    fn settle(&mut self, outcome: Outcome, now: Now) -> Vec<FollowUp> {
        self.turn(outcome.operation.guid, now, |turn| {
            crate::settle::settle(turn, outcome)
        })
    }

    fn observe(&mut self, observed: Observed, now: Now) -> Vec<FollowUp> {
        self.turn(observed.guid, now, |turn| crate::observe::observe(turn, observed))
    }

    fn wake(&mut self, guid: Guid, reason: WakeReason, now: Now) -> Vec<FollowUp> {
        self.turn(guid, now, |turn| match reason {
            WakeReason::Retry => crate::settle::retry(turn),
            WakeReason::Probe => crate::health::probe(turn),
        })
    }

    fn dependency_changed(&mut self, guid: Guid, now: Now) -> Vec<FollowUp> {
        self.turn(guid, now, crate::removal::dependency_changed)
    }

    fn recovered(&mut self, now: Now) -> Vec<FollowUp> {
        crate::recovery::recovered(self, now)
    }

    fn recovered_late(&mut self, answers: Vec<Recovered>, now: Now) -> Vec<FollowUp> {
        let mut out = Vec::new();
        for answer in answers {
            out.append(&mut self.turn(answer.guid, now, |turn| crate::recovery::late(turn, answer.state)));
        }
        out
    }

    fn audit(&self, driver: &DriverName, chunk: usize) -> Vec<Vec<(Guid, Arc<Handle>)>> {
        let chunk = if chunk == 0 { usize::MAX } else { chunk };
        let mut chunks: Vec<Vec<(Guid, Arc<Handle>)>> = Vec::new();
        for object in &self.objects {
            if object.kind.driver() != driver.as_str() {
                continue;
            }
            let state = object.state.lock();
            let due = match state.phase {
                Phase::Running | Phase::Paused | Phase::Updating | Phase::Unknown => true,
                // Made, and on its way.
                Phase::Creating => state.flight().is_none(),
                _ => false,
            };
            if let (true, Some(handle)) = (due, &state.handle) {
                match chunks.last_mut() {
                    Some(last) if last.len() < chunk => last.push((object.guid, handle.clone())),
                    _ => chunks.push(vec![(object.guid, handle.clone())]),
                }
            }
        }
        chunks
    }

    fn count(&self) -> Vec<(Phase, usize)> {
        self.counts.all()
    }
}

/// The shard that owns an object: by the random end of its GUID.
pub(crate) fn shard_of(guid: Guid, shards: u16) -> ShardId {
    let low = guid.0.as_u64_pair().1;
    ShardId((low % u64::from(shards.max(1))) as u16)
}
