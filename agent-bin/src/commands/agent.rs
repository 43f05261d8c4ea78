//! Commands about the agent itself.

use std::time::Duration;

use agent_api_model::{Kind, Timestamp};
use agent_bin_daemon::exit;

use super::Context;
use crate::args::OutputFormat;
use crate::failure::Outcome;
use crate::output;

pub(super) async fn drivers(context: &Context) -> Outcome {
    let drivers = context.client.drivers().await?;
    match context.output.format {
        OutputFormat::Name => {
            for driver in &drivers {
                context.output.line(driver.name.as_str())?;
            }
        }
        format if format.is_human() => {
            context
                .output
                .table(&output::drivers(&drivers, format == OutputFormat::Wide))?;
            if let Some(methods) = output::methods(&drivers) {
                context.output.line("")?;
                context.output.table(&methods)?;
            }
        }
        _ => context.output.value(&drivers)?,
    }
    Ok(exit::OK)
}

pub(super) async fn schema(context: &Context, kind: &Kind) -> Outcome {
    let schema = context.client.schema(kind).await?;
    context.output.value(&schema)?;
    Ok(exit::OK)
}

pub(super) async fn info(context: &Context) -> Outcome {
    let info = context.client.info().await?;
    match context.output.format {
        OutputFormat::Name => context.output.line(info.agent.as_str())?,
        format if format.is_human() => context.output.text(&output::info(&info, Timestamp::now()))?,
        _ => context.output.value(&info)?,
    }
    Ok(exit::OK)
}

pub(super) async fn health(context: &Context) -> Outcome {
    let health = context.client.health().await?;
    let well = health.ready && health.live && !health.draining;
    if context.output.format.is_human() {
        let state = match (health.draining, well) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not ready",
        };
        context.output.line(state)?;
        for problem in &health.problems {
            context
                .output
                .line(&format!("  {}", crate::failure::printable(problem)))?;
        }
    } else {
        context.output.value(&health)?;
    }
    Ok(if well { exit::OK } else { exit::FAILED })
}

pub(super) async fn drain(context: &Context, deadline: Duration) -> Outcome {
    context.client.drain(deadline).await?;
    context.output.line("drained")?;
    Ok(exit::OK)
}

pub(super) async fn reload(context: &Context) -> Outcome {
    let changes = context.client.reload().await?;
    if !context.output.format.is_human() {
        context.output.value(&changes)?;
    } else if changes.is_empty() {
        context.output.line("nothing changed")?;
    } else {
        for change in &changes {
            context.output.line(&crate::failure::printable(change))?;
        }
    }
    Ok(exit::OK)
}
