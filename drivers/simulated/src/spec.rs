//! The spec of a simulated object: how it behaves, and how its substrate misbehaves.

use std::collections::{BTreeMap, BTreeSet};

use agent_api_driver::model::{Enforcement, Resources};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::distribution::{Distribution, Span};

/// A simulated object. All fields are optional: `{}` is an object that is made at once and runs until it is deleted.
///
/// ```
/// let spec: agent_driver_simulated::SimulatedSpec = serde_json::from_str(
///     r#"{"latency": {"create": "5ms", "delete": {"min": "1ms", "max": "20ms"}}, "hang": ["delete"]}"#,
/// )?;
/// assert!(spec.lifetime.is_none());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedSpec {
    /// Decides all chance of this object, together with the driver's own seed and the object's name. A change makes
    /// the object anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How long calls take, by operation.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub latency: BTreeMap<Operation, Distribution>,
    /// Which calls fail, by operation: a rate from 0 to 1, or a map with rate, retryable, after and message.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fail: BTreeMap<Operation, Failure>,
    /// Which calls never return: a list of operations, or a map from operation to rate.
    #[serde(skip_serializing_if = "Odds::is_empty")]
    pub hang: Odds,
    /// Which calls panic: a list of operations, or a map from operation to rate.
    #[serde(skip_serializing_if = "Odds::is_empty")]
    pub panic: Odds,
    /// Which answers are nonsense.
    #[serde(skip_serializing_if = "Garbage::is_none")]
    pub garbage: Garbage,
    /// How long it runs before it ends by itself with `exit_code`; for ever where it is not set. A change restarts
    /// the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Distribution>,
    /// The code it ends with after its lifetime; 0 by default. A change restarts the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it crashes by itself. A change restarts the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash: Option<Crash>,
    /// Whether it goes on when it is asked to end, so that only the end of the grace ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_term: Option<bool>,
    /// What happens to events on their way.
    #[serde(skip_serializing_if = "EventFaults::is_none")]
    pub events: EventFaults,
    /// Whether its limits are reported as enforced or as advisory; enforced by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Enforcement>,
    /// The most that its substrate has to give. A spec or a resize that wants more is infeasible.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub capacity: Resources,
    /// What a delete cannot remove, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<String>,
    /// The log lines it writes; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogSpec>,
    /// How many metrics it has; 3 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<u32>,
    /// The rate at which health probes find it unhealthy; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<Rate>,
}

/// A call of the driver, or a group of them. The most particular entry counts: `create` before `apply` before `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Everything.
    All,
    /// `create` and `update`.
    Apply,
    /// An `apply` that makes the object, or starts it again.
    Create,
    /// An `apply` of an object that runs.
    Update,
    /// `delete`.
    Delete,
    /// All control verbs.
    Control,
    /// The control verb `pause`.
    Pause,
    /// The control verb `resume`.
    Resume,
    /// The control verb `restart`.
    Restart,
    /// The control verb `signal`.
    Signal,
    /// The control verb `scale`.
    Scale,
    /// The control verb `resize`.
    Resize,
    /// `observe`: a failure makes the status unknown, a hang holds the whole batch.
    Observe,
    /// `recover`: a failure or a hang is one of the whole batch.
    Recover,
    /// `collect`: a failure is noted as a loss, a hang holds the whole batch.
    Collect,
    /// Opening the logs.
    Logs,
    /// Starting a command.
    Exec,
    /// A health probe: its latency counts against the probe's timeout.
    Probe,
}

impl Operation {
    pub(crate) const NAMES: [(&'static str, Self); 18] = [
        ("all", Self::All),
        ("apply", Self::Apply),
        ("create", Self::Create),
        ("update", Self::Update),
        ("delete", Self::Delete),
        ("control", Self::Control),
        ("pause", Self::Pause),
        ("resume", Self::Resume),
        ("restart", Self::Restart),
        ("signal", Self::Signal),
        ("scale", Self::Scale),
        ("resize", Self::Resize),
        ("observe", Self::Observe),
        ("recover", Self::Recover),
        ("collect", Self::Collect),
        ("logs", Self::Logs),
        ("exec", Self::Exec),
        ("probe", Self::Probe),
    ];

    /// The word in specs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize].0
    }

    /// The group it belongs to, where that is not everything.
    pub(crate) fn group(self) -> Option<Self> {
        match self {
            Self::Create | Self::Update => Some(Self::Apply),
            Self::Pause | Self::Resume | Self::Restart | Self::Signal | Self::Scale | Self::Resize => {
                Some(Self::Control)
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Operation {
    /// As text and not as a variant, so that an error in a map names the operation in its path.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let known = Self::NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, operation)| *operation).ok_or_else(|| {
            let names = Self::NAMES.map(|(name, _)| name).join(", ");
            serde::de::Error::custom(format!("{text:?} is not an operation; use one of {names}"))
        })
    }
}

impl JsonSchema for Operation {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Operation".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // One plain list of words: also usable for the keys of a map.
        schemars::json_schema!({"type": "string", "enum": Self::NAMES.map(|(name, _)| name)})
    }
}

