//! What Ray answers, in the words of the contract.
//!
//! Ray's status codes do not say what happened: the dashboard passes a call on to an agent and turns the agent's refusal into 500
//! with a Python traceback. So the text decides, and the code only where the text says nothing.

use agent_api_driver::model::{Error, ErrorKind, Guid, Retry};

/// The longest part of an answer that goes into an error.
const MAX_TEXT: usize = 600;

/// Texts of Ray and what they mean, the first that is found decides.
const TEXTS: [(&str, ErrorKind); 20] = [
    ("already exists", ErrorKind::AlreadyExists),
    ("non-terminal state", ErrorKind::Conflict),
    ("Can only stop submission type jobs", ErrorKind::Unsupported),
    ("Can only delete submission type jobs", ErrorKind::Unsupported),
    (
        "Can only get logs of submission type jobs",
        ErrorKind::Unsupported,
    ),
    ("Serve dependencies are not installed", ErrorKind::Unsupported),
    ("external_scaler_enabled", ErrorKind::Conflict),
    ("Could not find a log file", ErrorKind::NotFound),
    ("does not exist", ErrorKind::NotFound),
    ("not found", ErrorKind::NotFound),
    ("Missing authentication token", ErrorKind::Denied),
    ("Invalid authentication token", ErrorKind::Denied),
    ("Max number of in-progress requests", ErrorKind::Busy),
    ("Request Entity Too Large", ErrorKind::Invalid),
    ("Cannot connect to host", ErrorKind::Unavailable),
    ("No available agent", ErrorKind::Unavailable),
    ("Agent info not found", ErrorKind::Unavailable),
    ("TimeoutError", ErrorKind::Unavailable),
    ("Connection reset", ErrorKind::Unavailable),
    ("Serve controller", ErrorKind::Unavailable),
];

/// What an answer that is no success means.
pub(crate) fn answer(status: u16, text: &str, cluster: &str) -> Error {
    let by_text = TEXTS
        .iter()
        .find(|(part, _)| text.contains(part))
        .map(|(_, kind)| *kind);
    let kind = by_text.unwrap_or(match status {
        400 | 413 | 422 => ErrorKind::Invalid,
        401 | 403 | 405 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        409 | 412 => ErrorKind::Conflict,
        429 => ErrorKind::Busy,
        501 => ErrorKind::Unsupported,
        _ => ErrorKind::Unavailable,
    });
    let error = Error::new(kind, format!("Ray answered: {}", sentence(text, status)))
        .with_context("cluster", cluster)
        .with_context("status", status);
    if kind == ErrorKind::Denied {
        return error.with_hint("check the token of this cluster in the driver's configuration");
    }
    error
}

/// The call got no whole answer. `changes`: it may have had its effect all the same.
pub(crate) fn no_answer(error: &reqwest::Error, changes: bool, cluster: &str) -> Error {
    let (kind, what) = if error.is_connect() {
        (ErrorKind::Unavailable, "cannot be reached")
    } else if error.is_timeout() {
        (ErrorKind::Timeout, "did not answer in time")
    } else if changes {
        (
            ErrorKind::Timeout,
            "broke the connection off; whether it did what was asked is not known",
        )
    } else {
        (ErrorKind::Unavailable, "broke the connection off")
    };
    Error::new(
        kind,
        format!("the Ray cluster {cluster} {what}: {}", innermost(error)),
    )
    .with_context("cluster", cluster)
}

/// The last cause, which says most; never the address with its query.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The answer cannot be understood.
pub(crate) fn unreadable(what: &str, why: impl std::fmt::Display, cluster: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the Ray cluster {cluster} answered {what} in a form that cannot be read: {why}"),
    )
    .with_retry(Retry::Later)
}

/// The driver has been shut down.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the Ray driver is shutting down")
}

/// The deadline passed.
pub(crate) fn timeout(guid: Guid, what: &str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("{what} took longer than the operation may take"),
    )
    .with_object(guid)
}

/// The line of a text that says most: of a traceback the last one.
pub(crate) fn sentence(text: &str, status: u16) -> String {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = if text.contains("Traceback (most recent call last)") {
        lines().next_back()
    } else {
        lines().next()
    };
    match line {
        Some(line) => clip(line, MAX_TEXT).to_owned(),
        None => format!("status {status} without a text"),
    }
}

/// The first so many bytes, at a character's end.
pub(crate) fn clip(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_decides_where_the_status_lies() {
        let traceback = "Traceback (most recent call last):\n  File \"x.py\", line 1\nValueError: Job with submission_id j1 already exists. Please use a different submission_id.\n";
        for (status, text, kind) in [
            (500, traceback, ErrorKind::AlreadyExists),
            (
                500,
                "Attempted to delete job 'r1', but it is in a non-terminal state RUNNING",
                ErrorKind::Conflict,
            ),
            (404, "Job nope does not exist", ErrorKind::NotFound),
            (
                500,
                "Could not find a log file. Please make sure",
                ErrorKind::NotFound,
            ),
            (400, "Can only stop submission type jobs", ErrorKind::Unsupported),
            (500, "Server got itself in trouble", ErrorKind::Unavailable),
            (
                401,
                "Unauthorized: Missing authentication token",
                ErrorKind::Denied,
            ),
            (403, "Forbidden: Invalid authentication token", ErrorKind::Denied),
            (
                429,
                "Max number of in-progress requests=100 reached",
                ErrorKind::Busy,
            ),
            (
                400,
                "TypeError: unexpected keyword argument 'foo'",
                ErrorKind::Invalid,
            ),
            (
                500,
                "Cannot connect to host 10.0.0.7:52365",
                ErrorKind::Unavailable,
            ),
            (503, "", ErrorKind::Unavailable),
        ] {
            assert_eq!(answer(status, text, "c").kind(), kind, "{status} {text}");
        }
    }

    #[test]
    fn of_a_traceback_the_last_line_is_said() {
        let error = answer(
            500,
            "Traceback (most recent call last):\n  File x\nValueError: no\n\n",
            "c",
        );
        assert_eq!(error.message(), "Ray answered: ValueError: no");
        assert_eq!(
            answer(503, " \n", "c").message(),
            "Ray answered: status 503 without a text"
        );
        assert!(answer(500, &"é".repeat(1_000), "c").message().len() < 700);
    }
}
