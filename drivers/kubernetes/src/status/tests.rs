//! Verdicts on things recorded from a real cluster (1.20), and on hand-made ones of newer servers.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::fingerprint::{describe, fields, fingerprint};
use super::{Progress, exit, judge, pod_trouble};

macro_rules! recorded {
    ($name:literal) => {
        serde_json::from_str::<DynamicObject>(include_str!(concat!("recorded/", $name, ".json"))).unwrap()
    };
}

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn line(name: &str, object: &DynamicObject) -> String {
    let verdict = judge(object);
    let mut text = format!("{name}: {:?}", verdict.progress);
    if !verdict.message.is_empty() {
        write!(text, ", {}", verdict.message).unwrap();
    }
    if let Some(r) = verdict.replicas {
        let (desired, current, updated) = (r.desired, r.current, r.updated);
        write!(
            text,
            " [{desired}/{current}/{updated}/{}/{}]",
            r.ready, r.available
        )
        .unwrap();
    }
    if let Some(revision) = verdict.revision {
        write!(text, " revision {revision}").unwrap();
    }
    if let Some(exit) = verdict.exit {
        write!(text, " => {exit}").unwrap();
    }
    if let Some(terminating) = verdict.terminating {
        write!(text, " !! {terminating}").unwrap();
    }
    text
}

