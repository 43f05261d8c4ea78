//! The driver contract.

use std::time::Duration;

use agent_api_model::{Diagnostic, DriverState, Guid, Kind, ObjectSpec, Plan, Result, TelemetryBatch};
use async_trait::async_trait;

use crate::{
    Applied, ApplyRequest, Capabilities, CollectRequest, Control, DeleteRequest, Deleted, DriverInfo,
    EventStream, Exec, Handle, KindSchema, Logs, Mark, Observed, PlanRequest, Probe, Recovered, ShutdownMode,
    Target,
};

/// Manages objects of some kinds on one substrate.
///
/// The manager calls it with at most one `apply`, `delete` or `control` per object at a time, and with many objects
/// at once; `observe`, `collect`, `logs` and `exec` may come at any time.
#[async_trait]
pub trait ObjectDriver: Send + Sync + 'static {
    /// Who it is. Constant.
    fn info(&self) -> &DriverInfo;

    /// The schemas of a kind; none for a kind it does not manage. Constant.
    fn schema(&self, kind: &Kind) -> Option<&KindSchema>;

    /// What can be done with objects of a kind; none for a kind it does not manage. Constant, and true of the host
    /// or cluster it was built for.
    fn capabilities(&self, kind: &Kind) -> Option<&Capabilities>;

    /// How its substrate is, now. Changes are pushed as [`DriverEvent::Health`](crate::DriverEvent::Health).
    fn health(&self) -> DriverState;

    /// What is wrong with a spec that its schema lets pass, before it is accepted.
    ///
    /// # Behavior
    ///
    /// - Changes nothing.
    /// - Paths begin with `spec` or `resources`, for example `spec.command[0]`.
    /// - A spec without an error diagnostic is one that `apply` does not answer with `Invalid`.
    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic>;

    /// What a change would do.
    ///
    /// # Behavior
    ///
    /// - Changes nothing.
    /// - The same spec twice: `NoOp`. No previous spec: `Create`.
    /// - What it says is what `apply` does then.
    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan>;

    /// Creates the object, brings it to a new spec, or starts it again where it had ended.
    ///
    /// # Behavior
    ///
    /// - Returns when the real thing exists and its handle would find it again. Evidence that it runs may follow as
    ///   an event.
    /// - The same `op_id` never has its effect twice: a second call returns the same real thing.
    /// - With `maybe_applied` that holds also for a driver that was built anew since.
    /// - What it makes bears the [`Mark`] wherever the substrate lets it.
    /// - With the handle of something that ended it starts it again and returns a new handle.
    /// - With the handle of something that runs it changes it as [`plan`](Self::plan) says.
    /// - On an error nothing is left behind, or the error's context says what.
    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied>;

    /// Removes the object.
    ///
    /// # Behavior
    ///
    /// - "Not there" is success; so is a second call.
    /// - First asked to end, then after `grace` ended, with all that it started.
    /// - Returns by the deadline; what could not be removed is in [`Deleted::left`] or in a `Timeout`.
    /// - With `orphan` the real thing goes on and is no longer reported or discovered.
    /// - Something that is not ours under that handle is not touched, and that is success.
    /// - Logs and other files kept for the object are removed too, except with `orphan`.
    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted>;

    /// Finds objects again after a restart of the agent, in one batch.
    ///
    /// # Behavior
    ///
    /// - One answer for each target, in any order; an answer for each within the deadline of the call.
    /// - What is adopted is reported by `events` and `observe` from then on.
    /// - Something else under that reference is `Foreign` and never touched.
    /// - A handle that cannot be read is `Lost` with the reason, and never an error of the whole call.
    async fn recover(&self, targets: &[Target<'_>]) -> Result<Vec<Recovered>>;

    /// What exists on the substrate and bears the mark of this agent: for leak scans, and for creates whose answer
    /// was lost.
    ///
    /// # Behavior
    ///
    /// - Finds what `apply` made, whatever run of the agent made it; not what was deleted.
    async fn discover(&self) -> Result<Vec<(Mark, Handle)>>;

    /// The status of many objects: the audit behind the event stream, and the heartbeat.
    ///
    /// # Behavior
    ///
    /// - Adds one entry for each target to `out`, in any order.
    /// - Asks the substrate; never answers from what was reported before.
    /// - What is not there is `Gone`, or `Exited` where its end is known; what cannot be asked is `Unknown`.
    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()>;

    /// The one stream of events for all objects, from now on. Called once.
    ///
    /// # Behavior
    ///
    /// - Each change of state comes, in order per object, with a growing revision; or a `Gap` comes instead.
    /// - Bounded: a reader that is slow gets a `Gap`, never an unbounded queue.
    /// - Ends only after `shutdown`.
    fn events(&self) -> EventStream;

    /// Adds metrics, log lines and spans of many objects to `out`, in one pass.
    ///
    /// For each target with logs the next cursor is added to `cursors`.
    ///
    /// # Behavior
    ///
    /// - Targets that are gone are passed over.
    /// - Counters only grow while the object lives, over restarts of the real thing or with a loss noted.
    /// - At most `max_log_bytes` of lines; the rest comes with the next call.
    /// - What was lost is in [`TelemetryBatch::losses`].
    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) -> Result<()>;

    /// Ends the driver.
    ///
    /// # Behavior
    ///
    /// - Returns by the deadline, with all its tasks and threads joined.
    /// - With `LeaveRunning` objects go on; with `StopObjects` they are stopped, as many as the time allows.
    /// - Later calls answer `Unavailable`. A second shutdown is success.
    async fn shutdown(&self, mode: ShutdownMode, deadline: Duration) -> Result<()>;

    /// Takes out of a spec what must not be shown. Called on a copy before a spec is described.
    ///
    /// # Behavior
    ///
    /// - Values that are secret by the spec's own rules are replaced by a word that says so; all else stays.
    fn redact(&self, spec: &mut ObjectSpec) {
        let _ = spec;
    }

    /// Control verbs, where the driver has any.
    fn control(&self) -> Option<&dyn Control> {
        None
    }

    /// Logs, where the driver has them.
    fn logs(&self) -> Option<&dyn Logs> {
        None
    }

    /// Commands in an object's context, where the driver can run them.
    fn exec(&self) -> Option<&dyn Exec> {
        None
    }

    /// Health probes, where the driver can make them.
    fn probe(&self) -> Option<&dyn Probe> {
        None
    }

    /// The version of [`Handle`]s it writes. Constant.
    fn handle_version(&self) -> u32 {
        1
    }

    /// Whether a handle can be read at all.
    fn reads_handle(&self, handle: &Handle) -> bool {
        handle.version <= self.handle_version()
    }
}
