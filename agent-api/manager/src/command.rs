//! What a partition is asked to admit.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use agent_api_model::{
    Accepted, ControlAction, DeleteRequest, Generation, Guid, ObjectSpec, PlanAction, RequestMeta, Result,
};

/// A validated request that changes something.
#[derive(Clone, Debug)]
pub struct Command {
    /// Who asks, with which id and key, until when.
    pub meta: RequestMeta,
    /// The object. For a create the new object's, from the rpc client.
    pub guid: Guid,
    /// What to do.
    pub body: CommandBody,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum CommandBody {
    /// Create the object.
    Create(Arc<ObjectSpec>),
    /// Change its spec.
    Update {
        /// The whole new spec.
        next: Arc<ObjectSpec>,
        /// How the driver said it would make the change.
        action: PlanAction,
        /// The generation that the plan was made against; another one is a `Conflict`.
        against: Generation,
    },
    /// Delete it.
    Delete(DeleteRequest),
    /// A control verb. Scale and resize change the spec too.
    Control(ControlAction),
}

/// A command that was let in.
pub struct Admission {
    /// The reply, to be given when `commit` is done.
    pub accepted: Accepted,
    /// Resolves when the command is on disk. Where it fails, the reply is its error and nothing is done.
    pub commit: Commit,
    /// What is to be done.
    pub follow_ups: Vec<crate::FollowUp>,
}

/// Resolves when what was written is on disk. Cancelled by drop, without effect on the writing.
pub type Commit = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
