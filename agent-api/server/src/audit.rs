//! The audit log: a line for each change, accepted or refused, with who asked. Never a body: it may bear secrets.

use agent_api_model::{Error, RequestMeta};

/// A change of an object, or of the agent itself where no object is named.
pub(crate) fn write(meta: &RequestMeta, verb: &str, object: &str, error: Option<&Error>) {
    match error {
        None => tracing::info!(
            target: "audit",
            caller = %meta.caller,
            verb,
            object,
            request = %meta.id,
            result = "accepted",
        ),
        Some(error) => tracing::warn!(
            target: "audit",
            caller = %meta.caller,
            verb,
            object,
            request = %meta.id,
            result = "refused",
            code = %error.kind(),
        ),
    }
}
