//! `info`, `capabilities`.

use std::collections::BTreeSet;

use agent_api_driver::model::{Kind, Verb};

use crate::trial::{Trial, Verdict, ensure};

pub(super) async fn is_constant_and_has_schema_and_capabilities_for_each_kind(trial: &Trial<'_>) -> Verdict {
    let driver = trial.driver();
    let info = driver.info();
    ensure!(
        !info.version.is_empty() && !info.summary.is_empty(),
        "version and summary must not be empty: {info:?}"
    );
    ensure!(
        info.kinds.contains(&trial.subject.kind()),
        "{:?} lacks {}",
        info.kinds,
        trial.subject.kind()
    );
    for kind in &info.kinds {
        ensure!(
            kind.driver() == info.name.as_str(),
            "{kind} does not begin with the driver's name {}",
            info.name
        );
        ensure!(driver.schema(kind).is_some(), "no schema for {kind}");
        ensure!(driver.capabilities(kind).is_some(), "no capabilities for {kind}");
    }
    ensure!(
        format!("{info:?}") == format!("{:?}", driver.info()),
        "two calls differ"
    );
    Ok(())
}

pub(super) async fn a_kind_it_does_not_manage_has_neither_schema_nor_capabilities(
    trial: &Trial<'_>,
) -> Verdict {
    let driver = trial.driver();
    for kind in [
        "nobody-manages-this".to_string(),
        format!("{}/nobody-manages-this", driver.info().name),
    ] {
        let kind = Kind::new(kind).expect("lower-case letters and '-'");
        ensure!(driver.schema(&kind).is_none(), "a schema for {kind}");
        ensure!(driver.capabilities(&kind).is_none(), "capabilities for {kind}");
    }
    Ok(())
}

pub(super) async fn capabilities_and_extensions_agree(trial: &Trial<'_>) -> Verdict {
    let driver = trial.driver();
    let can = trial.capabilities()?;
    let controls =
        can.pause || can.restart || can.signal || can.scale || can.resize || !can.methods.is_empty();
    for (name, said, there) in [
        ("control", controls, driver.control().is_some()),
        ("logs", can.logs, driver.logs().is_some()),
        ("exec", can.exec, driver.exec().is_some()),
        ("probe", can.probe, driver.probe().is_some()),
    ] {
        // A driver of several kinds may have an extension that this kind does not use.
        ensure!(
            there || !said,
            "capabilities name {name}, and there is no such extension"
        );
    }
    ensure!(
        can.control_verbs().contains(&Verb::Restart),
        "every object can be restarted"
    );
    Ok(())
}

pub(super) async fn limits_and_fields_are_named_once(trial: &Trial<'_>) -> Verdict {
    let can = trial.capabilities()?;
    let mut seen = BTreeSet::new();
    for limit in &can.limits {
        ensure!(seen.insert(limit.field), "{} is named twice", limit.field);
        ensure!(
            !limit.by.is_empty(),
            "{}: by what it is held, or why not, is not said",
            limit.field
        );
    }
    for path in can.fields.keys() {
        ensure!(
            path.starts_with("spec.") || path.starts_with("resources."),
            "field {path:?} does not begin with `spec.` or `resources.`, as the changes of a plan do"
        );
    }
    if let Some(why) = can.task_per_object {
        ensure!(!why.is_empty(), "a task per object needs its reason");
    }
    Ok(())
}

pub(super) async fn each_method_has_a_name_a_summary_and_a_schema(trial: &Trial<'_>) -> Verdict {
    let methods = trial.capabilities()?.methods;
    crate::trial::needs(!methods.is_empty(), "call any method of its own")?;
    for (name, method) in methods {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(
            !name.is_empty() && name.chars().all(fits),
            "the method {name:?} is not of lower-case letters, digits and `_`"
        );
        ensure!(!method.summary.is_empty(), "{name} has no summary");
        super::schema::compiles(&format!("the arguments of {name}"), &method.arguments)?;
    }
    Ok(())
}
