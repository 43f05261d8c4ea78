//! What a driver can do, stated once and checked centrally.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_model::{DriverName, Enforcement, Kind, ResourceField, Verb};
use serde_json::Value;

/// Who a driver is.
#[derive(Clone, Debug)]
pub struct DriverInfo {
    /// Its name, the first part of its kinds.
    pub name: DriverName,
    /// Its version.
    pub version: String,
    /// What it manages, one sentence.
    pub summary: String,
    /// The kinds it manages.
    pub kinds: Vec<Kind>,
}

/// The JSON Schemas (draft 2020-12) of a kind.
#[derive(Clone, Debug)]
pub struct KindSchema {
    /// Of the `spec` part of an object. `null` is checked as `{}`.
    pub spec: Value,
    /// Of the `details` part of a view.
    pub status: Value,
}

/// How a change of a field is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldChangeMode {
    /// While it runs.
    Live,
    /// By a stop and a start of the same real thing.
    Restart,
    /// By making the real thing anew.
    Recreate,
}

/// How changes of state become known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusSource {
    /// The substrate pushes them; `observe` is the audit behind it.
    Event,
    /// Only `observe` shows them.
    #[default]
    Poll,
}

/// How far one limit is held.
#[derive(Clone, Debug)]
pub struct LimitCapability {
    /// Which limit.
    pub field: ResourceField,
    /// Whether the substrate holds it here and now.
    pub enforcement: Enforcement,
    /// By what, or why not.
    pub by: String,
    /// Whether it can be changed while the object runs.
    pub live: bool,
}

/// What can be done with objects of a kind. All off by default: a driver names what it can.
///
/// Naming rule: a verb of the agent has the verb's name; a quality is an adjective; a number says its unit.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// [`Control`](crate::Control) can pause and resume.
    pub pause: bool,
    /// [`Control`](crate::Control) can restart; without it the manager deletes and applies.
    pub restart: bool,
    /// [`Control`](crate::Control) can send signals.
    pub signal: bool,
    /// [`Control`](crate::Control) can change the number of copies.
    pub scale: bool,
    /// [`Control`](crate::Control) can change limits while it runs.
    pub resize: bool,
    /// [`Exec`](crate::Exec) is there.
    pub exec: bool,
    /// [`Exec`](crate::Exec) can give the command a terminal.
    pub terminal: bool,
    /// [`Logs`](crate::Logs) is there.
    pub logs: bool,
    /// [`Probe`](crate::Probe) is there.
    pub probe: bool,
    /// `collect` brings metrics.
    pub metrics: bool,
    /// `collect` brings spans.
    pub traces: bool,
    /// `delete` can leave the real thing running.
    pub orphan: bool,
    /// Objects of this kind end by themselves (jobs, processes), so that restart policies mean something.
    pub ends: bool,
    /// Objects outlive the agent and can be adopted by [`recover`](crate::ObjectDriver::recover).
    pub adoptable: bool,
    /// [`discover`](crate::ObjectDriver::discover) finds what bears our mark.
    pub discoverable: bool,
    /// A task, thread or helper process per object exists, and why.
    pub task_per_object: Option<&'static str>,
    /// How changes of state become known.
    pub status: StatusSource,
    /// At most so many targets in one `observe` or `collect`; 0 stands for no bound.
    pub batch_size: usize,
    /// At most so many operations in flight on this driver; 0 stands for the agent's default.
    pub max_in_flight: usize,
    /// How long an operation may take by default; zero stands for the agent's default.
    pub operation_timeout: Duration,
    /// Limits and how far each is held.
    pub limits: Vec<LimitCapability>,
    /// How changes of fields are made, by the paths of a plan's changes (`spec.env`, `resources.memory`); what is not
    /// named is [`FieldChangeMode::Restart`].
    pub fields: BTreeMap<String, FieldChangeMode>,
    /// Methods that only objects of this kind have, by name (lower-case letters, digits and `_`): called by
    /// [`ControlAction::Call`](agent_api_model::ControlAction::Call) through [`Control`](crate::Control).
    pub methods: BTreeMap<String, Method>,
}

/// A method that only objects of one kind have.
#[derive(Clone, Debug)]
pub struct Method {
    /// What it does, one sentence.
    pub summary: String,
    /// The JSON Schema of its arguments, a map. Calls are checked against it before they are accepted.
    pub arguments: Value,
}

impl Capabilities {
    /// The verbs an object of this kind answers to beside those that every object does.
    #[must_use]
    pub fn control_verbs(&self) -> Vec<Verb> {
        [
            (self.pause, Verb::Pause),
            (self.pause, Verb::Resume),
            // The manager can restart anything it can create.
            (true, Verb::Restart),
            (self.signal, Verb::Signal),
            (self.scale, Verb::Scale),
            (self.resize, Verb::Resize),
            (!self.methods.is_empty(), Verb::Call),
            (self.exec, Verb::Exec),
            (self.logs, Verb::Logs),
        ]
        .into_iter()
        .filter_map(|(can, verb)| can.then_some(verb))
        .collect()
    }
}
