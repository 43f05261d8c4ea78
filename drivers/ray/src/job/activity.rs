//! What programs that use Ray do on the cluster: how many actors and tasks they have.

use std::time::Duration;

use agent_api_driver::ObjectState;
use agent_api_driver::model::Guid;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use super::JobKind;
use super::state::ACTIVITY;
use crate::head::Head;
use crate::sdk::Activity;

/// So old it may be.
const AGE: Duration = Duration::from_secs(5);
/// Of so many jobs at one look: each costs the head two summaries.
const AT_ONCE: usize = 4;
/// What takes longer is left for the next look: the state of jobs does not wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

impl JobKind {
    /// Looks at those of these jobs that run and use Ray, the longest not looked at first. It is no news: details get it in place.
    pub(super) async fn look_at_activity(&self, head: &Head, jobs: &[(Guid, String)]) {
        futures_util::stream::iter(self.activity_due(jobs))
            .for_each_concurrent(AT_ONCE, |(guid, ray_id)| async move {
                match timeout(PATIENCE, head.client.activity(Some(&ray_id))).await {
                    Ok(Ok(activity)) => self.learn_activity(guid, &ray_id, &activity),
                    Ok(Err(error)) => tracing::debug!(ray_id, %error, "what a job does is not known"),
                    Err(_) => tracing::debug!(ray_id, "what a job does was not said in time"),
                }
            })
            .await;
    }

    /// Whom to look at now, by Ray's own id; they count as looked at.
    fn activity_due(&self, jobs: &[(Guid, String)]) -> Vec<(Guid, String)> {
        let mut table = self.table.lock();
        let mut due: Vec<(Option<Instant>, Guid, String)> = jobs
            .iter()
            .filter_map(|(guid, _)| {
                let entry = table.get(*guid)?;
                let ray_id = entry.info.as_ref()?.job_id.clone()?;
                let runs = entry.status.state == ObjectState::Running;
                let old = entry.activity_asked.is_none_or(|at| at.elapsed() >= AGE);
                (runs && old).then_some((entry.activity_asked, *guid, ray_id))
            })
            .collect();
        due.sort_unstable();
        due.truncate(AT_ONCE);
        let now = Instant::now();
        for (_, guid, _) in &due {
            if let Some(entry) = table.get_mut(*guid) {
                entry.activity_asked = Some(now);
            }
        }
        due.into_iter().map(|(_, guid, ray_id)| (guid, ray_id)).collect()
    }

    fn learn_activity(&self, guid: Guid, ray_id: &str, activity: &Activity) {
        let mut table = self.table.lock();
        let Some(entry) = table.get_mut(guid) else { return };
        let same = entry.info.as_ref().and_then(|info| info.job_id.as_deref()) == Some(ray_id);
        // It may have ended meanwhile: what has ended stays as it is.
        if same && entry.status.state == ObjectState::Running {
            entry.status.details[ACTIVITY] =
                serde_json::to_value(activity).expect("counts by name are plain data");
        }
    }
}
