//! `DriverFactory`.

use agent_api_driver::model::Severity;
use serde_json::json;

use crate::trial::{Trial, Verdict, ensure};

pub(super) async fn names_the_driver_and_its_kinds_without_building_it(trial: &Trial<'_>) -> Verdict {
    let factory = trial.subject.factory();
    let driver = trial.driver();
    let info = driver.info();
    ensure!(
        factory.name() == info.name,
        "the factory is {}, the driver is {}",
        factory.name(),
        info.name
    );
    ensure!(
        factory.kinds() == info.kinds,
        "the factory has {:?}, the driver has {:?}",
        factory.kinds(),
        info.kinds
    );
    ensure!(
        factory.missing_feature().is_none(),
        "a driver that is compiled in misses {:?}",
        factory.missing_feature()
    );
    Ok(())
}

pub(super) async fn has_a_valid_configuration_schema(trial: &Trial<'_>) -> Verdict {
    let schema = trial.subject.factory().config_schema();
    super::schema::compiles("the configuration", &schema)
}

pub(super) async fn check_accepts_the_configuration_and_changes_nothing(trial: &Trial<'_>) -> Verdict {
    let factory = trial.subject.factory();
    let config = trial.subject.config();
    let errors: Vec<_> = factory
        .check(&config)
        .into_iter()
        .filter(|found| found.severity == Severity::Error)
        .collect();
    ensure!(
        errors.is_empty(),
        "check refuses the subject's own configuration: {errors:?}"
    );
    ensure!(
        factory.check(&config) == factory.check(&config),
        "two checks of one configuration differ"
    );
    Ok(())
}

pub(super) async fn check_refuses_a_configuration_that_is_no_map(trial: &Trial<'_>) -> Verdict {
    let factory = trial.subject.factory();
    for config in [
        json!(["a list"]),
        json!("text"),
        json!({"no_driver_has_this_setting": 1}),
    ] {
        let refused = factory
            .check(&config)
            .iter()
            .any(|found| found.severity == Severity::Error);
        ensure!(refused, "check finds nothing wrong with {config}");
    }
    Ok(())
}
