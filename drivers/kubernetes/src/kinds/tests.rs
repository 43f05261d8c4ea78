use agent_api_driver::model::{AgentId, Guid, Kind, ObjectName, ObjectSpec, OpId, Resources};
use serde_json::{Value, json};

use super::*;

fn object(kind: &str, spec: Value) -> ObjectSpec {
    ObjectSpec {
        spec,
        ..ObjectSpec::new(
            Kind::new(format!("kubernetes/{kind}")).unwrap(),
            ObjectName::new("web").unwrap(),
        )
    }
}

fn rendered(object: &ObjectSpec, incarnation: Option<OpId>) -> Vec<DynamicObject> {
    let agent = AgentId::new("a1").unwrap();
    let context = RenderContext {
        agent: &agent,
        guid: "01890a5d-ac96-774b-bcce-b302099a8057".parse::<Guid>().unwrap(),
        generation: 3,
        op_id: "01890a5d-ac96-774b-bcce-b302099a8058".parse::<OpId>().unwrap(),
        incarnation,
        namespace: "shop",
    };
    render(object, &context).unwrap()
}

#[test]
fn a_deployment_has_our_marks_and_all_that_its_spec_says() {
    let mut web = object(
        "deployment",
        json!({
            "image": "nginx:1", "pull_policy": "if_not_present", "pull_secrets": ["registry"], "args": ["-g", "daemon off;"],
            "env": {"A": "1"}, "secret_env": {"TOKEN": {"secret": "web", "key": "token"}}, "workdir": "/srv",
            "ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}], "node_selector": {"disk": "ssd"},
            "service_account": "web", "user": 33, "stop_grace": "1500ms", "strategy": "recreate",
            "progress_deadline": "2m", "history": 3,
        }),
    );
    web.resources = Resources {
        cpu: Some("500m".parse().unwrap()),
        memory: Some("64Mi".parse().unwrap()),
        gpu: Some(1.0),
        replicas: Some(2),
        ..Resources::default()
    };
    insta::assert_yaml_snapshot!(rendered(
        &web,
        Some("01890a5d-ac96-774b-bcce-b302099a8059".parse().unwrap())
    ));
}

#[test]
fn jobs_and_pods_are_not_started_again_by_the_node() {
    let job = object(
        "job",
        json!({"image": "busybox", "command": ["true"], "retries": 2, "completions": 3, "time_limit": "1m"}),
    );
    insta::assert_yaml_snapshot!("job", rendered(&job, None));
    let pod = object("pod", json!({"image": "busybox", "command": ["true"]}));
    insta::assert_yaml_snapshot!("pod", rendered(&pod, None));
}

#[test]
fn a_manifest_is_taken_apart_marked_and_put_in_order() {
    let mut manifest = object(
        "manifest",
        json!({"objects": [
            {"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "status": {"replicas": 9}, "spec": {
                    "replicas": 1, "selector": {"matchLabels": {"app": "d"}},
                    "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}}}},
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"mine": "1"}}, "data": {}},
            ]},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}},
        ]}),
    );
    manifest.resources.replicas = Some(4);
    insta::assert_yaml_snapshot!(rendered(&manifest, None));
}

#[test]
fn labels_of_templates_do_not_change_with_operations() {
    let pod = |op: &str| {
        let agent = AgentId::new("a1").unwrap();
        let context = RenderContext {
            agent: &agent,
            guid: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            generation: 1,
            op_id: op.parse().unwrap(),
            incarnation: None,
            namespace: "shop",
        };
        let spec = object("deployment", json!({"image": "a"}));
        render(&spec, &context).unwrap()[0].data["spec"].clone()
    };
    assert_eq!(
        pod("01890a5d-ac96-774b-bcce-b302099a8058"),
        pod("01890a5d-ac96-774b-bcce-b302099a8059")
    );
}

#[test]
fn says_what_is_wrong_and_where() {
    let limited = |mut object: ObjectSpec| {
        object.resources = Resources {
            pids: Some(1),
            gpu: Some(0.5),
            replicas: Some(2),
            priority: Some(1),
            ..Resources::default()
        };
        object
    };
    let checks = [
        object("pod", json!({})),
        object("pod", json!({"image": " ", "no_such_field": 1})),
        object("pod", json!({"image": " "})),
        object(
            "pod",
            json!({"image": "a", "env": {"A=": "1", "B": "2"}, "secret_env": {"B": {"secret": "s", "key": "k"}}}),
        ),
        object(
            "pod",
            json!({"image": "a", "ports": [{"port": 0}, {"port": 1, "name": "NOT-A-NAME"}], "user": -1}),
        ),
        object("pod", json!({"image": "a", "namespace": "No"})),
        object("pod", json!({"image": "a", "stop_grace": "soon"})),
        limited(object("pod", json!({"image": "a"}))),
        limited(object(
            "manifest",
            json!({"objects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}]}),
        )),
        object("manifest", json!({"objects": []})),
        object(
            "manifest",
            json!({"objects": [{"kind": "A", "metadata": {"generateName": "a-"}}, {"apiVersion": "v1"}]}),
        ),
        object(
            "manifest",
            json!({"objects": [
            {"apiVersion": "v1", "kind": "A", "metadata": {"name": "a", "uid": "1"}},
            {"apiVersion": "v1", "kind": "A", "metadata": {"name": "a"}}]}),
        ),
        object("adopted", json!({"api_version": "", "kind": "Deployment"})),
        limited(object(
            "adopted",
            json!({"api_version": "apps/v1", "kind": "Deployment"}),
        )),
        object("cluster", json!({"name": "a"})),
    ];
    let said: Vec<String> = checks
        .iter()
        .map(|object| {
            let found = validate(object);
            let lines: Vec<String> = found
                .iter()
                .map(|one| format!("  {:?} {}: {}", one.severity, one.path, one.message))
                .collect();
            format!("{} {}\n{}", object.kind, object.spec, lines.join("\n"))
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn values_of_secrets_are_not_shown_and_all_else_is() {
    let mut manifest = object(
        "manifest",
        json!({"namespace": "shop", "objects": [
            {"apiVersion": "v1", "kind": "SecretList", "items": [
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "hidden", "other": "shown"}},
                 "type": "Opaque", "data": {"a": "hidden"}, "stringData": {"b": "hidden"}}]},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "shown"}}]}),
    );
    let before = manifest.spec.to_string();
    redact(&mut manifest);
    let after = manifest.spec.to_string();
    assert!(!after.contains("hidden"), "{after}");
    assert_eq!(before.replace("hidden", REDACTED), after);
}
