//! Errors of the API server and the way there in the words of the contract.

use std::error::Error as StdError;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind};
use kube::core::Status;

use crate::sdk::link::NotSent;

/// An error with all that lies below, in one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        below = error.source();
    }
    text
}

/// What a call came to, in the words of the contract. `name` is empty for calls on collections.
pub(crate) fn map(
    error: kube::Error,
    cluster: &str,
    verb: &str,
    resource: &str,
    namespace: Option<&str>,
    name: &str,
) -> Error {
    let on = on(resource, namespace, name);
    let mapped = match error {
        kube::Error::Api(answer) => status(*answer, verb, resource, namespace, name),
        kube::Error::Service(below) => match below.downcast::<NotSent>() {
            Ok(not_sent) => match *not_sent {
                NotSent::NoConnection(_) => Error::new(
                    ErrorKind::Unavailable,
                    format!("cluster {cluster} cannot be reached: {not_sent}"),
                ),
                NotSent::NoAnswer(_) => {
                    Error::new(ErrorKind::Timeout, format!("cannot {verb} {on}: {not_sent}"))
                }
            },
            Err(below) => unavailable(cluster, below.as_ref()),
        },
        kube::Error::SerdeError(below) => {
            Error::internal(format!("the answer to {verb} {on} cannot be read: {below}"))
        }
        kube::Error::BuildRequest(below) => {
            Error::new(ErrorKind::Invalid, format!("cannot {verb} {on}: {below}"))
        }
        kube::Error::Auth(below) => Error::new(
            ErrorKind::Unavailable,
            format!("no credentials for cluster {cluster}: {}", chain(&below)),
        ),
        other => unavailable(cluster, &other),
    };
    mapped.with_context("cluster", cluster)
}

fn unavailable(cluster: &str, below: &dyn StdError) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("cluster {cluster} cannot be reached: {}", chain(below)),
    )
}

/// `deployments "web" in namespace "shop"`.
fn on(resource: &str, namespace: Option<&str>, name: &str) -> String {
    let mut text = resource.to_owned();
    if !name.is_empty() {
        text.push_str(&format!(" {name:?}"));
    }
    if let Some(namespace) = namespace {
        text.push_str(&format!(" in namespace {namespace:?}"));
    }
    text
}

/// What a Status says.
pub(crate) fn status(
    status: Status,
    verb: &str,
    resource: &str,
    namespace: Option<&str>,
    name: &str,
) -> Error {
    let on = on(resource, namespace, name);
    let wait = status
        .details
        .as_ref()
        .map_or(0, |details| details.retry_after_seconds);
    let said = status.message.trim();
    let error = match status.code {
        401 => Error::new(
            ErrorKind::Denied,
            format!("the server refuses the credentials to {verb} {on}"),
        ),
        403 if status.reason == "Forbidden" && !said.contains("cannot") && said.contains("quota") => {
            Error::new(ErrorKind::Conflict, format!("cannot {verb} {on}: {said}"))
        }
        403 if is_terminating(&status) => Error::new(
            ErrorKind::Conflict,
            format!("cannot {verb} {on}: the namespace is being deleted"),
        )
        .with_retry(agent_api_driver::model::Retry::Later),
        403 => Error::new(ErrorKind::Denied, format!("no right to {verb} {on}: {said}"))
            .with_hint("grant the verb on that resource to the agent's account"),
        404 => Error::new(ErrorKind::NotFound, format!("there is no {on}")),
        409 => conflict(&status, verb, &on),
        400 | 422 => invalid(&status, verb, &on),
        405 => Error::new(
            ErrorKind::Unsupported,
            format!("the server cannot {verb} {on}: {said}"),
        ),
        410 => Error::new(
            ErrorKind::Unavailable,
            format!("the place to go on from is gone at the server ({verb} {on})"),
        ),
        413 => Error::new(ErrorKind::Invalid, format!("{on} is too large for the server")),
        429 => Error::new(
            ErrorKind::Busy,
            format!("the server has no room to {verb} {on}: {said}"),
        ),
        // Older servers answer so to fields and values that do not fit their schema.
        500 if said.contains("failed to create typed patch object") => Error::new(
            ErrorKind::Invalid,
            format!("the server refuses to {verb} {on}: {said}"),
        ),
        500.. => Error::new(
            ErrorKind::Unavailable,
            format!("the server failed to {verb} {on}: {said}"),
        ),
        code => Error::internal(format!("unexpected answer {code} to {verb} {on}: {said}")),
    };
    match wait {
        0 => error,
        seconds => error.retry_after(Duration::from_secs(u64::from(seconds))),
    }
}

/// Whether a create was refused because its namespace is being deleted.
pub(crate) fn is_terminating(status: &Status) -> bool {
    let cause = status.details.as_ref().is_some_and(|details| {
        details
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    });
    cause || status.message.contains("because it is being terminated")
}

/// The reason that a Status gives to each field that another manager has.
const MANAGER_CONFLICT: &str = "FieldManagerConflict";

/// The fields that other managers have, and who: empty where a conflict is of another sort.
pub(crate) fn field_conflicts(status: &Status) -> Vec<(String, String)> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .filter(|cause| cause.reason == MANAGER_CONFLICT)
        .map(|cause| {
            // `conflict with "kubectl" using apps/v1` or `… with "kubectl" with subresource "scale" using …`
            let manager = cause.message.split('"').nth(1).unwrap_or(cause.message.as_str());
            (cause.field.trim_start_matches('.').to_owned(), manager.to_owned())
        })
        .collect()
}

/// The fields that a Status says cannot be changed: empty where it refuses for another reason.
pub(crate) fn immutable_fields(status: &Status) -> Vec<String> {
    if status.code != 422 {
        return Vec::new();
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut fields: Vec<String> = causes
        .filter(|cause| {
            let message = cause.message.as_str();
            [
                "immutable",
                "may not change fields other than",
                "updates to statefulset spec",
                "may not be changed",
                "cannot change",
            ]
            .iter()
            .any(|words| message.contains(words))
        })
        .map(|cause| cause.field.clone())
        .collect();
    fields.sort_unstable();
    fields.dedup();
    fields
}

fn conflict(status: &Status, verb: &str, on: &str) -> Error {
    let fields = field_conflicts(status);
    if fields.is_empty() {
        let kind = match status.reason.as_str() {
            "AlreadyExists" => ErrorKind::AlreadyExists,
            _ => ErrorKind::Conflict,
        };
        return Error::new(kind, format!("cannot {verb} {on}: {}", status.message.trim()));
    }
    let mut managers: Vec<&str> = fields.iter().map(|(_, manager)| manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let names: Vec<&str> = fields.iter().map(|(field, _)| field.as_str()).collect();
    let error = Error::new(
        ErrorKind::Conflict,
        format!(
            "fields of {on} belong to another manager ({}): {}",
            managers.join(", "),
            names.join(", ")
        ),
    )
    .with_hint("take them out of the spec, or set `spec.force` to take them over");
    fields.iter().fold(error, |error, (field, manager)| {
        error.with_context(field, manager)
    })
}

fn invalid(status: &Status, verb: &str, on: &str) -> Error {
    let causes: Vec<String> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| match cause.field.as_str() {
            "" | "<nil>" => cause.message.clone(),
            field => format!("{field}: {}", cause.message),
        })
        .collect();
    let said = if causes.is_empty() {
        status.message.trim().to_owned()
    } else {
        causes.join("; ")
    };
    Error::new(
        ErrorKind::Invalid,
        format!("the server refuses to {verb} {on}: {said}"),
    )
}

#[cfg(test)]
mod tests;
