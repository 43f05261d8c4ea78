//! `events`.

use std::time::Duration;

use agent_api_bus_out::StartAt;
use agent_api_client::ObjectEvent;
use agent_api_model::{ErrorKind, LifecycleEvent, Target};
use agent_bin_daemon::exit;
use futures_util::StreamExt;

use super::Context;
use crate::args::EventsArgs;
use crate::failure::{Outcome, printable, sentence};

/// What is kept comes at once: a pause of this length is its end.
const QUIET: Duration = Duration::from_millis(500);
/// How long to wait before asking an agent again that went away.
const PAUSE: Duration = Duration::from_millis(500);
/// How often in a row an agent that went away is asked.
const TRIES: u32 = 120;

pub(super) async fn events(context: &Context, args: &EventsArgs) -> Outcome {
    let mut from = StartAt::Kept;
    let mut tries = 0;
    loop {
        let error = match context.client.events(from.clone()).await {
            Err(error) => error,
            Ok(mut events) => loop {
                let next = if args.follow {
                    events.next().await
                } else {
                    match tokio::time::timeout(QUIET, events.next()).await {
                        Ok(next) => next,
                        Err(_) => return Ok(exit::OK),
                    }
                };
                match next {
                    None => return Ok(exit::OK),
                    Some(Err(error)) => break error,
                    Some(Ok(event)) => {
                        tries = 0;
                        from = StartAt::After(event.sequence);
                        show(context, args, &event)?;
                    }
                }
            },
        };
        tries += 1;
        if error.kind() != ErrorKind::Unavailable
            || !args.follow
            || error.operation() == "bus.connect" && tries == 1
            || tries > TRIES
        {
            return Err(error.into());
        }
        if tries == 1 {
            eprintln!("{}; waiting for the agent", sentence(&error));
            // A new agent counts anew.
            from = StartAt::Kept;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn show(context: &Context, args: &EventsArgs, event: &ObjectEvent) -> Outcome<()> {
    if event.missed > 0 {
        eprintln!("({} events were missed)", event.missed);
    }
    let wanted = match &args.name {
        None => true,
        Some(Target::Guid(guid)) => *guid == event.event.guid,
        Some(Target::Name(name)) => *name == event.event.name,
    };
    if !wanted {
        return Ok(());
    }
    if context.output.format.is_human() {
        context.output.line(&line(&event.event))
    } else {
        context.output.item(&event.event)
    }
}

/// One event for people.
pub(super) fn line(event: &LifecycleEvent) -> String {
    let step = &event.transition;
    let phases = match (step.from, step.to) {
        (Some(from), Some(to)) if from == to => to.to_string(),
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (None, Some(to)) => to.to_string(),
        (Some(from), None) => format!("{from} -> gone"),
        (None, None) => "gone".into(),
    };
    printable(&format!(
        "{}  {}  {phases}  {}",
        step.at,
        event.name,
        step.cause.sentence()
    ))
    .replace('\n', " ")
}
