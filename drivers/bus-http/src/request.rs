//! What a request says beside its address: headers, query, body.

use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result, format_duration};
use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use serde_json::{Map, Value};
use std::pin::Pin;

use crate::route::decode;

/// The request's id.
pub(crate) const ID: &str = "x-request-id";
/// The idempotency key.
pub(crate) const KEY: &str = "idempotency-key";
/// The moment after which the request is of no use, RFC 3339.
pub(crate) const DEADLINE: &str = "x-deadline";
/// W3C trace context.
pub(crate) const TRACE: &str = "traceparent";

/// A header's text, where it is text.
pub(crate) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Why a body was not taken.
pub(crate) enum BadBody {
    /// Larger than the limit.
    TooLarge(Error),
    /// Not whole, or too slow.
    Broken(Error),
}

/// Reads a body, no more of it than the limit.
pub(crate) async fn read_body(mut body: Incoming, limit: usize, time: Duration) -> Result<Bytes, BadBody> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large(limit));
    }
    let whole = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|error| {
                BadBody::Broken(
                    Error::new(ErrorKind::Invalid, "the body ended before it was whole").with_source(error),
                )
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + rest.len() + data.len() > limit {
                return Err(too_large(limit));
            }
            if first.is_empty() {
                first = data;
            } else {
                rest.extend_from_slice(&data);
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(first.len() + rest.len());
        all.extend_from_slice(&first);
        all.extend_from_slice(&rest);
        Ok(all.freeze())
    };
    match tokio::time::timeout(time, whole).await {
        Ok(body) => body,
        Err(_) => Err(BadBody::Broken(Error::new(
            ErrorKind::Timeout,
            format!("the body was not whole after {}", format_duration(time)),
        ))),
    }
}

fn too_large(limit: usize) -> BadBody {
    BadBody::TooLarge(Error::new(
        ErrorKind::Invalid,
        format!("the body is larger than {limit} bytes, which is the limit"),
    ))
}

/// The body that a query stands for: `?selector=app%3Dweb&limit=10` is `{"selector": "app=web", "limit": 10}`.
/// What the verb does not know is refused later, by name.
pub(crate) fn query_body(query: &str) -> Result<Map<String, Value>> {
    let mut body = Map::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, "true"));
        let plain = |text: &str| {
            decode(&text.replace('+', " ")).ok_or_else(|| {
                let cut: String = part.chars().take(80).collect();
                Error::invalid("query", format!("{cut:?} is not percent-encoded UTF-8"))
            })
        };
        let (name, value) = (plain(name)?, plain(value)?);
        let value = match name.as_str() {
            "limit" | "tail" => value
                .parse::<u64>()
                .map_or_else(|_| Value::String(value.clone()), Value::from),
            "follow" | "orphan" | "cascade" | "forget" => match value.as_str() {
                "true" | "1" | "" => Value::Bool(true),
                "false" | "0" => Value::Bool(false),
                _ => Value::String(value),
            },
            "streams" => value.split(',').map(|word| Value::String(word.into())).collect(),
            _ => Value::String(value),
        };
        if body.contains_key(&name) {
            let cut: String = name.chars().take(80).collect();
            return Err(Error::invalid(cut, "is given twice"));
        }
        body.insert(name, value);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_is_a_body() {
        let body = |query: &str| {
            query_body(query)
                .map(Value::Object)
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            body("selector=app%3Dweb%2C%21old&limit=10&follow&streams=stdout,stderr&cascade=0"),
            Ok(
                json!({"selector": "app=web,!old", "limit": 10, "follow": true, "streams": ["stdout", "stderr"], "cascade": false})
            )
        );
        assert_eq!(body(""), Ok(json!({})));
        assert_eq!(body("limit=many"), Ok(json!({"limit": "many"})));
        assert_eq!(body("a=1&a=2").unwrap_err(), "a: is given twice");
        assert!(body("a=%f").unwrap_err().starts_with("query: "));
    }
}