#[test]
fn things_recorded_from_a_cluster() {
    let all = [
        line("deployment-ready", &recorded!("deployment-ready")),
        line("deployment-paused", &recorded!("deployment-paused")),
        line("deployment-stuck", &recorded!("deployment-stuck")),
        line("deployment-crash", &recorded!("deployment-crash")),
        line("statefulset-ready", &recorded!("statefulset-ready")),
        line("daemonset-ready", &recorded!("daemonset-ready")),
        line("replicaset-ready", &recorded!("replicaset-ready")),
        line("job-complete", &recorded!("job-complete")),
        line("job-failed", &recorded!("job-failed")),
        line("pod-ready", &recorded!("pod-ready")),
        line("pod-crashloop", &recorded!("pod-crashloop")),
        line("pod-failed", &recorded!("pod-failed")),
        line("pod-oomkilled", &recorded!("pod-oomkilled")),
        line("pod-unschedulable", &recorded!("pod-unschedulable")),
        line("service", &recorded!("service")),
        line("service-balancer", &recorded!("service-balancer")),
        line("claim-pending", &recorded!("claim-pending")),
        line("budget", &recorded!("budget")),
        line("definition", &recorded!("definition")),
        line("custom-bare", &recorded!("custom-bare")),
    ];
    insta::assert_snapshot!(all.join("\n"), @r#"
    deployment-ready: Current [2/2/2/2/2] revision 1
    deployment-paused: Paused, the rollout is paused [1/0/0/0/0]
    deployment-stuck: Stalled, ProgressDeadlineExceeded: ReplicaSet "stuck-674846f97c" has timed out progressing. [1/1/1/0/0] revision 1
    deployment-crash: InProgress, 0 of 1 replicas are available [1/1/1/0/0] revision 1
    statefulset-ready: Current [1/1/1/1/1] revision sts-64bdb6568
    daemonset-ready: Current [1/1/1/1/1]
    replicaset-ready: Current [2/2/2/2/2]
    job-complete: Succeeded => exited with code 0
    job-failed: Failed, BackoffLimitExceeded: Job has reached the specified backoff limit => ended, exit code unknown (BackoffLimitExceeded: Job has reached the specified backoff limit)
    pod-ready: Current
    pod-crashloop: InProgress, ContainersNotReady: containers with unready status: [main]
    pod-failed: Failed => exited with code 7
    pod-oomkilled: Failed, OOMKilled => exited with code 137 (OOMKilled)
    pod-unschedulable: InProgress, Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.
    service: Current
    service-balancer: InProgress, waiting for an address from the load balancer
    claim-pending: InProgress, waiting for a volume
    budget: Current
    definition: Current
    custom-bare: Current
    "#);
}

#[test]
fn things_of_newer_servers() {
    let job = |spec: Value, status: Value| {
        object(
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec, "status": status}),
        )
    };
    let custom = |generation: i64, status: Value| {
        object(json!({"apiVersion": "db.example.com/v1", "kind": "Database",
            "metadata": {"name": "d", "generation": generation}, "status": status}))
    };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Why", "message": "because"});
    let all = [
        line("suspended job", &job(json!({"suspend": true}), json!({}))),
        line(
            "job, none ready",
            &job(json!({}), json!({"active": 2, "ready": 0})),
        ),
        line(
            "job, one ready",
            &job(json!({}), json!({"active": 2, "ready": 1})),
        ),
        // From 1.31 on a Job says what it will come to before its pods have ended.
        line(
            "job, decided and not ended",
            &job(
                json!({}),
                json!({"active": 1, "ready": 1, "conditions": [condition("FailureTarget", "True")]}),
            ),
        ),
        line(
            "suspended cron job",
            &object(
                json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {}, "spec": {"suspend": true}}),
            ),
        ),
        line(
            "custom, unseen",
            &custom(
                2,
                json!({"observedGeneration": 1, "conditions": [condition("Ready", "True")]}),
            ),
        ),
        line(
            "custom, ready",
            &custom(
                2,
                json!({"observedGeneration": 2, "conditions": [condition("Ready", "True")]}),
            ),
        ),
        line(
            "custom, unready",
            &custom(1, json!({"conditions": [condition("Ready", "Unknown")]})),
        ),
        line(
            "custom, reconciling",
            &custom(
                1,
                json!({"conditions": [condition("Reconciling", "True"), condition("Ready", "True")]}),
            ),
        ),
        line(
            "custom, stalled",
            &custom(
                1,
                json!({"conditions": [condition("Stalled", "True"), condition("Ready", "False")]}),
            ),
        ),
        line(
            "definition with a taken name",
            &object(
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {},
                "status": {"conditions": [condition("NamesAccepted", "False"), condition("Established", "False")]}}),
            ),
        ),
        line(
            "budget without budget",
            &object(
                json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"generation": 1},
                "status": {"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 2}}),
            ),
        ),
        line(
            "balanced service",
            &object(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {"type": "LoadBalancer"},
                "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}}),
            ),
        ),
        line(
            "cordoned node",
            &object(
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {}, "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            ),
        ),
        line(
            "half a rollout",
            &object(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generation": 3,
                "annotations": {"deployment.kubernetes.io/revision": "2"}}, "spec": {"replicas": 3},
                "status": {"observedGeneration": 3, "replicas": 4, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3}}),
            ),
        ),
        line(
            "refused by a quota",
            &object(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "conditions": [
                    {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]}}),
            ),
        ),
        line(
            "partitioned stateful set",
            &object(
                json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"generation": 2},
                "spec": {"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
                "status": {"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 1,
                    "currentRevision": "a", "updateRevision": "b"}}),
            ),
        ),
        line(
            "stateful set on its way",
            &object(
                json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"generation": 2}, "spec": {"replicas": 3},
                "status": {"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 1,
                    "currentRevision": "a", "updateRevision": "b"}}),
            ),
        ),
        line(
            "held by a finalizer",
            &object(
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c",
                "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/guard"]}}),
            ),
        ),
        line(
            "stuck namespace",
            &object(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating", "conditions": [
                    {"type": "NamespaceDeletionContentFailure", "status": "False", "message": "all deleted"},
                    {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "Some content in the namespace has finalizers remaining: example.com/guard in 1 resource instances"}]}}),
            ),
        ),
        line(
            "evicted pod",
            &object(
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}}),
            ),
        ),
    ];
    insta::assert_snapshot!(all.join("\n"), @r#"
    suspended job: Paused, suspended
    job, none ready: InProgress, none of 2 pods is ready
    job, one ready: Current
    job, decided and not ended: Current
    suspended cron job: Paused, suspended
    custom, unseen: InProgress, waiting for its controller to see the newest spec
    custom, ready: Current
    custom, unready: InProgress, Why: because
    custom, reconciling: InProgress, Why: because
    custom, stalled: Stalled, Why: because
    definition with a taken name: Stalled, Why: because
    budget without budget: InProgress, 1 of 2 pods are healthy: no budget
    balanced service: Current
    cordoned node: Current, cordoned: takes no new pods
    half a rollout: InProgress, 1 old replicas are still to go [3/4/3/3/3] revision 2
    refused by a quota: InProgress, 0 of 2 new replicas have been made; FailedCreate: exceeded quota [2/0/0/0/0]
    partitioned stateful set: Current [3/3/1/3/3] revision b
    stateful set on its way: InProgress, 1 of 3 replicas have been updated [3/3/1/3/3] revision b
    held by a finalizer: Current !! being deleted since 2026-01-01T00:00:00Z, held by finalizer example.com/guard
    stuck namespace: InProgress, the namespace is being deleted !! being deleted since 2026-01-01T00:00:00Z, held by finalizer kubernetes; Some content in the namespace has finalizers remaining: example.com/guard in 1 resource instances
    evicted pod: Failed, Evicted: The node was low on resource: memory. => ended, exit code unknown (Evicted: The node was low on resource: memory.)
    "#);
}

