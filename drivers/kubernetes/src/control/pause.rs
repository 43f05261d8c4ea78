//! Holding rollouts and Jobs, and letting them go.

use std::time::Duration;

use agent_api_driver::{Applied, ControlRequest, Result};
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Workload, unsupported};
use crate::handle::HandleData;
use crate::shared::Shared;

/// How long after a change it is looked at first, and how long there is between later looks.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) async fn pause(
        &self,
        request: &ControlRequest<'_>,
        data: HandleData,
        workloads: &[Workload<'_>],
        pause: bool,
        until: Instant,
    ) -> Result<Applied> {
        let (mut live, mut refused) = (Vec::new(), Vec::new());
        for one in workloads {
            let field = match one.kind() {
                "Deployment" => "paused",
                "Job" | "CronJob" => "suspend",
                other => {
                    refused.push(other.to_owned());
                    continue;
                }
            };
            if (one.spec()[field] == true) == pause {
                live.push(one.live.clone());
                continue;
            }
            let value = if pause { json!(true) } else { Value::Null };
            let value = if field == "suspend" { json!(pause) } else { value };
            let after = self.patch(one, &json!({"spec": {field: value}})).await?;
            if (after.data["spec"][field] == true) != pause {
                let version = one.target.cluster.server_version().await?;
                return Err(unsupported(format!(
                    "a {} cannot be suspended by a server {}.{}: it knows no spec.suspend, which came with 1.21",
                    one.kind(),
                    version.major,
                    version.minor
                )));
            }
            live.push(self.taken_in(one, after, until).await?);
        }
        if live.is_empty() {
            let what = refused.first().map_or("what does not run", String::as_str);
            return Err(unsupported(format!(
                "a {what} has no pause: only rollouts of Deployments and Jobs can be held"
            ))
            .with_hint("scale it to 0 instead"));
        }
        self.changed(data, request, &live)
    }

    /// A changed object as it is when its controller has taken the change in: before that nothing can be said of its
    /// state. As it was last seen where that is not by then.
    async fn taken_in(
        &self,
        one: &Workload<'_>,
        after: DynamicObject,
        until: Instant,
    ) -> Result<DynamicObject> {
        let mut live = after;
        let mut wait = LOOK_FIRST;
        while is_unseen(&live) && Instant::now() + wait < until {
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_LAST);
            match one.target.get().await? {
                Some(now) => live = now,
                None => break,
            }
        }
        Ok(live)
    }
}

/// Whether its controller says how far it has come, and has not come to the last change.
fn is_unseen(live: &DynamicObject) -> bool {
    let seen = live.data["status"]["observedGeneration"].as_i64();
    seen.zip(live.metadata.generation)
        .is_some_and(|(seen, wanted)| seen < wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_controller_has_not_seen_yet() {
        let unseen = |generation: Option<i64>, status: Value| {
            let live = json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "a", "generation": generation}, "status": status});
            is_unseen(&serde_json::from_value(live).unwrap())
        };
        assert!(unseen(Some(3), json!({"observedGeneration": 2})));
        assert!(!unseen(Some(3), json!({"observedGeneration": 3})));
        // A Job says nothing of generations.
        assert!(!unseen(Some(3), json!({"active": 1})));
        assert!(!unseen(None, Value::Null));
    }
}