/// A probability from 0 (never) to 1 (always).
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Rate(pub f64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rate = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&rate) {
            return Ok(Self(rate));
        }
        Err(serde::de::Error::custom(format!(
            "{rate} is not a rate; write a number from 0 to 1"
        )))
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "number", "minimum": 0, "maximum": 1, "description": "A probability."})
    }
}

/// How often something happens, by operation: `[apply, delete]` for always, or `{apply: 0.1}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "write a list of operations, or a map from operation to a rate from 0 to 1"
)]
pub enum Odds {
    /// Each time.
    Always(BTreeSet<Operation>),
    /// At these rates.
    At(BTreeMap<Operation, Rate>),
}

impl Default for Odds {
    fn default() -> Self {
        Self::Always(BTreeSet::new())
    }
}

impl Odds {
    fn is_empty(&self) -> bool {
        match self {
            Self::Always(operations) => operations.is_empty(),
            Self::At(rates) => rates.is_empty(),
        }
    }

    /// The rate named for exactly this operation.
    pub(crate) fn of(&self, operation: Operation) -> Option<f64> {
        match self {
            Self::Always(operations) => operations.contains(&operation).then_some(1.0),
            Self::At(rates) => rates.get(&operation).map(|rate| rate.0),
        }
    }
}

/// How calls fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "write a rate from 0 to 1, or a map with rate, retryable, after and message"
)]
pub enum Failure {
    /// So often, before the effect, and retryable.
    Rate(Rate),
    /// As described.
    Full(FailureSpec),
}

/// How calls fail, spelled out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FailureSpec {
    /// How often; 1 by default.
    pub rate: Rate,
    /// Whether the same call may succeed later; true by default.
    pub retryable: bool,
    /// Whether it fails after its effect: the answer is lost, as in a timeout.
    pub after: bool,
    /// What it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Default for FailureSpec {
    fn default() -> Self {
        Self {
            rate: Rate(1.0),
            retryable: true,
            after: false,
            message: None,
        }
    }
}

impl Failure {
    pub(crate) fn full(&self) -> FailureSpec {
        match self {
            Self::Rate(rate) => FailureSpec {
                rate: *rate,
                ..FailureSpec::default()
            },
            Self::Full(full) => full.clone(),
        }
    }
}

/// Answers that a driver must never give, to test what stands above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Garbage {
    /// How often `apply` returns a handle that cannot be read.
    pub handle: Rate,
    /// How often a status bears a revision from long ago.
    pub revision: Rate,
    /// How often the status of an object that was never made is added, to events and to `observe`.
    pub unknown_object: Rate,
    /// How often `observe` says that a running object has exited, without any evidence.
    pub exit: Rate,
}

impl Garbage {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A crash that comes by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// How long it runs before, for example `{exponential: 30s}`.
    pub after: Distribution,
    /// The signal that ends it; `SIGSEGV` by default.
    #[serde(default = "segmentation_fault")]
    pub signal: String,
}

fn segmentation_fault() -> String {
    "SIGSEGV".into()
}

/// What happens to events on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventFaults {
    /// How often an event is lost and a gap is reported in its place.
    pub gap: Rate,
    /// How often an event is lost and nothing says so.
    pub lost: Rate,
    /// How often an event comes twice.
    pub duplicated: Rate,
    /// How often an event comes late, after newer ones.
    pub late: Rate,
    /// How late; 50 ms by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_by: Option<Distribution>,
}

impl EventFaults {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The log lines of an object: `line 0`, `line 1` … , numbered on over restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSpec {
    /// Lines per second; with 0 all of `lines` are written at once at each start.
    pub rate: f64,
    /// At most so many lines for each start; no bound where it is not set and there is a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// How long each line is at least, filled up with dots; at most 1 MiB.
    pub bytes: usize,
    /// How many of the last lines are kept; older ones are rotated away. 10,000 by default.
    pub keep: u64,
    /// Each so manieth line goes to standard error; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_every: Option<u64>,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self {
            rate: 1.0,
            lines: None,
            bytes: 0,
            keep: 10_000,
            stderr_every: None,
        }
    }
}

