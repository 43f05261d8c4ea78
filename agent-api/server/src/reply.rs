//! Replies.

use agent_api_bus_in::Response;
use agent_api_model::{Error, Reply, ReplyBody, RequestId, Result, StageTimes, Timestamp};

/// A reply as a bus sends it.
pub(crate) fn reply(id: Option<RequestId>, answer: Result<ReplyBody>, stages: StageTimes) -> Response {
    let (ok, error) = match answer {
        Ok(body) => (Some(body), None),
        Err(error) => (None, Some(error)),
    };
    let kind = error.as_ref().map(Error::kind);
    let reply = Reply {
        id,
        ok,
        error,
        stages,
    };
    match serde_json::to_vec(&reply) {
        Ok(body) => Response::One {
            error: kind,
            body: body.into(),
        },
        // Only a view with a map whose keys are no text could do this.
        Err(error) => refused(
            reply.id,
            Error::internal("the answer cannot be written as JSON").with_source(error),
            stages,
        ),
    }
}

fn refused(id: Option<RequestId>, error: Error, stages: StageTimes) -> Response {
    let kind = error.kind();
    let reply = Reply {
        id,
        ok: None,
        error: Some(error),
        stages,
    };
    let body = serde_json::to_vec(&reply).expect("an error is strings and numbers");
    Response::One {
        error: Some(kind),
        body: body.into(),
    }
}

/// Stage times of a request that was received then, with what it took until now to validate it.
pub(crate) fn validated(received: Timestamp) -> StageTimes {
    StageTimes {
        received,
        validated_us: Some(micros(received, Timestamp::now())),
        ..StageTimes::default()
    }
}

/// The agent's stage times, counted from when the bus had the whole request.
pub(crate) fn since_received(stages: StageTimes, received: Timestamp) -> StageTimes {
    let before = if stages.received == Timestamp::EPOCH {
        0
    } else {
        micros(received, stages.received)
    };
    let moved = |time: Option<u64>| time.map(|time| time.saturating_add(before));
    StageTimes {
        received,
        validated_us: moved(stages.validated_us),
        durable_us: moved(stages.durable_us),
        driver_called_us: moved(stages.driver_called_us),
        driver_returned_us: moved(stages.driver_returned_us),
        observed_us: moved(stages.observed_us),
    }
}

fn micros(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.since(from).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_times_count_from_the_bus() {
        let stages = StageTimes {
            received: Timestamp::from_micros(1_040),
            validated_us: Some(5),
            durable_us: Some(200),
            ..StageTimes::default()
        };
        let moved = since_received(stages, Timestamp::from_micros(1_000));
        assert_eq!((moved.validated_us, moved.durable_us), (Some(45), Some(240)));
        assert_eq!(moved.received, Timestamp::from_micros(1_000));
        assert_eq!(moved.driver_called_us, None);
    }
}
