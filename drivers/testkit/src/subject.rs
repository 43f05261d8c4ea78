//! What a driver author tells the suite.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Kind, ObjectSpec, ProbeAction, Resources};
use agent_api_driver::{DriverFactory, Handle, ObjectDriver, ObjectStatus, Result, async_trait};
use serde_json::{Value, json};

use crate::Place;

/// A driver under test: how to build it, samples of its spec, and hooks to the substrate past the driver.
///
/// Required are the factory, the kind and the samples; all else has a default that makes the cases that need it not
/// applicable, with the missing part named.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The driver's factory.
    fn factory(&self) -> Arc<dyn DriverFactory>;

    /// The kind that is tested. A driver of several kinds has a subject for each.
    fn kind(&self) -> Kind;

    /// A spec of this sort; none where the driver has none. Its name is replaced by the suite.
    fn sample(&self, sample: Sample) -> Option<ObjectSpec>;

    /// The driver's configuration; none by default.
    fn config(&self) -> Value {
        Value::Null
    }

    /// Builds the driver at a place: for the first time, or again on the same state.
    async fn build(&self, place: &Place) -> Result<Arc<dyn ObjectDriver>> {
        self.factory().build(place.build(self.config())).await
    }

    /// Ends the driver as a crash of the agent would: without [`shutdown`](ObjectDriver::shutdown). Drops it by
    /// default.
    async fn crash(&self, place: &Place, driver: Arc<dyn ObjectDriver>) {
        let _ = place;
        drop(driver);
    }

    /// How long a condition may take to come true; 10 s by default.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// How many cases may run at once in this process; as many as there are by default. For a substrate that cannot
    /// carry all of them.
    fn concurrency(&self) -> usize {
        usize::MAX
    }

    /// Why a case, named as its test is (`group::name`), is not run for this subject: for a kind whose cases the same
    /// code passes for another kind, or that has nothing the case asks for. It does not apply then, with this reason.
    fn left_out(&self, case: &str) -> Option<&'static str> {
        let _ = case;
        None
    }

    /// At how many places a call is cancelled, one object each, in the cases that look at a crash between two steps; 12
    /// by default. They are spread evenly over the call, so that a slow substrate may have few.
    fn crash_steps(&self) -> usize {
        12
    }

    /// What tells one real thing from its successor; the handle's data by default. A restart must change it, a change
    /// in place must not.
    fn identity(&self, handle: &Handle, status: &ObjectStatus) -> Value {
        let _ = status;
        handle.data.clone()
    }

    /// Values of the `spec` part that the schema must refuse. By default a field that no driver has, and a list.
    fn refused_by_schema(&self) -> Vec<Value> {
        vec![
            json!({"no_driver_has_this_field": true}),
            json!(["not", "a", "map"]),
        ]
    }

    /// Specs that the schema lets pass and `validate` must refuse.
    fn refused_by_validate(&self) -> Vec<Refused> {
        Vec::new()
    }

    /// An object that writes log lines of this shape. Lines of the stream
    /// [`System`](agent_api_driver::model::LogStream::System), which are what the substrate says of it, are not among
    /// them and not counted.
    fn log_sample(&self, shape: &LogShape) -> Option<ObjectSpec> {
        let _ = shape;
        None
    }

    /// Line `n` (from 0) that [`log_sample`](Self::log_sample) writes, without its end: `line <n>`, filled up with
    /// dots to [`LogShape::line_bytes`] where it is shorter.
    fn log_line(&self, n: u64, shape: &LogShape) -> Vec<u8> {
        let mut line = format!("line {n}").into_bytes();
        line.resize(line.len().max(shape.line_bytes), b'.');
        line
    }

    /// A command of this sort for [`Exec`](agent_api_driver::Exec), to run in a [`Sample::LongRunning`] object.
    fn exec_sample(&self, sample: ExecSample<'_>) -> Option<Vec<String>> {
        let _ = sample;
        None
    }

    /// Whether the command of [`ExecSample::Marked`] with this mark still runs, or anything that it started; none
    /// where that cannot be told.
    async fn exec_runs(&self, place: &Place, mark: &str) -> Option<bool> {
        let _ = (place, mark);
        None
    }

    /// An object and a probe that finds it so.
    fn probe_sample(&self, sample: ProbeSample) -> Option<(ObjectSpec, ProbeAction)> {
        let _ = sample;
        None
    }

    /// Limits to which a [`Sample::LongRunning`] object can be resized while it runs.
    fn resize_sample(&self) -> Option<Resources> {
        None
    }

    /// Limits to which it cannot be resized.
    fn refused_resize_sample(&self) -> Option<Resources> {
        None
    }

    /// A method of the kind, and arguments that do not fit its schema or its rules, for a
    /// [`Sample::LongRunning`] object.
    fn refused_call_sample(&self) -> Option<(String, Value)> {
        None
    }

    /// A spec with values that are secret by its own rules, and these values: texts that are nowhere else in it.
    fn secret_spec(&self) -> Option<(ObjectSpec, Vec<String>)> {
        None
    }

    /// How many events fit in the driver's queue while nobody reads them.
    fn event_capacity(&self) -> Option<usize> {
        None
    }

    /// Whether the real thing runs, asked of the substrate past the driver; none where that cannot be told.
    async fn runs(&self, place: &Place, object: &Made) -> Option<bool> {
        let _ = (place, object);
        None
    }

    /// Ends the real thing past the driver, as a crash of it would. `false` where that cannot be done.
    async fn end_outside(&self, place: &Place, object: &Made) -> bool {
        let _ = (place, object);
        false
    }

    /// Takes the real thing away past the driver, with no trace of how it ended. `false` where that cannot be done.
    async fn vanish(&self, place: &Place, object: &Made) -> bool {
        let _ = (place, object);
        false
    }

    /// Changes the real thing past the driver so that it runs on and is not what its spec wants. `false` where that
    /// cannot be done, or the driver does not look for it.
    async fn drift(&self, place: &Place, object: &Made) -> bool {
        let _ = (place, object);
        false
    }

    /// Ends and removes what a `delete` with `orphan` left running.
    async fn remove_orphan(&self, place: &Place, object: &Made) -> bool {
        let _ = (place, object);
        false
    }

    /// A handle for this object under which something is there that is not ours, for example the process id of
    /// another process. It must still be there when [`foreign_untouched`](Self::foreign_untouched) asks.
    async fn foreign(&self, place: &Place, object: &Made) -> Option<Handle> {
        let _ = (place, object);
        None
    }

    /// Whether what [`foreign`](Self::foreign) named is as it was.
    async fn foreign_untouched(&self, place: &Place, handle: &Handle) -> bool {
        let _ = (place, handle);
        true
    }

    /// What is left on the substrate and in the state directory of objects that were deleted, a sentence each:
    /// processes, cgroups, log files.
    async fn leftovers(&self, place: &Place) -> Vec<String> {
        let _ = place;
        Vec::new()
    }
}

