//! A server that answers as a test wants: below the driver's own link, in the place of a connection.

use std::sync::Arc;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;
use tower::BoxError;

/// One request as the server sees it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// Null where there is none.
    pub body: Value,
}

/// What the server does with a request.
pub(crate) enum Answer {
    /// Code and body.
    Json(u16, Value),
    /// The same with Retry-After.
    Later(u16, u64),
    /// The connection breaks.
    Broken,
    /// Nothing, for ever.
    Silence,
}

/// All requests that were made.
pub(crate) type Log = Arc<Mutex<Vec<Asked>>>;

/// A client of a server that answers like this.
pub(crate) fn client(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> (Client, Log) {
    let log = Log::default();
    let (seen, answer) = (Arc::clone(&log), Arc::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
        async move {
            let (method, uri) = (request.method().to_string(), request.uri().to_string());
            let bytes = request.into_body().collect_bytes().await?;
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let asked = Asked { method, uri, body };
            seen.lock().push(asked.clone());
            let json = |code: u16, body: &Value| {
                Response::builder()
                    .status(code)
                    .body(Body::from(serde_json::to_vec(body).unwrap()))
                    .unwrap()
            };
            match answer(&asked) {
                Answer::Json(code, body) => Ok(json(code, &body)),
                Answer::Later(code, seconds) => {
                    let status = serde_json::json!({"kind": "Status", "code": code, "status": "Failure", "reason": "TooManyRequests",
                        "message": "too many requests", "details": {"retryAfterSeconds": seconds}});
                    let mut answer = json(code, &status);
                    answer.headers_mut().insert("retry-after", seconds.into());
                    Ok(answer)
                }
                Answer::Broken => Err::<_, BoxError>("connection reset".into()),
                Answer::Silence => std::future::pending().await,
            }
        }
    });
    (Client::new(service, "default"), log)
}

/// A Status with this code and reason.
pub(crate) fn failure(code: u16, reason: &str, message: &str) -> Answer {
    Answer::Json(
        code,
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}
