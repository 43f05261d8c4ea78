//! What the agent says of itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AgentId, DriverName, Kind, LimitStatus, Phase, Timestamp, Verb};

/// The answer to `info`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentInfo {
    /// The agent's name.
    pub agent: AgentId,
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// Whether it is ready, and draining.
    pub health: HealthReport,
    /// Standing tasks and threads: name → count. Constant, whatever the number of objects.
    pub tasks: BTreeMap<String, usize>,
    /// Objects by phase.
    pub objects: BTreeMap<Phase, usize>,
    /// Drivers and how they are.
    pub drivers: Vec<DriverView>,
    /// Buses and how they are.
    pub buses: Vec<BusInfo>,
    /// Bounded queues: name → state.
    pub queues: BTreeMap<String, QueueInfo>,
    /// The journal.
    pub journal: JournalInfo,
    /// Counters of the agent's own work, for example `requests_accepted`.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// Whether the agent can work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthReport {
    /// Recovery is over and requests are taken.
    pub ready: bool,
    /// The loops that do the work turn.
    pub live: bool,
    /// The agent is stopping.
    pub draining: bool,
    /// What is wrong, a sentence each; objects and drivers that are stuck among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// One driver in `drivers` and `info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriverView {
    /// Its name.
    pub name: DriverName,
    /// Its version.
    pub version: String,
    /// What it manages, one sentence.
    pub summary: String,
    /// The kinds it manages, and what can be done with them.
    pub kinds: Vec<KindView>,
    /// How it is; none where it was not compiled in.
    pub health: Option<DriverState>,
    /// The feature that compiles it in, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_feature: Option<String>,
    /// Calls in flight.
    #[serde(default)]
    pub in_flight: usize,
    /// How long the oldest call has been in flight, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_call_ms: Option<u64>,
}

/// One kind of a driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindView {
    /// The kind.
    pub kind: Kind,
    /// What can be done with it.
    pub verbs: Vec<Verb>,
    /// The methods that only objects of this kind have, by name, for `call`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, MethodView>,
    /// Which limits are held, and by what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitStatus>,
}

/// A method that only objects of one kind have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MethodView {
    /// What it does, one sentence.
    pub summary: String,
    /// The JSON Schema of its arguments; null where it is not shown.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments: Value,
}

/// How a driver's substrate is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DriverState {
    /// All is well.
    Healthy,
    /// It works in part.
    Degraded {
        /// What does not, and since when as far as it matters.
        reason: String,
    },
    /// It does not work.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// One bus in `info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BusInfo {
    /// Its name, for example `http`.
    pub name: String,
    /// Where it listens or what it is connected to; never a credential.
    pub address: String,
    /// Whether it is connected or listening.
    pub connected: bool,
}

/// One bounded queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueInfo {
    /// What is in it now.
    pub length: usize,
    /// What fits in it.
    pub capacity: usize,
    /// What was refused or lost because it was full.
    pub dropped: u64,
}

/// The journal in `info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalInfo {
    /// Segments on disk.
    pub segments: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records written since the start.
    pub records: u64,
    /// Commits since the start; records ÷ commits is the mean group.
    pub commits: u64,
    /// Records replayed at the start.
    pub replayed: u64,
    /// Files and records set aside as damaged, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<String>,
    /// The last error, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
