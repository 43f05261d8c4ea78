//! The routes: one table, which the OpenAPI document is made from as well.

use hyper::Method;

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// This verb. The first word of the address in braces is the object.
    Verb(&'static str),
    /// The verb of the address's last word, for the object in it.
    ObjectVerb,
    /// The verb of the address's last word, for no object of the address.
    AnyVerb,
    /// The same, with a selector in the body: a verb that changes objects.
    BatchVerb,
    /// `exec_input` with the session of the address; the body is the input.
    Session,
    /// `schema` with the kind of the address.
    Schema,
    /// `unmonitor` with the lease of the address.
    Lease,
    /// A subscription.
    Topics,
    /// The OpenAPI document.
    OpenApi,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) action: Action,
    pub(crate) summary: &'static str,
}

const fn route(method: &'static str, path: &'static str, action: Action, summary: &'static str) -> Route {
    Route {
        method,
        path,
        action,
        summary,
    }
}

/// All routes.
pub(crate) const ROUTES: &[Route] = &[
    route(
        "GET",
        "/v1/objects/{name}",
        Action::Verb("describe"),
        "View, spec and methods of an object",
    ),
    route("POST", "/v1/objects", Action::Verb("create"), "Create an object"),
    route(
        "GET",
        "/v1/objects",
        Action::Verb("list"),
        "The views of many objects, by name",
    ),
    route(
        "PATCH",
        "/v1/objects/{name}",
        Action::Verb("update"),
        "Change an object's spec",
    ),
    route(
        "DELETE",
        "/v1/objects/{name}",
        Action::Verb("delete"),
        "Delete an object and free its resources",
    ),
    route(
        "GET",
        "/v1/objects/{name}/explain",
        Action::Verb("explain"),
        "What led an object where it is",
    ),
    route(
        "GET",
        "/v1/objects/{name}/logs",
        Action::Verb("logs"),
        "Read an object's logs, as lines of JSON",
    ),
    route(
        "POST",
        "/v1/objects/{name}/{verb}",
        Action::ObjectVerb,
        "Any verb on one object: pause, resume, restart, signal, scale, resize, call, exec …",
    ),
    route(
        "POST",
        "/v1/exec/{session}/input",
        Action::Session,
        "Send input to a command that runs interactively",
    ),
    route(
        "POST",
        "/v1/batch/{verb}",
        Action::BatchVerb,
        "Delete or control all objects that a selector chooses",
    ),
    route(
        "POST",
        "/v1/call/{verb}",
        Action::AnyVerb,
        "Any verb with its body, as on every other bus",
    ),
    route(
        "GET",
        "/v1/watch",
        Action::Verb("watch"),
        "The views, then what changes, as lines of JSON",
    ),
    route(
        "POST",
        "/v1/plan",
        Action::Verb("plan"),
        "What a request would do",
    ),
    route(
        "POST",
        "/v1/leases",
        Action::Verb("monitor"),
        "Begin or renew a monitor lease",
    ),
    route(
        "DELETE",
        "/v1/leases/{lease}",
        Action::Lease,
        "End a monitor lease",
    ),
    route(
        "GET",
        "/v1/info",
        Action::Verb("info"),
        "What the agent says of itself",
    ),
    route(
        "GET",
        "/v1/drivers",
        Action::Verb("drivers"),
        "The drivers and their kinds",
    ),
    route(
        "GET",
        "/v1/schema/{driver}",
        Action::Schema,
        "The JSON Schema of a kind",
    ),
    route(
        "GET",
        "/v1/schema/{driver}/{type}",
        Action::Schema,
        "The JSON Schema of a kind with a type",
    ),
    route(
        "POST",
        "/v1/drain",
        Action::Verb("drain"),
        "Stop taking requests, finish, and end",
    ),
    route(
        "POST",
        "/v1/reload",
        Action::Verb("reload"),
        "Read the configuration again and apply the difference",
    ),
    route(
        "GET",
        "/v1/topics/{pattern}",
        Action::Topics,
        "The topics that a pattern covers, as server-sent events",
    ),
    route("GET", "/openapi.json", Action::OpenApi, "This document"),
    route(
        "GET",
        "/v1/health",
        Action::Verb("health"),
        "How the agent is, in words",
    ),
    route(
        "GET",
        "/healthz",
        Action::Verb("live"),
        "Whether the loops that do the work turn: 200, else 503",
    ),
    route(
        "GET",
        "/readyz",
        Action::Verb("ready"),
        "Whether the agent takes requests: 200, else 503",
    ),
    route(
        "GET",
        "/metrics",
        Action::Verb("metrics"),
        "The agent's own metrics, as Prometheus reads them",
    ),
];

