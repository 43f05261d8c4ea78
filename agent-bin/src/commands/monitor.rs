//! `monitor`.

use agent_api_bus_out::StartAt;
use agent_api_model::{Lease, MonitorRequest, Timestamp};
use agent_bin_daemon::exit;
use futures_util::StreamExt;
use serde_json::Value;

use super::Context;
use crate::args::MonitorArgs;
use crate::failure::Outcome;
use crate::output::telemetry_lines;

pub(super) async fn monitor(context: &Context, args: &MonitorArgs) -> Outcome {
    let request = MonitorRequest {
        object: args.name.clone(),
        selector: args.selector.clone().unwrap_or_default(),
        signals: args.signals.clone(),
        interval: args.interval,
        topic: args.topic.clone(),
        json: true,
        ..MonitorRequest::default()
    };
    let lease = context.client.monitor(&request).await?;
    let shown = tokio::select! {
        shown = show(context, args, &lease) => shown,
        _ = tokio::signal::ctrl_c() => Ok(exit::OK),
    };
    // Where that fails the lease ends by itself.
    let _ = context.client.unmonitor(lease.id).await;
    shown
}

async fn show(context: &Context, args: &MonitorArgs, lease: &Lease) -> Outcome {
    let mut deliveries = context.client.subscribe(&lease.topic, StartAt::Kept).await?;
    let ttl = lease.ttl.unwrap_or(MonitorRequest::default().ttl);
    let mut renewal = tokio::time::interval(ttl / 3);
    renewal.tick().await;
    let mut reports = 0;
    loop {
        let delivery = tokio::select! {
            delivery = deliveries.next() => delivery,
            _ = renewal.tick() => {
                context.client.renew(lease.id).await?;
                continue;
            }
        };
        let Some(delivery) = delivery else {
            return Ok(exit::OK);
        };
        let delivery = delivery?;
        if delivery.missed > 0 {
            eprintln!("({} reports were missed)", delivery.missed);
        }
        let envelope = &delivery.message.envelope;
        let Ok(report) = serde_json::from_slice::<Value>(&envelope.data) else {
            continue;
        };
        if context.output.format.is_human() {
            let lines = telemetry_lines(&report);
            let at = clock(envelope.time);
            for line in &lines {
                context.output.line(&format!("{at}  {line}"))?;
            }
        } else {
            context.output.item(&report)?;
        }
        reports += 1;
        if args.count.is_some_and(|count| reports >= count) {
            return Ok(exit::OK);
        }
    }
}

/// The time of day of a moment, to the millisecond, in UTC.
fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(11..23).unwrap_or(&text).to_owned()
}
