//! Requests and replies as they are on the wire.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AgentInfo, DriverView, Error, ErrorKind, ExitStatus, Generation, Guid, HealthReport, Lease, LeaseId,
    MethodView, ObjectName, ObjectSpec, ObjectView, OpId, Phase, Plan, RequestId, Resources, Selector,
    Signal, Timestamp, Transition,
};

macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)?) => {
        /// What is asked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Verb { $($(#[$doc])* $variant),* }

        impl Verb {
            /// All verbs.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

verbs! {
    /// Create an object.
    Create = "create",
    /// Change an object's spec.
    Update = "update",
    /// Delete an object and free its resources.
    Delete = "delete",
    /// The view, spec and methods of an object.
    Describe = "describe",
    /// The views of many objects.
    List = "list",
    /// The views of many objects, and what changes.
    Watch = "watch",
    /// What a create, update or delete would do.
    Plan = "plan",
    /// Begin or renew a monitor lease.
    Monitor = "monitor",
    /// End a monitor lease.
    Unmonitor = "unmonitor",
    /// Hold an object still.
    Pause = "pause",
    /// Let a paused object go on.
    Resume = "resume",
    /// Stop and start an object.
    Restart = "restart",
    /// Send a signal to an object.
    Signal = "signal",
    /// Change the number of copies.
    Scale = "scale",
    /// Change what a running object may use.
    Resize = "resize",
    /// Call a method that only objects of this kind have.
    Call = "call",
    /// Run a command in an object's context.
    Exec = "exec",
    /// Send input, or the size of its terminal, to a command that runs.
    ExecInput = "exec_input",
    /// Read an object's logs.
    Logs = "logs",
    /// The chain of events that led an object where it is.
    Explain = "explain",
    /// What the agent says of itself.
    Info = "info",
    /// The drivers and their kinds.
    Drivers = "drivers",
    /// The JSON Schema of a kind.
    Schema = "schema",
    /// Whether the agent can work.
    Health = "health",
    /// Stop taking requests, finish, and end.
    Drain = "drain",
    /// Read the configuration again and apply the difference.
    Reload = "reload",
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .copied()
            .find(|verb| verb.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|verb| verb.as_str()).collect();
                let cut: String = text.chars().take(80).collect();
                Error::new(
                    ErrorKind::Unsupported,
                    format!("{cut:?} is not a verb; use one of {}", known.join(", ")),
                )
            })
    }
}

/// One object, by name or by GUID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Target {
    /// By identity.
    Guid(Guid),
    /// By name.
    Name(ObjectName),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Guid>() {
            Ok(guid) if text.len() == 36 => Ok(Self::Guid(guid)),
            _ => ObjectName::new(text).map(Self::Name),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guid(guid) => guid.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What every request bears beside its body.
#[derive(Clone, Debug)]
pub struct RequestMeta {
    /// Its identity.
    pub id: RequestId,
    /// The same key gets the same reply, once the first was accepted; the request's id where it is not set.
    pub idempotency_key: Option<RequestId>,
    /// After this moment it is refused as expired.
    pub deadline: Option<Timestamp>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Who asks, as the bus knows them: for the audit log.
    pub caller: String,
}

impl RequestMeta {
    /// A request of this process itself.
    #[must_use]
    pub fn local(caller: &str) -> Self {
        Self {
            id: RequestId::generate(),
            idempotency_key: None,
            deadline: None,
            traceparent: None,
            caller: caller.into(),
        }
    }

    /// The key under which the reply is kept.
    #[must_use]
    pub fn key(&self) -> &RequestId {
        self.idempotency_key.as_ref().unwrap_or(&self.id)
    }
}

/// The body of `create`: the object.
pub type CreateRequest = ObjectSpec;

/// The body of `update`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// What changes.
    #[serde(flatten)]
    pub change: Change,
    /// Refuse with `conflict` unless the object has this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_generation: Option<Generation>,
}

