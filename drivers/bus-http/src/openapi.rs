//! The OpenAPI document, made from the table of routes and the types of the wire.

use std::sync::LazyLock;

use agent_api_model::{
    DeleteRequest, ExecFrame, ExecInput, ExecRequest, LogFrame, MonitorRequest, ObjectSpec, PlanRequest,
    Reply, Resources, Selector, UpdateRequest, WatchEvent,
};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::route::{Action, ROUTES, Route};

static TEXT: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string_pretty(&document()).expect("a JSON value is written as JSON"));

/// The document as it is served.
pub(crate) fn text() -> &'static str {
    &TEXT
}

/// The OpenAPI 3.1 document of all routes.
#[must_use]
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut types = settings.into_generator();
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(route, &mut types);
        let path = paths
            .entry(route.path)
            .or_insert_with(|| Value::Object(Map::new()));
        path[route.method.to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "agent",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The agent's wire API over HTTP: see docs/api.md for verbs, limits and streams.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "The Unix socket, or the loopback port"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "On the loopback port: the content of the agent's token file. The Unix socket needs none.",
                },
            },
            "schemas": types.take_definitions(true),
        },
    })
}

fn operation(route: &Route, types: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "responses": responses(route, types),
    });
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(
        query(route)
            .iter()
            .map(|(name, kind, what)| json!({"name": name, "in": "query", "description": what, "schema": {"type": kind}})),
    );
    parameters.extend(
        headers(route)
            .iter()
            .map(|(name, what)| json!({"name": name, "in": "header", "description": what, "schema": {"type": "string"}})),
    );
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(schema) = body(route, types) {
        operation["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words: Vec<_> = route
        .path
        .split(['/', '.'])
        .filter(|word| !word.is_empty() && *word != "v1")
        .map(|word| word.trim_matches(['{', '}']))
        .collect();
    format!("{}_{}", route.method.to_ascii_lowercase(), words.join("_"))
}

fn query(route: &Route) -> &'static [(&'static str, &'static str, &'static str)] {
    match route.action {
        Action::Verb("list") => &[
            ("selector", "string", "Which objects: app=web,tier!=db,env,!old"),
            ("phase", "string", "Only in this phase"),
            ("limit", "integer", "At most so many"),
            ("after", "string", "Only names after this one"),
        ],
        Action::Verb("watch") => &[
            ("object", "string", "One object"),
            (
                "selector",
                "string",
                "Which objects, where no single one is named",
            ),
        ],
        Action::Verb("logs") => &[
            ("cursor", "string", "Begin after this place"),
            ("tail", "integer", "Begin so many lines before the end"),
            ("follow", "boolean", "Go on with what is written later"),
            ("streams", "string", "Only these: stdout,stderr,system"),
        ],
        Action::Verb("delete") => &[
            ("grace", "string", "How long it may take to end by itself"),
            (
                "orphan",
                "boolean",
                "Leave the real thing running and only forget it",
            ),
            ("cascade", "boolean", "Delete also what depends on it, first"),
            (
                "forget",
                "boolean",
                "Forget it without asking its driver; the real thing may go on",
            ),
        ],
        Action::Topics => &[(
            "from",
            "string",
            "`now`, or `kept` to begin with what is still kept",
        )],
        _ => &[],
    }
}

fn headers(route: &Route) -> &'static [(&'static str, &'static str)] {
    match route.action {
        Action::Topics => &[("Last-Event-ID", "Begin after this event")],
        Action::OpenApi => &[],
        _ => &[
            (
                "X-Request-Id",
                "The request's id, 1 to 128 visible ASCII characters; made where it is not given",
            ),
            (
                "Idempotency-Key",
                "The same key gets the same reply; the request's id where it is not given",
            ),
            (
                "X-Deadline",
                "RFC 3339; the request is refused as expired after it",
            ),
            ("traceparent", "W3C trace context"),
        ],
    }
}

fn body(route: &Route, types: &mut SchemaGenerator) -> Option<Value> {
    fn of<T: JsonSchema>(types: &mut SchemaGenerator) -> Option<Value> {
        Some(types.subschema_for::<T>().to_value())
    }
    match route.action {
        Action::Verb("create") => of::<ObjectSpec>(types),
        Action::Verb("update") => of::<UpdateRequest>(types),
        Action::Verb("delete") => of::<DeleteRequest>(types),
        Action::Verb("plan") => of::<PlanRequest>(types),
        Action::Verb("monitor") => of::<MonitorRequest>(types),
        Action::Session => of::<ExecInput>(types),
        Action::Verb("drain") => Some(json!({
            "type": "object",
            "properties": {"deadline": {"type": "string", "examples": ["30s"]}},
        })),
        Action::ObjectVerb | Action::BatchVerb => {
            let selector = types.subschema_for::<Selector>().to_value();
            let control = json!({
                "type": "object",
                "description": "restart: grace; signal: signal; scale: replicas; resize: resources; call: method and arguments; pause and resume: nothing. In batches also the selector.",
                "properties": {
                    "grace": {"type": "string"},
                    "signal": {"type": "string"},
                    "replicas": {"type": "integer"},
                    "resources": types.subschema_for::<Resources>().to_value(),
                    "method": {"type": "string"},
                    "arguments": {"type": "object"},
                    "selector": selector,
                },
            });
            let mut any = vec![control, types.subschema_for::<DeleteRequest>().to_value()];
            if route.action == Action::ObjectVerb {
                any.push(types.subschema_for::<ExecRequest>().to_value());
            }
            Some(json!({ "anyOf": any }))
        }
        Action::AnyVerb => Some(json!({"description": "The verb's body, see docs/api.md"})),
        _ => None,
    }
}

fn responses(route: &Route, types: &mut SchemaGenerator) -> Value {
    let reply = types.subschema_for::<Reply>().to_value();
    let one = json!({"application/json": {"schema": reply}});
    let (status, what, content) = match route.action {
        Action::Verb("create" | "update" | "delete") | Action::BatchVerb => {
            ("202", "Accepted: durable, and being done", one.clone())
        }
        Action::Verb("watch") => ("200", "A line for each change", lines::<WatchEvent>(types)),
        Action::Verb("logs") => ("200", "A line for each piece", lines::<LogFrame>(types)),
        Action::Verb("metrics") => {
            let text = json!({"text/plain": {"schema": {"type": "string"}}});
            ("200", "Prometheus text", text)
        }
        Action::ObjectVerb | Action::AnyVerb => {
            let mut content = one.clone();
            content["application/x-ndjson"] = lines::<ExecFrame>(types)["application/x-ndjson"].clone();
            (
                "2XX",
                "202 for a change, 200 for the rest; streams for watch, logs and exec",
                content,
            )
        }
        Action::Topics => {
            let text = json!({"text/event-stream": {"schema": {"type": "string"}}});
            (
                "200",
                "CloudEvents, one an event; event `missed` counts what was lost before",
                text,
            )
        }
        Action::OpenApi => {
            let text = json!({"application/json": {"schema": {"type": "object"}}});
            ("200", "OpenAPI 3.1", text)
        }
        _ => ("200", "The answer", one.clone()),
    };
    json!({
        status: {"description": what, "content": content},
        "default": {"description": "Refused: the reply's `error` says why and what to do", "content": one},
    })
}

fn lines<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    json!({"application/x-ndjson": {"schema": types.subschema_for::<T>().to_value()}})
}
