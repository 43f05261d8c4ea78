//! `schema`.

use std::time::Duration;

use jsonschema::draft202012;
use serde_json::{Value, json};

use crate::Sample;
use crate::trial::{Stop, Trial, Verdict, ensure};

/// Fails where this is not a valid schema of draft 2020-12.
pub(super) fn compiles(what: &str, schema: &Value) -> Verdict {
    validator(what, schema).map(drop)
}

fn validator(what: &str, schema: &Value) -> Verdict<jsonschema::Validator> {
    if let Some(draft) = schema.get("$schema") {
        ensure!(
            draft == "https://json-schema.org/draft/2020-12/schema",
            "the schema of {what} is of {draft}"
        );
    }
    draft202012::meta::validate(schema)
        .map_err(|error| Stop::Failed(format!("the schema of {what} is not valid: {error}")))?;
    draft202012::new(schema)
        .map_err(|error| Stop::Failed(format!("the schema of {what} does not compile: {error}")))
}

fn spec_validator(trial: &Trial<'_>) -> Verdict<jsonschema::Validator> {
    let kind = trial.subject.kind();
    let driver = trial.driver();
    let schema = driver
        .schema(&kind)
        .ok_or_else(|| Stop::Failed(format!("no schema for {kind}")))?;
    validator("the spec", &schema.spec)
}

/// All samples that the subject has.
pub(super) const SAMPLES: [Sample; 9] = [
    Sample::LongRunning,
    Sample::Stubborn,
    Sample::Ends {
        after: Duration::ZERO,
        code: 0,
    },
    Sample::Ends {
        after: Duration::from_millis(50),
        code: 3,
    },
    Sample::CannotBeMade,
    Sample::ChangedInPlace,
    Sample::ChangedByRestart,
    Sample::ChangedByRecreate,
    Sample::ChangedInfeasibly,
];

pub(super) async fn is_valid_json_schema_2020_12(trial: &Trial<'_>) -> Verdict {
    let driver = trial.driver();
    for kind in &driver.info().kinds {
        let schema = driver
            .schema(kind)
            .ok_or_else(|| Stop::Failed(format!("no schema for {kind}")))?;
        compiles(&format!("the spec of {kind}"), &schema.spec)?;
        compiles(&format!("the status of {kind}"), &schema.status)?;
    }
    Ok(())
}

pub(super) async fn accepts_the_samples(trial: &Trial<'_>) -> Verdict {
    let validator = spec_validator(trial)?;
    for sample in SAMPLES {
        let Some(spec) = trial.subject.sample(sample) else {
            continue;
        };
        let value = if spec.spec.is_null() { json!({}) } else { spec.spec };
        if let Err(error) = validator.validate(&value) {
            return Err(Stop::Failed(format!("{sample:?} {value} is refused: {error}")));
        }
    }
    for refused in trial.subject.refused_by_validate() {
        ensure!(
            validator.is_valid(&refused.spec.spec),
            "{} is refused by the schema already",
            refused.spec.spec
        );
    }
    Ok(())
}

pub(super) async fn refuses_unknown_fields_and_wrong_values(trial: &Trial<'_>) -> Verdict {
    let validator = spec_validator(trial)?;
    let values = trial.subject.refused_by_schema();
    ensure!(
        !values.is_empty(),
        "the subject names no value that the schema must refuse"
    );
    for value in values {
        ensure!(!validator.is_valid(&value), "accepted: {value}");
    }
    // An unknown field beside the known ones of each sample.
    for sample in SAMPLES {
        let Some(spec) = trial.subject.sample(sample) else {
            continue;
        };
        let mut value = if spec.spec.is_null() { json!({}) } else { spec.spec };
        value["no_driver_has_this_field"] = json!(1);
        ensure!(!validator.is_valid(&value), "accepted: {value}");
    }
    Ok(())
}

pub(super) async fn describes_the_details_of_a_status(trial: &Trial<'_>) -> Verdict {
    let kind = trial.subject.kind();
    let driver = trial.driver();
    let schema = driver
        .schema(&kind)
        .ok_or_else(|| Stop::Failed(format!("no schema for {kind}")))?;
    let validator = validator("the status", &schema.status)?;
    let object = trial.running(Sample::LongRunning).await?;
    let observed = trial.observe(object.guid, &object.handle).await?;
    for details in [object.status.details, observed.status.details] {
        if let Err(error) = validator.validate(&details)
            && !details.is_null()
        {
            return Err(Stop::Failed(format!(
                "{details} is not of the status schema: {error}"
            )));
        }
    }
    Ok(())
}