/// A change of an object's spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The whole object anew; what it does not name is taken away. Kind and name must stay.
    Replace(Box<ObjectSpec>),
    /// A JSON merge patch (RFC 7386) on the object: `{"merge": {"labels": {"tier": "web"}}}`.
    Merge(Value),
}

/// The body of `delete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteRequest {
    /// How long it may take to end by itself before it is ended; the driver's default where it is not set.
    #[serde(with = "crate::duration::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub grace: Option<Duration>,
    /// Leave the real thing running and only forget it.
    pub orphan: bool,
    /// Delete also what depends on it, first. Without it such a delete is refused.
    pub cascade: bool,
    /// Forget it without asking its driver, also where another delete is under way already: the last resort where the
    /// driver never answers. The real thing may go on, and is nobody's until it is discovered. Not with `orphan`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forget: bool,
    /// Many objects instead of the one in the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// A control verb with its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ControlAction {
    /// Hold it still.
    Pause {},
    /// Let it go on.
    Resume {},
    /// Stop and start it.
    Restart {
        /// How long it may take to end by itself.
        #[serde(
            default,
            with = "crate::duration::optional",
            skip_serializing_if = "Option::is_none"
        )]
        #[schemars(with = "Option<String>")]
        grace: Option<Duration>,
    },
    /// Send it a signal.
    Signal {
        /// `SIGHUP`, `HUP` or `1`.
        signal: String,
    },
    /// Change the number of copies.
    Scale {
        /// How many.
        replicas: u32,
    },
    /// Change what it may use, while it runs; fields that are not set stay.
    Resize {
        /// The new limits.
        resources: Resources,
    },
    /// Call a method that only objects of this kind have, for example the rollback of a deployment.
    Call {
        /// Its name, as in the methods that `describe` and `drivers` list.
        method: String,
        /// Its arguments, by the method's schema: a map.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        arguments: Value,
    },
}

impl ControlAction {
    /// The verb.
    #[must_use]
    pub const fn verb(&self) -> Verb {
        match self {
            Self::Pause {} => Verb::Pause,
            Self::Resume {} => Verb::Resume,
            Self::Restart { .. } => Verb::Restart,
            Self::Signal { .. } => Verb::Signal,
            Self::Scale { .. } => Verb::Scale,
            Self::Resize { .. } => Verb::Resize,
            Self::Call { .. } => Verb::Call,
        }
    }
}

/// The body of `list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListRequest {
    /// Which objects.
    pub selector: Selector,
    /// Only in this phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// At most so many, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only names after this one: the last of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<ObjectName>,
}

/// The body of `watch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WatchRequest {
    /// One object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Target>,
    /// Which objects, where no single one is named.
    pub selector: Selector,
}

/// The body of `plan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanRequest {
    /// What `apply` would do: a create, or an update of the object of that name.
    Apply(Box<ObjectSpec>),
    /// What `update` would do.
    Update {
        /// Which object.
        object: Target,
        /// What changes.
        change: Change,
    },
    /// What `delete` would do.
    Delete {
        /// Which object.
        object: Target,
        /// As in the delete.
        #[serde(default)]
        cascade: bool,
    },
}

/// The body of `monitor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MonitorRequest {
    /// Renew this lease and change nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew: Option<LeaseId>,
    /// One object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Target>,
    /// Which objects, where no single one is named.
    #[serde(default)]
    pub selector: Selector,
    /// What to report; metrics by default.
    #[serde(default = "default_signals")]
    pub signals: Vec<Signal>,
    /// How often; 1 s by default, at least 10 ms.
    #[serde(default = "default_interval", with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Where to; a topic of the lease's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// OTLP as JSON instead of protobuf.
    #[serde(default)]
    pub json: bool,
    /// How long the lease lasts unless renewed; 60 s by default, at most a day.
    #[serde(default = "default_ttl", with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub ttl: Duration,
}

impl Default for MonitorRequest {
    fn default() -> Self {
        Self {
            renew: None,
            object: None,
            selector: Selector::everything(),
            signals: default_signals(),
            interval: default_interval(),
            topic: None,
            json: false,
            ttl: default_ttl(),
        }
    }
}