#[test]
fn troubles_of_pods() {
    let trouble = |name: &str, object: DynamicObject| {
        let pod: Pod = object.try_parse().unwrap();
        match pod_trouble::of_pod(&pod) {
            Some(trouble) => format!("{name}: {} | {}", trouble.reason, trouble.message),
            None => format!("{name}: none"),
        }
    };
    let waiting = |reason: &str, last: Value| {
        object(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {"phase": "Running",
            "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": reason, "message": "Back-off pulling image \"i\""}}, "lastState": last}]}}),
        )
    };
    let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    let all = [
        trouble("ready", recorded!("pod-ready")),
        trouble("crash loop", recorded!("pod-crashloop")),
        trouble("failed", recorded!("pod-failed")),
        trouble("out of memory", recorded!("pod-oomkilled")),
        trouble("unschedulable", recorded!("pod-unschedulable")),
        trouble("no config", recorded!("pod-noconfig")),
        trouble("cannot pull", recorded!("pod-nopull")),
        trouble("never pull", recorded!("pod-neverpull")),
        trouble("creating", waiting("ContainerCreating", json!({}))),
        trouble("pull back-off", waiting("ImagePullBackOff", json!({}))),
        trouble("crash loop by memory", waiting("CrashLoopBackOff", killed)),
        trouble(
            "evicted",
            object(
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}}),
            ),
        ),
        trouble(
            "gated",
            object(
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {"phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            ),
        ),
    ];
    insta::assert_snapshot!(all.join("\n"), @r#"
    ready: none
    crash loop: CrashLoopBackOff | pod crash-6689b856bc-pwmrw, container main: restarts after it failed: last end: code 3
    failed: Error | pod bad-b4l5k, container main: ended with code 7
    out of memory: OOMKilled | pod oom, container main: ended with code 137
    unschedulable: Unschedulable | pod huge: 0/1 nodes are available: 1 Insufficient cpu.
    no config: CreateContainerConfigError | pod noconfig, container main: configmap "absent" not found
    cannot pull: ImagePullBackOff | pod nopull, container main: Back-off pulling image "127.0.0.1:1/none:1"
    never pull: ErrImageNeverPull | pod stuck-674846f97c-bgbfw, container main: Container image "localhost/absent:1" is not present with pull policy of Never
    creating: none
    pull back-off: ImagePullBackOff | pod p, container main: Back-off pulling image "i"
    crash loop by memory: OOMKilled | pod p, container main: restarts after it failed: last end: code 137 (OOMKilled)
    evicted: Evicted | pod p: The node was low on resource: memory.
    gated: none
    "#);
}

#[test]
fn the_code_of_a_failed_pod() {
    let pod: Pod = recorded!("pod-failed").try_parse().unwrap();
    assert_eq!(exit::of_failed_pod(&pod).and_then(|exit| exit.code), Some(7));
    let pod: Pod = recorded!("pod-ready").try_parse().unwrap();
    assert_eq!(exit::of_failed_pod(&pod), None);
}

const OURS: &str = "agent-a1";

fn print(object: &DynamicObject) -> u64 {
    fingerprint(object, OURS).expect("it was applied by us")
}

#[test]
fn a_fingerprint_is_of_what_we_applied() {
    let before = recorded!("deployment-ready");
    assert_eq!(
        print(&before),
        12_230_055_199_639_474_553,
        "kept in handles: must never change"
    );
    assert_eq!(fingerprint(&before, "agent-a2"), None, "nothing of another agent");

    let mut status = before.clone();
    status.data["status"]["readyReplicas"] = json!(0);
    status.metadata.resource_version = Some("9".to_owned());
    status
        .metadata
        .annotations
        .get_or_insert_default()
        .insert("agent/op-id".to_owned(), "x".to_owned());
    assert_eq!(print(&status), print(&before), "neither status nor revision");

    let mut foreign = before.clone();
    foreign.data["spec"]["minReadySeconds"] = json!(5);
    assert_eq!(print(&foreign), print(&before), "nor what is not ours");

    // A write to the scale subresource on servers that do not note it.
    let mut scaled = before.clone();
    scaled.data["spec"]["replicas"] = json!(7);
    assert_ne!(print(&scaled), print(&before));

    let mut image = before.clone();
    image.data["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
    assert_ne!(print(&image), print(&before));
}

#[test]
fn drift_names_fields_and_managers() {
    let before = recorded!("deployment-ready");
    let known = fields(&before, OURS).unwrap();

    let mut scaled = before.clone();
    scaled.data["spec"]["replicas"] = json!(7);
    insta::assert_snapshot!(describe(&scaled, OURS, Some(&known)), @r#"changed: spec.replicas"#);

    // Someone took the field: it moved from our entry to theirs.
    let mut taken = scaled.clone();
    let entries = taken.metadata.managed_fields.as_mut().unwrap();
    let ours = entries
        .iter_mut()
        .find(|entry| entry.manager.as_deref() == Some(OURS))
        .unwrap();
    let set = &mut ours.fields_v1.as_mut().unwrap().0;
    set["f:spec"].as_object_mut().unwrap().remove("f:replicas");
    let mut theirs = ours.clone();
    theirs.manager = Some("kubectl-edit".to_owned());
    theirs.operation = Some("Update".to_owned());
    theirs.fields_v1.as_mut().unwrap().0 = json!({"f:spec": {"f:replicas": {}}});
    entries.push(theirs);
    insta::assert_snapshot!(describe(&taken, OURS, Some(&known)), @"changed by kubectl-edit: spec.replicas");
    // After a restart of the agent nobody knows how it was.
    insta::assert_snapshot!(describe(&taken, OURS, None), @"changed by kubectl-edit: fields of the spec");

    let mut image = before;
    image.data["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
    insta::assert_snapshot!(describe(&image, OURS, Some(&known)), @"changed: spec.template.spec.containers[name=main].image");
}

#[test]
fn progress_reads_as_on_the_wire() {
    assert_eq!(
        serde_json::to_value(Progress::InProgress).unwrap(),
        json!("in_progress")
    );
}
