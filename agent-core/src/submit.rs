//! From a request to a durable command: validate, hand to the shard that owns the object, wait for the disk.

use std::sync::Arc;
use std::time::Duration;

use agent_api::agent::Change;
use agent_api::driver::PlanRequest;
use agent_api::manager::{Command, CommandBody};
#[cfg(not(feature = "manager"))]
use agent_api::model::Change as SpecChange;
use agent_api::model::{
    Accepted, ControlAction, Diagnostic, Error, ErrorKind, Guid, ObjectSpec, ObjectView, PlanAction,
    RequestMeta, Resources, Result, Severity, StageTimes, Target, Timestamp, Topic, UpdateRequest, Verb,
};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::counters::count;
use crate::engine::door::{Submission, leaving};
use crate::engine::shard::expired;
use crate::guard::guarded;
use crate::registry::{KindEntry, methods};
use crate::shared::{Shared, not_found};

/// How long a driver may take to check or plan a change.
const VALIDATE: Duration = Duration::from_secs(5);
/// How long the disk may take.
const COMMIT: Duration = Duration::from_secs(30);
/// How often an update is planned anew where the object was changed meanwhile.
const RACES: usize = 5;

/// Does what [`AgentApi::submit`](agent_api::agent::AgentApi::submit) promises.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    meta: RequestMeta,
    change: Change,
) -> Result<(Accepted, StageTimes)> {
    let verb = verb_of(&change);
    let began = Instant::now();
    let result = Request {
        shared,
        began,
        received: Timestamp::now(),
    }
    .run(meta, change)
    .await;
    let counters = &shared.counters;
    let outcome = match &result {
        Ok((accepted, _)) if accepted.repeated => {
            count(&counters.requests_repeated);
            "repeated"
        }
        Ok(_) => {
            count(&counters.requests_accepted);
            "accepted"
        }
        Err(error) => {
            count(&counters.requests_refused);
            match error.kind() {
                ErrorKind::Busy => count(&counters.requests_busy),
                ErrorKind::Expired => count(&counters.requests_expired),
                _ => {}
            }
            error.kind().as_str()
        }
    };
    shared.metrics.request(verb, outcome, began.elapsed());
    result
}

struct Request<'a> {
    shared: &'a Arc<Shared>,
    began: Instant,
    received: Timestamp,
}

