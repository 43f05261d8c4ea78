//! What calls bring.

use std::time::Duration;

use agent_api_model::{Error, Guid, LeaseId, Result};
use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::{Ended, LEAST_LOG_BYTES, Runner};
use crate::job::{Collected, Job, Purpose};
use crate::route::{Routed, route};
use crate::wheel::Due;

/// The first wait after the sink refused lines; it doubles.
const REFUSED_DELAY: Duration = Duration::from_millis(20);
/// The longest wait after the sink refused lines.
const REFUSED_DELAY_MAX: Duration = Duration::from_secs(1);

impl Runner {
    /// A call has ended.
    pub(super) fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((key, driver)) = self.running.remove(&id) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&driver) {
            lane.in_flight -= 1;
        }
        match ended {
            Ok((_, (job, Ok(collected)))) => self.collected(&job, collected),
            Ok((_, (job, Err(error)))) => self.failed(&job, &error),
            Err(error) => {
                self.instruments.skipped();
                tracing::error!(%driver, %error, "a collection ended by itself");
            }
        }
        let Some(group) = self.plan.group(key, &driver) else {
            return;
        };
        group.outstanding -= 1;
        if group.outstanding == 0 {
            group.in_tick = false;
            self.advance(key, &driver);
            self.let_go(key);
        }
    }

    fn collected(&mut self, job: &Job, collected: Collected) {
        self.instruments.collected();
        let routed = route(job, collected, &mut self.plan.leases, &*self.sink);
        if let Some(group) = self.plan.group(job.class, &job.driver) {
            group.failing = false;
        }
        if !job.has_logs() {
            return;
        }
        if job.purpose == Purpose::LastLines {
            self.forget_last_lines(job, |lease, guid| routed.had_lines.contains(&(lease, guid)));
        }
        self.pace_logs(job, &routed);
    }

    /// How much is read next, and when.
    fn pace_logs(&mut self, job: &Job, routed: &Routed) {
        let most = self.config.log_bytes;
        let Some(class) = self.plan.classes.get_mut(&job.class) else {
            return;
        };
        let next = class.next;
        let Some(group) = class.groups.get_mut(&job.driver) else {
            return;
        };
        let now = Instant::now();
        let at = if routed.refused {
            group.log_bytes = (group.log_bytes / 2).max(LEAST_LOG_BYTES.min(most));
            group.again_delay = (group.again_delay * 2).clamp(REFUSED_DELAY, REFUSED_DELAY_MAX);
            now + group.again_delay
        } else {
            group.again_delay = Duration::ZERO;
            if routed.log_bytes * 2 >= job.log_bytes {
                // There is more than one call brings.
                group.log_bytes = (group.log_bytes * 2).min(most);
                now
            } else if group.last_lines.is_empty() {
                return;
            } else {
                now + REFUSED_DELAY
            }
        };
        if at >= next && group.last_lines.is_empty() {
            return;
        }
        if let Some(known) = group.again {
            if known <= at {
                return;
            }
            self.wheel
                .remove(known, Due::Again(job.class, job.driver.clone()));
        }
        group.again = Some(at);
        self.wheel.add(at, Due::Again(job.class, job.driver.clone()));
    }

    fn failed(&mut self, job: &Job, error: &Error) {
        self.instruments.skipped();
        if job.purpose == Purpose::LastLines {
            self.forget_last_lines(job, |_, _| false);
        }
        if let Some(group) = self.plan.group(job.class, &job.driver)
            && !std::mem::replace(&mut group.failing, true)
        {
            tracing::warn!(driver = %job.driver, interval = ?job.class.interval, %error, "cannot collect");
        }
    }

    /// Forgets the last lines that a call was for, but for those it says to keep.
    fn forget_last_lines(&mut self, job: &Job, keep: impl Fn(LeaseId, Guid) -> bool) {
        for member in &job.layer.members[job.chunk.clone()] {
            for lease in job.layer.leases(member) {
                if keep(*lease, member.guid) {
                    continue;
                }
                if let Some(group) = self.plan.group(job.class, &job.driver) {
                    group
                        .last_lines
                        .retain(|last| last.lease != *lease || last.object.view.guid != member.guid);
                }
                // Where it came back meanwhile, its cursor goes on.
                if !self.plan.objects.contains_key(&member.guid)
                    && let Some(held) = self.plan.leases.get_mut(lease)
                {
                    held.left(member.guid);
                }
            }
        }
    }
}
