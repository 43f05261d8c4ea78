//! Finding jobs again, and asking for their status.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_driver::model::{Error, ErrorKind, Evidence, EvidenceSource, Guid, Timestamp};
use agent_api_driver::{
    Handle, Mark, ObjectState, ObjectStatus, Observed, Recovered, RecoveredState, Result, Target,
};
use futures_util::StreamExt;

use super::data::{JobHandle, JobRecord, RecordState, TYPE};
use super::spec::StopSignal;
use super::state::{self, Sight};
use super::table::Entry;
use super::{JobKind, is_ours, marked, poll};
use crate::head::{Capacity, Head};
use crate::sdk::JobInfo;

/// So many are asked for at one time.
const ASKS_AT_ONCE: usize = 8;

/// What became of a question for one job.
pub(super) type Answer = Result<Option<JobInfo>>;

impl JobKind {
    /// Asks for many jobs of one head: one by one, or by one list where that costs less.
    pub(super) async fn ask(&self, head: &Head, ids: &[String]) -> BTreeMap<String, Answer> {
        let history = self.turns.lock().get(&head.name).and_then(|turns| turns.history);
        if poll::lists(ids.len(), history) {
            match self.list(head).await {
                Ok(mut all) => {
                    return ids.iter().map(|id| (id.clone(), Ok(all.remove(id)))).collect();
                }
                Err(error) => {
                    return ids.iter().map(|id| (id.clone(), Err(error.clone()))).collect();
                }
            }
        }
        futures_util::stream::iter(ids.to_vec())
            .map(|id| async move {
                let answer = head.client.job(&id, head.config.read_timeout).await;
                (id, answer)
            })
            .buffer_unordered(ASKS_AT_ONCE)
            .collect()
            .await
    }

    /// All submissions on a head by id; notes how many there are.
    pub(super) async fn list(&self, head: &Head) -> Result<BTreeMap<String, JobInfo>> {
        let all = head.client.jobs().await?;
        self.turns.lock().entry(head.name.clone()).or_default().history = Some(all.len());
        Ok(all
            .into_iter()
            .filter_map(|info| Some((info.submission_id.clone()?, info)))
            .collect())
    }

    /// Asks for these jobs of one head and takes what is seen: the status of each that is in the table, and the error where there was
    /// no answer.
    pub(super) async fn ask_and_learn(
        &self,
        head: &Head,
        jobs: &[(Guid, String)],
        source: EvidenceSource,
    ) -> Option<Error> {
        let ids: Vec<String> = jobs.iter().map(|(_, id)| id.clone()).collect();
        let answers = self.ask(head, &ids).await;
        let absent = answers.values().any(|answer| matches!(answer, Ok(None)));
        if absent {
            // Whether it is the same session decides what it means.
            head.look().await;
        }
        let session = head.known_version().map(|version| version.session_name);
        let mut failed = None;
        for (guid, id) in jobs {
            match answers.get(id) {
                Some(Ok(Some(info))) => {
                    let sight = match self.is_on_dead_node(head, info) {
                        true => Sight::NodeDead(info),
                        false => Sight::Job(info),
                    };
                    self.learn(*guid, id, &sight, source);
                }
                Some(Ok(None)) => {
                    // A restart in between: the next look tells.
                    if let Some(session) = session.as_deref().filter(|_| head.outage().is_none()) {
                        self.learn(*guid, id, &Sight::Absent { session }, source);
                    }
                }
                Some(Err(error)) => failed = Some(error.clone()),
                None => {}
            }
        }
        failed
    }

    fn is_on_dead_node(&self, head: &Head, info: &JobInfo) -> bool {
        if info.status != crate::sdk::JobStatus::Running {
            return false;
        }
        let (Some(id), Some(nodes)) = (&info.driver_node_id, head.known_nodes()) else {
            return false;
        };
        nodes.iter().any(|node| node.node_id == *id && !node.is_alive())
    }

