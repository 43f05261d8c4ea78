//! The conformance suite, on a substrate in memory and on one in a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_api_driver::model::{
    ByteQuantity, Cpu, ExitStatus, Guid, Kind, ObjectName, ObjectSpec, ProbeAction, Resources,
};
use agent_api_driver::{Applied, ApplyRequest, DriverFactory, Handle, ObjectDriver, Result};
use agent_driver_simulated::{SimulatedFactory, Substrate};
use agent_driver_testkit::{
    ExecSample, LogShape, Made, Place, ProbeSample, Refused, Rotation, Sample, Subject, async_trait,
};
use serde_json::{Value, json};

const EVENT_CAPACITY: usize = 64;

/// Builds the driver on a substrate for each place, and keeps it to look at it past the driver.
#[derive(Default)]
struct Simulated {
    /// Whether objects are kept in the state directory, and found there by a new substrate at each build.
    in_file: bool,
    substrates: Mutex<HashMap<PathBuf, Substrate>>,
    /// What `foreign` made for another agent, with its handle.
    foreign: Mutex<Option<(Guid, Handle)>>,
    /// Stands in place of the driver of the other agent, which would end with the call.
    others: Mutex<Vec<Arc<dyn ObjectDriver>>>,
}

impl Simulated {
    fn in_memory() -> Self {
        Self::default()
    }

    fn in_file() -> Self {
        Self {
            in_file: true,
            ..Self::default()
        }
    }

    fn substrate(&self, place: &Place) -> Substrate {
        self.substrates.lock().unwrap()[&place.state_dir()].clone()
    }
}

fn spec(spec: Value) -> ObjectSpec {
    let (kind, name) = (
        Kind::new("simulated").unwrap(),
        ObjectName::new("sample").unwrap(),
    );
    ObjectSpec {
        spec,
        ..ObjectSpec::new(kind, name)
    }
}

fn limits(memory: u64) -> Resources {
    Resources {
        cpu: Some(Cpu::from_millis(500)),
        memory: Some(ByteQuantity::new(memory)),
        pids: Some(10),
        ..Resources::default()
    }
}

#[async_trait]
impl Subject for Simulated {
    fn factory(&self) -> Arc<dyn DriverFactory> {
        Arc::new(SimulatedFactory::new())
    }

    fn kind(&self) -> Kind {
        Kind::new("simulated").unwrap()
    }

    fn config(&self) -> Value {
        json!({"event_capacity": EVENT_CAPACITY, "defaults": {"capacity": {"memory": "1Gi"}}})
    }

    async fn build(&self, place: &Place) -> Result<Arc<dyn ObjectDriver>> {
        let substrate = if self.in_file {
            let dir = place.state_dir();
            let opened = Substrate::open(&dir);
            self.substrates.lock().unwrap().insert(dir, opened.clone());
            opened
        } else {
            let mut substrates = self.substrates.lock().unwrap();
            substrates
                .entry(place.state_dir())
                .or_insert_with(Substrate::in_memory)
                .clone()
        };
        SimulatedFactory::with_substrate(substrate)
            .build(place.build(self.config()))
            .await
    }

    fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
        // Each call awaits something, so that it can be cancelled there.
        let latency = json!({"create": "1ms", "update": "1ms", "delete": "1ms"});
        Some(match sample {
            Sample::LongRunning => spec(json!({"latency": latency})),
            Sample::Stubborn => spec(json!({"ignore_term": true})),
            Sample::Ends { after, code } => {
                spec(json!({"lifetime": format!("{}ms", after.as_millis()), "exit_code": code}))
            }
            Sample::CannotBeMade => spec(json!({"fail": {"create": {"retryable": false}}})),
            Sample::ChangedInPlace => spec(json!({"latency": latency, "metrics": 7})),
            Sample::ChangedByRestart => spec(json!({"latency": latency, "lifetime": "1h"})),
            Sample::ChangedByRecreate => spec(json!({"latency": latency, "seed": 9})),
            Sample::ChangedInfeasibly => ObjectSpec {
                resources: limits(2 << 30),
                ..spec(json!({"latency": latency}))
            },
        })
    }

    fn refused_by_schema(&self) -> Vec<Value> {
        vec![
            json!({"colour": "red"}),
            json!({"latency": {"cretae": "1ms"}}),
            json!({"latency": {"create": 5}}),
            json!({"fail": {"create": 2}}),
            json!({"hang": ["everything"]}),
            json!({"garbage": {"handle": -1}}),
            json!({"logs": {"rat": 1}}),
            json!(["a", "list"]),
        ]
    }

    fn refused_by_validate(&self) -> Vec<Refused> {
        [
            (
                json!({"latency": {"create": {"min": "2ms", "max": "1ms"}}}),
                "spec.latency.create",
            ),
            (json!({"lifetime": "soon"}), "spec.lifetime"),
            (json!({"logs": {"rate": 0}}), "spec.logs.lines"),
        ]
        .map(|(value, path)| Refused {
            spec: spec(value),
            path: path.into(),
        })
        .into()
    }

    fn log_sample(&self, shape: &LogShape) -> Option<ObjectSpec> {
        let keep = match shape.rotation {
            Rotation::Lost => shape.lines / 4,
            Rotation::None | Rotation::Kept => shape.lines * 2,
        };
        let rate = if shape.pace.is_zero() {
            0.0
        } else {
            1.0 / shape.pace.as_secs_f64()
        };
        let life = shape.pace * u32::try_from(shape.lines).ok()? + Duration::from_millis(5);
        let logs = json!({"rate": rate, "lines": shape.lines, "bytes": shape.line_bytes, "keep": keep});
        let lifetime = shape.ends.then(|| format!("{}ms", life.as_millis()));
        Some(spec(json!({"logs": logs, "lifetime": lifetime})))
    }

    fn exec_sample(&self, sample: ExecSample<'_>) -> Option<Vec<String>> {
        let words = match sample {
            ExecSample::Copies => vec!["cat"],
            ExecSample::WritesBoth => vec!["print", "out", "err", "3"],
            ExecSample::PrintsVariable(name) => vec!["env", name],
            ExecSample::Marked(mark) => vec!["sleep", "1h", mark],
            ExecSample::Missing => vec!["no-such-command"],
            // It has no terminals.
            ExecSample::Terminal => return None,
        };
        Some(words.into_iter().map(String::from).collect())
    }

    async fn exec_runs(&self, place: &Place, mark: &str) -> Option<bool> {
        Some(
            self.substrate(place)
                .commands()
                .iter()
                .flatten()
                .any(|word| word == mark),
        )
    }

    fn probe_sample(&self, sample: ProbeSample) -> Option<(ObjectSpec, ProbeAction)> {
        let value = match sample {
            ProbeSample::Healthy => json!({}),
            ProbeSample::Unhealthy => json!({"unhealthy": 1}),
            ProbeSample::Hangs => json!({"hang": ["probe"]}),
        };
        Some((spec(value), ProbeAction::Tcp("localhost:1".into())))
    }

    fn resize_sample(&self) -> Option<Resources> {
        Some(limits(64 << 20))
    }

    fn refused_resize_sample(&self) -> Option<Resources> {
        Some(limits(2 << 30))
    }

    fn crash_steps(&self) -> usize {
        40
    }

    fn event_capacity(&self) -> Option<usize> {
        Some(EVENT_CAPACITY)
    }

    async fn runs(&self, place: &Place, object: &Made) -> Option<bool> {
        Some(self.substrate(place).runs(object.guid))
    }

    async fn end_outside(&self, place: &Place, object: &Made) -> bool {
        self.substrate(place)
            .end(object.guid, ExitStatus::with_signal("SIGKILL"))
    }

    async fn vanish(&self, place: &Place, object: &Made) -> bool {
        self.substrate(place).vanish(object.guid)
    }

    async fn remove_orphan(&self, place: &Place, object: &Made) -> bool {
        self.substrate(place).vanish(object.guid)
    }

    async fn foreign(&self, place: &Place, object: &Made) -> Option<Handle> {
        let other = Place::new().ok()?;
        let driver = SimulatedFactory::with_substrate(self.substrate(place))
            .build(other.build(Value::Null))
            .await
            .ok()?;
        let guid = object.guid;
        let request = ApplyRequest {
            guid,
            generation: 1,
            op_id: agent_api_driver::model::OpId::generate(),
            maybe_applied: false,
            spec: &spec(json!({})),
            handle: None,
            deadline: self.patience(),
        };
        let Applied { handle, .. } = driver.apply(request).await.ok()?;
        self.others.lock().unwrap().push(driver);
        *self.foreign.lock().unwrap() = Some((guid, handle.clone()));
        Some(handle)
    }

    async fn foreign_untouched(&self, place: &Place, handle: &Handle) -> bool {
        let Some((guid, known)) = self.foreign.lock().unwrap().clone() else {
            return false;
        };
        known == *handle && self.substrate(place).runs(guid)
    }

    async fn leftovers(&self, place: &Place) -> Vec<String> {
        let foreign = usize::from(self.foreign.lock().unwrap().is_some());
        let count = self.substrate(place).len();
        if count > foreign {
            vec![format!("{} objects on the substrate", count - foreign)]
        } else {
            Vec::new()
        }
    }
}

agent_driver_testkit::conformance!(in_memory, Simulated::in_memory());
agent_driver_testkit::conformance!(in_file, Simulated::in_file());
agent_driver_testkit::conformance_with_chaos!(in_memory_under_chaos, Simulated::in_memory(), 1);
agent_driver_testkit::conformance_with_chaos!(in_file_under_chaos, Simulated::in_file(), 2);

#[tokio::test(flavor = "multi_thread")]
async fn every_case_applies_and_the_report_says_so() {
    let report = agent_driver_testkit::run(&Simulated::in_memory()).await;
    let not_applicable: Vec<_> = report
        .rows
        .iter()
        .filter(|row| matches!(row.outcome, agent_driver_testkit::Outcome::NotApplicable(_)))
        .map(|row| format!("{}::{}", row.group, row.name))
        .collect();
    assert!(report.is_success(), "{report}");
    // It can do every verb, and has no methods, terminals, secrets and drift.
    assert_eq!(
        not_applicable,
        [
            "info::each_method_has_a_name_a_summary_and_a_schema",
            "control::what_capabilities_do_not_name_is_unsupported",
            "methods::arguments_that_do_not_fit_are_invalid",
            "drift::a_change_from_outside_is_shown_and_apply_takes_it_back",
            "redact::takes_the_secrets_out_and_leaves_all_else",
            "redact::no_secret_is_in_what_the_driver_says",
            "exec::a_terminal_has_the_size_that_was_asked_for",
        ]
    );
    assert_eq!(report.rows.len(), agent_driver_testkit::cases().count());
}
