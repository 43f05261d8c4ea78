//! Control verbs for objects by name, by selector or by file.

use agent_api_model::{BatchItem, ControlAction, IoLimit, ObjectName, Resources, Target};
use agent_bin_daemon::exit;

use super::Context;
use crate::args::{
    ControlArgs, Global, OutputFormat, ResizeArgs, RestartArgs, ScaleArgs, SignalArgs, Targets,
};
use crate::failure::{Outcome, code_of, sentence};
use crate::files;

pub(super) async fn pause(global: &Global, args: &ControlArgs) -> Outcome {
    control(global, &args.targets, ControlAction::Pause {}, "pause accepted").await
}

pub(super) async fn resume(global: &Global, args: &ControlArgs) -> Outcome {
    control(global, &args.targets, ControlAction::Resume {}, "resume accepted").await
}

pub(super) async fn restart(global: &Global, args: &RestartArgs) -> Outcome {
    control(
        global,
        &args.targets,
        ControlAction::Restart { grace: args.grace },
        "restart accepted",
    )
    .await
}

pub(super) async fn signal(global: &Global, args: &SignalArgs) -> Outcome {
    let action = ControlAction::Signal {
        signal: args.signal.clone(),
    };
    control(global, &args.targets, action, "signal accepted").await
}

pub(super) async fn scale(global: &Global, args: &ScaleArgs) -> Outcome {
    let action = ControlAction::Scale {
        replicas: args.replicas,
    };
    control(global, &args.targets, action, "scale accepted").await
}

pub(super) async fn resize(global: &Global, args: &ResizeArgs) -> Outcome {
    let io = (args.io_read.is_some() || args.io_write.is_some()).then_some(IoLimit {
        read: args.io_read,
        write: args.io_write,
    });
    let resources = Resources {
        cpu: args.cpu,
        memory: args.memory,
        pids: args.pids,
        io,
        priority: args.priority,
        ..Resources::default()
    };
    control(
        global,
        &args.targets,
        ControlAction::Resize { resources },
        "resize accepted",
    )
    .await
}

/// One control verb for all targets. Accepted is said as `NAME VERB`; a refusal does not keep others from being asked.
async fn control(global: &Global, targets: &Targets, action: ControlAction, done: &str) -> Outcome {
    let names = names(targets)?;
    let context = Context::new(global)?;
    let items = match &targets.selector {
        Some(selector) => context.client.control_selected(selector, &action).await?,
        None => {
            let mut items = Vec::new();
            for target in &names {
                let result = context.client.control(target, &action).await;
                items.push(item(target, result)?);
            }
            items
        }
    };
    report(&context, &items, done)
}

/// The names asked for, files included.
pub(super) fn names(targets: &Targets) -> Outcome<Vec<Target>> {
    if targets.files.is_empty() {
        return Ok(targets.names.clone());
    }
    let objects = files::read(&targets.files)?;
    Ok(objects
        .into_iter()
        .map(|object| Target::Name(object.spec.name))
        .collect())
}

/// The result for one target. An agent that cannot be reached ends the command.
pub(super) fn item(
    target: &Target,
    result: agent_api_model::Result<agent_api_model::Accepted>,
) -> Outcome<BatchItem> {
    let named = match target {
        Target::Name(name) => name.clone(),
        Target::Guid(guid) => ObjectName::new(guid.to_string()).expect("a UUID is a DNS label"),
    };
    match result {
        Ok(accepted) => Ok(BatchItem {
            name: accepted.name.clone(),
            accepted: Some(accepted),
            error: None,
        }),
        Err(error) if error.operation() == "bus.connect" => Err(error.into()),
        Err(error) => Ok(BatchItem {
            name: named.clone(),
            accepted: None,
            error: Some(if error.object().is_none() {
                error.with_object(&named)
            } else {
                error
            }),
        }),
    }
}

/// Says what was accepted and what was refused. The exit code is that of the first refusal.
pub(super) fn report(context: &Context, items: &[BatchItem], done: &str) -> Outcome {
    let mut code = exit::OK;
    let structured = matches!(context.output.format, OutputFormat::Json | OutputFormat::Yaml);
    if structured {
        context.output.value(&items)?;
    }
    if items.is_empty() && !structured {
        eprintln!("no object matches");
    }
    for item in items {
        match (&item.error, context.output.format) {
            (Some(error), _) => {
                if !structured {
                    eprintln!("error: {}", sentence(error));
                }
                if code == exit::OK {
                    code = code_of(error.kind());
                }
            }
            (None, OutputFormat::Name) => context.output.line(item.name.as_str())?,
            (None, OutputFormat::Table | OutputFormat::Wide) => {
                context.output.line(&format!("{} {done}", item.name))?;
            }
            (None, _) => {}
        }
    }
    Ok(code)
}
