//! The listener for a cluster's event export.
//!
//! The sender has no authentication but the token in the path, so what comes is a hint that it is time to ask, and nothing more. One
//! task for the listener and its connections; their number, and the size of what they send, are bounded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_api_driver::model::Timestamp;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{Head, Hint};
use crate::config::ListenConfig;
use crate::shared::{Kinds, Shared};

/// Connections at one time: each node of the cluster keeps one.
const CONNECTIONS: usize = 256;
/// The largest body; Ray sends at most 10,000 events at once.
const MAX_BODY: usize = 32 << 20;
/// How long one request may take to come.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// The wait before it is tried again to listen.
const RETRY: Duration = Duration::from_secs(1);
/// So many actors are known by name; more, and they are forgotten.
const ACTORS: usize = 65_536;

/// Listens until the driver closes.
pub(crate) async fn listen(shared: Arc<Shared>, kinds: Kinds, head: Arc<Head>, config: ListenConfig) {
    let inbox = Inbox {
        kinds,
        head: Arc::clone(&head),
        path: format!("/{}", config.token.reveal()),
        names: Mutex::default(),
    };
    let trouble = format!("listen.{}", head.name);
    let work = async {
        loop {
            match TcpListener::bind(config.listen).await {
                Ok(listener) => {
                    if shared.troubles.lock().remove(&trouble).is_some() {
                        shared.push_health();
                    }
                    serve(&listener, &inbox).await;
                }
                Err(error) => {
                    let said = format!(
                        "cannot listen on {} for events of {}: {error}",
                        config.listen, head.name
                    );
                    shared.troubles.lock().insert(trouble.clone(), said);
                    shared.push_health();
                }
            }
            sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = shared.closing.cancelled() => {}
        () = work => {}
    }
}

/// Takes connections until the listener fails.
async fn serve(listener: &TcpListener, inbox: &Inbox) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => connections.push(Box::pin(connection(stream, inbox))),
                Err(error) => {
                    tracing::warn!(%error, "the listener for events of Ray failed");
                    return;
                }
            },
            Some(()) = connections.next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(stream: TcpStream, inbox: &Inbox) {
    let service = service_fn(|request| inbox.answer(request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(3_600))
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection that brings events of Ray was cut off");
    }
}

/// Where events go.
struct Inbox {
    kinds: Kinds,
    head: Arc<Head>,
    path: String,
    /// Names of actors by their id: events of their life bear the id only.
    names: Mutex<HashMap<String, String>>,
}

impl Inbox {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<NoBody>, Infallible> {
        let known: bool = self.path.as_bytes().ct_eq(request.uri().path().as_bytes()).into();
        let status = if !known {
            StatusCode::NOT_FOUND
        } else if request.method() != Method::POST {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            match timeout(REQUEST_TIME, read(request.into_body())).await {
                Ok(Some(body)) => {
                    self.take(&body);
                    StatusCode::OK
                }
                Ok(None) => StatusCode::PAYLOAD_TOO_LARGE,
                Err(_) => StatusCode::REQUEST_TIMEOUT,
            }
        };
        let mut response = Response::new(NoBody);
        *response.status_mut() = status;
        Ok(response)
    }

    /// Takes a body. One that cannot be read is acknowledged all the same: Ray would send it for ever.
    fn take(&self, body: &[u8]) {
        let events: Vec<Event> = match serde_json::from_slice(body) {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(%error, "events of Ray cannot be read");
                return;
            }
        };
        self.head.told();
        let hints: Vec<Hint> = {
            let mut names = self.names.lock();
            events.iter().flat_map(|event| hints(event, &mut names)).collect()
        };
        let session = self.head.known_version().map(|version| version.session_name);
        let news = events.iter().any(|event| {
            event.node_lifecycle_event.is_some()
                || (event.session_name.is_some() && session.is_some() && event.session_name != session)
        });
        if news {
            self.head.wake();
        }
        for hint in hints {
            for kind in self.kinds.iter() {
                kind.hint(&self.head, &hint);
            }
        }
    }
}

