//! `health`.

use agent_api_driver::model::DriverState;

use crate::trial::{Trial, Verdict, ensure};

pub(super) async fn a_built_driver_is_not_unavailable(trial: &Trial<'_>) -> Verdict {
    trial
        .until("the driver is not unavailable", async || {
            Ok(match trial.driver().health() {
                DriverState::Unavailable { reason } => Err(reason),
                DriverState::Healthy | DriverState::Degraded { .. } => Ok(()),
            })
        })
        .await?;
    if let DriverState::Degraded { reason } = trial.driver().health() {
        ensure!(!reason.is_empty(), "degraded without a reason");
    }
    Ok(())
}
