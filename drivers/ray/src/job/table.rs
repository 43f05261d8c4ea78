//! What is known of the jobs of this agent.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use agent_api_driver::model::{Condition, Evidence, EvidenceSource, Guid, Timestamp};
use agent_api_driver::{ObjectState, ObjectStatus};
use tokio::time::Instant;

use super::data::JobHandle;
use super::state::{self, SCHEDULABLE, STOPPING, Sight};
use crate::sdk::JobInfo;

/// So many notes of one object wait to be collected; older ones are counted as lost.
const NOTES: usize = 64;

/// One object.
pub(crate) struct Entry {
    pub handle: JobHandle,
    pub status: ObjectStatus,
    /// The head's last answer.
    pub info: Option<JobInfo>,
    /// When the head last answered for it.
    pub seen_at: Instant,
    /// When it is asked for again at the latest.
    pub due: Instant,
    /// The cluster told that something changed: what is found then is known by an event.
    pub hinted: bool,
    /// Why no node can give what it wants.
    pub infeasible: Option<String>,
    /// When it was last asked to stop.
    pub stop_sent: Option<Instant>,
    /// When it was last asked what it does on the cluster.
    pub activity_asked: Option<Instant>,
    /// What Ray said of it, to be collected.
    pub notes: Notes,
}

/// What Ray said of an object, since the last collection.
#[derive(Default)]
pub(crate) struct Notes {
    pub lines: VecDeque<(Timestamp, String)>,
    pub lost: u64,
}

impl Notes {
    pub(crate) fn push(&mut self, at: Timestamp, line: String) {
        if self.lines.len() >= NOTES {
            self.lines.pop_front();
            self.lost += 1;
        }
        self.lines.push_back((at, line));
    }
}

/// All objects, those that have not ended apart: a turn costs what is active, whatever the history.
#[derive(Default)]
pub(crate) struct Table {
    entries: HashMap<Guid, Entry>,
    ids: HashMap<String, Guid>,
    active: BTreeMap<String, BTreeSet<Guid>>,
    /// Those that ended, by cluster, the earliest first.
    ended: BTreeMap<String, VecDeque<(Instant, Guid)>>,
}

impl Entry {
    pub(crate) fn new(handle: JobHandle) -> Self {
        let evidence = Evidence::now(EvidenceSource::Poll, handle.revision);
        let status = ObjectStatus {
            limits: handle.limits.clone(),
            details: state::details(&handle, None),
            ..ObjectStatus::new(ObjectState::Starting, evidence)
        };
        let now = Instant::now();
        Self {
            handle,
            status,
            info: None,
            seen_at: now,
            due: now,
            hinted: false,
            infeasible: None,
            stop_sent: None,
            activity_asked: None,
            notes: Notes::default(),
        }
    }

    fn conditions(&self, sight: &Sight<'_>) -> Vec<Condition> {
        let waits = match sight {
            Sight::Job(info) => info.status == crate::sdk::JobStatus::Pending,
            Sight::Nothing { .. } => self.status.state == ObjectState::Starting,
            Sight::NodeDead(_) | Sight::Absent { .. } => false,
        };
        let mut conditions = Vec::new();
        if waits && let Some(why) = &self.infeasible {
            conditions.push(Condition::new(SCHEDULABLE, false, "Infeasible", why.clone()));
        }
        if waits && self.handle.stop {
            conditions.push(Condition::new(
                STOPPING,
                true,
                "Pending",
                "Ray stops a job that waits only once it has begun; it is stopped then",
            ));
        }
        conditions
    }
}

impl Table {
    pub(crate) fn get(&self, guid: Guid) -> Option<&Entry> {
        self.entries.get(&guid)
    }

    pub(crate) fn get_mut(&mut self, guid: Guid) -> Option<&mut Entry> {
        self.entries.get_mut(&guid)
    }

    /// The object of this submission.
    pub(crate) fn by_id(&self, id: &str) -> Option<Guid> {
        self.ids.get(id).copied()
    }

    /// Puts an object in, or its next attempt.
    pub(crate) fn insert(&mut self, mut entry: Entry) {
        let guid = entry.handle.guid;
        if let Some(old) = self.take(guid) {
            entry.notes = old.notes;
        }
        self.ids.insert(entry.handle.id.clone(), guid);
        let cluster = entry.handle.cluster.clone();
        if state::is_over(entry.status.state) {
            self.ended
                .entry(cluster)
                .or_default()
                .push_back((Instant::now(), guid));
        } else {
            self.active.entry(cluster).or_default().insert(guid);
        }
        self.entries.insert(guid, entry);
    }