impl SimulatedSpec {
    /// This spec with what it does not set taken from `defaults`. Maps are joined entry by entry.
    #[must_use]
    pub fn over(mut self, defaults: &Self) -> Self {
        for (operation, latency) in &defaults.latency {
            self.latency.entry(*operation).or_insert(*latency);
        }
        for (operation, failure) in &defaults.fail {
            self.fail.entry(*operation).or_insert_with(|| failure.clone());
        }
        let odds = |mine: Odds, default: &Odds| if mine.is_empty() { default.clone() } else { mine };
        self.hang = odds(self.hang, &defaults.hang);
        self.panic = odds(self.panic, &defaults.panic);
        self.garbage = if self.garbage.is_none() {
            defaults.garbage
        } else {
            self.garbage
        };
        self.events = if self.events.is_none() {
            defaults.events
        } else {
            self.events
        };
        if self.capacity.is_empty() {
            self.capacity = defaults.capacity.clone();
        }
        if self.leaves.is_empty() {
            self.leaves.clone_from(&defaults.leaves);
        }
        self.seed = self.seed.or(defaults.seed);
        self.lifetime = self.lifetime.or(defaults.lifetime);
        self.exit_code = self.exit_code.or(defaults.exit_code);
        self.crash = self.crash.or_else(|| defaults.crash.clone());
        self.ignore_term = self.ignore_term.or(defaults.ignore_term);
        self.limits = self.limits.or(defaults.limits);
        self.logs = self.logs.or_else(|| defaults.logs.clone());
        self.metrics = self.metrics.or(defaults.metrics);
        self.unhealthy = self.unhealthy.or(defaults.unhealthy);
        self
    }

    /// What the schema lets pass and is wrong all the same: path below `spec`, and a sentence.
    pub(crate) fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let distributions = self
            .latency
            .iter()
            .map(|(operation, latency)| (format!("latency.{}", operation.as_str()), latency))
            .chain(
                self.lifetime
                    .iter()
                    .map(|lifetime| ("lifetime".to_string(), lifetime)),
            )
            .chain(
                self.crash
                    .iter()
                    .map(|crash| ("crash.after".to_string(), &crash.after)),
            )
            .chain(
                self.events
                    .late_by
                    .iter()
                    .map(|late| ("events.late_by".to_string(), late)),
            );
        for (path, distribution) in distributions {
            if let Err(message) = distribution.check() {
                problems.push((path, message.to_string()));
            }
        }
        if let Some(crash) = &self.crash
            && crate::signals::number(&crash.signal).is_none_or(|number| number == 0)
        {
            problems.push((
                "crash.signal".into(),
                format!("{:?} is not a signal", crash.signal),
            ));
        }
        if let Some(logs) = &self.logs {
            if !(logs.rate >= 0.0 && logs.rate.is_finite()) {
                problems.push(("logs.rate".into(), "must be 0 or more".into()));
            }
            if logs.rate == 0.0 && logs.lines.is_none() {
                problems.push(("logs.lines".into(), "must be set where the rate is 0".into()));
            }
            if logs.bytes > MAX_LINE_BYTES {
                problems.push(("logs.bytes".into(), format!("must be at most {MAX_LINE_BYTES}")));
            }
            if logs.stderr_every == Some(0) {
                problems.push(("logs.stderr_every".into(), "must be at least 1".into()));
            }
        }
        if self.metrics.is_some_and(|metrics| metrics > MAX_METRICS) {
            problems.push(("metrics".into(), format!("must be at most {MAX_METRICS}")));
        }
        problems
    }
}

const MAX_LINE_BYTES: usize = 1 << 20;
const MAX_METRICS: u32 = 1_000;

/// The default lateness of a late event.
pub(crate) const LATE_BY: Distribution = Distribution::Constant(Span(std::time::Duration::from_millis(50)));

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> SimulatedSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_operation_has_its_word() {
        for (name, operation) in Operation::NAMES {
            assert_eq!(operation.as_str(), name);
            assert_eq!(serde_json::to_value(operation).unwrap(), name);
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for value in [
            json!({}),
            json!({"hang": ["apply"], "panic": {"delete": 0.5}}),
            json!({"fail": {"create": 0.25, "delete": {"rate": 1.0, "retryable": false, "after": true}}}),
            json!({"lifetime": "5s", "exit_code": 3, "logs": {"rate": 10.0, "bytes": 80, "keep": 100}}),
        ] {
            let read = spec(value.clone());
            assert_eq!(serde_json::to_value(&read).unwrap(), value);
        }
    }

    #[test]
    fn defaults_fill_in_what_is_not_set() {
        let defaults =
            spec(json!({"latency": {"create": "5ms", "delete": "6ms"}, "hang": ["exec"], "metrics": 9}));
        let merged = spec(json!({"latency": {"create": "1ms"}, "metrics": 1})).over(&defaults);
        assert_eq!(
            merged,
            spec(json!({"latency": {"create": "1ms", "delete": "6ms"}, "hang": ["exec"], "metrics": 1}))
        );
    }

    #[test]
    fn finds_what_the_schema_lets_pass() {
        let problems = spec(json!({
            "latency": {"create": {"min": "2ms", "max": "1ms"}},
            "crash": {"after": "1s", "signal": "SIGNOTHING"},
            "logs": {"rate": 0.0}
        }))
        .problems();
        let paths: Vec<_> = problems.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["latency.create", "crash.signal", "logs.lines"]);
    }
}
