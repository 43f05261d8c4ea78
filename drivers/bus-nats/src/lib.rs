//! Bus driver over NATS: requests and replies on core NATS, queued commands and reports on JetStream.
//!
//! [`NatsBus`] is the agent's end, [`NatsCaller`] that of everybody else; [`setup()`] makes or checks the streams that
//! both need. Who may ask and who may read is decided by the permissions of the server: the verb is part of the
//! subject, and each agent has subjects of its own.
//!
//! | subject | carrier | what |
//! |---|---|---|
//! | `agent.in.<agent>.<verb>.<kind>` | core | a request and its reply; `_credit` and `_leave` steer long replies |
//! | `agent.in._any.<verb>.<kind>` | core, queue group of the kind | a request for any agent that takes the kind |
//! | `agent.q.<agent>.<verb>.<kind>` | `AGENT_IN`, a work queue | a command for an agent that may be away |
//! | `agent.out.<agent>.status.<object>` | `AGENT_EVENTS`; `AGENT_STATUS` keeps the last of each object | lifecycle |
//! | `agent.out.<agent>.result.<kind>` | `AGENT_RESULT` | answers to queued commands |
//! | `agent.out.<agent>.heartbeat` | core | the agent lives |
//! | `agent.out.<agent>.{metric,log,trace,lease}…` | `AGENT_TELEMETRY`, fast ingest | telemetry |
//!
//! A kind or object that is not known stands as `_`; the `/` of a kind as `_` too. Messages of Bus Out are CloudEvents
//! in binary mode. A reply is one message, or pieces of at most 256 KiB of which no more than 16 are ahead of the
//! caller, so that neither end nor the server holds more.
//!
//! A request bears its attributes as headers: `agent-object`, `agent-request-id`, `agent-idempotency-key`,
//! `agent-deadline`, `traceparent`, `agent-labels` (for any agent), and `agent-expires`: until when its caller waits, after
//! which it is refused. Values are percent-encoded where they are not visible ASCII. A plain request without headers is
//! answered too. An answer bears `agent-answer` (`one`, `text` or `stream`), `agent-code` where it is an error, and on each
//! piece `agent-piece`, counted from 0; the last has `agent-last`. A stream is JSON lines. A caller that has read some
//! pieces publishes their number to `agent.in.<agent>._credit` with the first reply subject in `agent-stream`, and a new
//! one as reply, because servers allow only so many replies to each; `_leave` in its place ends the answer.
//!
//! Nothing is kept here that must not be lost: a publish that was not acknowledged is an error, and whoever asked for
//! it tries again with the same ids.

mod answer;
mod auth;
mod backlog;
mod batch;
mod bus;
mod caller;
mod config;
mod connection;
mod headers;
mod health;
mod inbox;
mod incoming;
mod ingest;
mod numbers;
mod publish;
mod queue;
mod reader;
mod replay;
mod setup;
mod subject;

pub use bus::{NatsBus, NatsConfig};
pub use caller::{CallTarget, NatsCaller, Queued};
pub use config::{ConnectConfig, Credentials, NatsLimits, Placement, TlsConfig};
pub use health::{Link, NatsState};
pub use setup::{Change, Difference, SetupConfig, setup};
pub use subject::{Layout, StreamName};
