//! Answers as servers give them.

use serde_json::{Value, json};

use super::*;

fn recorded(value: Value) -> Status {
    serde_json::from_value(value).unwrap()
}

fn mapped(value: Value) -> Error {
    status(recorded(value), "patch", "deployments", Some("shop"), "web")
}

#[test]
fn answers_become_errors_that_name_verb_resource_and_namespace() {
    let answers = [
        json!({"code": 403, "reason": "Forbidden", "details": {"name": "web", "group": "apps", "kind": "deployments"},
            "message": "deployments.apps \"web\" is forbidden: User \"system:serviceaccount:agent:agent\" cannot patch resource \"deployments\" in API group \"apps\" in the namespace \"shop\""}),
        json!({"code": 403, "reason": "Forbidden",
            "message": "pods \"web\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3"}),
        json!({"code": 403, "reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating", "message": "namespace shop is being terminated", "field": "metadata.namespace"}]},
            "message": "configmaps \"a\" is forbidden: unable to create new content in namespace shop because it is being terminated"}),
        json!({"code": 401, "reason": "Unauthorized", "message": "Unauthorized"}),
        json!({"code": 404, "reason": "NotFound", "message": "deployments.apps \"web\" not found"}),
        json!({"code": 409, "reason": "AlreadyExists", "message": "deployments.apps \"web\" already exists"}),
        json!({"code": 409, "reason": "Conflict", "message": "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your changes to the latest version and try again"}),
        json!({"code": 409, "reason": "Conflict", "message": "Apply failed with 2 conflicts", "details": {"causes": [
            {"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using apps/v1", "field": ".spec.replicas"},
            {"reason": "FieldManagerConflict", "message": "conflict with \"hpa\" with subresource \"scale\" using apps/v1", "field": ".spec.paused"}]}}),
        json!({"code": 422, "reason": "Invalid", "message": "long", "details": {"causes": [
            {"reason": "FieldValueInvalid", "message": "Invalid value: 0: must be between 1 and 65535", "field": "spec.ports[0].port"}]}}),
        json!({"code": 500, "reason": "", "message": "failed to create typed patch object: .spec.colour: field not declared in schema"}),
        json!({"code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"}),
        json!({"code": 413, "reason": "RequestEntityTooLarge", "message": "limit is 3145728"}),
        json!({"code": 429, "reason": "TooManyRequests", "message": "too many requests, please try again later", "details": {"retryAfterSeconds": 7}}),
        json!({"code": 503, "reason": "ServiceUnavailable", "message": "apiserver is shutting down"}),
    ];
    let said: Vec<String> = answers
        .into_iter()
        .map(|answer| {
            let error = mapped(answer);
            let wait = error
                .retry_delay()
                .map_or(String::new(), |wait| format!(" after {}s", wait.as_secs()));
            format!("{} ({:?}{wait})\n  {error}", error.kind(), error.retry())
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn fields_that_cannot_change_are_told_from_those_that_are_wrong() {
    let fields = |causes: Value| {
        immutable_fields(&recorded(
            json!({"code": 422, "reason": "Invalid", "details": {"causes": causes}}),
        ))
    };
    let job = json!([{"reason": "FieldValueInvalid", "message": "Invalid value: core.PodTemplateSpec{}: field is immutable", "field": "spec.template"}]);
    assert_eq!(fields(job), ["spec.template"]);
    let pod = json!([{"reason": "FieldValueForbidden", "message": "Forbidden: pod updates may not change fields other than `spec.containers[*].image`", "field": "spec"}]);
    assert_eq!(fields(pod), ["spec"]);
    let set = json!([{"reason": "FieldValueForbidden", "message": "Forbidden: updates to statefulset spec for fields other than 'replicas' are forbidden", "field": "spec"}]);
    assert_eq!(fields(set), ["spec"]);
    let wrong = json!([{"reason": "FieldValueInvalid", "message": "Invalid value: 0: must be between 1 and 65535", "field": "spec.ports[0].port"}]);
    assert!(fields(wrong).is_empty());
}

#[test]
fn what_never_left_this_host_is_told_from_what_was_not_answered() {
    let mapped = |error| {
        let error = kube::Error::Service(Box::new(error));
        map(error, "lab", "get", "pods", None, "a")
    };
    let none = mapped(NotSent::NoConnection("no kubeconfig".into()));
    assert_eq!(none.kind(), ErrorKind::Unavailable);
    assert_eq!(none.message(), "cluster lab cannot be reached: no kubeconfig");
    let late = mapped(NotSent::NoAnswer(Duration::from_secs(3)));
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert_eq!(late.message(), "cannot get pods \"a\": no answer within 3s");
}
