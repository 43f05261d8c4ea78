//! Health probes: the spec decides what they find, not the probe's action.

use agent_api_driver::model::{Error, ErrorKind, Result};
use agent_api_driver::{Probe, ProbeOutcome, ProbeRequest, async_trait};

use crate::behavior::purpose;
use crate::draw::Draw;
use crate::driver::SimulatedDriver;
use crate::spec::Operation;
use crate::thing::State;
use crate::world::World;

#[async_trait]
impl Probe for SimulatedDriver {
    async fn probe(&self, request: ProbeRequest<'_>) -> Result<ProbeOutcome> {
        self.open("probe")?;
        let guid = request.target.guid;
        let named = |error: Error| error.with_operation("probe").with_object(guid);
        let (fate, unhealthy) = self
            .substrate
            .with(|world, now| {
                let thing = world
                    .ours(guid, request.target.handle, self.owner, now)
                    .map_err(|miss| Self::missed(miss, guid))?;
                if thing.state == State::Exited {
                    return Err(Error::new(ErrorKind::Conflict, "it has ended"));
                }
                // Something that is held still does not answer.
                let mut fate = World::fate(thing, Operation::Probe);
                fate.hang |= thing.state == State::Paused;
                thing.draws = thing.draws.wrapping_add(1);
                let rate = thing.behavior.spec.unhealthy.unwrap_or_default().0;
                Ok((
                    fate,
                    Draw::new(thing.key, purpose::PROBE, thing.draws).happens(rate),
                ))
            })
            .map_err(named)?;
        match tokio::time::timeout(request.timeout, fate.before()).await {
            Err(_) => Ok(ProbeOutcome::Unhealthy(format!(
                "no answer within {:?}",
                request.timeout
            ))),
            Ok(Err(error)) => Err(named(error)),
            Ok(Ok(())) if unhealthy => Ok(ProbeOutcome::Unhealthy("simulated as unhealthy".into())),
            Ok(Ok(())) => Ok(ProbeOutcome::Healthy),
        }
    }
}
