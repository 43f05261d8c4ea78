//! The conformance suite with Serve applications on a real Ray cluster.
#![allow(clippy::unwrap_used)]

mod lab;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent_api_driver::model::{Cpu, Kind, ObjectName, ObjectSpec, Resources};
use agent_api_driver::{DriverFactory, Handle, ObjectStatus, async_trait};
use agent_driver_ray::RayDriverFactory;
use agent_driver_testkit::{Made, Place, Refused, Sample, Subject};
use lab::{Lab, http};
use serde_json::{Value, json};

struct Serve {
    lab: &'static Lab,
}

fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(lab::free_port)
}

fn spec(more: Value) -> ObjectSpec {
    let code = format!("{}/tests/serve_app", env!("CARGO_MANIFEST_DIR"));
    let mut spec = json!({
        "import_path": "app:build",
        "runtime_env": {"working_dir": code},
        "http": {"port": port(), "location": "head_only"},
        "deployments": [{"name": "Tiny", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.01}, "graceful_shutdown_timeout": "1s"}]
    });
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    ObjectSpec {
        spec,
        ..ObjectSpec::new(
            Kind::new("ray/serve").unwrap(),
            ObjectName::new("sample").unwrap(),
        )
    }
}

impl Serve {
    fn new() -> Self {
        Self {
            lab: lab::shared("conformance-serve"),
        }
    }

    fn application(&self, name: &str) -> Value {
        self.lab.call("GET", "/api/serve/applications/", &Value::Null)["applications"][name].clone()
    }

    /// Writes all of Serve's applications past the driver, with a change.
    fn put(&self, change: impl FnOnce(&mut Vec<Value>)) {
        let state = self.lab.call("GET", "/api/serve/applications/", &Value::Null);
        let mut all: Vec<Value> = state["applications"]
            .as_object()
            .into_iter()
            .flat_map(|all| all.values())
            .filter(|app| app["status"] != "DELETING" && !app["deployed_app_config"].is_null())
            .map(|app| app["deployed_app_config"].clone())
            .collect();
        change(&mut all);
        let (status, text) = http(
            &self.lab.address,
            "PUT",
            "/api/serve/applications/",
            &json!({"applications": all}),
        );
        assert_eq!(status, 200, "{text}");
    }

    fn remove(&self, name: &str) {
        self.put(|all| all.retain(|app| app["name"] != name));
        while !self.application(name).is_null() {
            lab::pause();
        }
    }
}

fn name(handle: &Handle) -> String {
    handle.data["application"].as_str().unwrap().to_owned()
}

#[async_trait]
impl Subject for Serve {
    fn factory(&self) -> Arc<dyn DriverFactory> {
        Arc::new(RayDriverFactory)
    }

    fn kind(&self) -> Kind {
        Kind::new("ray/serve").unwrap()
    }

    fn config(&self) -> Value {
        lab::config(self.lab, &json!({"poll": {"fast": "200ms", "busy": "500ms"}}))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }

    // Each case is a writer of its own, and Serve has no place for several.
    fn concurrency(&self) -> usize {
        1
    }

