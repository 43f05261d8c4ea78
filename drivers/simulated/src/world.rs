//! The simulated substrate's state, changed under one lock and never across an await.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use agent_api_driver::model::{
    AgentId, DriverState, Error, ErrorKind, EvidenceSource, ExitStatus, Guid, OpId, Result, Timestamp,
};
use agent_api_driver::{DriverEvent, Handle, Observed};

use crate::behavior::{Behavior, Change, Fate, purpose};
use crate::draw::Draw;
use crate::queue::EventQueue;
use crate::signals;
use crate::spec::{LATE_BY, Operation};
use crate::store::{Loaded, Store};
use crate::thing::{Owner, State, Thing, micros, read_handle};

/// Late events held back at once; beyond it one is on time.
const MAX_LATE: usize = 1_024;
/// Failed creates remembered at once, so that the next try draws anew.
const MAX_ATTEMPTS: usize = 65_536;
/// The revision of statuses that are nonsense.
pub(crate) const OLD_REVISION: u64 = 1;

#[derive(Debug, Default)]
pub(crate) struct World {
    things: HashMap<Guid, Thing>,
    /// What ends by itself and when; entries with an old timer are passed over.
    due: BinaryHeap<Reverse<(i64, Guid, u32)>>,
    late: BTreeMap<(i64, u64), (Owner, DriverEvent)>,
    late_count: u64,
    revision: u64,
    agents: Vec<AgentId>,
    queues: HashMap<u16, Arc<EventQueue>>,
    attempts: HashMap<u64, u32>,
    store: Option<Store>,
    problem: Option<String>,
    /// Something is due earlier than before.
    rearmed: bool,
}

/// Why there is nothing of ours under a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    Unreadable,
    Foreign,
    Gone,
}

impl World {
    pub(crate) fn restored(store: Store, loaded: Loaded) -> Self {
        let problem = (loaded.damaged > 0).then(|| {
            format!(
                "{} records of the state file could not be read and were passed over",
                loaded.damaged
            )
        });
        let mut world = Self {
            things: loaded.things,
            revision: loaded.revision,
            agents: loaded.agents,
            store: Some(store),
            problem,
            ..Self::default()
        };
        let guids: Vec<_> = world.things.keys().copied().collect();
        for guid in guids {
            world.arm(guid);
        }
        world
    }

    /// In memory, because the state directory cannot be used.
    pub(crate) fn unsaved(problem: String) -> Self {
        // No file says how far revisions had come: the clock does.
        let revision = u64::try_from(Timestamp::now().as_micros()).unwrap_or(0);
        Self {
            revision,
            problem: Some(problem),
            ..Self::default()
        }
    }

    pub(crate) fn health(&self) -> DriverState {
        match &self.problem {
            None => DriverState::Healthy,
            Some(reason) => DriverState::Degraded {
                reason: reason.clone(),
            },
        }
    }

    /// The owner for an agent's marks.
    pub(crate) fn owner(&mut self, agent: &AgentId) -> Owner {
        let index = self
            .agents
            .iter()
            .position(|known| known == agent)
            .unwrap_or_else(|| {
                self.agents.push(agent.clone());
                self.agents.len() - 1
            });
        u16::try_from(index).map_or(Owner::NOBODY, Owner)
    }

    /// From now on events of this owner's objects go here.
    pub(crate) fn attach(&mut self, owner: Owner, queue: Arc<EventQueue>) {
        self.queues.insert(owner.0, queue);
    }

