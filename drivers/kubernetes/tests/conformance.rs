//! The conformance suite on the lab's cluster (`dev/lab/kubernetes`), which the tests start where it does not run.
//!
//! The manifest of a ConfigMap runs the whole suite, for it needs no node and is quick: it stands for all that is the same
//! code for every kind, also under chaos and cut between steps. Pods run all the rest, Deployments, Jobs and manifests of several
//! objects run what is special to them. Each case has a namespace of its own, named after its agent.
#![allow(clippy::unwrap_used)]

#[path = "it/lab.rs"]
mod lab;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_api_driver::model::{Cpu, Kind, ObjectName, ObjectSpec, Resources};
use agent_api_driver::{DriverFactory, Handle, ObjectDriver, ObjectStatus, Result, async_trait};
use agent_driver_kubernetes::KubernetesDriverFactory;
use agent_driver_testkit::{ExecSample, LogShape, Made, Place, Refused, Rotation, Sample, Subject, run_test};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::sleep;

use lab::lab;

/// Ends when it is asked to.
const SLEEPER: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// Why a kind does not run a case.
const SAME: &str = "the manifest of a ConfigMap goes the same way";

/// One kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Pod,
    Deployment,
    Job,
    /// Of a Deployment and a ConfigMap.
    Manifest,
    /// A manifest of a ConfigMap alone.
    ConfigMap,
}

impl Of {
    fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Deployment => "deployment",
            Self::Job => "job",
            Self::Manifest | Self::ConfigMap => "manifest",
        }
    }

    /// The first thing that it is made of.
    fn first(self) -> (&'static str, &'static str) {
        match self {
            Self::Pod => ("v1", "Pod"),
            Self::Deployment => ("apps/v1", "Deployment"),
            Self::Job => ("batch/v1", "Job"),
            Self::Manifest | Self::ConfigMap => ("v1", "ConfigMap"),
        }
    }

    fn spec(self, spec: Value) -> ObjectSpec {
        ObjectSpec {
            spec,
            ..ObjectSpec::new(
                Kind::new(format!("kubernetes/{}", self.name())).unwrap(),
                ObjectName::new("sample").unwrap(),
            )
        }
    }

    fn shell(self, script: &str, more: Value) -> ObjectSpec {
        let mut spec = json!({"image": "localhost/busybox:1", "pull_policy": "never", "command": ["sh", "-c", script],
            // What is asked to end before its shell has set the trap does not hear it.
            "stop_grace": "4s"});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.spec(spec)
    }

    fn is_manifest(self) -> bool {
        matches!(self, Self::Manifest | Self::ConfigMap)
    }

    /// The `n`th manifest.
    fn manifest(self, n: usize, value: &str) -> ObjectSpec {
        let name = format!("app-{n}");
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}});
        if self == Self::ConfigMap {
            return self.spec(json!({"objects": [config]}));
        }
        self.spec(json!({"objects": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
                "selector": {"matchLabels": {"app": "app"}},
                "template": {"metadata": {"labels": {"app": "app"}}, "spec": {"containers": [{
                    "name": "a", "image": "localhost/busybox:1", "imagePullPolicy": "Never", "command": ["sh", "-c", SLEEPER]}]}}}},
            config,
        ]}))
    }
}

async fn client() -> kube::Client {
    let file = kube::config::Kubeconfig::read_from(lab()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default())
        .await
        .unwrap();
    kube::Client::try_from(config).unwrap()
}

/// The cluster past the driver, in the namespace of a place.
async fn api(place: &Place, (api_version, kind): (&str, &str)) -> Api<DynamicObject> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client().await, place.agent().as_str(), &resource)
}

fn first(handle: &Handle) -> (&str, &str) {
    let object = &handle.data["objects"][0];
    (object["name"].as_str().unwrap(), object["uid"].as_str().unwrap())
}

/// Living processes with this text in a file of theirs: the lab's node is this machine.
fn with_text(file: &str, text: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        std::fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
            && !matches!(state, None | Some('Z' | 'X'))
    })
    .collect()
}

/// One kind under test, and the places that it was tested at.
struct Kubernetes {
    of: Of,
    places: Mutex<BTreeSet<String>>,
    /// How many manifests there were: things of a manifest bear the names that it says.
    manifests: AtomicUsize,
}