    // Each case costs seconds here: Serve starts a process for each replica, and one case runs at a time.
    fn left_out(&self, case: &str) -> Option<&'static str> {
        match case {
            "handle::a_newer_version_is_not_read"
            | "delete::an_unreadable_handle_touches_nothing"
            | "recover::an_unreadable_handle_is_lost_and_no_error_of_the_call"
            | "observe::an_unreadable_handle_is_no_error_of_the_call" => {
                Some("handles of all kinds are read by the same code, which passes this for ray/job")
            }
            "events::a_slow_reader_gets_a_gap"
            | "events::the_stream_ends_only_after_shutdown"
            | "events::a_dropped_stream_stops_nothing" => {
                Some("all kinds have one queue of events, which passes this for ray/job")
            }
            "shutdown::returns_by_the_deadline_with_its_tasks_joined"
            | "shutdown::later_calls_answer_unavailable"
            | "shutdown::a_second_shutdown_is_success" => {
                Some("the driver shuts down as a whole, and passes this for ray/job")
            }
            "apply::maybe_applied_holds_after_a_restart_of_the_driver"
            | "recover::adopts_after_a_restart_of_the_driver"
            | "discover::finds_what_apply_made" => {
                Some("the same is asked after a crash or by another run, where less is known")
            }
            "apply::an_update_with_the_same_op_id_restarts_once"
            | "plan::restart_is_what_apply_does"
            | "plan::recreate_is_what_apply_does"
            | "crash::in_a_change_by_restart_the_same_op_id_ends_it" => {
                Some("Serve changes all of it in place")
            }
            // One application after another, each of which takes seconds to be deployed.
            _ if !full()
                && (case.starts_with("crash::")
                    || case.contains("many_objects")
                    || case.contains("dropped_at_any")) =>
            {
                Some("takes minutes: set AGENT_TEST_FULL=1")
            }
            _ => None,
        }
    }

    fn crash_steps(&self) -> usize {
        2
    }

    fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
        Some(match sample {
            Sample::LongRunning => spec(json!({})),
            Sample::ChangedInPlace => spec(json!({"deployments": [
                {"name": "Tiny", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.01}, "graceful_shutdown_timeout": "1s", "user_config": {"word": "changed"}}
            ]})),
            Sample::CannotBeMade | Sample::ChangedInfeasibly => ObjectSpec {
                resources: Resources {
                    cpu: Some(Cpu::from_millis(4_000_000)),
                    ..Resources::default()
                },
                ..spec(json!({}))
            },
            _ => return None,
        })
    }

    fn identity(&self, handle: &Handle, _: &ObjectStatus) -> Value {
        handle.data["op_id"].clone()
    }

    fn refused_by_schema(&self) -> Vec<Value> {
        vec![
            json!({}),
            json!({"import_path": 1}),
            json!({"import_path": "a:b", "replicas": 1}),
            json!({"import_path": "a:b", "deployments": [{}]}),
            json!({"import_path": "a:b", "http": {"location": "everywhere"}}),
        ]
    }

    fn refused_by_validate(&self) -> Vec<Refused> {
        [
            (json!({"import_path": "app"}), "spec.import_path"),
            (json!({"route_prefix": "no"}), "spec.route_prefix"),
            (json!({"cluster": "no-such"}), "spec.cluster"),
            (
                json!({"runtime_env": {"working_dir": "here"}}),
                "spec.runtime_env.working_dir",
            ),
        ]
        .map(|(more, path)| Refused {
            spec: spec(more),
            path: path.to_owned(),
        })
        .into()
    }

    fn refused_call_sample(&self) -> Option<(String, Value)> {
        Some((
            "scale_deployment".into(),
            json!({"deployment": "Other", "replicas": 1}),
        ))
    }

    fn resize_sample(&self) -> Option<Resources> {
        Some(Resources {
            cpu: Some(Cpu::from_millis(20)),
            ..Resources::default()
        })
    }

    fn refused_resize_sample(&self) -> Option<Resources> {
        Some(Resources {
            cpu: Some(Cpu::from_millis(4_000_000)),
            ..Resources::default()
        })
    }

    async fn runs(&self, _: &Place, object: &Made) -> Option<bool> {
        let app = self.application(&name(&object.handle));
        Some(matches!(app["status"].as_str(), Some("RUNNING" | "DEPLOYING")))
    }

    async fn vanish(&self, _: &Place, object: &Made) -> bool {
        self.remove(&name(&object.handle));
        true
    }

    async fn drift(&self, _: &Place, object: &Made) -> bool {
        let name = name(&object.handle);
        self.put(|all| {
            let app = all.iter_mut().find(|app| app["name"] == name.as_str()).unwrap();
            app["deployments"][0]["user_config"] = json!({"word": "drifted"});
        });
        true
    }

    async fn remove_orphan(&self, place: &Place, object: &Made) -> bool {
        let record = place.state_dir().join(format!("objects/{}.json", object.guid));
        self.remove(&name(&object.handle));
        std::fs::remove_file(record).is_ok()
    }

    async fn foreign(&self, _: &Place, object: &Made) -> Option<Handle> {
        // Not of the object: it may be gone already.
        let name = format!("foreign-{}", object.guid);
        let code = format!("{}/tests/serve_app", env!("CARGO_MANIFEST_DIR"));
        let config = json!({
            "name": name, "route_prefix": format!("/{name}"), "import_path": "app:build", "runtime_env": {"env_vars": {"PYTHONPATH": code}},
            "deployments": [{"name": "Tiny", "ray_actor_options": {"num_cpus": 0.01}}]
        });
        self.put(|all| all.push(config));
        let mut handle = object.handle.clone();
        handle.data["application"] = json!(name);
        handle.data["revision"] = json!(u64::MAX / 2);
        Some(handle)
    }

    async fn foreign_untouched(&self, _: &Place, handle: &Handle) -> bool {
        let status = self.application(&name(handle))["status"].clone();
        matches!(status.as_str(), Some("RUNNING" | "DEPLOYING"))
    }

    async fn leftovers(&self, place: &Place) -> Vec<String> {
        let state = self.lab.call("GET", "/api/serve/applications/", &Value::Null);
        let all = state["applications"].as_object().cloned().unwrap_or_default();
        all.iter()
            .filter(|(_, app)| {
                app["deployed_app_config"]["runtime_env"]["env_vars"]["AGENT_ID"] == place.agent().as_str()
            })
            .map(|(name, app)| format!("application {name} is {}", app["status"]))
            .collect()
    }
}

agent_driver_testkit::conformance!(Serve::new());

/// Whether the cases that take minutes run too.
fn full() -> bool {
    std::env::var_os("AGENT_TEST_FULL").is_some_and(|set| !set.is_empty() && set != "0")
}