    /// Ends what [`attach`](Self::attach) began, unless another queue has taken its place.
    pub(crate) fn detach(&mut self, owner: Owner, queue: &Arc<EventQueue>) {
        if self
            .queues
            .get(&owner.0)
            .is_some_and(|known| Arc::ptr_eq(known, queue))
        {
            self.queues.remove(&owner.0);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.things.len()
    }

    pub(crate) fn things(&self) -> impl Iterator<Item = (Guid, &Thing)> {
        self.things.iter().map(|(guid, thing)| (*guid, thing))
    }

    /// The newest revision: what is gone is at least as new.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The object of this GUID, whoever made it, after what is due for it.
    pub(crate) fn get(&mut self, guid: Guid, now: i64) -> Option<&mut Thing> {
        if let Some((at, crash)) = self.things.get(&guid)?.end()
            && at <= now
        {
            self.end_by_itself(guid, at, crash);
        }
        self.things.get_mut(&guid)
    }

    /// The object that this handle of this owner's refers to, after what is due for it.
    pub(crate) fn ours(
        &mut self,
        guid: Guid,
        handle: &Handle,
        owner: Owner,
        now: i64,
    ) -> Result<&mut Thing, Miss> {
        let (there, _) = read_handle(handle).ok_or(Miss::Unreadable)?;
        if there != guid {
            return Err(if self.things.contains_key(&there) {
                Miss::Foreign
            } else {
                Miss::Gone
            });
        }
        let thing = self.get(guid, now).ok_or(Miss::Gone)?;
        if thing.owner == owner {
            Ok(thing)
        } else {
            Err(Miss::Foreign)
        }
    }

    /// How the next call for an object goes that exists.
    pub(crate) fn fate(thing: &mut Thing, operation: Operation) -> Fate {
        if thing.behavior.disturbs(operation) {
            thing.draws = thing.draws.wrapping_add(1);
        }
        thing.behavior.fate(operation, thing.key, thing.draws)
    }

    /// How the next `apply` goes, by the new behaviour, so that a spec without faults gets through.
    pub(crate) fn fate_of_apply(&mut self, guid: Guid, key: u64, behavior: &Behavior, now: i64) -> Fate {
        if let Some(thing) = self.get(guid, now) {
            thing.draws = thing.draws.wrapping_add(1);
            let operation = if thing.state == State::Exited {
                Operation::Create
            } else {
                Operation::Update
            };
            return behavior.fate(operation, key, thing.draws);
        }
        let mut number = 0;
        if behavior.disturbs(Operation::Create) {
            if self.attempts.len() >= MAX_ATTEMPTS {
                self.attempts.clear();
            }
            let attempts = self.attempts.entry(key).or_default();
            *attempts += 1;
            number = *attempts;
        }
        behavior.fate(Operation::Create, key, number)
    }

    /// Makes the object, brings it to this behaviour, or starts it again where it had ended.
    pub(crate) fn apply(
        &mut self,
        guid: Guid,
        owner: Owner,
        op_id: OpId,
        key: u64,
        behavior: &Arc<Behavior>,
        now: i64,
    ) -> Result<()> {
        let change = match self.get(guid, now) {
            Some(thing) if thing.owner != owner => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "something with this GUID exists that is not of this agent",
                ));
            }
            Some(thing) if thing.op_id == op_id => return Ok(()),
            Some(thing) if thing.state == State::Exited => Some(Change::Restart),
            Some(thing) => Some(thing.behavior.change_to(behavior)),
            None => None,
        };
        if change != Some(Change::None)
            && let Some((path, message)) = behavior.over_capacity()
        {
            return Err(Error::new(ErrorKind::Conflict, message).with_path(path));
        }
        match change {
            None => self.create(guid, owner, op_id, key, behavior, now),
            Some(Change::None) => {}
            Some(Change::InPlace) => self.set_behavior(guid, behavior, now),
            Some(Change::Restart | Change::Recreate) => {
                self.start_again(guid, op_id, Some(key), behavior, now)
            }
        }
        Ok(())
    }

    fn create(
        &mut self,
        guid: Guid,
        owner: Owner,
        op_id: OpId,
        key: u64,
        behavior: &Arc<Behavior>,
        now: i64,
    ) {
        self.attempts.remove(&key);
        let thing = Thing {
            op_id,
            key,
            behavior: behavior.clone(),
            revision: 0,
            since: now,
            ran: 0,
            earlier: 0,
            lines: 0,
            exit: None,
            starts: 1,
            draws: 0,
            timer: 0,
            owner,
            state: State::Running,
        };
        self.things.insert(guid, thing);
        self.changed(guid, now);
    }

    /// Changes how it behaves while it runs.
    pub(crate) fn set_behavior(&mut self, guid: Guid, behavior: &Arc<Behavior>, now: i64) {
        if let Some(thing) = self.things.get_mut(&guid) {
            // What was written so far stays written, whatever the new rate of lines.
            let written = thing.written(now);
            thing.behavior = behavior.clone();
            thing.lines = written.saturating_sub(behavior.lines(thing.ran(now)));
            self.changed(guid, now);
        }
    }

    /// Stops it where it runs, and starts it.
    pub(crate) fn start_again(
        &mut self,
        guid: Guid,
        op_id: OpId,
        key: Option<u64>,
        behavior: &Arc<Behavior>,
        now: i64,
    ) {
        if let Some(thing) = self.things.get_mut(&guid) {
            thing.lines = thing.written(now);
            thing.earlier = thing.ran_in_all(now);
            thing.ran = 0;
            thing.since = now;
            thing.exit = None;
            thing.state = State::Running;
            thing.starts = thing.starts.wrapping_add(1);
            thing.op_id = op_id;
            thing.key = key.unwrap_or(thing.key);
            thing.behavior = behavior.clone();
            self.changed(guid, now);
        }
    }

    /// Holds it still or lets it go on; nothing where it is so already or has ended.
    pub(crate) fn hold(&mut self, guid: Guid, still: bool, now: i64) {
        if let Some(thing) = self.things.get_mut(&guid) {
            let (from, to) = if still {
                (State::Running, State::Paused)
            } else {
                (State::Paused, State::Running)
            };
            if thing.state == from {
                thing.ran = thing.ran(now);
                thing.since = now;
                thing.state = to;
                self.changed(guid, now);
            }
        }
    }

    /// Ends it; nothing where it has ended already.
    pub(crate) fn end(&mut self, guid: Guid, exit: ExitStatus, at: i64) {
        if let Some(thing) = self.things.get_mut(&guid)
            && thing.state != State::Exited
        {
            thing.ran = thing.ran(at);
            thing.since = at;
            thing.state = State::Exited;
            thing.exit = Some(Box::new(ExitStatus {
                at: Some(Timestamp::from_micros(at)),
                ..exit
            }));
            self.changed(guid, at);
        }
    }

    fn end_by_itself(&mut self, guid: Guid, at: i64, crash: bool) {
        let Some(thing) = self.things.get(&guid) else {
            return;
        };
        let spec = &thing.behavior.spec;
        let exit = match (&spec.crash, crash) {
            (Some(crash), true) => {
                let number = signals::number(&crash.signal).unwrap_or(11);
                ExitStatus {
                    signal: Some(signals::name(number)),
                    ..ExitStatus::default()
                }
            }
            _ => ExitStatus {
                code: Some(spec.exit_code.unwrap_or(0)),
                ..ExitStatus::default()
            },
        };
        self.end(guid, exit, at);
    }

    /// Takes it away; no event, as there is nothing any more that could say so.
    pub(crate) fn remove(&mut self, guid: Guid) {
        if self.things.remove(&guid).is_some() {
            self.revision += 1;
            if let Some(store) = &mut self.store {
                store.gone(guid, self.revision);
            }
        }
    }

    /// Takes our mark away and leaves it running.
    pub(crate) fn orphan(&mut self, guid: Guid) {
        if let Some(thing) = self.things.get_mut(&guid) {
            thing.owner = Owner::NOBODY;
            self.revision += 1;
            thing.revision = self.revision;
            self.save(guid);
        }
    }

    /// Ends at most so many of what is due, and sends late events. Whether there is more.
    pub(crate) fn advance(&mut self, now: i64, most: usize) -> bool {
        while let Some(entry) = self.late.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (owner, event) = entry.remove();
            self.push(owner, event);
        }
        for _ in 0..most {
            match self.due.peek() {
                Some(Reverse((at, guid, timer))) if *at <= now => {
                    let (guid, timer) = (*guid, *timer);
                    self.due.pop();
                    if self.things.get(&guid).is_some_and(|thing| thing.timer == timer) {
                        self.get(guid, now);
                    }
                }
                _ => return false,
            }
        }
        true
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<i64> {
        let due = self.due.peek().map(|Reverse((at, ..))| *at);
        let late = self.late.keys().next().map(|(at, _)| *at);
        [due, late].into_iter().flatten().min()
    }

    /// Whether something became due earlier since the last call.
    pub(crate) fn take_rearmed(&mut self) -> bool {
        std::mem::take(&mut self.rearmed)
    }

    /// Brings what was noted to the file. Where that fails the world goes on in memory, and says so.
    pub(crate) fn flush(&mut self) {
        let Some(store) = &mut self.store else { return };
        let written = store.flush().and_then(|()| {
            if store.is_bloated() {
                store.rewrite(&self.things, &self.agents, self.revision)
            } else {
                Ok(())
            }
        });
        if let Err(error) = written {
            let problem = format!("the state file cannot be written ({error}): objects end with the agent");
            tracing::warn!(%error, "simulated objects are in memory only from now on");
            self.store = None;
            self.problem = Some(problem);
            let health = self.health();
            for queue in self.queues.values() {
                queue.push(DriverEvent::Health(health.clone()));
            }
        }
    }

    fn save(&mut self, guid: Guid) {
        if let (Some(store), Some(thing)) = (&mut self.store, self.things.get(&guid)) {
            store.put(guid, thing, &self.agents);
        }
    }

    /// What follows from each change: a newer revision, its next end, the file, an event.
    fn changed(&mut self, guid: Guid, now: i64) {
        self.revision += 1;
        if let Some(thing) = self.things.get_mut(&guid) {
            thing.revision = self.revision;
        }
        self.arm(guid);
        self.save(guid);
        self.report(guid, now);
    }

    fn arm(&mut self, guid: Guid) {
        let before = self.next_due();
        let Some(thing) = self.things.get_mut(&guid) else {
            return;
        };
        thing.timer = thing.timer.wrapping_add(1);
        let Some((at, _)) = thing.end() else { return };
        self.due.push(Reverse((at, guid, thing.timer)));
        self.rearmed |= before.is_none_or(|before| at < before);
        // Old entries go with time; many restarts of long lives would pile them up.
        if self.due.len() > 2 * self.things.len() + 1_024 {
            let things = &self.things;
            self.due
                .retain(|Reverse((_, guid, timer))| things.get(guid).is_some_and(|it| it.timer == *timer));
        }
    }

    fn push(&self, owner: Owner, event: DriverEvent) {
        if let Some(queue) = self.queues.get(&owner.0) {
            queue.push(event);
        }
    }

    /// Reports an object's status, with what happens to events on their way.
    fn report(&mut self, guid: Guid, now: i64) {
        let Some(thing) = self.things.get_mut(&guid) else {
            return;
        };
        let owner = thing.owner;
        if !self.queues.get(&owner.0).is_some_and(|queue| queue.is_read()) {
            return;
        }
        let (faults, garbage) = (thing.behavior.spec.events, thing.behavior.spec.garbage);
        let mut status = thing.status(EvidenceSource::Event, now);
        if faults.is_none() && garbage.is_none() {
            return self.push(
                owner,
                DriverEvent::Status(Observed {
                    guid,
                    handle: None,
                    status,
                }),
            );
        }
        thing.draws = thing.draws.wrapping_add(1);
        let mut draw = Draw::new(thing.key, purpose::EVENT, thing.draws);
        if draw.happens(garbage.revision.0) {
            status.evidence.revision = OLD_REVISION;
        }
        let event = DriverEvent::Status(Observed {
            guid,
            handle: None,
            status,
        });
        if let Some(stranger) = stranger(thing, now) {
            self.push(owner, DriverEvent::Status(stranger));
        }
        if draw.happens(faults.gap.0) {
            return self.push(owner, DriverEvent::Gap(Some(guid)));
        }
        if draw.happens(faults.lost.0) {
            return;
        }
        let (twice, late) = (draw.happens(faults.duplicated.0), draw.happens(faults.late.0));
        if late && self.late.len() < MAX_LATE {
            let by = draw.duration(&faults.late_by.unwrap_or(LATE_BY));
            let at = now.saturating_add(i64::try_from(micros(by)).unwrap_or(i64::MAX));
            self.rearmed |= self.next_due().is_none_or(|before| at < before);
            self.late_count += 1;
            self.late.insert((at, self.late_count), (owner, event.clone()));
            if twice {
                self.push(owner, event);
            }
            return;
        }
        if twice {
            self.push(owner, event.clone());
        }
        self.push(owner, event);
    }
}

/// The status of an object that was never made, where the spec asks for such nonsense.
pub(crate) fn stranger(thing: &Thing, now: i64) -> Option<Observed> {
    let mut draw = Draw::new(thing.key, purpose::STRANGER, thing.draws);
    draw.happens(thing.behavior.spec.garbage.unknown_object.0)
        .then(|| Observed {
            guid: Guid(uuid::Uuid::from_bytes(draw.bytes())),
            handle: None,
            status: thing.status(EvidenceSource::Event, now),
        })
}
