//! Control verbs.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    ControlAction, Error, ErrorKind, EvidenceSource, ExitStatus, Resources, Result,
};
use agent_api_driver::{Applied, Control, ControlRequest, async_trait};

use crate::behavior::Behavior;
use crate::driver::SimulatedDriver;
use crate::signals::{self, Effect};
use crate::spec::Operation;
use crate::thing::State;
use crate::world::World;

#[async_trait]
impl Control for SimulatedDriver {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        let verb = request.action.verb().as_str();
        self.open(verb)?;
        self.control_one(&request)
            .await
            .map_err(|error| error.with_operation(verb).with_object(&request.spec.name))
    }
}

fn operation(action: &ControlAction) -> Result<Operation> {
    Ok(match action {
        ControlAction::Pause {} => Operation::Pause,
        ControlAction::Resume {} => Operation::Resume,
        ControlAction::Restart { .. } => Operation::Restart,
        ControlAction::Signal { .. } => Operation::Signal,
        ControlAction::Scale { .. } => Operation::Scale,
        ControlAction::Resize { .. } => Operation::Resize,
        _ => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the simulated driver does not know this verb",
            ));
        }
    })
}

impl SimulatedDriver {
    async fn control_one(&self, request: &ControlRequest<'_>) -> Result<Applied> {
        let (guid, action) = (request.guid, request.action);
        let operation = operation(action)?;
        let signal = match action {
            ControlAction::Signal { signal } => Some(signals::number(signal).ok_or_else(|| {
                Error::invalid(
                    "signal",
                    format!("{signal:?} is not a signal; write for example SIGHUP, HUP or 1"),
                )
            })?),
            _ => None,
        };
        let (fate, lingers) = self.substrate.with(|world, now| {
            let thing = world
                .ours(guid, request.handle, self.owner, now)
                .map_err(|miss| Self::missed(miss, guid))?;
            let repeated = thing.op_id == request.op_id;
            let lingers = operation == Operation::Restart
                && !repeated
                && thing.state != State::Exited
                && thing.behavior.spec.ignore_term == Some(true);
            Ok::<_, Error>((World::fate(thing, operation), lingers))
        })?;
        fate.before().await?;
        if let (ControlAction::Restart { grace }, true) = (action, lingers) {
            let grace = grace
                .unwrap_or(Duration::from_secs(10))
                .min(request.deadline.mul_f64(0.8));
            self.until_ended(guid, grace).await;
        }
        self.open(operation.as_str())?;
        let applied = self.substrate.with(|world, now| {
            self.act(world, request, signal, now)?;
            let thing = world
                .ours(guid, request.handle, self.owner, now)
                .map_err(|miss| Self::missed(miss, guid))?;
            let status = thing.status(EvidenceSource::Event, now);
            Ok::<_, Error>(Applied::new(thing.handle(guid), status))
        })?;
        fate.after()?;
        Ok(applied)
    }

    fn act(
        &self,
        world: &mut World,
        request: &ControlRequest<'_>,
        signal: Option<u32>,
        now: i64,
    ) -> Result<()> {
        let guid = request.guid;
        let thing = world
            .ours(guid, request.handle, self.owner, now)
            .map_err(|miss| Self::missed(miss, guid))?;
        let (state, behavior) = (thing.state, thing.behavior.clone());
        let repeated = thing.op_id == request.op_id;
        if state == State::Exited && !matches!(request.action, ControlAction::Restart { .. }) {
            return Err(Error::new(ErrorKind::Conflict, "it has ended").with_hint("restart starts it again"));
        }
        match request.action {
            ControlAction::Pause {} => world.hold(guid, true, now),
            ControlAction::Resume {} => world.hold(guid, false, now),
            ControlAction::Restart { .. } if repeated => {}
            ControlAction::Restart { .. } => world.start_again(guid, request.op_id, None, &behavior, now),
            ControlAction::Scale { replicas } => {
                let resources = Resources {
                    replicas: Some(*replicas),
                    ..behavior.resources.clone()
                };
                self.resize(world, request, &behavior, resources, now)?;
            }
            ControlAction::Resize { resources } => {
                let resources = merged(&behavior.resources, resources);
                self.resize(world, request, &behavior, resources, now)?;
            }
            ControlAction::Signal { .. } => {
                let number = signal.unwrap_or(0);
                let ignores = behavior.spec.ignore_term == Some(true);
                match signals::effect(number) {
                    Effect::Ends { request: true } if ignores => {}
                    Effect::Ends { .. } => {
                        world.end(guid, ExitStatus::with_signal(signals::name(number)), now)
                    }
                    Effect::Stops => world.hold(guid, true, now),
                    Effect::Continues => world.hold(guid, false, now),
                    Effect::None => {}
                }
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the simulated driver does not know this verb",
                ));
            }
        }
        Ok(())
    }

    fn resize(
        &self,
        world: &mut World,
        request: &ControlRequest<'_>,
        behavior: &Arc<Behavior>,
        resources: Resources,
        now: i64,
    ) -> Result<()> {
        let next = self
            .substrate
            .shared(Behavior::new(behavior.spec.clone(), resources));
        if let Some((path, message)) = next.over_capacity() {
            return Err(Error::new(ErrorKind::Conflict, message).with_path(path));
        }
        if next.text != behavior.text {
            world.set_behavior(request.guid, &next, now);
        }
        Ok(())
    }
}

/// The limits with those of the change that are set.
fn merged(old: &Resources, change: &Resources) -> Resources {
    Resources {
        cpu: change.cpu.or(old.cpu),
        memory: change.memory.or(old.memory),
        pids: change.pids.or(old.pids),
        io: change.io.or(old.io),
        gpu: change.gpu.or(old.gpu),
        replicas: change.replicas.or(old.replicas),
        priority: change.priority.or(old.priority),
    }
}