    /// See [`agent_api_driver::ObjectDriver::observe`].
    pub(super) async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) {
        let mut by_head: BTreeMap<String, Vec<(Guid, String)>> = BTreeMap::new();
        let mut strangers = Vec::new();
        for target in targets {
            let known = {
                let table = self.table.lock();
                table.get(target.guid).map(|e| {
                    (
                        e.handle.cluster.clone(),
                        e.handle.id.clone(),
                        state::is_over(e.status.state),
                    )
                })
            };
            match known {
                // What has ended never changes: a history costs nothing.
                Some((_, _, true)) => {}
                Some((cluster, id, false)) => by_head.entry(cluster).or_default().push((target.guid, id)),
                None => strangers.push(*target),
            }
        }
        for (cluster, jobs) in by_head {
            let Some(head) = self.shared.heads.get(&cluster).map(Arc::clone) else {
                continue;
            };
            if let Some(error) = self.ask_and_learn(&head, &jobs, EvidenceSource::Poll).await {
                for (guid, id) in &jobs {
                    self.learn_silence(&head, *guid, id, &error);
                }
            } else {
                self.look_at_activity(&head, &jobs).await;
            }
        }
        for target in targets {
            let table = self.table.lock();
            let Some(entry) = table.get(target.guid) else {
                continue;
            };
            let stale = JobHandle::read(target.handle).is_ok_and(|handle| handle.id != entry.handle.id);
            out.push(Observed {
                guid: target.guid,
                handle: stale.then(|| entry.handle.write()),
                status: entry.status.clone(),
            });
        }
        for target in strangers {
            out.push(Observed {
                guid: target.guid,
                handle: None,
                status: self.observe_stranger(target).await,
            });
        }
    }

    /// An object whose last answer is older than the silence that began since.
    pub(super) fn learn_silence(&self, head: &Head, guid: Guid, id: &str, error: &Error) {
        let silent = self.table.lock().get(guid).is_some_and(|entry| {
            head.outage().is_some() || entry.seen_at.elapsed() >= head.config.read_timeout
        });
        if silent {
            let outage = head.outage();
            let since = outage.as_ref().map_or_else(Timestamp::now, |outage| outage.since);
            let reason = outage.map_or_else(|| error.message().to_owned(), |outage| outage.reason);
            let sight = Sight::Nothing {
                since,
                reason: &reason,
            };
            self.learn(guid, id, &sight, EvidenceSource::Inferred);
        }
    }

    /// An object that is not in the table: its handle says where to look. Nothing is adopted by looking.
    async fn observe_stranger(&self, target: Target<'_>) -> ObjectStatus {
        let unknown = || ObjectStatus::new(ObjectState::Unknown, Evidence::now(EvidenceSource::Inferred, 0));
        let Ok(handle) = JobHandle::read(target.handle) else {
            return unknown();
        };
        let revision = handle.revision;
        let gone = || ObjectStatus::new(ObjectState::Gone, Evidence::now(EvidenceSource::Poll, revision));
        if handle.guid != target.guid {
            return gone();
        }
        let Ok(head) = self.head_of(&handle) else {
            return unknown();
        };
        match head.client.job(&handle.id, head.config.read_timeout).await {
            Ok(Some(info)) if is_ours(&info, &handle) => {
                let before = Entry::new(handle.clone()).status;
                let sight = Sight::Job(&info);
                state::reduce(&before, &handle, None, &sight, EvidenceSource::Poll, Vec::new()).0
            }
            Ok(_) => gone(),
            Err(_) => unknown(),
        }
    }

    /// See [`agent_api_driver::ObjectDriver::recover`].
    pub(super) async fn recover(&self, targets: &[Target<'_>]) -> Vec<Recovered> {
        let mut all = Vec::new();
        let mut by_head: BTreeMap<String, Vec<(JobHandle, Option<JobRecord>)>> = BTreeMap::new();
        for target in targets {
            let guid = target.guid;
            let mut answer = |state| all.push(Recovered { guid, state });
            let handle = match JobHandle::read(target.handle) {
                Ok(handle) if handle.guid == guid => handle,
                Ok(handle) => {
                    answer(RecoveredState::Foreign(format!(
                        "the handle is of object {}",
                        handle.guid
                    )));
                    continue;
                }
                Err(error) => {
                    answer(RecoveredState::Lost(error.to_string()));
                    continue;
                }
            };
            let record = match self.record(guid).await {
                Ok(record) => record,
                Err(error) => {
                    answer(RecoveredState::Lost(error.to_string()));
                    continue;
                }
            };
            match &record {
                Some(record)
                    if matches!(record.state, RecordState::Deleted | RecordState::Removed)
                        && record.handle.attempt >= handle.attempt =>
                {
                    answer(RecoveredState::Lost("it was deleted".to_owned()));
                }
                Some(record) if record.state == RecordState::Orphaned => {
                    answer(RecoveredState::Lost("it was left to itself".to_owned()));
                }
                Some(record) if record.ended.is_some() && record.handle.id == handle.id => {
                    let info = record.ended.clone().expect("matched above");
                    answer(RecoveredState::Exited(self.take_in(&handle, &Sight::Job(&info))));
                }
                _ => by_head
                    .entry(handle.cluster.clone())
                    .or_default()
                    .push((handle, record)),
            }
        }
        for (cluster, jobs) in by_head {
            match self.shared.heads.get(&cluster).map(Arc::clone) {
                Some(head) => self.recover_from(&head, jobs, &mut all).await,
                None => all.extend(jobs.into_iter().map(|(handle, _)| Recovered {
                    guid: handle.guid,
                    state: RecoveredState::Lost(format!(
                        "the Ray cluster {cluster:?} is no longer in the driver's configuration"
                    )),
                })),
            }
        }
        all
    }

    async fn recover_from(
        &self,
        head: &Head,
        jobs: Vec<(JobHandle, Option<JobRecord>)>,
        all: &mut Vec<Recovered>,
    ) {
        head.look().await;
        let ids: Vec<String> = jobs.iter().map(|(handle, _)| handle.id.clone()).collect();
        let mut answers = match head.outage() {
            Some(outage) => {
                let error = Error::new(ErrorKind::Unavailable, outage.reason);
                ids.iter().map(|id| (id.clone(), Err(error.clone()))).collect()
            }
            None => self.ask(head, &ids).await,
        };
        let session = head.known_version().map(|v| v.session_name).unwrap_or_default();
        for (handle, _) in jobs {
            let guid = handle.guid;
            let state = match answers.remove(&handle.id) {
                Some(Ok(Some(info))) if is_ours(&info, &handle) => {
                    let over = info.status.is_final();
                    let status = self.take_in(&handle, &Sight::Job(&info));
                    if over {
                        RecoveredState::Exited(status)
                    } else {
                        RecoveredState::Adopted(status, None)
                    }
                }
                Some(Ok(Some(_))) => {
                    RecoveredState::Foreign(format!("the job {} is not this object's", handle.id))
                }
                Some(Ok(None)) => {
                    let status = self.take_in(&handle, &Sight::Absent { session: &session });
                    let reason = status.exit.and_then(|exit| exit.reason);
                    RecoveredState::Lost(
                        reason.unwrap_or_else(|| "the head knows no job of this id".to_owned()),
                    )
                }
                Some(Err(error)) => {
                    let since = head.outage().map_or_else(Timestamp::now, |outage| outage.since);
                    let sight = Sight::Nothing {
                        since,
                        reason: error.message(),
                    };
                    RecoveredState::Adopted(self.take_in(&handle, &sight), None)
                }
                None => RecoveredState::Lost("it was not asked for".to_owned()),
            };
            all.push(Recovered { guid, state });
        }
        head.touch();
    }

    /// Puts an object into the table with what is seen of it, and says nothing: the answer of the call does.
    fn take_in(&self, handle: &JobHandle, sight: &Sight<'_>) -> ObjectStatus {
        let mut table = self.table.lock();
        if table.get(handle.guid).is_none() {
            table.insert(Entry::new(handle.clone()));
        }
        match table.learn(handle.guid, &handle.id, sight, EvidenceSource::Poll) {
            Some((status, _)) => status,
            // A later attempt is there already.
            None => table
                .get(handle.guid)
                .expect("it was put in above")
                .status
                .clone(),
        }
    }

    /// See [`agent_api_driver::ObjectDriver::discover`].
    pub(super) async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        let records: BTreeMap<Guid, JobRecord> = self.shared.records.all(TYPE).await.into_iter().collect();
        let mut found: BTreeMap<Guid, (Mark, JobHandle)> = BTreeMap::new();
        for head in self.shared.heads.values() {
            // The session goes into the handles.
            let listed = match head.version().await {
                Ok(_) => self.list(head).await,
                Err(error) => Err(error),
            };
            let all = match listed {
                Ok(all) => all,
                Err(error) => {
                    if records.values().any(|record| record.handle.cluster == head.name) {
                        return Err(error);
                    }
                    // Nothing of ours is known there: a cluster that is not up says nothing about it.
                    tracing::debug!(cluster = head.name, %error, "not looked for jobs of this agent");
                    continue;
                }
            };
            for info in all.values() {
                let Some((mark, handle)) = self.bearing_our_mark(head, info) else {
                    continue;
                };
                let record = records.get(&mark.guid);
                if record
                    .is_some_and(|r| r.state != RecordState::Submitted && r.handle.attempt >= handle.attempt)
                {
                    continue;
                }
                let handle = match record {
                    Some(record) if record.handle.id == handle.id => record.handle.clone(),
                    _ => handle,
                };
                let newer = found
                    .get(&mark.guid)
                    .is_none_or(|(_, known)| known.attempt < handle.attempt);
                if newer {
                    found.insert(mark.guid, (mark, handle));
                }
            }
        }
        Ok(found
            .into_values()
            .map(|(mark, handle)| (mark, handle.write()))
            .collect())
    }

    /// A job that this agent made, with a handle that finds it.
    pub(super) fn bearing_our_mark(&self, head: &Head, info: &JobInfo) -> Option<(Mark, JobHandle)> {
        if marked(info, "agent_id") != Some(self.shared.agent.as_str()) {
            return None;
        }
        let mark = Mark {
            agent: self.shared.agent.clone(),
            guid: marked(info, "agent_guid")?.parse().ok()?,
            op_id: marked(info, "agent_op_id")?.parse().ok()?,
        };
        let handle = JobHandle {
            guid: mark.guid,
            cluster: head.name.clone(),
            id: info.submission_id.clone()?,
            attempt: marked(info, "agent_attempt")?.parse().ok()?,
            op_id: mark.op_id,
            revision: 0,
            session: head.known_version().map(|v| v.session_name).unwrap_or_default(),
            submitted_at: info.start_time.map_or_else(Timestamp::now, super::data::at),
            digest: 0,
            stop_signal: StopSignal::default(),
            limits: Vec::new(),
            wanted: Capacity::default(),
            adopted: false,
            stop: false,
            past: Vec::new(),
        };
        Some((mark, handle))
    }
}
