//! Replies that the bus itself gives, and the status of all.

use agent_api_model::{Error, ErrorKind, Reply, RequestId, StageTimes, Timestamp};
use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;

/// The status that stands for an error.
pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Expired => StatusCode::PRECONDITION_FAILED,
        ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Lost => StatusCode::GONE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A reply with an error, as JSON.
pub(crate) fn refusal(id: Option<&str>, error: Error) -> Bytes {
    let reply = Reply {
        id: id.and_then(|id| RequestId::new(id).ok()),
        ok: None,
        error: Some(error),
        stages: StageTimes {
            received: Timestamp::now(),
            ..StageTimes::default()
        },
    };
    serde_json::to_vec(&reply).expect("a reply is plain JSON").into()
}

/// The kind of the error in a reply; none where it is not a reply with an error.
pub(crate) fn kind_of(body: &[u8]) -> Option<ErrorKind> {
    #[derive(Deserialize)]
    struct Coded {
        error: Code,
    }
    #[derive(Deserialize)]
    struct Code {
        code: ErrorKind,
    }
    serde_json::from_slice::<Coded>(body)
        .ok()
        .map(|coded| coded.error.code)
}
