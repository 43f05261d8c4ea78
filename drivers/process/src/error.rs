//! Errors of the seam in the words of the contract.

use std::io;

use agent_api_driver::model::{Error, ErrorKind, Guid, Retry};

use crate::sdk::pool::Closed;
use crate::sdk::spawn::SpawnError;

/// Why a process did not start.
pub(crate) fn spawn(error: &SpawnError, guid: Guid) -> Error {
    let kind = match error.errno {
        _ if error.is_exhaustion() => ErrorKind::Busy,
        libc::EACCES | libc::EPERM => ErrorKind::Denied,
        libc::ENOENT | libc::ENOTDIR => ErrorKind::NotFound,
        libc::EINVAL | libc::E2BIG | libc::ENOEXEC | libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG => {
            ErrorKind::Invalid
        }
        _ => ErrorKind::Internal,
    };
    let built = Error::new(kind, error.message.clone())
        .with_operation("apply")
        .with_object(guid)
        .with_context("errno", error.errno)
        .with_retry(if error.is_exhaustion() {
            Retry::Later
        } else {
            Retry::Never
        });
    match error.path {
        Some(path) => built.with_path(format!("spec.{path}")),
        None => built,
    }
}

/// A failure of the system in an operation on an object.
pub(crate) fn system(error: &io::Error, what: &str, guid: Guid) -> Error {
    let exhausted = matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN)
    );
    let kind = match error.kind() {
        _ if exhausted => ErrorKind::Busy,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what}: {error}")).with_object(guid)
}

/// The driver has been shut down.
pub(crate) fn closed(_: Closed) -> Error {
    Error::new(ErrorKind::Unavailable, "the process driver is shutting down")
}

/// The object behind a handle is not there.
pub(crate) fn not_found(guid: Guid, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("its process is not there: {why}")).with_object(guid)
}

/// The deadline passed.
pub(crate) fn timeout(guid: Guid, what: &str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("{what} took longer than the operation may take"),
    )
    .with_object(guid)
}
