//! The conformance suite with jobs on a real Ray cluster.
#![allow(clippy::unwrap_used)]

mod lab;

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Cpu, Kind, ObjectName, ObjectSpec, Resources};
use agent_api_driver::{DriverFactory, Handle, ObjectStatus, async_trait};
use agent_driver_ray::RayDriverFactory;
use agent_driver_testkit::{LogShape, Made, Place, Refused, Rotation, Sample, Subject};
use lab::{EVENT_TOKEN, Lab};
use serde_json::{Value, json};

struct Job {
    lab: &'static Lab,
    port: u16,
}

impl Job {
    fn new() -> Self {
        let lab = lab::shared("conformance");
        Self {
            lab,
            port: lab.event_port(),
        }
    }

    fn id(object: &Made) -> String {
        object.handle.data["id"].as_str().unwrap().to_owned()
    }

    fn is_active(&self, id: &str) -> bool {
        matches!(self.lab.job(id)["status"].as_str(), Some("PENDING" | "RUNNING"))
    }

    /// What is on the head of this agent's.
    fn jobs_of(&self, place: &Place) -> Vec<String> {
        let jobs = self.lab.call("GET", "/api/jobs/", &Value::Null);
        let ours = |job: &&Value| job["metadata"]["agent_id"] == place.agent().as_str();
        let jobs = jobs.as_array().into_iter().flatten().filter(ours);
        jobs.map(|job| format!("job {} is {}", job["submission_id"], job["status"]))
            .collect()
    }

    /// Stops a job past the driver, and waits until it has ended.
    fn stop(&self, id: &str) {
        self.lab
            .until_job(id, &["RUNNING", "STOPPED", "FAILED", "SUCCEEDED"]);
        self.lab
            .call("POST", &format!("/api/jobs/{id}/stop"), &Value::Null);
        self.lab.until_job(id, &["STOPPED", "FAILED", "SUCCEEDED"]);
    }
}

fn spec(spec: Value) -> ObjectSpec {
    ObjectSpec {
        spec,
        ..ObjectSpec::new(Kind::new("ray/job").unwrap(), ObjectName::new("sample").unwrap())
    }
}

fn sh(script: &str) -> ObjectSpec {
    spec(json!({"command": ["/bin/sh", "-c", script]}))
}

#[async_trait]
impl Subject for Job {
    fn factory(&self) -> Arc<dyn DriverFactory> {
        Arc::new(RayDriverFactory)
    }

    fn kind(&self) -> Kind {
        Kind::new("ray/job").unwrap()
    }

    fn config(&self) -> Value {
        let listen = format!("127.0.0.1:{}", self.port);
        lab::config(
            self.lab,
            &json!({"events": {"listen": listen, "token": EVENT_TOKEN}}),
        )
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn left_out(&self, case: &str) -> Option<&'static str> {
        matches!(
            case,
            "collect::metrics_come_where_they_are_promised"
                | "collect::counters_only_grow"
                | "collect::counters_only_grow_over_a_restart"
        )
        .then_some("Ray has metrics of programs that use it: tests/jobs.rs has one")
    }

    fn crash_steps(&self) -> usize {
        4
    }

    fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
        let long = || spec(json!({"command": ["sleep", "100000"]}));
        Some(match sample {
            Sample::LongRunning => long(),
            // Ray kills what does not end after the job's own grace.
            Sample::Stubborn => {
                spec(json!({"command": ["/bin/sh", "-c", "trap '' TERM; sleep 100000"], "stop_grace": "1s"}))
            }
            Sample::Ends { after, code } => sh(&format!("sleep {}; exit {code}", after.as_secs_f64())),
            Sample::CannotBeMade | Sample::ChangedInfeasibly => ObjectSpec {
                resources: Resources {
                    cpu: Some(Cpu::from_millis(4_000_000)),
                    ..Resources::default()
                },
                ..long()
            },
            Sample::ChangedByRecreate => {
                spec(json!({"command": ["sleep", "100000"], "runtime_env": {"env_vars": {"CHANGED": "1"}}}))
            }
            Sample::ChangedInPlace | Sample::ChangedByRestart => return None,
        })
    }

    fn identity(&self, handle: &Handle, _: &ObjectStatus) -> Value {
        handle.data["id"].clone()
    }

    fn refused_by_schema(&self) -> Vec<Value> {
        vec![
            json!(["true"]),
            json!({"command": "true"}),
            json!({"command": ["true"], "shell": true}),
            json!({"command": ["true"], "runtime_env": {"env": {}}}),
            json!({"command": ["true"], "stop_signal": "HUP"}),
            json!({"command": ["true"], "metadata": {"n": 1}}),
        ]
    }

    fn refused_by_validate(&self) -> Vec<Refused> {
        [
            (json!({}), "spec.command"),
            (json!({"command": ["true", "a\0b"]}), "spec.command[1]"),
            (json!({"command": ["true"], "cluster": "no-such"}), "spec.cluster"),
            (
                json!({"command": ["true"], "runtime_env": {"working_dir": "/no/such"}}),
                "spec.runtime_env.working_dir",
            ),
            (
                json!({"command": ["true"], "custom_resources": {"lab": -1}}),
                "spec.custom_resources.lab",
            ),
        ]
        .map(|(value, path)| Refused {
            spec: spec(value),
            path: path.to_owned(),
        })
        .into()
    }

    fn log_sample(&self, shape: &LogShape) -> Option<ObjectSpec> {
        if shape.rotation == Rotation::Lost {
            // Ray rotates no job's log.
            return None;
        }
        let pause = if shape.pace.is_zero() {
            String::new()
        } else {
            format!("system(\"sleep {}\");", shape.pace.as_secs_f64())
        };
        let end = if shape.terminated { "1" } else { "n < last" };
        let width = shape.line_bytes;
        let program = format!(
            "BEGIN {{ dots = \".\"; while (length(dots) < {width}) dots = dots dots; last = {} - 1; for (n = 0; n <= last; n++) {{ {pause} line = \"line \" n; \
             printf \"%s%s%s\", line, substr(dots, 1, {width} - length(line)), ({end}) ? \"\\n\" : \"\"; fflush(); }} }}",
            shape.lines
        );
        let after = if shape.ends { "" } else { "exec sleep 100000" };
        Some(sh(&format!("awk '{program}'; {after}")))
    }

    fn resize_sample(&self) -> Option<Resources> {
        Some(Resources {
            cpu: Some(Cpu::from_millis(100)),
            ..Resources::default()
        })
    }

    async fn runs(&self, _: &Place, object: &Made) -> Option<bool> {
        Some(self.is_active(&Self::id(object)))
    }

    async fn end_outside(&self, _: &Place, object: &Made) -> bool {
        self.stop(&Self::id(object));
        true
    }

    async fn vanish(&self, _: &Place, object: &Made) -> bool {
        let id = Self::id(object);
        self.stop(&id);
        while !self.lab.job(&id).is_null() {
            self.lab.call("DELETE", &format!("/api/jobs/{id}"), &Value::Null);
            lab::pause();
        }
        true
    }

    async fn remove_orphan(&self, place: &Place, object: &Made) -> bool {
        let record = place.state_dir().join(format!("objects/{}.json", object.guid));
        self.vanish(place, object).await && std::fs::remove_file(record).is_ok()
    }

    async fn foreign(&self, _: &Place, object: &Made) -> Option<Handle> {
        let id = format!("foreign-{}", object.guid);
        let body = json!({"entrypoint": "exec sleep 300", "submission_id": id});
        self.lab.call("POST", "/api/jobs/", &body);
        self.lab.until_job(&id, &["RUNNING"]);
        let mut handle = object.handle.clone();
        handle.data["id"] = json!(id);
        handle.data["attempt"] = json!(99);
        Some(handle)
    }

    async fn foreign_untouched(&self, _: &Place, handle: &Handle) -> bool {
        self.is_active(handle.data["id"].as_str().unwrap())
    }

    async fn leftovers(&self, place: &Place) -> Vec<String> {
        // The record of a job that ended goes a few seconds after its end.
        for _ in 0..100 {
            if self.jobs_of(place).is_empty() {
                return Vec::new();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.jobs_of(place)
    }
}

agent_driver_testkit::conformance!(Job::new());