fn default_signals() -> Vec<Signal> {
    vec![Signal::Metrics]
}

fn default_interval() -> Duration {
    Duration::from_secs(1)
}

fn default_ttl() -> Duration {
    Duration::from_secs(60)
}

/// Which of an object's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// What the substrate says about the object, for example Kubernetes events.
    System,
}

/// The body of `logs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogRequest {
    /// Begin after this place; from an earlier [`LogFrame::cursor`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Begin so many lines before the end, where no cursor is given; at the oldest line kept where neither is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
    /// Go on with what is written later, until the caller leaves or the object is gone.
    pub follow: bool,
    /// Only these streams; all where empty.
    pub streams: Vec<LogStream>,
}

/// One piece of an object's logs: whole lines, as JSON text with invalid UTF-8 replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogFrame {
    /// Which stream.
    pub stream: LogStream,
    /// The lines, without their ends.
    pub lines: Vec<String>,
    /// Where to go on after these lines.
    pub cursor: String,
    /// Bytes that were rotated away before they could be read, before these lines.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The body of `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The command, no shell.
    pub command: Vec<String>,
    /// Environment on top of the object's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it reads on standard input, all of it at once; at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Whether more input follows by `exec_input`: the first frame is then [`ExecFrame::Session`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interactive: bool,
    /// Give it a terminal of this size; all output is then standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// When it is killed; 60 s by default.
    #[serde(default = "default_ttl", with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// The body of `exec_input`: to a command that runs with [`ExecRequest::interactive`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecInputRequest {
    /// Which command: from [`ExecFrame::Session`].
    pub session: String,
    /// What happened on the caller's side.
    pub input: ExecInput,
}

/// What goes to a command that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecInput {
    /// Standard input; at most 64 KiB.
    Stdin {
        /// The bytes, base64.
        data: String,
    },
    /// The end of standard input.
    Close {},
    /// The terminal has another size now.
    Resize {
        /// Its size.
        size: TerminalSize,
    },
}

/// One piece of what an `exec` prints, and at last how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecFrame {
    /// It started and takes input under this name. The first frame of an interactive one, and of no other.
    Session {
        /// For [`ExecInputRequest::session`]. Known to the caller alone.
        session: String,
    },
    /// Standard output, invalid UTF-8 replaced.
    Stdout {
        /// The text.
        text: String,
    },
    /// Standard error, invalid UTF-8 replaced.
    Stderr {
        /// The text.
        text: String,
    },
    /// It ended. The last frame.
    Exit {
        /// How.
        status: ExitStatus,
    },
}

/// The answer to a request that changes something: it is durable, and will be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The object's identity.
    pub guid: Guid,
    /// The object's name.
    pub name: ObjectName,
    /// The generation this request made or found.
    pub generation: Generation,
    /// The operation that does it.
    pub op_id: OpId,
    /// Whether an earlier request with the same idempotency key was accepted, and this is its answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

/// One object of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchItem {
    /// Which object.
    pub name: ObjectName,
    /// Accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// The answer to `describe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// The view.
    #[serde(flatten)]
    pub view: Arc<ObjectView>,
    /// What is wanted, with what is secret in it left out: not to be sent back.
    pub spec: Arc<ObjectSpec>,
    /// The verbs that can be called on it.
    pub methods: Vec<Verb>,
    /// The methods that only objects of its kind have, by name, for `call`; `drivers` has the schemas of their arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, MethodView>,
}

/// The answer to `explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The view.
    pub view: Arc<ObjectView>,
    /// The last transitions, oldest first.
    pub history: Vec<Transition>,
    /// What it waits for, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// Stage times of a request in microseconds after it was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageTimes {
    /// When the bus had the whole request, as time of day.
    pub received: Timestamp,
    /// Validated, µs after received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated_us: Option<u64>,
    /// On disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_us: Option<u64>,
    /// The driver was called; only where the reply waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_called_us: Option<u64>,
    /// The driver returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_returned_us: Option<u64>,
    /// The new state was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_us: Option<u64>,
}

