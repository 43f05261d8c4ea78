//! The words of the agent as plain serde types: ids, specs, phases, views, events, resources,
//! telemetry records, the envelope and the one error type.
//!
//! No I/O, no runtime, no logic beyond parsing and checking a single value. Every contract crate
//! builds on these types, and what serde writes of them is the wire format (see `docs/api.md`).

mod duration;
mod envelope;
mod error;
mod event;
mod evidence;
mod frame;
mod health;
mod id;
mod info;
mod object;
mod phase;
mod plan;
mod quantity;
mod request;
mod resources;
mod restart;
mod selector;
mod telemetry;
mod time;
mod view;

pub use duration::{format_duration, parse_duration};
pub use envelope::{Envelope, Topic};
pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{Cause, LifecycleEvent, LifecycleKind, Transition, WatchEvent};
pub use evidence::{Condition, Evidence, EvidenceSource, ExitStatus};
pub use health::{HealthCheck, HealthState, ProbeAction};
pub use id::{AgentId, DriverName, Generation, Guid, Kind, LeaseId, ObjectName, OpId, RequestId, ShardId};
pub use info::{
    AgentInfo, BusInfo, DriverState, DriverView, HealthReport, JournalInfo, KindView, MethodView, QueueInfo,
};
pub use object::{
    Dependency, DependencyCondition, DriftPolicy, Labels, MAX_LABEL_LENGTH, MAX_LABELS, MAX_NAME_LENGTH,
    MonitorSpec, ObjectSpec,
};
pub use phase::Phase;
pub use plan::{Diagnostic, FieldChange, Plan, PlanAction, Severity};
pub use quantity::{Bytes as ByteQuantity, Cpu};
pub use request::{
    Accepted, BatchItem, Change, ControlAction, CreateRequest, DeleteRequest, Description, ExecFrame,
    ExecInput, ExecInputRequest, ExecRequest, Explanation, ListRequest, LogFrame, LogRequest, LogStream,
    MonitorRequest, PlanRequest, Reply, ReplyBody, RequestMeta, StageTimes, Target, TerminalSize,
    UpdateRequest, Verb, WatchRequest,
};
pub use resources::{Enforcement, IoLimit, LimitStatus, ResourceField, Resources, ResourcesView};
pub use restart::{Backoff, RestartMode, RestartPolicy};
pub use selector::Selector;
pub use telemetry::{
    Lease, LogRecord, Loss, MetricKind, MetricPoint, MetricValue, Signal, SpanRecord, TelemetryBatch,
};
pub use time::Timestamp;
pub use view::{ObjectView, OperationView};
