//! The turns of a head's task: what is asked when, wishes that wait, records that are deleted.

use std::collections::VecDeque;
use std::time::Duration;

use agent_api_driver::model::{EvidenceSource, Guid};
use serde::Deserialize;
use tokio::time::Instant;

use super::JobKind;
use super::data::{JobRecord, RecordState, TYPE};
use super::poll::Pace;
use super::stop::STOP_AGAIN;
use crate::head::{Head, Look};
use crate::records::Durability;
use crate::sdk::JobStatus;

/// The file on the head's node that tells of jobs that began and ended.
const EVENT_FILE: &str = "events/event_JOBS.log";
/// So many of its last lines are read at a turn.
const EVENT_LINES: u64 = 64;
/// How old the list of nodes may be while something runs: a dead node is seen after so long.
const NODES_AGE: Duration = Duration::from_secs(10);
/// A job that waits longer than this is looked at for what it waits for.
const WAITS_LONG: Duration = Duration::from_secs(5);
/// So many records of ended jobs are deleted in one turn.
const DELETES: usize = 32;
/// So many jobs wake the managers of jobs after an outage.
const WAKES: usize = 3;
/// How long the record of a deleted object is kept, so that the number of its attempt is not used again.
const KEEP_DELETED: Duration = Duration::from_secs(24 * 3_600);

/// What was last asked of a head.
#[derive(Default)]
pub(crate) struct Turns {
    /// How many jobs the last list had.
    pub history: Option<usize>,
    audited: Option<Instant>,
    /// What an earlier run of the agent left to be done is known.
    loaded: bool,
    /// Events of the file that were seen, the oldest first.
    seen: VecDeque<String>,
}

impl JobKind {
    /// See [`crate::kind::KindDriver::tick`].
    pub(super) async fn turn(&self, head: &Head, look: &Look) -> Duration {
        if let Look::Away(error) = look {
            return self.away(head, error);
        }
        let first = {
            let mut turns = self.turns.lock();
            !std::mem::replace(&mut turns.entry(head.name.clone()).or_default().loaded, true)
        };
        if first {
            self.load_unwanted(head).await;
        }
        let active = self.table.lock().count_active(&head.name);
        if matches!(look, Look::NewSession { .. } | Look::Back) {
            self.all_due(head);
        }
        if active > 0 && head.nodes(NODES_AGE).await.is_err() {
            tracing::debug!(cluster = head.name, "the nodes cannot be listed");
        }
        self.look_at_waiting(head);
        let pace = || Pace {
            touched: head.touched(),
            active: self.table.lock().count_active(&head.name),
            tells: head.tells(),
        };
        if pace().uses_file() {
            self.read_event_file(head).await;
        }
        let due = self.due(head, pace());
        if !due.is_empty() {
            self.ask_and_learn(head, &due, EvidenceSource::Poll).await;
        }
        if matches!(look, Look::Back) {
            self.wake_managers(head).await;
        }
        self.send_stops(head).await;
        self.delete_ended(head).await;
        self.clean(head).await;
        self.audit(head).await;
        let next = pace().turn_interval(&head.config.poll);
        let due = self.next_due(head).into_iter().chain(self.next_unwanted(head));
        due.fold(next, Duration::min)
    }

    /// No answer: what runs is unknown once that has lasted.
    fn away(&self, head: &Head, error: &agent_api_driver::model::Error) -> Duration {
        let silent: Vec<(Guid, String)> = {
            let table = self.table.lock();
            let late = |at: Instant| at.elapsed() >= head.config.unknown_after;
            let active = table.active(&head.name).into_iter();
            active
                .filter(|(_, entry)| late(entry.seen_at))
                .map(|(guid, entry)| (guid, entry.handle.id.clone()))
                .collect()
        };
        for (guid, id) in silent {
            self.learn_silence(head, guid, &id, error);
        }
        head.config.poll.busy
    }

    fn all_due(&self, head: &Head) {
        let mut table = self.table.lock();
        let guids: Vec<Guid> = table
            .active(&head.name)
            .into_iter()
            .map(|(guid, _)| guid)
            .collect();
        for guid in guids {
            if let Some(entry) = table.get_mut(guid) {
                entry.due = Instant::now();
            }
        }
    }

