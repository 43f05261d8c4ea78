//! How many requests were made, of which sort, and what was answered.

use std::collections::BTreeMap;

use kube::client::Body;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use parking_lot::Mutex;
use serde::Serialize;

/// What a request asks for, in the words of the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sort {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// The resource with its subresource: `deployments`, `pods/log`; the path's first part where it is none.
    pub resource: String,
}

impl Sort {
    /// What a request asks for.
    pub(crate) fn of(request: &http::Request<Body>) -> Self {
        let uri = request.uri();
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let rest = match parts.as_slice() {
            ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
            other => {
                return Self::new(
                    request.method(),
                    false,
                    other.len() > 1,
                    other.first().copied(),
                    None,
                );
            }
        };
        let rest = match rest {
            ["namespaces", _, "status" | "finalize"] => rest,
            ["namespaces", _, inner @ ..] if !inner.is_empty() => inner,
            other => other,
        };
        let watch = uri.query().is_some_and(|query| {
            query
                .split('&')
                .any(|pair| matches!(pair, "watch=true" | "watch=1"))
        });
        Self::new(
            request.method(),
            watch,
            rest.len() > 1,
            rest.first().copied(),
            rest.get(2).copied(),
        )
    }

    fn new(
        method: &http::Method,
        watch: bool,
        named: bool,
        resource: Option<&str>,
        sub: Option<&str>,
    ) -> Self {
        let verb = match (method.as_str(), named) {
            ("GET", _) if watch => "watch",
            ("GET", true) => "get",
            ("GET", false) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) => "deletecollection",
            _ => "other",
        };
        let resource = match (resource, sub) {
            (Some(resource), Some(sub)) => format!("{resource}/{sub}"),
            (Some(resource), None) => resource.to_owned(),
            (None, _) => String::new(),
        };
        Self { verb, resource }
    }
}

/// Requests by sort and answer, since the driver was built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RequestCounts {
    /// All of them, those that were tried again counted each time.
    pub total: u64,
    /// Answers 429 that were waited for and tried again.
    pub throttled: u64,
    /// Requests that got no answer.
    pub unanswered: u64,
    /// `patch deployments` → how many.
    pub by: BTreeMap<String, u64>,
}

/// Counts requests, for this driver's own views and by the OpenTelemetry API.
pub(crate) struct Requests {
    cluster: String,
    counts: Mutex<RequestCounts>,
    counter: Counter<u64>,
    duration: Histogram<f64>,
}

impl Requests {
    pub(crate) fn new(cluster: &str) -> Self {
        let meter = opentelemetry::global::meter("agent-driver-kubernetes");
        Self {
            cluster: cluster.to_owned(),
            counts: Mutex::default(),
            counter: meter
                .u64_counter("agent.kubernetes.requests")
                .with_description("Requests to the API server.")
                .build(),
            duration: meter
                .f64_histogram("agent.kubernetes.request.duration")
                .with_description("From the request to the head of its answer.")
                .with_unit("s")
                .build(),
        }
    }

    /// Counts a request and its answer; none where there was none.
    pub(crate) fn answered(&self, sort: &Sort, code: Option<u16>, seconds: f64) {
        {
            let mut counts = self.counts.lock();
            counts.total += 1;
            if code.is_none() {
                counts.unanswered += 1;
            }
            *counts
                .by
                .entry(format!("{} {}", sort.verb, sort.resource))
                .or_default() += 1;
        }
        let attributes = [
            KeyValue::new("cluster", self.cluster.clone()),
            KeyValue::new("verb", sort.verb),
            KeyValue::new("resource", sort.resource.clone()),
            KeyValue::new("code", i64::from(code.unwrap_or(0))),
        ];
        self.counter.add(1, &attributes);
        self.duration.record(seconds, &attributes);
    }

    /// Counts an answer 429 that is waited for.
    pub(crate) fn throttled(&self) {
        self.counts.lock().throttled += 1;
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        self.counts.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_in_rbac_rules() {
        let sort = |method: &str, uri: &str| {
            let request = http::Request::builder()
                .method(method)
                .uri(uri)
                .body(Body::empty())
                .unwrap();
            let sort = Sort::of(&request);
            format!("{} {}", sort.verb, sort.resource)
        };
        assert_eq!(sort("GET", "/version"), "list version");
        assert_eq!(sort("GET", "/api/v1/pods?watch=true&x=1"), "watch pods");
        assert_eq!(sort("GET", "/api/v1/namespaces"), "list namespaces");
        assert_eq!(sort("GET", "/api/v1/namespaces/a"), "get namespaces");
        assert_eq!(
            sort("PUT", "/api/v1/namespaces/a/finalize"),
            "update namespaces/finalize"
        );
        assert_eq!(sort("GET", "/api/v1/namespaces/a/pods/b/log?x"), "get pods/log");
        assert_eq!(
            sort("PATCH", "/apis/apps/v1/namespaces/a/deployments/b?x"),
            "patch deployments"
        );
        assert_eq!(
            sort("DELETE", "/apis/apps/v1/namespaces/a/deployments"),
            "deletecollection deployments"
        );
        assert_eq!(
            sort("GET", "/api/v1/nodes/n/proxy/stats/summary"),
            "get nodes/proxy"
        );
        assert_eq!(sort("GET", "/apis/apps/v1"), "list ");
    }
}
