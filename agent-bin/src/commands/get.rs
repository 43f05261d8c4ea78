//! Commands that read objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_model::{ListRequest, ObjectView, Target, Timestamp, WatchEvent, WatchRequest};
use agent_bin_daemon::exit;
use futures_util::StreamExt;

use super::Context;
use crate::args::{GetArgs, OutputFormat};
use crate::failure::Outcome;
use crate::output;

pub(super) async fn get(context: &Context, args: &GetArgs) -> Outcome {
    if args.watch {
        return watch(context, args).await;
    }
    let mut code = exit::OK;
    let views = if args.names.is_empty() {
        let request = ListRequest {
            selector: args.selector.clone().unwrap_or_default(),
            phase: args.phase,
            ..ListRequest::default()
        };
        context.client.list(&request).await?
    } else {
        let mut views = Vec::new();
        for name in &args.names {
            match context.client.describe(name).await {
                Ok(description) if args.phase.is_none_or(|phase| description.view.phase == phase) => {
                    views.push(description.view);
                }
                Ok(_) => {}
                Err(error) if error.kind() == agent_api_model::ErrorKind::NotFound => {
                    eprintln!("error: {}", crate::failure::sentence(&error));
                    code = exit::NOT_FOUND;
                }
                Err(error) => return Err(error.into()),
            }
        }
        views
    };
    show(context, &views, args)?;
    Ok(code)
}

fn show(context: &Context, views: &[Arc<ObjectView>], args: &GetArgs) -> Outcome<()> {
    match context.output.format {
        OutputFormat::Name => {
            let names: String = views.iter().map(|view| format!("{}\n", view.name)).collect();
            context.output.text(&names)
        }
        format if format.is_human() => {
            if views.is_empty() {
                let filtered = args.selector.is_some() || args.phase.is_some();
                match (args.names.is_empty(), filtered) {
                    (false, _) => {}
                    (true, true) => eprintln!("no object matches"),
                    (true, false) => eprintln!("no objects; create some with `agent apply -f FILE`"),
                }
                return Ok(());
            }
            let wide = format == OutputFormat::Wide;
            let table = output::object_table(views.iter().map(AsRef::as_ref), Timestamp::now(), wide, true);
            context.output.table(&table)
        }
        _ => context.output.value(&views),
    }
}

async fn watch(context: &Context, args: &GetArgs) -> Outcome {
    let single = match args.names.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    };
    let request = WatchRequest {
        object: single,
        selector: args.selector.clone().unwrap_or_default(),
    };
    let wanted = |view: &ObjectView| {
        args.phase.is_none_or(|phase| view.phase == phase)
            && (args.names.is_empty()
                || args.names.iter().any(|target| match target {
                    Target::Guid(guid) => *guid == view.guid,
                    Target::Name(name) => *name == view.name,
                }))
    };
    let mut events = context.client.watch(&request).await?;
    // What is there is shown as one table, so that its columns line up; what changes follows as lines.
    let mut first = BTreeMap::new();
    let mut synced = false;
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Changed(view) if wanted(&view) => {
                if synced {
                    changed(context, &view)?;
                } else {
                    first.insert(view.name.clone(), view);
                }
            }
            WatchEvent::Deleted { guid, name } if args.names.is_empty() || !first.is_empty() => {
                if context.output.format.is_human() {
                    context.output.line(&format!("{name}  deleted"))?;
                } else if context.output.format != OutputFormat::Name {
                    context
                        .output
                        .item(&serde_json::json!({"deleted": {"name": name, "guid": guid}}))?;
                }
            }
            WatchEvent::Synced if !synced => {
                synced = true;
                let views: Vec<_> = first.values().cloned().collect();
                if context.output.format.is_human() {
                    show(context, &views, args)?;
                } else {
                    for view in &views {
                        changed(context, view)?;
                    }
                }
            }
            WatchEvent::Gap { missed } => {
                eprintln!("{missed} changes were missed; the current state follows")
            }
            _ => {}
        }
    }
    Ok(exit::OK)
}

fn changed(context: &Context, view: &Arc<ObjectView>) -> Outcome<()> {
    match context.output.format {
        OutputFormat::Name => context.output.line(view.name.as_str()),
        format if format.is_human() => {
            let wide = format == OutputFormat::Wide;
            let table = output::object_table([view.as_ref()], Timestamp::now(), wide, false);
            let text = table.render(context.output.colours);
            // Without the empty header.
            context
                .output
                .text(text.split_once('\n').map_or("", |(_, rest)| rest))
        }
        _ => context.output.item(view),
    }
}

pub(super) async fn describe(context: &Context, name: &Target) -> Outcome {
    let description = context.client.describe(name).await?;
    match context.output.format {
        OutputFormat::Name => context.output.line(description.view.name.as_str())?,
        format if format.is_human() => context
            .output
            .text(&output::describe(&description, Timestamp::now()))?,
        _ => context.output.value(&description)?,
    }
    Ok(exit::OK)
}

pub(super) async fn explain(context: &Context, name: &Target) -> Outcome {
    let explanation = context.client.explain(name).await?;
    match context.output.format {
        OutputFormat::Name => context.output.line(explanation.view.name.as_str())?,
        format if format.is_human() => context
            .output
            .text(&output::explain(&explanation, Timestamp::now()))?,
        _ => context.output.value(&explanation)?,
    }
    Ok(exit::OK)
}
