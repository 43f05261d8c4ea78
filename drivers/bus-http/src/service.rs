//! One request: from its route to its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent_api_bus_in::{Access, Incoming, Response};
use agent_api_bus_out::StartAt;
use agent_api_model::{Error, ErrorKind, Timestamp};
use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Request, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use crate::body::{Body, Lines};
use crate::connection::{InFlight, Peer, Shared};
use crate::events::Events;
use crate::reply::{refusal, status};
use crate::request::{BadBody, DEADLINE, ID, KEY, TRACE, header, query_body, read_body};
use crate::route::{Action, Found, NoRoute, find};

type HttpRequest = Request<hyper::body::Incoming>;
type HttpResponse = hyper::Response<Body>;

pub(crate) const JSON: &str = "application/json";
pub(crate) const LINES: &str = "application/x-ndjson";
pub(crate) const EVENTS: &str = "text/event-stream";

/// A refusal by the bus itself.
struct Refused {
    status: StatusCode,
    error: Error,
    allow: Option<String>,
}

impl Refused {
    fn new(status: StatusCode, error: Error) -> Self {
        Self {
            status,
            error,
            allow: None,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::new(status(error.kind()), error)
    }
}

/// Answers a request. Never fails: what is wrong is in the answer.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: HttpRequest,
) -> Result<HttpResponse, Infallible> {
    let in_flight = InFlight::new(&shared.requests);
    let id = header(request.headers(), ID);
    match try_answer(shared, peer, request, id.clone(), in_flight).await {
        Ok(response) => Ok(response),
        Err(refused) => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            let mut response = respond(
                refused.status,
                JSON,
                Body::One(Some(refusal(id.as_deref(), refused.error)), None),
            );
            if refused.status == StatusCode::UNAUTHORIZED {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            if let Some(allow) = refused.allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
                response.headers_mut().insert(header::ALLOW, allow);
            }
            Ok(response)
        }
    }
}