fn subject(of: Of) -> Kubernetes {
    Kubernetes {
        of,
        places: Mutex::default(),
        manifests: AtomicUsize::default(),
    }
}

impl Drop for Kubernetes {
    /// Removes the namespaces. Their content was removed by the driver, or is what the test was about.
    fn drop(&mut self) {
        let places = std::mem::take(self.places.get_mut().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client().await);
            for place in places {
                let _never_made = namespaces.delete(&place, &DeleteParams::background()).await;
            }
        });
    }
}

#[async_trait]
impl Subject for Kubernetes {
    fn factory(&self) -> Arc<dyn DriverFactory> {
        Arc::new(KubernetesDriverFactory)
    }

    fn kind(&self) -> Kind {
        Kind::new(format!("kubernetes/{}", self.of.name())).unwrap()
    }

    async fn build(&self, place: &Place) -> Result<Arc<dyn ObjectDriver>> {
        let lab = tokio::task::spawn_blocking(lab).await.unwrap();
        self.places.lock().unwrap().insert(place.agent().to_string());
        let cluster = json!({"kubeconfig": lab, "namespace": place.agent(), "create_namespaces": true});
        self.factory()
            .build(place.build(json!({"clusters": {"lab": cluster}})))
            .await
    }

    fn patience(&self) -> Duration {
        // The garbage collector takes its time on a busy machine.
        Duration::from_secs(if self.of == Of::ConfigMap { 20 } else { 90 })
    }

    fn concurrency(&self) -> usize {
        6
    }

    fn crash_steps(&self) -> usize {
        if self.of == Of::ConfigMap { 12 } else { 3 }
    }

