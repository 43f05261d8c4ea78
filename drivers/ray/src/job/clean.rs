//! Records that are to go from the head, and submissions that may still come.
//!
//! Ray looks after a job once a second, also after it has ended. A record that is deleted before it has seen the end is written anew, as a
//! failed job without an entrypoint. So a record is deleted some time after the end, and looked for once more.

use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::Guid;
use tokio::time::Instant;

use super::data::{JobHandle, JobRecord, RecordState, TYPE};
use super::{JobKind, marked};
use crate::head::Head;
use crate::records::Durability;
use crate::sdk::JobInfo;

/// So long after its end Ray has let go of a job.
const SETTLE: Duration = Duration::from_secs(3);
/// The wait after a call that failed, or a stop that has not taken yet.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a submission that may still come is looked for.
const LOOK_OUT: Duration = Duration::from_secs(60);
/// So long a submission whose fate was not known when it was deleted is looked out for.
const MAY_STILL_COME: Duration = Duration::from_secs(900);
/// So many are looked at in one turn.
const AT_ONCE: usize = 32;

/// A submission that nobody wants any more.
#[derive(Clone, Debug)]
pub(super) struct Unwanted {
    cluster: String,
    guid: Guid,
    due: Instant,
    /// Until when it may still come, where it was never seen.
    until: Option<Instant>,
}

impl JobKind {
    /// The record of a job that has ended goes from the head, a while from now.
    pub(super) fn remove_later(&self, handle: &JobHandle) {
        self.do_not_want(handle, &handle.id, SETTLE, None);
    }

    /// The same for the attempts before, where an earlier run of the agent did not get to it.
    pub(super) fn remove_past(&self, handle: &JobHandle) {
        for past in &handle.past {
            self.do_not_want(handle, &past.submission_id, SETTLE, None);
        }
    }

    /// A job that was never seen is not wanted: if it comes all the same it is stopped.
    pub(super) fn look_out_for(&self, handle: &JobHandle) {
        self.do_not_want(handle, &handle.id, AGAIN, Some(Instant::now() + MAY_STILL_COME));
    }

    fn do_not_want(&self, handle: &JobHandle, id: &str, after: Duration, until: Option<Instant>) {
        self.unwanted.lock().insert(
            id.to_owned(),
            Unwanted {
                cluster: handle.cluster.clone(),
                guid: handle.guid,
                due: Instant::now() + after,
                until,
            },
        );
        if let Some(head) = self.shared.heads.get(&handle.cluster) {
            head.wake();
        }
    }

    /// What an earlier run of the agent did not get to.
    pub(super) async fn load_unwanted(&self, head: &Head) {
        for (_, record) in self.shared.records.all::<JobRecord>(TYPE).await {
            if record.state == RecordState::Deleted && record.handle.cluster == head.name {
                self.look_out_for(&record.handle);
                self.remove_past(&record.handle);
            }
        }
    }

    /// When the next one is due.
    pub(super) fn next_unwanted(&self, head: &Head) -> Option<Duration> {
        let unwanted = self.unwanted.lock();
        let due = unwanted
            .values()
            .filter(|u| u.cluster == head.name)
            .map(|u| u.due)
            .min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Looks at those that are due.
    pub(super) async fn clean(&self, head: &Head) {
        let now = Instant::now();
        let due: Vec<(String, Unwanted)> = {
            let unwanted = self.unwanted.lock();
            let due = unwanted
                .iter()
                .filter(|(_, u)| u.cluster == head.name && u.due <= now);
            due.take(AT_ONCE).map(|(id, u)| (id.clone(), u.clone())).collect()
        };
        for (id, one) in due {
            let next = match self.clean_one(head, &id, &one).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(id, %error, "a job that nobody wants any more is still there");
                    Some(Unwanted {
                        due: Instant::now() + AGAIN,
                        ..one.clone()
                    })
                }
            };
            match next {
                Some(next) => {
                    self.unwanted.lock().insert(id, next);
                }
                None => {
                    self.unwanted.lock().remove(&id);
                    self.note_removed(one.guid, &id).await;
                }
            }
        }
    }

    /// When it is looked at again; none where it is gone for good.
    async fn clean_one(&self, head: &Head, id: &str, one: &Unwanted) -> Result<Option<Unwanted>> {
        let again = |after| Unwanted {
            due: Instant::now() + after,
            until: None,
            ..one.clone()
        };
        let Some(info) = head.client.job(id, head.config.read_timeout).await? else {
            return Ok(one
                .until
                .filter(|until| *until > Instant::now())
                .map(|until| Unwanted {
                    until: Some(until),
                    ..again(LOOK_OUT)
                }));
        };
        if is_of_another(&info, one.guid) {
            return Ok(None);
        }
        if info.status.is_final() {
            head.client.delete_job(id, head.config.write_timeout).await?;
            return Ok(Some(again(SETTLE)));
        }
        head.client.stop_job(id, head.config.write_timeout).await?;
        Ok(Some(again(AGAIN)))
    }

    /// The record here is then only there for its attempt's number.
    async fn note_removed(&self, guid: Guid, id: &str) {
        let Ok(Some(mut record)) = self.record(guid).await else {
            return;
        };
        if record.state != RecordState::Deleted || record.handle.id != id {
            return;
        }
        record.state = RecordState::Removed;
        if let Err(error) = self
            .shared
            .records
            .write(TYPE, guid, &record, Durability::Cached)
            .await
        {
            tracing::warn!(%guid, %error, "a job that was removed is looked for again after a restart of the agent");
        }
    }
}

/// Whether a job bears the mark of another object. One that Ray wrote anew bears none.
fn is_of_another(info: &JobInfo, guid: Guid) -> bool {
    marked(info, "agent_guid").is_some_and(|marked| marked != guid.to_string())
}