async fn try_answer(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: HttpRequest,
    id: Option<String>,
    in_flight: InFlight,
) -> Result<HttpResponse, Refused> {
    let (caller, access) = identify(shared, peer, request.headers())?;
    let found = route(&request)?;
    match found.action {
        Action::Topics => return subscribe(shared, access, &request, &found, in_flight),
        Action::OpenApi => {
            let text = Bytes::from_static(crate::openapi::text().as_bytes());
            return Ok(respond(StatusCode::OK, JSON, Body::one(text, in_flight)));
        }
        _ => {}
    }
    let session = match found.action {
        Action::Session => found.words.first().cloned(),
        _ => None,
    };
    let (verb, object, mut extra) = address(found)?;
    let success = if agent_changes(&verb) {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    if let Some(query) = request.uri().query() {
        extra.append(&mut query_body(query)?);
    }
    let (parts, body) = request.into_parts();
    let limits = &shared.limits;
    let mut payload = read_body(body, limits.body, limits.body_time)
        .await
        .map_err(|bad| match bad {
            BadBody::TooLarge(error) => Refused::new(StatusCode::PAYLOAD_TOO_LARGE, error),
            BadBody::Broken(error) => error.into(),
        })?;
    if !extra.is_empty() {
        if !payload.is_empty() {
            return Err(Error::invalid(
                "query",
                "the fields are in the body or in the address, not in both",
            )
            .into());
        }
        payload = serde_json::to_vec(&extra)
            .expect("a map of JSON values is JSON")
            .into();
    }
    if let Some(session) = session {
        payload = input_body(&session, &payload)?;
    }
    let incoming = Incoming {
        verb,
        object,
        id,
        idempotency_key: header(&parts.headers, KEY),
        deadline: header(&parts.headers, DEADLINE),
        traceparent: header(&parts.headers, TRACE),
        caller,
        access,
        payload,
        received: Timestamp::now(),
    };
    match shared.handler.handle(incoming).await {
        Response::One { error, body } => {
            let status = error.map_or(success, status);
            Ok(respond(status, JSON, Body::one(body, in_flight)))
        }
        Response::Text { content_type, body } => {
            Ok(respond(StatusCode::OK, content_type, Body::one(body, in_flight)))
        }
        Response::Stream(frames) => {
            let permit = stream_permit(shared)?;
            let closing = shared.closing.clone().cancelled_owned();
            let lines = Lines::new(frames, closing, limits.keep_alive, permit, in_flight);
            Ok(respond(StatusCode::OK, LINES, Body::Lines(Box::new(lines))))
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> HttpResponse {
    let mut response = hyper::Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if content_type == EVENTS {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether the verb is accepted now and done later.
fn agent_changes(verb: &str) -> bool {
    matches!(
        verb,
        "create"
            | "update"
            | "delete"
            | "pause"
            | "resume"
            | "restart"
            | "signal"
            | "scale"
            | "resize"
            | "call"
    )
}

fn identify(shared: &Shared, peer: &Peer, headers: &HeaderMap) -> Result<(String, Access), Refused> {
    match peer {
        Peer::User {
            caller,
            access: Access::None,
        } => Err(Error::new(
            ErrorKind::Denied,
            format!("{caller} is neither the agent's own user nor root"),
        )
        .into()),
        Peer::User { caller, access } => Ok((caller.clone(), *access)),
        Peer::Unknown => {
            if !headers.get(header::HOST).is_some_and(is_local) {
                return Err(Error::new(
                    ErrorKind::Denied,
                    "the request's Host is not this machine; ask as 127.0.0.1 or localhost",
                )
                .into());
            }
            let shown = headers
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.strip_prefix("Bearer "));
            match (shown, &shared.token) {
                (Some(shown), Some(token)) if token.is(shown) => Ok(("token".into(), Access::Full)),
                _ => Err(Refused::new(
                    StatusCode::UNAUTHORIZED,
                    Error::new(
                        ErrorKind::Denied,
                        "the request shows no token, or not the agent's",
                    )
                    .with_hint("send `Authorization: Bearer …` with the content of the agent's token file"),
                )),
            }
        }
    }
}

/// Whether a `Host` names this machine by address or as localhost, whatever the port.
fn is_local(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn route(request: &HttpRequest) -> Result<Found, Refused> {
    let path = request.uri().path();
    find(request.method(), path).map_err(|why| {
        let cut: String = path.chars().take(120).collect();
        match why {
            NoRoute::Path => Error::new(ErrorKind::NotFound, format!("there is nothing at {cut:?}"))
                .with_hint("GET /openapi.json lists all addresses")
                .into(),
            NoRoute::Encoding => Error::invalid("path", "is not percent-encoded UTF-8").into(),
            NoRoute::Method(allowed) => {
                let allow = allowed.join(", ");
                let error = Error::new(
                    ErrorKind::Unsupported,
                    format!("{cut:?} does not take {}; it takes {allow}", request.method()),
                );
                Refused {
                    allow: Some(allow),
                    ..Refused::new(StatusCode::METHOD_NOT_ALLOWED, error)
                }
            }
        }
    })
}

type Address = (String, Option<String>, serde_json::Map<String, serde_json::Value>);

/// Verb, object and body fields that the address names.
fn address(found: Found) -> Result<Address, Error> {
    let mut extra = serde_json::Map::new();
    let mut words = found.words.into_iter();
    let mut word = || words.next().unwrap_or_default();
    let (verb, object) = match found.action {
        Action::Verb(verb) => {
            let object = word();
            (verb.to_owned(), (!object.is_empty()).then_some(object))
        }
        Action::ObjectVerb => {
            let object = word();
            (word(), Some(object))
        }
        Action::AnyVerb => (word(), None),
        Action::BatchVerb => {
            let verb = word();
            if matches!(verb.as_str(), "create" | "update") || !agent_changes(&verb) {
                let cut: String = verb.chars().take(80).collect();
                return Err(
                    Error::new(ErrorKind::Unsupported, format!("{cut:?} is not done in batches"))
                        .with_hint("batches: delete, pause, resume, restart, signal, scale, resize, call"),
                );
            }
            (verb, None)
        }
        Action::Schema => {
            let (driver, name) = (word(), word());
            let kind = if name.is_empty() {
                driver
            } else {
                format!("{driver}/{name}")
            };
            extra.insert("kind".into(), kind.into());
            ("schema".into(), None)
        }
        Action::Session => ("exec_input".into(), None),
        Action::Lease => {
            extra.insert("lease".into(), word().into());
            ("unmonitor".into(), None)
        }
        Action::Topics | Action::OpenApi => (String::new(), None),
    };
    Ok((verb, object, extra))
}

/// The body of `exec_input`: the session of the address around the input of the body, which is not looked at here.
fn input_body(session: &str, input: &[u8]) -> Result<Bytes, Error> {
    #[derive(Serialize)]
    struct Input<'a> {
        session: &'a str,
        input: &'a RawValue,
    }
    let input = serde_json::from_slice::<&RawValue>(input)
        .map_err(|_| Error::new(ErrorKind::Invalid, "the body is not JSON"))?;
    let body = serde_json::to_vec(&Input { session, input }).expect("JSON and a text around it are JSON");
    Ok(body.into())
}

fn stream_permit(shared: &Shared) -> Result<OwnedSemaphorePermit, Error> {
    Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| {
        Error::new(
            ErrorKind::Busy,
            format!(
                "{} streams are open already, which is the limit",
                shared.limits.streams
            ),
        )
    })
}

fn subscribe(
    shared: &Arc<Shared>,
    access: Access,
    request: &HttpRequest,
    found: &Found,
    in_flight: InFlight,
) -> Result<HttpResponse, Refused> {
    if access < Access::Full {
        return Err(Error::new(ErrorKind::Denied, "topics carry logs, and you may not read those").into());
    }
    let resume = header(request.headers(), "last-event-id");
    let from = match (resume, request.uri().query()) {
        (Some(id), _) => StartAt::After(
            id.parse()
                .map_err(|_| Error::invalid("last-event-id", "is not the id of an event of this agent"))?,
        ),
        (None, None | Some("" | "from=now")) => StartAt::Now,
        (None, Some("from=kept")) => StartAt::Kept,
        (None, Some(_)) => {
            return Err(Error::invalid("query", "is not `from=now` or `from=kept`").into());
        }
    };
    let pattern = found.words.first().map(String::as_str).unwrap_or_default();
    let permit = stream_permit(shared)?;
    let reader = shared.ring.subscribe(pattern, &from)?;
    let events = Events::new(reader, shared.limits.keep_alive, permit, in_flight);
    Ok(respond(StatusCode::OK, EVENTS, Body::Events(Box::new(events))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for (host, local) in [
            ("127.0.0.1:8080", true),
            ("127.0.0.1", true),
            ("localhost:1", true),
            ("LOCALHOST", true),
            ("[::1]:80", true),
            ("[::1]", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("localhost.evil.example", false),
            ("10.0.0.1:80", false),
            ("", false),
        ] {
            assert_eq!(is_local(&HeaderValue::from_str(host).unwrap()), local, "{host}");
        }
    }
}
