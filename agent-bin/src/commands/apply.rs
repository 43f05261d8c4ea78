//! `apply` and `plan`: objects of files.

use std::path::PathBuf;

use agent_api_client::Client;
use agent_api_model::{
    BatchItem, Change, Error, ErrorKind, Generation, Guid, ObjectName, Plan, PlanAction, PlanRequest,
    Severity, Target, UpdateRequest,
};
use agent_bin_daemon::exit;
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;

use super::Context;
use super::settle::{Waiting, Wanted};
use crate::args::{ApplyArgs, Global, OutputFormat, PlanArgs, WaitArgs};
use crate::failure::{Failure, Outcome, code_of, sentence};
use crate::files::{self, FileObject};
use crate::output::{self, Output, Table};

/// Requests under way at once.
const AT_ONCE: usize = 64;

/// What was done with one object.
#[derive(Clone, Debug, Serialize)]
struct Done {
    name: ObjectName,
    /// `created`, `updated` or `unchanged`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    guid: Option<Guid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Generation>,
    #[serde(skip)]
    how: String,
}

pub(super) async fn apply(global: &Global, args: &ApplyArgs) -> Outcome {
    let objects = files::read(&args.files)?;
    let context = Context::new(global)?;
    apply_objects(&context.client, &context.output, &objects, &args.wait).await
}

/// Reads the object files of `run --apply`, before anything is started.
pub(super) fn read(paths: &[PathBuf]) -> Outcome<Vec<FileObject>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    Ok(files::read(paths)?)
}

/// Plans all objects, and applies them where every plan is well; then waits for them.
pub(super) async fn apply_objects(
    client: &Client,
    output: &Output,
    objects: &[FileObject],
    wait: &WaitArgs,
) -> Outcome {
    let plans = plan_all(client, objects).await?;
    let mut code = exit::OK;
    let mut done = Vec::new();
    let mut errors = Vec::new();
    let pairs: Vec<_> = objects.iter().zip(&plans).collect();
    let mut results = futures_util::stream::iter(pairs)
        .map(|(object, plan)| async move { (object, apply_one(client, object, plan).await) })
        .buffered(AT_ONCE);
    while let Some((object, result)) = results.next().await {
        match result {
            Ok(result) => {
                if output.format.is_human() {
                    output.line(&format!("{} {}{}", result.name, result.result, result.how))?;
                } else if output.format == OutputFormat::Name {
                    output.line(result.name.as_str())?;
                }
                done.push(result);
            }
            Err(error) => {
                let error = if error.object().is_none() {
                    error.with_object(&object.spec.name)
                } else {
                    error
                };
                eprintln!("error: {}", sentence(&error));
                code = if code == exit::OK {
                    code_of(error.kind())
                } else {
                    code
                };
                errors.push(BatchItem {
                    name: object.spec.name.clone(),
                    accepted: None,
                    error: Some(error),
                });
            }
        }
    }
    let waiting: Vec<_> = done
        .iter()
        .filter(|done| done.result != "unchanged")
        .filter_map(|done| Some((done.guid?, done.name.clone(), Wanted::Settled(done.generation?))))
        .collect();
    let structured = matches!(output.format, OutputFormat::Json | OutputFormat::Yaml);
    if structured {
        let mut values: Vec<_> = done
            .iter()
            .filter_map(|done| serde_json::to_value(done).ok())
            .collect();
        values.extend(errors.iter().filter_map(|item| serde_json::to_value(item).ok()));
        output.value(&values)?;
    }
    if wait.no_wait {
        return Ok(code);
    }
    let quiet = !output.format.is_human();
    let settled = Waiting::new(waiting, quiet).wait(client, wait.timeout).await?;
    Ok(if code == exit::OK { settled } else { code })
}

/// The plans of all objects, or all that is wrong with them.
async fn plan_all(client: &Client, objects: &[FileObject]) -> Outcome<Vec<Plan>> {
    let mut plans = Vec::with_capacity(objects.len());
    let mut problems = Vec::new();
    let mut code = exit::OK;
    let mut results = futures_util::stream::iter(objects)
        .map(|object| async move {
            let request = PlanRequest::Apply(Box::new(object.spec.clone()));
            (object, client.plan(&request).await)
        })
        .buffered(AT_ONCE);
    while let Some((object, result)) = results.next().await {
        match result {
            Ok(plan) => {
                let before = problems.len();
                diagnose(object, &plan, &mut problems);
                if problems.len() > before && code == exit::OK {
                    code = exit::INVALID;
                }
                plans.push(plan);
            }
            Err(error) if error.operation() == "bus.connect" => return Err(error.into()),
            Err(error) => {
                code = if code == exit::OK {
                    code_for_object(&error)
                } else {
                    code
                };
                problems.push(placed(object, &error));
            }
        }
    }
    if problems.is_empty() {
        return Ok(plans);
    }
    let none = if objects.len() > 1 {
        "\nnothing was applied"
    } else {
        ""
    };
    Err(Failure::new(code, format!("{}{none}", problems.join("\n"))))
}

