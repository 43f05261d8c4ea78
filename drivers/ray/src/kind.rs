//! What each kind of this driver does: the contract's calls for its objects.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Diagnostic, Guid, Kind, ObjectSpec, Plan, TelemetryBatch};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, ControlRequest, DeleteRequest, Deleted, Handle,
    KindSchema, LogReadRequest, LogStreamOut, Mark, Observed, PlanRequest, Recovered, Result, Target,
    async_trait,
};

use crate::head::{Head, Hint, Look};

/// One kind. The driver hands each call to the kind of the spec, or of the handle's type; the contract's words hold for each.
#[async_trait]
pub(crate) trait KindDriver: Send + Sync {
    /// The last part of the kind, which is the type of its handles and records.
    fn type_name(&self) -> &'static str;

    fn schema(&self) -> &KindSchema;

    fn capabilities(&self) -> &Capabilities;

    async fn validate(&self, spec: &ObjectSpec) -> Vec<Diagnostic>;

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan>;

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied>;

    /// Without a handle it is called only where a record or a mark says that the object is of this kind.
    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted>;

    async fn recover(&self, targets: &[Target<'_>]) -> Vec<Recovered>;

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>>;

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>);

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    );

    /// Stops what runs, as much as the time allows.
    async fn stop_all(&self, deadline: Duration);

    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied>;

    async fn read_logs(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut>;

    /// A turn of the head's one task: looks after the objects on this head. `look` says what the head's own look found.
    /// Returns when this kind wants its next turn.
    async fn tick(&self, head: &Arc<Head>, look: &Look) -> Duration;

    /// The cluster told that something of this name changed. It is a hint that it is time to ask, and anybody may have sent it: an object's
    /// state never follows from it.
    fn hint(&self, head: &Arc<Head>, hint: &Hint);
}

/// The kind `ray/<type>`.
pub(crate) fn kind(type_name: &str) -> Kind {
    Kind::new(format!("ray/{type_name}")).expect("two DNS labels")
}
