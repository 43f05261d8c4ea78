//! Revisions that grow over restarts of the agent without being stored at every change.

use agent_api_driver::model::Timestamp;

/// The revision after `last`: the time in microseconds, or one more where the clock stands behind.
pub(crate) fn after(last: u64) -> u64 {
    let now = u64::try_from(Timestamp::now().as_micros()).unwrap_or(0);
    now.max(last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grow() {
        let first = after(0);
        assert!(after(first) > first);
        let ahead = first + 3_600_000_000;
        assert_eq!(after(ahead), ahead + 1, "also where the clock was set back");
    }
}