    /// Takes an object out.
    pub(crate) fn take(&mut self, guid: Guid) -> Option<Entry> {
        let entry = self.entries.remove(&guid)?;
        self.ids.remove(&entry.handle.id);
        if let Some(active) = self.active.get_mut(&entry.handle.cluster) {
            active.remove(&guid);
        }
        // Its place among those that ended is passed over when its turn comes.
        Some(entry)
    }

    /// Takes what was seen of a submission: the status now, and whether it is another one. None where it is not, or no longer, the
    /// present attempt of its object.
    pub(crate) fn learn(
        &mut self,
        guid: Guid,
        id: &str,
        sight: &Sight<'_>,
        source: EvidenceSource,
    ) -> Option<(ObjectStatus, bool)> {
        let entry = self
            .entries
            .get_mut(&guid)
            .filter(|entry| entry.handle.id == id)?;
        let source = if std::mem::take(&mut entry.hinted) {
            EvidenceSource::Event
        } else {
            source
        };
        let conditions = entry.conditions(sight);
        let was_over = state::is_over(entry.status.state);
        let (status, changed) = state::reduce(
            &entry.status,
            &entry.handle,
            entry.info.as_ref(),
            sight,
            source,
            conditions,
        );
        if !matches!(sight, Sight::Nothing { .. }) {
            entry.seen_at = Instant::now();
        }
        if let Sight::Job(info) | Sight::NodeDead(info) = sight
            && !was_over
        {
            entry.info = Some((*info).clone());
        }
        if !changed && !was_over && matches!(sight, Sight::Job(_)) {
            // Seen again: a revision is given to changes only.
            entry.status.evidence.at = Timestamp::now();
        }
        if changed {
            if status.state != entry.status.state {
                entry.notes.push(status.evidence.at, note(&entry.handle, &status));
            }
            entry.status = status.clone();
            if state::is_over(status.state) {
                let cluster = entry.handle.cluster.clone();
                if let Some(active) = self.active.get_mut(&cluster) {
                    active.remove(&guid);
                }
                self.ended
                    .entry(cluster)
                    .or_default()
                    .push_back((Instant::now(), guid));
            }
        }
        Some((status, changed))
    }

    /// Those of a cluster that have not ended.
    pub(crate) fn active(&self, cluster: &str) -> Vec<(Guid, &Entry)> {
        let active = self.active.get(cluster).into_iter().flatten();
        active
            .filter_map(|guid| Some((*guid, self.entries.get(guid)?)))
            .collect()
    }

    pub(crate) fn count_active(&self, cluster: &str) -> usize {
        self.active.get(cluster).map_or(0, BTreeSet::len)
    }

    /// All that have not ended.
    pub(crate) fn all_active(&self) -> Vec<Guid> {
        self.active.values().flatten().copied().collect()
    }

    /// Takes out of the queue those of a cluster that ended before this moment.
    pub(crate) fn ended_before(
        &mut self,
        cluster: &str,
        moment: Instant,
    ) -> Vec<(Guid, JobHandle, Option<JobInfo>)> {
        let Some(ended) = self.ended.get_mut(cluster) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        while let Some((at, guid)) = ended.front().copied()
            && at <= moment
        {
            ended.pop_front();
            if let Some(entry) = self.entries.get(&guid)
                && state::is_over(entry.status.state)
            {
                found.push((guid, entry.handle.clone(), entry.info.clone()));
            }
        }
        found
    }

    /// Puts one back into the queue, to be looked at later.
    pub(crate) fn ended_again(&mut self, cluster: &str, guid: Guid) {
        self.ended
            .entry(cluster.to_owned())
            .or_default()
            .push_back((Instant::now(), guid));
    }
}

/// One line that says what became of it.
fn note(handle: &JobHandle, status: &ObjectStatus) -> String {
    let id = &handle.id;
    let node = status.details["node_id"].as_str().unwrap_or("?");
    match status.state {
        ObjectState::Starting => format!("job {id} waits to be started"),
        ObjectState::Running => format!("job {id} runs on node {node}"),
        ObjectState::Paused => format!("job {id} is held still"),
        ObjectState::Exited | ObjectState::Gone => match &status.exit {
            Some(exit) => format!("job {id} {exit}"),
            None => format!("job {id} is gone"),
        },
        ObjectState::Unknown => {
            let why = status.conditions.iter().find(|c| c.kind == state::REACHABLE);
            format!(
                "the state of job {id} is not known: {}",
                why.map_or("", |c| &c.message)
            )
        }
    }
}
