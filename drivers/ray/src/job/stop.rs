//! Ending jobs, and removing them.

use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, EvidenceSource, Guid};
use agent_api_driver::{DeleteRequest, Deleted, Result};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep};

use super::data::{JobHandle, RecordState};
use super::state::{self, Sight};
use super::{JobKind, is_ours};
use crate::error;
use crate::head::Head;
use crate::sdk::{JobInfo, JobStatus};

/// The first wait between two looks at a job that is to end; it doubles.
const LOOK_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between two looks.
const LOOK_MOST: Duration = Duration::from_millis(500);
/// A job that runs is asked again after so long: Ray forgets a stop that came too early.
pub(super) const STOP_AGAIN: Duration = Duration::from_secs(2);
/// So many jobs are stopped at one time at a shutdown.
const STOPS_AT_ONCE: usize = 8;

impl JobKind {
    /// Asks a job to end and waits until it has. None where it is no longer there. At the deadline the wish stays: the head's task goes
    /// on asking.
    pub(super) async fn stop_and_wait(
        &self,
        head: &Head,
        handle: &JobHandle,
        left: Duration,
    ) -> Result<Option<JobInfo>> {
        let until = Instant::now() + left;
        let left = || until.saturating_duration_since(Instant::now());
        self.wish_to_stop(handle);
        let mut wait = LOOK_FIRST;
        let mut asked: Option<(Instant, JobStatus)> = None;
        loop {
            if left().is_zero() {
                return Err(error::timeout(handle.guid, "stopping the job")
                    .with_hint("it is asked on; Ray stops a job that is pending only once it has begun"));
            }
            let Some(info) = head.client.job(&handle.id, left()).await? else {
                return Ok(None);
            };
            if !is_ours(&info, handle) {
                return Ok(None);
            }
            self.learn(handle.guid, &handle.id, &Sight::Job(&info), EvidenceSource::Poll);
            if info.status.is_final() {
                return Ok(Some(info));
            }
            // A stop of a pending job is answered with yes and may have no effect: it is asked again once it runs.
            let due = asked.is_none_or(|(at, status)| status != info.status || at.elapsed() >= STOP_AGAIN);
            if due {
                head.client.stop_job(&handle.id, left()).await?;
                asked = Some((Instant::now(), info.status));
                if let Some(entry) = self.table.lock().get_mut(handle.guid) {
                    entry.stop_sent = Some(Instant::now());
                }
                wait = LOOK_FIRST;
            }
            sleep(wait.min(left())).await;
            wait = (wait * 2).min(LOOK_MOST);
        }
    }

    /// Keeps the wish that this attempt ends.
    pub(super) fn wish_to_stop(&self, handle: &JobHandle) {
        let mut table = self.table.lock();
        if let Some(entry) = table
            .get_mut(handle.guid)
            .filter(|entry| entry.handle.id == handle.id)
        {
            entry.handle.stop = true;
        }
    }

    /// See [`agent_api_driver::ObjectDriver::delete`].
    pub(super) async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        let until = Instant::now() + request.deadline;
        let record = self.record(request.guid).await?;
        let given = request.handle.map(JobHandle::read).transpose()?;
        if given.as_ref().is_some_and(|handle| handle.guid != request.guid) {
            // Another object's: not touched.
            return Ok(Deleted::default());
        }
        // The record may know of a later attempt than the handle: one whose answer was lost.
        let recorded = record
            .as_ref()
            .filter(|record| record.state == RecordState::Submitted)
            .map(|record| record.handle.clone());
        let handle = match (given, recorded) {
            (Some(given), Some(recorded)) if recorded.attempt > given.attempt => {
                self.remove_job(&given, until, false).await?;
                recorded
            }
            (Some(given), _) => given,
            (None, Some(recorded)) => recorded,
            (None, None) => return Ok(Deleted::default()),
        };
        if record.is_some_and(|record| record.state == RecordState::Orphaned) {
            return Ok(Deleted::default());
        }
        if request.orphan {
            self.keep(&handle, RecordState::Orphaned).await?;
            self.forget(request.guid);
            return Ok(Deleted::default());
        }
        let exit = self.remove_job(&handle, until, true).await?;
        self.remove_past(&handle);
        self.keep(&handle, RecordState::Deleted).await?;
        self.forget(request.guid);
        Ok(Deleted {
            exit,
            left: Vec::new(),
        })
    }

    fn forget(&self, guid: Guid) {
        self.table.lock().take(guid);
        self.sources.lock().forget(guid);
        self.changed.notify_waiters();
    }

    /// Stops one attempt, and has its record on the head deleted; how it ended.
    async fn remove_job(
        &self,
        handle: &JobHandle,
        until: Instant,
        may_still_come: bool,
    ) -> Result<Option<agent_api_driver::model::ExitStatus>> {
        let head = self.head_of(handle)?;
        let left = || until.saturating_duration_since(Instant::now());
        let Some(info) = head.client.job(&handle.id, left()).await? else {
            let known = self
                .table
                .lock()
                .get(handle.guid)
                .is_some_and(|e| state::is_over(e.status.state));
            if may_still_come && !known {
                self.look_out_for(handle);
            }
            return Ok(None);
        };
        if !is_ours(&info, handle) {
            return Ok(None);
        }
        let ended = if info.status.is_final() {
            info
        } else {
            match self.stop_and_wait(&head, handle, left()).await? {
                Some(info) => info,
                None => return Ok(None),
            }
        };
        self.remove_later(handle);
        Ok(Some(state::exit(&ended, handle)))
    }

    /// Stops all that runs, as much as the time allows.
    pub(super) async fn stop_all(&self, deadline: Duration) {
        let guids = self.table.lock().all_active();
        futures_util::stream::iter(guids)
            .for_each_concurrent(STOPS_AT_ONCE, |guid| async move {
                let Some(handle) = self.table.lock().get(guid).map(|entry| entry.handle.clone()) else {
                    return;
                };
                let stopped = match self.head_of(&handle) {
                    Ok(head) => self.stop_and_wait(&head, &handle, deadline).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = stopped {
                    tracing::warn!(%guid, %error, "not stopped at the shutdown");
                }
            })
            .await;
    }

    /// An operation on something that is not there.
    pub(super) fn not_found(why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::NotFound, format!("its job is not there: {why}"))
    }
}