    fn left_out(&self, case: &str) -> Option<&'static str> {
        let (group, _) = case.split_once("::")?;
        match (self.of, group) {
            (Of::ConfigMap, "control" | "methods" | "exec" | "logs") => Some("nothing of a ConfigMap runs"),
            (Of::ConfigMap, "collect") if case.contains("metrics") || case.contains("counters") => {
                Some("a ConfigMap has no metrics")
            }
            (Of::Pod, "crash") if !case.contains("restart") => Some(SAME),
            (Of::Pod, "apply" | "delete") if case.contains("dropped_at_any_await") => Some(SAME),
            (Of::Pod, "factory" | "discover") => Some(SAME),
            // Of several objects each.
            (Of::Pod, _)
                if case.ends_with("many_objects_at_once_stay_apart")
                    || case.ends_with("answers_each_target_once")
                    || case.ends_with("adds_one_entry_for_each_target") =>
            {
                Some(SAME)
            }
            _ => None,
        }
    }

    fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
        let one = self.of;
        if one.is_manifest() {
            let another = || self.manifests.fetch_add(1, Ordering::Relaxed) + 1;
            // A change is of the last one.
            let last = self.manifests.load(Ordering::Relaxed);
            return match sample {
                Sample::LongRunning => Some(one.manifest(another(), "1")),
                Sample::ChangedInPlace => Some(one.manifest(last, "2")),
                Sample::CannotBeMade => {
                    let mut spec = one.manifest(another(), "1");
                    spec.spec["namespace"] = json!("not-there");
                    spec.spec["create_namespace"] = json!(false);
                    Some(spec)
                }
                _ => None,
            };
        }
        let limited = |cpu| {
            let mut spec = one.shell(SLEEPER, json!({}));
            spec.resources.cpu = Some(Cpu::from_millis(cpu));
            spec
        };
        let changed = || one.shell(SLEEPER, json!({"env": {"CHANGED": "1"}}));
        match (one, sample) {
            (_, Sample::LongRunning) => Some(one.shell(SLEEPER, json!({}))),
            (_, Sample::Stubborn) => Some(one.shell("trap '' TERM; while :; do sleep 1; done", json!({}))),
            (_, Sample::CannotBeMade) => Some(one.shell(
                SLEEPER,
                json!({"namespace": "not-there", "create_namespace": false}),
            )),
            (Of::Pod | Of::Job, Sample::Ends { after, code }) => {
                Some(one.shell(&format!("sleep {}; exit {code}", after.as_secs_f64()), json!({})))
            }
            (Of::Pod, Sample::ChangedInPlace) => Some(one.shell(SLEEPER, json!({"deletion": "background"}))),
            (Of::Job, Sample::ChangedInPlace) => Some(one.shell(SLEEPER, json!({"time_limit": "1h"}))),
            (Of::Deployment, Sample::ChangedInPlace) => Some(changed()),
            // The lab's server cannot resize a running pod.
            (Of::Pod, Sample::ChangedByRestart) => Some(limited(100)),
            (Of::Pod | Of::Job, Sample::ChangedByRecreate) => Some(changed()),
            _ => None,
        }
    }

    fn identity(&self, handle: &Handle, _: &ObjectStatus) -> Value {
        json!([handle.data["objects"][0]["uid"], handle.data["incarnation"]])
    }

    fn refused_by_schema(&self) -> Vec<Value> {
        match self.of {
            Of::Manifest | Of::ConfigMap => vec![json!({}), json!({"objects": []}), json!({"objects": [1]})],
            _ => vec![
                json!({}),
                json!({"image": 1}),
                json!({"image": "a", "no_such_field": true}),
            ],
        }
    }

    fn refused_by_validate(&self) -> Vec<Refused> {
        let refused = match self.of {
            Of::Manifest | Of::ConfigMap => vec![(
                json!({"objects": [{"apiVersion": "v1", "kind": "Pod"}]}),
                "spec.objects[0].metadata.name",
            )],
            _ => vec![
                (json!({"image": " "}), "spec.image"),
                (
                    json!({"image": "a", "ports": [{"port": 1, "name": "_"}]}),
                    "spec.ports[0].name",
                ),
                (json!({"image": "a", "cluster": "nowhere"}), "spec.cluster"),
            ],
        };
        let refused = refused.into_iter().map(|(spec, path)| Refused {
            spec: self.of.spec(spec),
            path: path.to_owned(),
        });
        refused.collect()
    }

    fn secret_spec(&self) -> Option<(ObjectSpec, Vec<String>)> {
        let secret = json!({"objects": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "stringData": {"password": "not-to-be-seen"}}]});
        self.of
            .is_manifest()
            .then(|| (self.of.spec(secret), vec!["not-to-be-seen".to_owned()]))
    }

    fn log_sample(&self, shape: &LogShape) -> Option<ObjectSpec> {
        // The node rotates at 10 MiB, which takes too long here.
        if self.of.is_manifest()
            || shape.rotation != Rotation::None
            || (shape.ends && self.of == Of::Deployment)
        {
            return None;
        }
        let width = if shape.line_bytes > "line 0".len() {
            shape.line_bytes
        } else {
            0
        };
        let pause = match shape.pace.is_zero() {
            true => String::new(),
            false => format!("system(\"sleep {}\");", shape.pace.as_secs_f64()),
        };
        let end = if shape.terminated { "1" } else { "n < last" };
        let program = format!(
            "BEGIN {{ dots = \".\"; while (length(dots) < {width}) dots = dots dots; last = {} - 1; \
             for (n = 0; n <= last; n++) {{ {pause} line = \"line \" n; \
             printf \"%s%s%s\", line, substr(dots, 1, {width} - length(line)), ({end}) ? \"\\n\" : \"\"; fflush(); }} }}",
            shape.lines
        );
        let after = if shape.ends { "" } else { SLEEPER };
        Some(self.of.shell(&format!("awk '{program}'; {after}"), json!({})))
    }

    fn exec_sample(&self, sample: ExecSample<'_>) -> Option<Vec<String>> {
        let words: Vec<&str> = match sample {
            ExecSample::Copies => vec!["cat"],
            ExecSample::WritesBoth => vec!["sh", "-c", "printf out; printf err >&2; exit 3"],
            ExecSample::PrintsVariable(name) => {
                vec!["sh", "-c", "eval \"printf %s \\\"\\$$1\\\"\"", "sh", name]
            }
            ExecSample::Marked(mark) => vec!["sh", "-c", "sh -c 'sleep 100000; :' \"$0\" & wait", mark],
            ExecSample::Missing => vec!["no-such-command"],
            ExecSample::Terminal => vec![
                "sh",
                "-c",
                "test -t 0 || exit 1; set -- $(stty size); echo \"$2\"",
            ],
        };
        Some(words.into_iter().map(String::from).collect())
    }

    async fn exec_runs(&self, _: &Place, mark: &str) -> Option<bool> {
        Some(!with_text("cmdline", mark).is_empty())
    }

    fn resize_sample(&self) -> Option<Resources> {
        (self.of == Of::Deployment).then(|| Resources {
            cpu: Some(Cpu::from_millis(200)),
            ..Resources::default()
        })
    }

    fn refused_resize_sample(&self) -> Option<Resources> {
        (self.of == Of::Deployment).then(|| Resources {
            pids: Some(10),
            ..Resources::default()
        })
    }

    fn refused_call_sample(&self) -> Option<(String, Value)> {
        (self.of == Of::Deployment).then(|| ("rollback".to_owned(), json!({"revision": "the last one"})))
    }

    async fn runs(&self, place: &Place, object: &Made) -> Option<bool> {
        let (name, uid) = first(&object.handle);
        let live = api(place, self.of.first()).await.get_opt(name).await.unwrap();
        Some(live.is_some_and(|live| {
            let ended = matches!(
                live.data["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            );
            live.metadata.uid.as_deref() == Some(uid) && !ended
        }))
    }

    async fn end_outside(&self, place: &Place, object: &Made) -> bool {
        if self.of != Of::Pod {
            return false;
        }
        let (name, uid) = first(&object.handle);
        let api = api(place, self.of.first()).await;
        // The shell of the container, found by the pod's own control group.
        let script = with_text("cgroup", uid);
        let marked = with_text("cmdline", "trap 'exit 0' TERM");
        let Some(pid) = script.into_iter().find(|pid| marked.contains(pid)) else {
            return false;
        };
        let kill = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status();
        if !kill.is_ok_and(|status| status.success()) {
            return false;
        }
        while api
            .get(name)
            .await
            .is_ok_and(|live| live.data["status"]["phase"] == "Running")
        {
            sleep(Duration::from_millis(100)).await;
        }
        true
    }

    async fn vanish(&self, place: &Place, object: &Made) -> bool {
        let (name, uid) = first(&object.handle);
        let api = api(place, self.of.first()).await;
        let params = DeleteParams::background().grace_period(0);
        if api.delete(name, &params).await.is_err() {
            return false;
        }
        while api
            .get_opt(name)
            .await
            .unwrap()
            .is_some_and(|live| live.metadata.uid.as_deref() == Some(uid))
        {
            sleep(Duration::from_millis(50)).await;
        }
        true
    }

    async fn drift(&self, place: &Place, object: &Made) -> bool {
        let patch = match self.of {
            Of::Deployment => json!({"spec": {"replicas": 2}}),
            Of::Manifest | Of::ConfigMap => json!({"data": {"value": "theirs"}}),
            Of::Pod | Of::Job => return false,
        };
        let params = PatchParams {
            field_manager: Some("someone".to_owned()),
            ..PatchParams::default()
        };
        let (name, _) = first(&object.handle);
        api(place, self.of.first())
            .await
            .patch(name, &params, &Patch::Merge(&patch))
            .await
            .is_ok()
    }

    async fn remove_orphan(&self, place: &Place, object: &Made) -> bool {
        let params = DeleteParams::background().grace_period(0);
        for one in object.handle.data["objects"].as_array().unwrap() {
            let text = |field: &str| one[field].as_str().unwrap().to_owned();
            let api = api(place, (&text("api_version"), &text("kind"))).await;
            if api.delete(&text("name"), &params).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn foreign(&self, place: &Place, object: &Made) -> Option<Handle> {
        let (name, _) = first(&object.handle);
        let stranger = match self.of {
            Of::Pod => json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "a", "image": "localhost/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "1000"]}]}}),
            Of::Deployment => {
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
                "replicas": 0, "selector": {"matchLabels": {"app": "stranger"}}, "template": {
                    "metadata": {"labels": {"app": "stranger"}}, "spec": {"containers": [{"name": "a", "image": "localhost/busybox:1"}]}}}})
            }
            Of::ConfigMap => json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}),
            Of::Job | Of::Manifest => return None,
        };
        let stranger = serde_json::from_value(stranger).unwrap();
        api(place, self.of.first())
            .await
            .create(&PostParams::default(), &stranger)
            .await
            .ok()?;
        Some(object.handle.clone())
    }

    async fn foreign_untouched(&self, place: &Place, handle: &Handle) -> bool {
        let live = api(place, self.of.first())
            .await
            .get_opt(first(handle).0)
            .await
            .unwrap();
        live.is_some_and(|live| live.metadata.labels.is_none() && live.metadata.deletion_timestamp.is_none())
    }

    async fn leftovers(&self, place: &Place) -> Vec<String> {
        let mut left = Vec::new();
        for one in [
            ("v1", "Pod"),
            ("apps/v1", "Deployment"),
            ("batch/v1", "Job"),
            ("v1", "Secret"),
            ("v1", "ConfigMap"),
        ] {
            let ours = kube::api::ListParams::default().labels(&format!("agent/id={}", place.agent()));
            let found = api(place, one).await.list(&ours).await.unwrap();
            left.extend(
                found
                    .items
                    .iter()
                    .map(|found| format!("{} {}", one.1, found.metadata.name.clone().unwrap_or_default())),
            );
        }
        left
    }
}