impl Request<'_> {
    async fn run(&self, meta: RequestMeta, change: Change) -> Result<(Accepted, StageTimes)> {
        if self.shared.is_draining() {
            return Err(leaving());
        }
        if let Some(error) = expired(meta.deadline, self.received) {
            return Err(error);
        }
        if let Some(mut accepted) = self.shared.manager.replied(meta.key()) {
            accepted.repeated = true;
            return Ok((accepted, self.stages(None)));
        }
        match change {
            Change::Create(spec) => self.create(meta, *spec).await,
            Change::Update(target, request) => self.update(meta, &target, &request).await,
            Change::Delete(target, request) => {
                let guid = self.shared.resolve(&target)?;
                self.hand_in(meta, guid, CommandBody::Delete(request)).await
            }
            Change::Control(target, action) => self.control(meta, &target, action).await,
        }
    }

    async fn create(&self, meta: RequestMeta, spec: ObjectSpec) -> Result<(Accepted, StageTimes)> {
        self.validate(&spec).await?;
        let guid = self.shared.reporter.guid();
        self.hand_in(meta, guid, CommandBody::Create(Arc::new(spec)))
            .await
    }

    async fn update(
        &self,
        meta: RequestMeta,
        target: &Target,
        request: &UpdateRequest,
    ) -> Result<(Accepted, StageTimes)> {
        let mut races = 0;
        loop {
            let (guid, view, current) = self.object(target)?;
            if let Some(expected) = request.expected_generation
                && expected != view.generation
            {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("it has generation {}, not {expected}", view.generation),
                )
                .with_path("expected_generation")
                .with_object(&view.name));
            }
            let next = apply_change(&current, &request.change)?;
            let entry = self.validate(&next).await?;
            let action = self.plan(entry, guid, &current, &next).await?;
            let body = CommandBody::Update {
                next: Arc::new(next),
                action,
                against: view.generation,
            };
            match self.hand_in(meta.clone(), guid, body).await {
                Err(error)
                    if error.kind() == ErrorKind::Conflict
                        && request.expected_generation.is_none()
                        && races < RACES
                        && self.generation(guid).is_some_and(|now| now != view.generation) =>
                {
                    // Somebody else's change came between the plan and the shard.
                    races += 1;
                }
                result => return result,
            }
        }
    }

    async fn control(
        &self,
        meta: RequestMeta,
        target: &Target,
        mut action: ControlAction,
    ) -> Result<(Accepted, StageTimes)> {
        let (guid, view, current) = self.object(target)?;
        let entry = self.shared.registry.kind(&view.kind)?;
        let verb = action.verb();
        if !entry.capabilities.control_verbs().contains(&verb) {
            return Err(unsupported(verb, &view, entry));
        }
        if let ControlAction::Call { method, arguments } = &mut action {
            entry
                .check_call(&view.kind, method, arguments)
                .map_err(|error| error.with_object(&view.name))?;
            if arguments.is_null() {
                *arguments = json!({});
            }
        }
        let resources = match &action {
            ControlAction::Resize { resources } if resources.is_empty() => {
                return Err(Error::invalid("resources", "names nothing to change").with_object(&view.name));
            }
            ControlAction::Resize { resources } => Some(overlay(&current.resources, resources)),
            ControlAction::Scale { replicas } => Some(Resources {
                replicas: Some(*replicas),
                ..current.resources.clone()
            }),
            _ => None,
        };
        if let Some(resources) = resources {
            let next = ObjectSpec {
                resources,
                ..(*current).clone()
            };
            next.check()?;
            // Only what this change is about: the rest was let in before.
            self.ask_driver(entry, &next, |diagnostic| {
                diagnostic.path.starts_with("resources")
            })
            .await?;
        }
        self.hand_in(meta, guid, CommandBody::Control(action)).await
    }

    /// All that can be said against an object before it is accepted.
    async fn validate(&self, spec: &ObjectSpec) -> Result<&KindEntry> {
        let entry = self
            .shared
            .registry
            .kind(&spec.kind)
            .map_err(|error| error.with_object(&spec.name))?;
        entry.check(spec)?;
        if let Some(topic) = spec.monitor.as_ref().and_then(|monitor| monitor.topic.as_ref()) {
            Topic::new(topic)
                .map_err(|message| Error::invalid("monitor.topic", message).with_object(&spec.name))?;
        }
        self.ask_driver(entry, spec, |_| true).await?;
        Ok(entry)
    }

    async fn ask_driver(
        &self,
        entry: &KindEntry,
        spec: &ObjectSpec,
        concerns: impl Fn(&Diagnostic) -> bool,
    ) -> Result<()> {
        let diagnostics = guarded(VALIDATE, entry.driver.validate(spec))
            .await
            .map_err(|failure| failure.of_driver(&entry.name, "validate").with_object(&spec.name))?;
        let mut wrong = diagnostics
            .into_iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error && concerns(diagnostic));
        let Some(first) = wrong.next() else {
            return Ok(());
        };
        let error = Error::invalid(first.path, first.message).with_object(&spec.name);
        Err(wrong.fold(error, |error, other| {
            error.with_context(other.path, other.message)
        }))
    }

    async fn plan(
        &self,
        entry: &KindEntry,
        guid: Guid,
        current: &ObjectSpec,
        next: &ObjectSpec,
    ) -> Result<PlanAction> {
        let handle = self.shared.manager.handle(guid);
        let request = PlanRequest {
            guid,
            previous: Some(current),
            next,
            handle: handle.as_deref(),
        };
        let plan = guarded(VALIDATE, entry.driver.plan(request))
            .await
            .map_err(|failure| failure.of_driver(&entry.name, "plan"))
            .and_then(|plan| plan)
            .map_err(|error| error.with_object(&next.name))?;
        if plan.action != PlanAction::Infeasible {
            return Ok(plan.action);
        }
        let reason = match plan.reason.is_empty() {
            true => "this change can never be made".to_owned(),
            false => plan.reason,
        };
        let error = Error::new(ErrorKind::Unsupported, reason).with_object(&next.name);
        Err(match plan.changes.first() {
            Some(change) => error.with_path(change.path.clone()),
            None => error,
        })
    }

    /// One hop: to the shard; its answer comes back to this task, which then waits for the disk.
    async fn hand_in(
        &self,
        meta: RequestMeta,
        guid: Guid,
        body: CommandBody,
    ) -> Result<(Accepted, StageTimes)> {
        let validated = self.micros();
        let control = matches!(body, CommandBody::Control(_) | CommandBody::Delete(_));
        let (reply, answer) = oneshot::channel();
        let command = Command { meta, guid, body };
        let submission = Submission { command, reply };
        match self.shared.door_of(guid).submit(control, submission) {
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(self.no_shard()),
            result => result?,
        }
        let (accepted, commit) = answer.await.map_err(|_| self.no_shard())??;
        match tokio::time::timeout(COMMIT, commit).await {
            Ok(committed) => committed?,
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    "the disk did not take the request in time; whether it did is not known",
                )
                .with_operation("journal.commit")
                .with_hint("repeat it with the same idempotency key"));
            }
        }
        Ok((accepted, self.stages(Some(validated))))
    }

    /// The shard let go of a request without an answer.
    fn no_shard(&self) -> Error {
        match self.shared.is_draining() {
            true => leaving(),
            false => Error::internal("the loop that owns this object has ended")
                .with_operation("submit")
                .with_hint("restart the agent; objects go on meanwhile"),
        }
    }

    fn stages(&self, validated: Option<u64>) -> StageTimes {
        StageTimes {
            received: self.received,
            validated_us: validated,
            durable_us: Some(self.micros()),
            ..StageTimes::default()
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn object(&self, target: &Target) -> Result<(Guid, Arc<ObjectView>, Arc<ObjectSpec>)> {
        let guid = self.shared.resolve(target)?;
        let manager = &self.shared.manager;
        match (manager.view(guid), manager.spec(guid)) {
            (Some(view), Some(spec)) => Ok((guid, view, spec)),
            _ => Err(not_found(target)),
        }
    }

    fn generation(&self, guid: Guid) -> Option<u64> {
        self.shared.manager.view(guid).map(|view| view.generation)
    }
}

fn verb_of(change: &Change) -> Verb {
    match change {
        Change::Create(_) => Verb::Create,
        Change::Update(..) => Verb::Update,
        Change::Delete(..) => Verb::Delete,
        Change::Control(_, action) => action.verb(),
    }
}

pub(crate) fn unsupported(verb: Verb, view: &ObjectView, entry: &KindEntry) -> Error {
    let verbs: Vec<_> = methods(&entry.capabilities)
        .into_iter()
        .map(Verb::as_str)
        .collect();
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "objects of kind {} cannot {verb}; they can {}",
            view.kind,
            verbs.join(", ")
        ),
    )
    .with_object(&view.name)
}