/// Sorts of specs.
///
/// The `Changed…` ones are [`LongRunning`](Self::LongRunning) with a field changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Runs until it is ended, and ends at once when asked to.
    LongRunning,
    /// Runs until it is ended, and does not end when asked to.
    Stubborn,
    /// Runs for about this long and ends with this code.
    Ends {
        /// How long; may be zero.
        after: Duration,
        /// With which exit code.
        code: i32,
    },
    /// Passes schema and `validate`, and cannot be made: `apply` fails.
    CannotBeMade,
    /// Changed so that `plan` says `InPlace`.
    ChangedInPlace,
    /// Changed so that `plan` says `Restart`.
    ChangedByRestart,
    /// Changed so that `plan` says `Recreate`.
    ChangedByRecreate,
    /// Changed so that `plan` says `Infeasible`.
    ChangedInfeasibly,
}

/// A spec that is refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The spec.
    pub spec: ObjectSpec,
    /// The path of the diagnostic that is expected, for example `spec.command[0]`.
    pub path: String,
}

/// What an object writes to its log: numbered lines, see [`Subject::log_line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogShape {
    /// How many lines, each time it is started. They are numbered on from the last start where the object can know
    /// it; else each start begins at 0 again.
    pub lines: u64,
    /// How long each line is at least, without its end.
    pub line_bytes: usize,
    /// The wait before each line; zero writes them as fast as can be.
    pub pace: Duration,
    /// Whether it ends with code 0 after the last line; else it stays.
    pub ends: bool,
    /// Whether the last line has its end.
    pub terminated: bool,
    /// How much of it is kept.
    pub rotation: Rotation,
}

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// All, without rotation.
    None,
    /// All, over several rotations.
    Kept,
    /// Less than half of it: the oldest lines are rotated away.
    Lost,
}

/// Sorts of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecSample<'a> {
    /// Copies standard input to standard output and ends with code 0 at its end.
    Copies,
    /// Writes `out` to standard output, `err` to standard error (with or without a line end) and ends with code 3.
    WritesBoth,
    /// Writes the value of this environment variable to standard output and ends with code 0.
    PrintsVariable(&'a str),
    /// Runs until it is killed, findable by this mark in [`Subject::exec_runs`].
    Marked(&'a str),
    /// Fails unless standard input is a terminal; writes the columns of the terminal to standard output (and a line
    /// end) and ends with code 0.
    Terminal,
    /// Does not exist.
    Missing,
}

/// Sorts of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeSample {
    /// The object is well.
    Healthy,
    /// The object is not well.
    Unhealthy,
    /// The object does not answer.
    Hangs,
}

/// An object that the suite made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its identity.
    pub guid: agent_api_driver::model::Guid,
    /// The operation that made it.
    pub op_id: agent_api_driver::model::OpId,
    /// Its spec.
    pub spec: ObjectSpec,
    /// Its handle, as last known.
    pub handle: Handle,
    /// Its status, as last known.
    pub status: ObjectStatus,
}