agent_driver_testkit::conformance!(pods, subject(Of::Pod));
agent_driver_testkit::conformance!(config_maps, subject(Of::ConfigMap));
agent_driver_testkit::conformance_with_chaos!(config_maps_under_chaos, subject(Of::ConfigMap), 1);

/// Cases of the suite, one by one.
macro_rules! some_cases {
    ($module:ident, $subject:expr, $($group:ident: $($name:ident)*;)*) => {
        mod $module {
            use super::*;
            $($(#[test] fn $name() { run_test($subject, stringify!($group), stringify!($name)); })*)*
        }
    };
}

some_cases! { deployments, subject(Of::Deployment),
    schema: accepts_the_samples refuses_unknown_fields_and_wrong_values;
    validate: refuses_with_paths_that_begin_with_spec_or_resources;
    plan: in_place_is_what_apply_does;
    apply: the_same_op_id_without_the_handle_finds_the_real_thing what_it_makes_bears_the_mark;
    delete: removes_the_object what_does_not_end_when_asked_is_ended_after_grace
        something_foreign_is_not_touched_and_that_is_success;
    recover: adopts_after_a_crash_of_the_driver;
    events: a_restart_goes_on_with_growing_revisions;
    control: pause_holds_and_resume_lets_go pausing_what_is_paused_and_resuming_what_runs_change_nothing
        restart_returns_a_running_object_with_a_new_handle the_same_op_id_restarts_once
        signals_are_known_by_number_and_with_and_without_sig resize_returns_the_limits_in_force
        a_refused_resize_changes_nothing scale_changes_the_number_of_copies what_is_gone_is_not_found
        something_foreign_is_not_found_and_not_touched;
    methods: one_that_is_not_named_is_unsupported arguments_that_do_not_fit_are_invalid;
    drift: a_change_from_outside_is_shown_and_apply_takes_it_back what_vanished_is_made_anew_by_apply;
    collect: metrics_come_where_they_are_promised;
    logs: a_cursor_survives_a_restart_of_the_object follow_brings_what_is_written_later;
    exec: exit_is_the_last_item_after_all_output;
}

some_cases! { jobs, subject(Of::Job),
    schema: accepts_the_samples refuses_unknown_fields_and_wrong_values;
    plan: in_place_is_what_apply_does recreate_is_what_apply_does;
    apply: what_ended_starts_again_with_a_new_handle an_error_leaves_nothing_behind;
    delete: something_that_ended_is_removed_too without_a_handle_finds_what_an_unanswered_create_made;
    recover: adopts_after_a_crash_of_the_driver what_vanished_meanwhile_is_not_adopted;
    observe: what_ended_shows_its_exit_code;
    events: an_end_comes_with_its_exit_code;
    control: restart_returns_a_running_object_with_a_new_handle;
}

some_cases! { manifests, subject(Of::Manifest),
    plan: in_place_is_what_apply_does;
    delete: removes_the_object orphaned_goes_on_and_is_no_longer_discovered;
    recover: adopts_after_a_restart_of_the_driver;
    drift: a_change_from_outside_is_shown_and_apply_takes_it_back;
}
