//! The suite finds what a driver does wrong: the simulated driver with what it lacks added, once well and then with a
//! mistake each.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

mod extended;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_api_driver::model::{Guid, Kind, ObjectName, ObjectSpec};
use agent_api_driver::{DriverFactory, ObjectDriver, Result};
use agent_driver_simulated::{SimulatedFactory, Substrate};
use agent_driver_testkit::{ExecSample, Made, Outcome, Place, Sample, Subject, async_trait};
use serde_json::{Value, json};

use extended::{Extended, METHOD, Mistake, SECRET};

/// The extended driver, on one substrate per place.
#[derive(Clone)]
struct Extending {
    mistake: Mistake,
    substrates: Arc<Mutex<HashMap<PathBuf, Substrate>>>,
    drifted: Arc<Mutex<Vec<Guid>>>,
}

impl Extending {
    fn with(mistake: Mistake) -> Self {
        Self {
            mistake,
            substrates: Arc::default(),
            drifted: Arc::default(),
        }
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

#[async_trait]
impl Subject for Extending {
    fn factory(&self) -> Arc<dyn DriverFactory> {
        Arc::new(SimulatedFactory::new())
    }

    fn kind(&self) -> Kind {
        Kind::new("simulated").unwrap()
    }

    fn patience(&self) -> Duration {
        // What never comes true is waited for so long.
        Duration::from_secs(if self.mistake == Mistake::None { 10 } else { 2 })
    }

    fn crash_steps(&self) -> usize {
        4
    }

    fn left_out(&self, case: &str) -> Option<&'static str> {
        (case == "factory::has_a_valid_configuration_schema").then_some("tested elsewhere")
    }

    async fn build(&self, place: &Place) -> Result<Arc<dyn ObjectDriver>> {
        let substrate = {
            let mut substrates = self.substrates.lock().unwrap();
            substrates
                .entry(place.state_dir())
                .or_insert_with(Substrate::in_memory)
                .clone()
        };
        let driver = SimulatedFactory::with_substrate(substrate)
            .build(place.build(self.config()))
            .await?;
        Ok(Arc::new(Extended::new(
            driver,
            self.mistake,
            self.drifted.clone(),
        )))
    }

    fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
        let latency = json!({"create": "1ms", "update": "1ms", "delete": "1ms"});
        match sample {
            Sample::LongRunning => Some(spec(json!({"latency": latency}))),
            Sample::ChangedInPlace => Some(spec(json!({"latency": latency, "metrics": 7}))),
            _ => None,
        }
    }

    fn exec_sample(&self, sample: ExecSample<'_>) -> Option<Vec<String>> {
        (sample == ExecSample::Terminal).then(|| vec!["columns".into()])
    }

    fn refused_call_sample(&self) -> Option<(String, Value)> {
        Some((METHOD.into(), json!({"whom": 7})))
    }

    fn secret_spec(&self) -> Option<(ObjectSpec, Vec<String>)> {
        let fail = json!({"logs": {"rate": 0, "message": SECRET}});
        Some((spec(json!({"fail": fail})), vec![SECRET.into()]))
    }

    async fn drift(&self, _: &Place, object: &Made) -> bool {
        self.drifted.lock().unwrap().push(object.guid);
        true
    }

    async fn vanish(&self, place: &Place, object: &Made) -> bool {
        let substrate = self.substrates.lock().unwrap()[&place.state_dir()].clone();
        substrate.vanish(object.guid)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_keeps_the_contract_passes_and_the_new_cases_apply() {
    for report in [
        agent_driver_testkit::run(&Extending::with(Mistake::None)).await,
        agent_driver_testkit::run_with_chaos(&Extending::with(Mistake::None), 1).await,
    ] {
        assert!(report.is_success(), "{report}");
        for (group, name) in MISTAKES.iter().map(|(_, group, name)| (group, name)) {
            let row = report
                .rows
                .iter()
                .find(|row| (row.group, row.name) == (*group, *name))
                .unwrap();
            assert_eq!(row.outcome, Outcome::Passed, "{group}::{name}");
        }
        let left_out = Outcome::NotApplicable("the subject leaves it out: tested elsewhere".into());
        let left_out = report.rows.iter().filter(|row| row.outcome == left_out);
        let left_out: Vec<_> = left_out.map(|row| row.name).collect();
        assert_eq!(left_out, ["has_a_valid_configuration_schema"]);
    }
}

const MISTAKES: &[(Mistake, &str, &str)] = &[
    (
        Mistake::KeepsTheSecret,
        "redact",
        "takes_the_secrets_out_and_leaves_all_else",
    ),
    (
        Mistake::RedactsAll,
        "redact",
        "takes_the_secrets_out_and_leaves_all_else",
    ),
    (
        Mistake::ThePlanTells,
        "redact",
        "no_secret_is_in_what_the_driver_says",
    ),
    (
        Mistake::HidesTheDrift,
        "drift",
        "a_change_from_outside_is_shown_and_apply_takes_it_back",
    ),
    (
        Mistake::StaysDrifted,
        "drift",
        "a_change_from_outside_is_shown_and_apply_takes_it_back",
    ),
    (
        Mistake::TakesAnyMethod,
        "methods",
        "one_that_is_not_named_is_unsupported",
    ),
    (
        Mistake::TakesAnyArguments,
        "methods",
        "arguments_that_do_not_fit_are_invalid",
    ),
    (
        Mistake::ForgetsTheSize,
        "exec",
        "a_terminal_has_the_size_that_was_asked_for",
    ),
    (
        Mistake::RestartsTwice,
        "crash",
        "in_a_restart_the_same_op_id_ends_it",
    ),
    (
        Mistake::ForgetsARestart,
        "crash",
        "in_a_restart_the_same_op_id_ends_it",
    ),
    (
        Mistake::NamesNoSummary,
        "info",
        "each_method_has_a_name_a_summary_and_a_schema",
    ),
];

#[test]
fn each_mistake_is_found_by_its_case() {
    for (mistake, group, name) in MISTAKES {
        let subject = Extending::with(*mistake);
        let found = catch_unwind(AssertUnwindSafe(|| {
            agent_driver_testkit::run_test(subject, group, name);
        }));
        assert!(found.is_err(), "{mistake:?} passes {group}::{name}");
    }
}

/// Its delete is no success where nothing is there any more: found where an answer is lost.
#[test]
fn chaos_finds_a_call_that_cannot_be_repeated() {
    let fails = |seed| {
        let subject = Extending::with(Mistake::DeletesOnce);
        catch_unwind(AssertUnwindSafe(|| {
            agent_driver_testkit::run_test_with_chaos(subject, "apply", "the_object_runs_soon_after", seed);
        }))
        .is_err()
    };
    let found: Vec<u64> = (0..40).filter(|seed| fails(*seed)).collect();
    assert!(!found.is_empty(), "no seed of 40 finds it");
    assert!(found.len() < 40, "it fails without a fault too");
}
