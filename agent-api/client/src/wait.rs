//! Waiting until an object is as wanted.

use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{
    Error, ErrorKind, HealthState, ObjectView, Phase, Result, Target, WatchEvent, WatchRequest,
    format_duration,
};
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::Client;

const PAUSE: Duration = Duration::from_millis(100);

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// It runs with the spec wanted last, or has succeeded already. Fails at once where it failed.
    Running,
    /// It runs and its health check is content. Fails at once where it ended.
    Healthy,
    /// It is in this phase. Fails at once where it ended in another.
    Phase(Phase),
    /// It has succeeded or failed.
    Ended,
    /// It is gone.
    Gone,
}

enum Verdict {
    Wait,
    Reached,
    Never(String),
}

impl Until {
    fn judge(self, view: &ObjectView) -> Verdict {
        let current = view.observed_generation >= view.generation;
        let ended = || {
            let how = view
                .exit
                .as_ref()
                .map_or(String::new(), |exit| format!(": {exit}"));
            Verdict::Never(format!("it is {}{how}", view.phase))
        };
        match (self, view.phase) {
            (Self::Running, Phase::Running) if current => Verdict::Reached,
            (Self::Running, Phase::Succeeded) => Verdict::Reached,
            (Self::Running, Phase::Failed) => ended(),
            (Self::Healthy, Phase::Running) if current && view.health == Some(HealthState::Healthy) => {
                Verdict::Reached
            }
            (Self::Healthy, Phase::Running) if view.health.is_none() => {
                Verdict::Never("it has no health check".into())
            }
            (Self::Phase(wanted), phase) if wanted == phase => Verdict::Reached,
            (Self::Ended, phase) if phase.is_terminal() => Verdict::Reached,
            (Self::Healthy | Self::Phase(_), phase) if phase.is_terminal() => ended(),
            _ => Verdict::Wait,
        }
    }

    fn sentence(self) -> String {
        match self {
            Self::Running => "running".into(),
            Self::Healthy => "healthy".into(),
            Self::Phase(phase) => phase.to_string(),
            Self::Ended => "ended".into(),
            Self::Gone => "gone".into(),
        }
    }
}

impl Client {
    /// Waits until an object is as wanted, and returns its view then; none where it is gone.
    ///
    /// Survives a restart of the agent where it is back within the deadline.
    ///
    /// # Errors
    ///
    /// `Timeout` past the deadline, with what the object was last; `Conflict` where it can never be so any more;
    /// `NotFound` where there is no such object (unless [`Until::Gone`] was waited for).
    pub async fn wait_for(
        &self,
        target: &Target,
        until: Until,
        deadline: Duration,
    ) -> Result<Option<Arc<ObjectView>>> {
        let end = Instant::now() + deadline;
        let mut last = None;
        match tokio::time::timeout_at(end, self.wait(target, until, &mut last)).await {
            Ok(result) => result,
            Err(_) => {
                let now = last.map_or("nothing was heard of it".into(), |view: Arc<ObjectView>| {
                    let stuck = view
                        .operation
                        .as_ref()
                        .and_then(|operation| operation.last_error.as_ref());
                    let why = stuck.map_or(String::new(), |error| format!(" ({error})"));
                    format!("it is {}{why}", view.phase)
                });
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "not {} within {}: {now}",
                        until.sentence(),
                        format_duration(deadline)
                    ),
                )
                .with_object(target)
                .with_hint(format!("see `agent explain {target}`")))
            }
        }
    }

    async fn wait(
        &self,
        target: &Target,
        until: Until,
        last: &mut Option<Arc<ObjectView>>,
    ) -> Result<Option<Arc<ObjectView>>> {
        let request = WatchRequest {
            object: Some(target.clone()),
            ..WatchRequest::default()
        };
        loop {
            match self.look(&request, target, until, last).await {
                Ok(Some(found)) => return Ok(found),
                // The agent went away in the middle, or has no room: look again.
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::NotFound && until == Until::Gone => return Ok(None),
                Err(error) if last.is_some() && error.kind() == ErrorKind::Unavailable => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Watches until there is a verdict; none where the stream ended before.
    async fn look(
        &self,
        request: &WatchRequest,
        target: &Target,
        until: Until,
        last: &mut Option<Arc<ObjectView>>,
    ) -> Result<Option<Option<Arc<ObjectView>>>> {
        let mut events = self.watch(request).await?;
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Changed(view) => {
                    let verdict = until.judge(&view);
                    *last = Some(Arc::clone(&view));
                    match verdict {
                        Verdict::Reached => return Ok(Some(Some(view))),
                        Verdict::Wait => {}
                        Verdict::Never(why) => {
                            return Err(Error::new(
                                ErrorKind::Conflict,
                                format!("will not be {}: {why}", until.sentence()),
                            )
                            .with_object(target)
                            .with_hint(format!("see `agent explain {target}`")));
                        }
                    }
                }
                WatchEvent::Deleted { .. } if until == Until::Gone => return Ok(Some(None)),
                WatchEvent::Deleted { .. } => {
                    return Err(
                        Error::new(ErrorKind::NotFound, "it was deleted meanwhile").with_object(target)
                    );
                }
                WatchEvent::Synced | WatchEvent::Gap { .. } => {}
            }
        }
        Ok(None)
    }
}
