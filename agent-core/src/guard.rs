//! Calls of code that is not ours: with a deadline, and with panics caught.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use agent_api::model::{Error, ErrorKind, format_duration};
use futures_util::FutureExt;

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Its deadline passed; the call was dropped.
    TimedOut(Duration),
    /// It panicked with this message.
    Panicked(String),
}

impl Failure {
    /// As the error of a driver's call.
    pub(crate) fn of_driver(&self, driver: impl fmt::Display, call: &str) -> Error {
        let (kind, message) = match self {
            Self::TimedOut(limit) => (
                ErrorKind::Timeout,
                format!(
                    "driver {driver} did not finish {call} in {}",
                    format_duration(*limit)
                ),
            ),
            Self::Panicked(message) => (
                ErrorKind::Internal,
                format!("driver {driver} panicked in {call}: {message}"),
            ),
        };
        Error::new(kind, message).with_operation(call)
    }
}

/// Waits for a call at most so long.
pub(crate) async fn guarded<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => Err(Failure::Panicked(panic_message(&*panic))),
        Err(_) => Err(Failure::TimedOut(limit)),
    }
}

/// Makes a call that does not wait.
pub(crate) fn guarded_now<T>(call: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| Failure::Panicked(panic_message(&*panic)))
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_by_the_deadline_and_survives_panics() {
        let limit = Duration::from_secs(3);
        assert_eq!(guarded(limit, async { 1 }).await, Ok(1));
        assert_eq!(
            guarded(limit, std::future::pending::<()>()).await,
            Err(Failure::TimedOut(limit))
        );
        let panicked = guarded(limit, async {
            if limit.as_secs() == 3 {
                panic!("garbage {}", 7);
            }
        });
        assert_eq!(panicked.await, Err(Failure::Panicked("garbage 7".into())));
        let error = Failure::TimedOut(limit).of_driver("fake", "create");
        assert_eq!(
            (error.kind(), error.message()),
            (ErrorKind::Timeout, "driver fake did not finish create in 3s")
        );
    }
}