    /// Those whose time has come; their next one is set.
    fn due(&self, head: &Head, pace: Pace) -> Vec<(Guid, String)> {
        let interval = pace.job_interval(&head.config.poll);
        let now = Instant::now();
        let mut table = self.table.lock();
        let guids: Vec<Guid> = table
            .active(&head.name)
            .into_iter()
            .map(|(guid, _)| guid)
            .collect();
        let mut due = Vec::new();
        for guid in guids {
            let Some(entry) = table.get_mut(guid) else {
                continue;
            };
            // A pace that became faster brings the time forward.
            entry.due = entry.due.min(entry.seen_at + interval);
            if entry.due <= now {
                entry.due = now + interval;
                due.push((guid, entry.handle.id.clone()));
            }
        }
        due
    }

    fn next_due(&self, head: &Head) -> Option<Duration> {
        let table = self.table.lock();
        let due = table
            .active(&head.name)
            .into_iter()
            .map(|(_, entry)| entry.due)
            .min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Whether any node can still give what a waiting job wants.
    fn look_at_waiting(&self, head: &Head) {
        let Some(nodes) = head.known_nodes() else { return };
        let mut table = self.table.lock();
        let guids: Vec<Guid> = table
            .active(&head.name)
            .into_iter()
            .map(|(guid, _)| guid)
            .collect();
        for guid in guids {
            let Some(entry) = table.get_mut(guid) else {
                continue;
            };
            let waits = entry
                .info
                .as_ref()
                .is_some_and(|info| info.status == JobStatus::Pending);
            if !waits || entry.handle.wanted.is_empty() {
                continue;
            }
            let now = agent_api_driver::model::Timestamp::now();
            if now.since(entry.handle.submitted_at) < WAITS_LONG && !head.config.autoscaling {
                continue;
            }
            entry.infeasible = entry.handle.wanted.why_infeasible(&nodes);
        }
    }

    /// After an outage in the same session a job whose manager is gone stays RUNNING until something wakes it.
    async fn wake_managers(&self, head: &Head) {
        let Ok(nodes) = head.nodes(Duration::ZERO).await else {
            return;
        };
        let workers: Vec<&str> = nodes
            .iter()
            .filter(|node| node.is_alive() && !node.is_head_node)
            .map(|node| node.node_id.as_str())
            .collect();
        let asleep: Vec<(Guid, String)> = {
            let table = self.table.lock();
            let active = table.active(&head.name).into_iter();
            active
                .filter(|(_, entry)| {
                    let node = entry
                        .info
                        .as_ref()
                        .and_then(|info| info.driver_node_id.as_deref());
                    node.is_none_or(|node| !workers.contains(&node))
                })
                .map(|(guid, entry)| (guid, entry.handle.id.clone()))
                .collect()
        };
        for (_, id) in asleep.iter().take(WAKES) {
            if let Err(error) = head.client.wake_job(id).await {
                tracing::debug!(id, %error, "the manager of jobs was not woken by this one");
            }
        }
        let now = Instant::now();
        let mut table = self.table.lock();
        for (guid, _) in asleep {
            if let Some(entry) = table.get_mut(guid) {
                entry.due = now + Duration::from_secs(1);
            }
        }
    }

    /// Wishes to stop that have not taken yet.
    async fn send_stops(&self, head: &Head) {
        let wishes: Vec<(Guid, String)> = {
            let table = self.table.lock();
            let active = table.active(&head.name).into_iter();
            active
                .filter(|(_, entry)| {
                    let runs = entry
                        .info
                        .as_ref()
                        .is_some_and(|info| info.status == JobStatus::Running);
                    entry.handle.stop && runs && entry.stop_sent.is_none_or(|at| at.elapsed() >= STOP_AGAIN)
                })
                .map(|(guid, entry)| (guid, entry.handle.id.clone()))
                .collect()
        };
        for (guid, id) in wishes {
            match head.client.stop_job(&id, head.config.write_timeout).await {
                Ok(_) => {
                    if let Some(entry) = self.table.lock().get_mut(guid) {
                        entry.stop_sent = Some(Instant::now());
                    }
                }
                Err(error) => tracing::warn!(%guid, id, %error, "a job that is to stop was not asked to"),
            }
        }
    }

    /// Deletes from the head what ended some time ago, after what it says is on disk here.
    async fn delete_ended(&self, head: &Head) {
        let Some(keep) = head.config.keep_ended else {
            return;
        };
        let Some(moment) = Instant::now().checked_sub(keep) else {
            return;
        };
        let ended = self.table.lock().ended_before(&head.name, moment);
        for (i, (guid, handle, info)) in ended.into_iter().enumerate() {
            let done = match info.filter(|_| i < DELETES) {
                Some(info) if info.status.is_final() && !handle.adopted => {
                    let record = JobRecord {
                        handle: handle.clone(),
                        state: RecordState::Submitted,
                        ended: Some(info),
                    };
                    match self
                        .shared
                        .records
                        .write(TYPE, guid, &record, Durability::Synced)
                        .await
                    {
                        Ok(()) => {
                            head.client
                                .delete_job(&handle.id, head.config.write_timeout)
                                .await
                        }
                        Err(error) => Err(error),
                    }
                }
                Some(_) => Ok(()),
                None if i < DELETES => Ok(()),
                None => {
                    self.table.lock().ended_again(&head.name, guid);
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::warn!(%guid, id = handle.id, %error, "the record of a job that ended was not deleted from the head");
                self.table.lock().ended_again(&head.name, guid);
            }
        }
    }

    /// The list of everything, rarely, to be sure; and records of long ago are removed.
    async fn audit(&self, head: &Head) {
        {
            let turns = self.turns.lock();
            let last = turns.get(&head.name).and_then(|turns| turns.audited);
            if last.is_some_and(|at| at.elapsed() < head.config.poll.audit) {
                return;
            }
        }
        self.turns.lock().entry(head.name.clone()).or_default().audited = Some(Instant::now());
        let all = match self.list(head).await {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!(cluster = head.name, %error, "the jobs cannot be listed");
                return;
            }
        };
        let active: Vec<(Guid, String)> = {
            let table = self.table.lock();
            let active = table.active(&head.name).into_iter();
            active
                .map(|(guid, entry)| (guid, entry.handle.id.clone()))
                .collect()
        };
        for (guid, id) in active {
            if let Some(info) = all.get(&id) {
                self.learn(guid, &id, &super::state::Sight::Job(info), EvidenceSource::Poll);
            }
        }
        let is_old = |record: &JobRecord| matches!(record.state, RecordState::Deleted | RecordState::Removed);
        self.shared
            .records
            .prune::<JobRecord>(TYPE, KEEP_DELETED, is_old)
            .await;
    }

    /// The end of the event file: whom it names is asked for. Its cost is the same whatever the history.
    async fn read_event_file(&self, head: &Head) {
        let Some(node) = head.known_nodes().and_then(|nodes| {
            nodes
                .iter()
                .find(|n| n.is_head_node && n.is_alive())
                .map(|n| n.node_id.clone())
        }) else {
            return;
        };
        let text = match head
            .client
            .log_file(&node, EVENT_FILE, Some(EVENT_LINES))
            .body()
            .await
        {
            Ok(text) => text,
            Err(error) => {
                // It is there after the first job only.
                tracing::debug!(cluster = head.name, %error, "the event file cannot be read");
                return;
            }
        };
        let events = parse_events(&text);
        let news: Vec<String> = {
            let mut turns = self.turns.lock();
            let seen = &mut turns.entry(head.name.clone()).or_default().seen;
            let news = events
                .into_iter()
                .filter(|event| !seen.contains(&event.event_id))
                .collect::<Vec<_>>();
            for event in &news {
                if seen.len() >= 4 * EVENT_LINES as usize {
                    seen.pop_front();
                }
                seen.push_back(event.event_id.clone());
            }
            news.into_iter()
                .map(|event| event.custom_fields.submission_id)
                .collect()
        };
        for id in news {
            self.due_now(&id);
        }
    }

    /// A hint about a submission: it is asked for at the next turn, which is now.
    pub(super) fn due_now(&self, id: &str) -> bool {
        let mut table = self.table.lock();
        let Some(guid) = table.by_id(id) else { return false };
        let Some(entry) = table.get_mut(guid) else {
            return false;
        };
        entry.due = Instant::now();
        true
    }
}

/// One line of the event file, as far as it matters.
#[derive(Debug, Deserialize)]
struct FileEvent {
    event_id: String,
    custom_fields: FileFields,
}

#[derive(Debug, Deserialize)]
struct FileFields {
    submission_id: String,
}

/// The events of some lines; a first line that is cut and lines of another form are passed over.
fn parse_events(text: &[u8]) -> Vec<FileEvent> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_file_names_submissions() {
        let text = br#"cut"}, "severity": "INFO"}
{"event_id": "e1", "source_type": "JOBS", "message": "Started a ray job t1.", "custom_fields": {"submission_id": "t1"}, "severity": "INFO"}
{"event_id": "e2", "message": "Completed a ray job t2 with a status FAILED.", "custom_fields": {"submission_id": "t2"}}
"#;
        let events = parse_events(text);
        let named: Vec<_> = events
            .iter()
            .map(|event| {
                (
                    event.event_id.as_str(),
                    event.custom_fields.submission_id.as_str(),
                )
            })
            .collect();
        assert_eq!(named, [("e1", "t1"), ("e2", "t2")]);
    }
}