/// A route that fits, with the words of the address that it leaves open, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) action: Action,
    pub(crate) words: Vec<String>,
}

/// Why no route fits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// No route has this address.
    Path,
    /// Routes have it, with these methods.
    Method(Vec<&'static str>),
    /// A word of the address cannot be decoded.
    Encoding,
}

/// Finds the route.
pub(crate) fn find(method: &Method, path: &str) -> Result<Found, NoRoute> {
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(words) = fit(route.path, path) else {
            continue;
        };
        if route.method == method.as_str() {
            let words = words
                .into_iter()
                .map(decode)
                .collect::<Option<_>>()
                .ok_or(NoRoute::Encoding)?;
            return Ok(Found {
                action: route.action,
                words,
            });
        }
        others.push(route.method);
    }
    Err(if others.is_empty() {
        NoRoute::Path
    } else {
        NoRoute::Method(others)
    })
}

fn fit<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut open = Vec::new();
    let mut words = path.split('/');
    for wanted in pattern.split('/') {
        let word = words.next()?;
        if wanted.starts_with('{') {
            if word.is_empty() {
                return None;
            }
            open.push(word);
        } else if wanted != word {
            return None;
        }
    }
    words.next().is_none().then_some(open)
}

/// Percent-decodes a word of an address; none where that is not UTF-8 or not whole.
pub(crate) fn decode(word: &str) -> Option<String> {
    if !word.contains('%') {
        return Some(word.into());
    }
    let mut decoded = Vec::with_capacity(word.len());
    let mut bytes = word.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

/// Percent-encodes a word of an address.
pub(crate) fn encode(word: &str) -> String {
    let mut encoded = String::with_capacity(word.len());
    for byte in word.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_find_their_route() {
        let found = |method: Method, path: &str| find(&method, path).map(|found| (found.action, found.words));
        let one = |word: &str| vec![word.to_string()];
        assert_eq!(
            found(Method::GET, "/v1/objects/web"),
            Ok((Action::Verb("describe"), one("web")))
        );
        assert_eq!(
            found(Method::GET, "/v1/objects/web/logs"),
            Ok((Action::Verb("logs"), one("web")))
        );
        assert_eq!(
            found(Method::POST, "/v1/objects/web/logs"),
            Ok((Action::ObjectVerb, vec!["web".into(), "logs".into()]))
        );
        assert_eq!(
            found(Method::GET, "/v1/topics/agent.%3E"),
            Ok((Action::Topics, one("agent.>")))
        );
        assert_eq!(
            found(Method::POST, "/v1/exec/7f/input"),
            Ok((Action::Session, one("7f")))
        );
        assert_eq!(found(Method::GET, "/v1/nothing"), Err(NoRoute::Path));
        assert_eq!(found(Method::GET, "/v1/objects/"), Err(NoRoute::Path));
        assert_eq!(found(Method::GET, "/v1/objects/%zz"), Err(NoRoute::Encoding));
        assert_eq!(
            found(Method::PUT, "/v1/objects"),
            Err(NoRoute::Method(vec!["POST", "GET"]))
        );
    }

    #[test]
    fn words_are_read_as_they_were_written() {
        for word in ["web", "a b/c?d", "ä>*%", ""] {
            assert_eq!(decode(&encode(word)).as_deref(), Some(word));
        }
        for bad in ["%", "%a", "%ff", "%é0"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