/// A kind that is not there is a fault of the file.
fn code_for_object(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Unsupported => exit::INVALID,
        kind => code_of(kind),
    }
}

fn placed(object: &FileObject, error: &Error) -> String {
    let mut message = error.message().to_owned();
    if let Some(hint) = error.hint() {
        message += &format!("\n  try: {hint}");
    }
    crate::failure::printable(&object.locate(error.path().unwrap_or_default(), &message))
}

fn diagnose(object: &FileObject, plan: &Plan, problems: &mut Vec<String>) {
    let before = problems.len();
    for diagnostic in &plan.diagnostics {
        let text = crate::failure::printable(&object.locate(&diagnostic.path, &diagnostic.message));
        match diagnostic.severity {
            Severity::Error => problems.push(text),
            Severity::Warning => eprintln!("warning: {text}"),
        }
    }
    if plan.action == PlanAction::Infeasible && problems.len() == before {
        problems.push(object.locate("", &format!("cannot be done: {}", plan.reason)));
    }
}

async fn apply_one(client: &Client, object: &FileObject, plan: &Plan) -> Result<Done, Error> {
    let name = object.spec.name.clone();
    let target = Target::Name(name.clone());
    match plan.action {
        PlanAction::NoOp => Ok(Done {
            name,
            result: "unchanged",
            guid: None,
            generation: None,
            how: String::new(),
        }),
        PlanAction::Create => {
            let applied = client.apply(&object.spec).await?;
            Ok(Done {
                name,
                result: if applied.created { "created" } else { "updated" },
                guid: Some(applied.accepted.guid),
                generation: Some(applied.accepted.generation),
                how: String::new(),
            })
        }
        action => {
            let request = UpdateRequest {
                change: Change::Replace(Box::new(object.spec.clone())),
                expected_generation: None,
            };
            let accepted = client.update(&target, &request).await?;
            Ok(Done {
                name,
                result: "updated",
                guid: Some(accepted.guid),
                generation: Some(accepted.generation),
                how: format!(" ({})", words(action)),
            })
        }
    }
}

fn words(action: PlanAction) -> &'static str {
    match action {
        PlanAction::NoOp => "no change",
        PlanAction::Create => "create",
        PlanAction::InPlace => "in place",
        PlanAction::Restart => "by a restart",
        PlanAction::Recreate => "made anew",
        PlanAction::Delete => "delete",
        PlanAction::Infeasible => "cannot be done",
        PlanAction::Deferred => "later",
        _ => "otherwise",
    }
}

pub(super) async fn plan(global: &Global, args: &PlanArgs) -> Outcome {
    let objects = files::read(&args.files)?;
    let context = Context::new(global)?;
    let plans = plan_all(&context.client, &objects).await?;
    match context.output.format {
        OutputFormat::Json | OutputFormat::Yaml => {
            let values: Vec<_> = objects
                .iter()
                .zip(&plans)
                .map(|(object, plan)| serde_json::json!({"name": object.spec.name, "plan": plan}))
                .collect();
            context.output.value(&values)?;
        }
        OutputFormat::Name => {
            for object in &objects {
                context.output.line(object.spec.name.as_str())?;
            }
        }
        OutputFormat::Table | OutputFormat::Wide => {
            let mut table = Table::new(&["NAME", "PLAN", "CHANGES"]);
            for (object, plan) in objects.iter().zip(&plans) {
                let changes: Vec<_> = plan
                    .changes
                    .iter()
                    .map(|change| format!("{}: {} -> {}", change.path, change.from, change.to))
                    .chain((!plan.reason.is_empty()).then(|| plan.reason.clone()))
                    .collect();
                table.row(vec![
                    object.spec.name.to_string().into(),
                    words(plan.action).into(),
                    changes.join("; ").into(),
                ]);
            }
            context.output.table(&table)?;
            for (object, plan) in objects.iter().zip(&plans) {
                if !plan.details.is_null() {
                    context.output.text(&details(&object.spec.name, &plan.details))?;
                }
            }
        }
    }
    Ok(exit::OK)
}

/// What the driver would make of an object.
fn details(name: &ObjectName, details: &Value) -> String {
    let text = output::indented(&output::yaml(details));
    crate::failure::printable(&format!("\n{name}:\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_yaml_under_the_name() {
        let manifests = serde_json::json!({"manifests": [{"kind": "Deployment", "spec": {"replicas": 2}}]});
        assert_eq!(
            details(&ObjectName::new("web").unwrap(), &manifests),
            "\nweb:\n  manifests:\n  - kind: Deployment\n    spec:\n      replicas: 2\n"
        );
    }
}