/// The new limits over the old ones.
fn overlay(old: &Resources, new: &Resources) -> Resources {
    Resources {
        cpu: new.cpu.or(old.cpu),
        memory: new.memory.or(old.memory),
        pids: new.pids.or(old.pids),
        io: new.io.or(old.io),
        gpu: new.gpu.or(old.gpu),
        replicas: new.replicas.or(old.replicas),
        priority: new.priority.or(old.priority),
    }
}

#[cfg(feature = "manager")]
use agent_manager::apply_change;

/// The spec after a change; the workspace's own manager, left out here, knows merge patches too.
#[cfg(not(feature = "manager"))]
fn apply_change(current: &ObjectSpec, change: &SpecChange) -> Result<ObjectSpec> {
    let refused = |path: &str, message: &str| Err(Error::invalid(path, message).with_object(&current.name));
    match change {
        SpecChange::Merge(_) => Err(Error::new(
            ErrorKind::Unsupported,
            "merge patches need the feature `manager` of agent-core; replace the whole object",
        )
        .with_path("merge")),
        SpecChange::Replace(next) if next.kind != current.kind => refused("kind", "cannot be changed"),
        SpecChange::Replace(next) if next.name != current.name => refused("name", "cannot be changed"),
        SpecChange::Replace(next) => Ok((**next).clone()),
    }
}