/// One event, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Event {
    timestamp: Option<Timestamp>,
    session_name: Option<String>,
    actor_definition_event: Option<ActorDefinition>,
    actor_lifecycle_event: Option<ActorLifecycle>,
    driver_job_definition_event: Option<DriverJob>,
    node_lifecycle_event: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ActorDefinition {
    actor_id: String,
    name: String,
    class_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ActorLifecycle {
    actor_id: String,
    state_transitions: Vec<ActorTransition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ActorTransition {
    state: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DriverJob {
    config: DriverConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DriverConfig {
    metadata: HashMap<String, String>,
}

/// What an event hints at; learns the names of actors on the way.
fn hints(event: &Event, names: &mut HashMap<String, String>) -> Vec<Hint> {
    let at = event.timestamp.unwrap_or_else(Timestamp::now);
    let mut hints = Vec::new();
    if let Some(actor) = &event.actor_definition_event
        && !actor.name.is_empty()
    {
        if names.len() >= ACTORS {
            names.clear();
        }
        names.insert(actor.actor_id.clone(), actor.name.clone());
        hints.push(Hint {
            name: actor.name.clone(),
            text: Some(format!(
                "actor {} of class {} is defined",
                actor.name, actor.class_name
            )),
            at,
        });
    }
    if let Some(actor) = &event.actor_lifecycle_event
        && let Some(name) = names.get(&actor.actor_id).cloned()
    {
        let states: Vec<&str> = actor.state_transitions.iter().map(|t| t.state.as_str()).collect();
        if states.contains(&"DEAD") {
            names.remove(&actor.actor_id);
        }
        hints.push(Hint {
            text: Some(format!("actor {name}: {}", states.join(", "))),
            name,
            at,
        });
    }
    if let Some(job) = &event.driver_job_definition_event
        && let Some(id) = job.config.metadata.get("job_submission_id")
    {
        hints.push(Hint {
            name: id.clone(),
            text: Some("its program connected to Ray".to_owned()),
            at,
        });
    }
    hints
}

/// The whole body; none where it is too large or was cut off.
async fn read(mut body: Incoming) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            if all.len() + data.len() > MAX_BODY {
                return None;
            }
            all.extend_from_slice(&data);
        }
    }
    Some(all)
}

/// An answer without a body.
struct NoBody;

impl Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Event> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn actors_are_known_by_their_definition() {
        let mut names = HashMap::new();
        let events = parse(
            r#"[{"eventType":"ACTOR_DEFINITION_EVENT","timestamp":"2026-11-22T12:07:47.819Z","sessionName":"s",
                 "actorDefinitionEvent":{"actorId":"Ratt","name":"_ray_internal_job_actor_d1","className":"JobSupervisor","more":1}},
                {"eventType":"ACTOR_LIFECYCLE_EVENT","actorLifecycleEvent":{"actorId":"Ratt","stateTransitions":[{"state":"ALIVE"},{"state":"DEAD"}]}},
                {"eventType":"ACTOR_LIFECYCLE_EVENT","actorLifecycleEvent":{"actorId":"other","stateTransitions":[{"state":"ALIVE"}]}},
                {"eventType":"DRIVER_JOB_DEFINITION_EVENT","driverJobDefinitionEvent":{"jobId":"AgAAAA==","config":{"metadata":{"job_submission_id":"d1"}}}},
                {"eventType":"SOMETHING_NEW"}]"#,
        );
        let all: Vec<Hint> = events.iter().flat_map(|event| hints(event, &mut names)).collect();
        let named: Vec<_> = all
            .iter()
            .map(|hint| (hint.name.as_str(), hint.text.as_deref().unwrap()))
            .collect();
        assert_eq!(
            named,
            [
                (
                    "_ray_internal_job_actor_d1",
                    "actor _ray_internal_job_actor_d1 of class JobSupervisor is defined"
                ),
                (
                    "_ray_internal_job_actor_d1",
                    "actor _ray_internal_job_actor_d1: ALIVE, DEAD"
                ),
                ("d1", "its program connected to Ray"),
            ]
        );
        assert!(names.is_empty(), "a dead actor is forgotten");
    }
}
