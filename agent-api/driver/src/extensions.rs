//! What only some drivers can do.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use agent_api_model::{
    ControlAction, ExitStatus, Generation, Guid, LogStream, ObjectSpec, OpId, ProbeAction, Result,
    TerminalSize,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::{Applied, Handle, Target};

/// A control verb for one object.
#[derive(Clone, Debug)]
pub struct ControlRequest<'a> {
    /// Which object.
    pub guid: Guid,
    /// The generation that is wanted.
    pub generation: Generation,
    /// The identity of this operation.
    pub op_id: OpId,
    /// As in [`ApplyRequest::maybe_applied`](crate::ApplyRequest::maybe_applied).
    pub maybe_applied: bool,
    /// What is wanted of the object, with the action's changes in it already.
    pub spec: &'a ObjectSpec,
    /// Its reference.
    pub handle: &'a Handle,
    /// What to do.
    pub action: &'a ControlAction,
    /// What is left of the operation's time.
    pub deadline: Duration,
}

/// Control verbs: pause, resume, restart, signal, scale, resize, and the methods of the kind's own.
#[async_trait]
pub trait Control: Send + Sync {
    /// Does what is asked and returns the handle and status as they are then.
    ///
    /// # Behavior
    ///
    /// - An action that [`Capabilities`](crate::Capabilities) does not name: `Unsupported`.
    /// - Pausing what is paused and resuming what runs succeed and change nothing.
    /// - An object that has ended: `Conflict`, except for restart, which starts it.
    /// - A restart returns a running object with a new handle; the same `op_id` restarts once.
    /// - A signal that is not known: `Invalid` at `signal`. Signal 0 and names with and without `SIG` are known.
    /// - A resize returns the limits in force; one that the substrate refuses changes none: `Invalid` or `Conflict`.
    /// - A call of a method that [`Capabilities::methods`](crate::Capabilities::methods) does not name: `Unsupported`;
    ///   arguments that do not fit: `Invalid` at `arguments`.
    /// - A handle that is not ours or whose thing is gone: `NotFound`, and nothing is touched.
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied>;
}

/// Which logs to read.
#[derive(Clone, Debug, Default)]
pub struct LogReadRequest {
    /// Begin after this place, from an earlier [`LogChunk::cursor`].
    pub cursor: Option<String>,
    /// Begin so many lines before the end, where no cursor is given; at the oldest line kept where neither is.
    pub tail: Option<u64>,
    /// Go on with what is written later; the stream ends when the object is deleted or the reader drops it.
    pub follow: bool,
    /// Only these streams; all where empty.
    pub streams: Vec<LogStream>,
}

/// Some lines of an object's logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Which stream.
    pub stream: LogStream,
    /// Whole lines without their ends, any bytes. A line longer than 64 KiB comes in pieces.
    pub lines: Vec<Bytes>,
    /// Where to go on after these lines: stands for all streams.
    pub cursor: String,
    /// Bytes that were rotated away before they could be read, before these lines.
    pub lost_bytes: u64,
}

/// What [`Logs::read`] returns.
pub type LogStreamOut = Pin<Box<dyn Stream<Item = Result<LogChunk>> + Send>>;

/// Reading an object's logs.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Reads logs in bounded chunks, no faster than the reader takes them.
    ///
    /// # Behavior
    ///
    /// - Each line comes once and whole; going on from a chunk's cursor gives the next line, also after rotation
    ///   and after a restart of the agent or of the object.
    /// - Lines that were rotated away before they were read are counted in `lost_bytes`.
    /// - `tail` gives the last lines, fewer where there are fewer.
    /// - Without `follow` the stream ends at the present end; a last line without an end comes too, once the object
    ///   has ended or the stream is not followed.
    /// - A cursor that is not of this object: `Invalid` at `cursor`.
    async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut>;
}

/// A command to run in an object's context.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// The command, no shell.
    pub command: Vec<String>,
    /// Environment on top of the object's own.
    pub env: BTreeMap<String, String>,
    /// When it is killed.
    pub timeout: Duration,
    /// Give it a terminal of this size; all output is then [`ExecOutput::Stdout`].
    pub terminal: Option<TerminalSize>,
}

/// What goes to a command that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecInput {
    /// Standard input. The end of the stream closes it.
    Stdin(Bytes),
    /// The terminal has another size now; nothing where there is no terminal.
    Resize(TerminalSize),
}

/// What comes from a command that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutput {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// It ended: the last item.
    Exit(ExitStatus),
}

/// What a command reads.
pub type InputStream = Pin<Box<dyn Stream<Item = ExecInput> + Send>>;
/// What a command writes.
pub type ExecStream = Pin<Box<dyn Stream<Item = Result<ExecOutput>> + Send>>;

/// Running commands in an object's context.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Starts the command.
    ///
    /// # Behavior
    ///
    /// - It runs with the object's environment, directory, user and limits.
    /// - The last item is `Exit`; all output comes before it.
    /// - Dropping the stream kills the command and what it started; so does the timeout, with `Timeout` as last item.
    /// - A terminal that the driver cannot give: `Unsupported`, before the stream.
    /// - A command that does not exist: `NotFound`, before the stream. An object that does not run: `Conflict`.
    async fn exec(&self, target: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream>;
}

/// A health probe of one object.
#[derive(Clone, Debug)]
pub struct ProbeRequest<'a> {
    /// Which object.
    pub target: Target<'a>,
    /// What to try.
    pub action: &'a ProbeAction,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The object is well.
    Healthy,
    /// It is not, or did not answer in time; one sentence says what was seen.
    Unhealthy(String),
}

/// Health probes, made where the object lives.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Tries once.
    ///
    /// # Behavior
    ///
    /// - Returns within the timeout, whatever the other side does; too late is `Unhealthy`.
    /// - An error is returned only where the probe itself could not be made; it counts neither way.
    async fn probe(&self, request: ProbeRequest<'_>) -> Result<ProbeOutcome>;
}