/// The reply to a request: `{"id": …, "ok": …, "stages": …}` or `{"id": …, "error": …, "stages": …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// The request's id.
    pub id: Option<RequestId>,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<ReplyBody>,
    /// The refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// How long it took, stage by stage.
    #[serde(default)]
    pub stages: StageTimes,
}

/// The answer, by verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReplyBody {
    /// To create, update, delete and the control verbs.
    Accepted(Accepted),
    /// To the same with a selector.
    Batch(Vec<BatchItem>),
    /// To describe.
    Description(Box<Description>),
    /// To list.
    List(Vec<Arc<ObjectView>>),
    /// To plan.
    Plan(Box<Plan>),
    /// To monitor.
    Lease(Box<Lease>),
    /// To explain.
    Explanation(Box<Explanation>),
    /// To info.
    Info(Box<AgentInfo>),
    /// To drivers.
    Drivers(Vec<DriverView>),
    /// To schema.
    Schema(Value),
    /// To health.
    Health(HealthReport),
    /// To reload: what changed, a sentence each.
    Reloaded(Vec<String>),
    /// To verbs that have nothing to say.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HealthCheck;

    #[test]
    fn bodies_refuse_unknown_fields() {
        assert!(serde_json::from_str::<HealthCheck>(r#"{"tcp": "localhost:1"}"#).is_ok());
        assert!(serde_json::from_str::<HealthCheck>(r#"{"tcp": "localhost:1", "intervall": "1s"}"#).is_err());
        assert!(serde_json::from_str::<UpdateRequest>(r#"{"merge": {"labels": null}}"#).is_ok());
        assert!(serde_json::from_str::<UpdateRequest>(r#"{"merge": {}, "generation": 1}"#).is_err());
        assert!(serde_json::from_str::<ControlAction>(r#"{"verb": "pause"}"#).is_ok());
        assert!(serde_json::from_str::<ControlAction>(r#"{"verb": "pause", "grace": "1s"}"#).is_err());
        assert!(serde_json::from_str::<ControlAction>(r#"{"verb": "restart", "grce": "1s"}"#).is_err());
        let call =
            serde_json::from_str::<ControlAction>(r#"{"verb": "call", "method": "rollback"}"#).unwrap();
        assert_eq!(call.verb(), Verb::Call);
        assert_eq!(
            serde_json::to_value(&call).unwrap(),
            serde_json::json!({"verb": "call", "method": "rollback"})
        );
        let input = |text| serde_json::from_str::<ExecInputRequest>(text);
        assert!(input(r#"{"session": "a", "input": {"type": "close"}}"#).is_ok());
        assert!(input(r#"{"session": "a", "input": {"type": "stdin", "data": "aA==", "more": 1}}"#).is_err());
        let resize = r#"{"session": "a", "input": {"type": "resize", "size": {"columns": 80, "rows": 24}}}"#;
        assert!(input(resize).is_ok());
        assert!(input(&resize.replace("80", "-1")).is_err());
    }

    #[test]
    fn targets_are_names_or_guids() {
        let guid = Guid::generate();
        assert_eq!(guid.to_string().parse::<Target>().unwrap(), Target::Guid(guid));
        assert_eq!(
            "web".parse::<Target>().unwrap(),
            Target::Name(ObjectName::new("web").unwrap())
        );
        assert!("../web".parse::<Target>().is_err());
        let target: Target = serde_json::from_value(serde_json::json!("web")).unwrap();
        assert_eq!(target.to_string(), "web");
    }

    #[test]
    fn every_verb_reads_as_it_writes() {
        for verb in Verb::ALL {
            assert_eq!(verb.as_str().parse::<Verb>().unwrap(), *verb);
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.as_str());
        }
        assert!(
            "creat"
                .parse::<Verb>()
                .unwrap_err()
                .to_string()
                .contains("use one of create")
        );
    }
}
