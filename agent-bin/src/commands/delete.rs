//! `delete`.

use agent_api_model::{BatchItem, DeleteRequest, ErrorKind, Target};
use agent_bin_daemon::exit;

use super::Context;
use super::control::{item, names, report};
use super::settle::{Waiting, Wanted};
use crate::args::{DeleteArgs, Global};
use crate::failure::Outcome;

pub(super) async fn delete(global: &Global, args: &DeleteArgs) -> Outcome {
    let names = names(&args.targets)?;
    let context = Context::new(global)?;
    let request = DeleteRequest {
        grace: args.grace,
        orphan: args.orphan,
        cascade: args.cascade,
        forget: args.forget,
        selector: None,
    };
    let mut items = match &args.targets.selector {
        Some(selector) => context.client.delete_selected(selector, &request).await?,
        None => delete_names(&context, names, &request).await?,
    };
    if args.ignore_not_found {
        items.retain(|item| {
            item.error
                .as_ref()
                .is_none_or(|error| error.kind() != ErrorKind::NotFound)
        });
    }
    let done = match (args.orphan, args.forget) {
        (true, _) => "orphan accepted",
        (_, true) => "forget accepted",
        _ => "delete accepted",
    };
    let code = report(&context, &items, done)?;
    if args.wait.no_wait {
        return Ok(code);
    }
    let waiting = items.into_iter().filter_map(|item| {
        let accepted = item.accepted?;
        Some((accepted.guid, accepted.name, Wanted::Gone))
    });
    let quiet = !context.output.format.is_human();
    let settled = Waiting::new(waiting, quiet)
        .wait(&context.client, args.wait.timeout)
        .await?;
    Ok(if code == exit::OK { settled } else { code })
}

/// Deletes one after the other. What is refused because something depends on it is asked for again once others were
/// accepted: the order of names does not matter.
async fn delete_names(
    context: &Context,
    names: Vec<Target>,
    request: &DeleteRequest,
) -> Outcome<Vec<BatchItem>> {
    let mut items = Vec::new();
    let mut left = names;
    loop {
        let mut held = Vec::new();
        let before = left.len();
        for target in left {
            let result = context.client.delete(&target, request).await;
            let result = item(&target, result)?;
            if result
                .error
                .as_ref()
                .is_some_and(|error| error.kind() == ErrorKind::Conflict)
            {
                held.push((target, result));
            } else {
                items.push(result);
            }
        }
        if held.is_empty() || held.len() == before {
            items.extend(held.into_iter().map(|(_, result)| result));
            return Ok(items);
        }
        left = held.into_iter().map(|(target, _)| target).collect();
    }
}
