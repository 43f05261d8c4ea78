use serde_json::json;

use super::*;

fn list(value: serde_json::Value) -> APIResourceList {
    serde_json::from_value(value).unwrap()
}

/// The lab's server is 1.20. What newer ones say is here in the form of their documents, cut to what is asked for.
#[test]
fn new_servers_have_what_the_lab_has_not() {
    let verbs = json!(["get", "list", "patch", "watch"]);
    let new = resources(&list(
        json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": verbs},
            {"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]},
            {"name": "pods/resize", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get", "patch", "update"]},
            {"name": "nodes", "singularName": "node", "namespaced": false, "kind": "Node", "verbs": verbs},
        ]}),
    ));
    assert_eq!(new.len(), 2);
    let (pod, node) = (&new[0], &new[1]);
    assert!(pod.has("resize") && pod.has("eviction") && !pod.has("log"));
    assert!(pod.namespaced && !node.namespaced);
    let old = resources(&list(json!({"groupVersion": "v1", "resources": [
        {"name": "pods", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": verbs},
        {"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1beta1", "kind": "Eviction", "verbs": ["create"]},
    ]})));
    assert!(!old[0].has("resize"));
    let grouped = resources(&list(json!({"groupVersion": "policy/v1", "resources": [
        {"name": "poddisruptionbudgets", "singularName": "poddisruptionbudget", "namespaced": true, "kind": "PodDisruptionBudget", "verbs": verbs},
        {"name": "poddisruptionbudgets/status", "singularName": "", "namespaced": true, "kind": "PodDisruptionBudget", "verbs": ["get"]},
    ]})));
    let api = &grouped[0].api;
    assert_eq!(
        (api.group.as_str(), api.version.as_str(), api.api_version.as_str()),
        ("policy", "v1", "policy/v1")
    );
    assert!(grouped[0].has("status"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_is_asked_for_again_after_a_while() {
    let cache = Cache::default();
    assert!(cache.group("metrics.k8s.io/v1beta1").is_none());
    cache.put("metrics.k8s.io/v1beta1", None);
    assert!(matches!(cache.group("metrics.k8s.io/v1beta1"), Some(None)));
    tokio::time::advance(ABSENT).await;
    assert!(cache.group("metrics.k8s.io/v1beta1").is_none());
    cache.put("v1", Some(Group::default()));
    assert!(!cache.is_old("v1"));
    tokio::time::advance(AGAIN).await;
    assert!(cache.is_old("v1") && matches!(cache.group("v1"), Some(Some(_))));
    cache.forget("v1");
    assert!(cache.group("v1").is_none());
}
