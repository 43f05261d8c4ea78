//! The three loops of the worker's task.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent_api_model::{Envelope, Error, Timestamp, Topic};
use agent_reporter_rpc_client::{Message, RpcClient};

use crate::deliver::{Backoff, Delivered, REFUSED, deliver};
use crate::entry::Entry;
use crate::loss::LossReport;
use crate::otlp;
use crate::registry::{Step, next_step};
use crate::state::{Shared, subject};

/// At most so many loss reports in one publish.
const LOSSES_AT_ONCE: usize = 64;
/// At most so many objects in one registry call.
const REGISTRATIONS_AT_ONCE: usize = 256;

/// Runs until it is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, rpc: Arc<dyn RpcClient>) {
    let loops = async {
        tokio::join!(
            events(&shared, &*rpc),
            telemetry(&shared, &*rpc),
            registry(&shared, &*rpc)
        )
    };
    tokio::select! {
        () = shared.cancel.cancelled() => {}
        _ = loops => {}
    }
}

/// Lifecycle events and heartbeats in order, then what is to be told of losses.
async fn events(shared: &Shared, rpc: &dyn RpcClient) {
    loop {
        let (mut messages, losses) = {
            let mut state = shared.state.lock();
            let config = &shared.config;
            let messages = state.events.take(config.publish_messages, config.publish_bytes);
            state.writing_events = messages.iter().map(|message| message.topic.clone()).collect();
            (messages, state.losses.take(LOSSES_AT_ONCE))
        };
        if messages.is_empty() && losses.is_empty() {
            shared.events_wake.notified().await;
            continue;
        }
        let own = messages.len();
        messages.extend(
            losses
                .iter()
                .map(|(number, topic, loss)| shared.loss_message(*number, topic.clone(), loss)),
        );
        let delivered = publish(shared, rpc, &messages).await;
        let mut state = shared.state.lock();
        state.events.done();
        state.losses.done();
        state.writing_events = Vec::new();
        // From the last to the first, so that losses put back keep their order.
        for (place, reason) in delivered.given_up.into_iter().rev() {
            if place < own {
                let loss = LossReport {
                    lease: None,
                    guid: None,
                    signal: "events".into(),
                    count: 1,
                    reason,
                    first: None,
                    last: None,
                };
                shared.lose(&mut state, &messages[place].topic, loss);
            } else if let Some((number, topic, loss)) = losses.get(place - own) {
                if reason.starts_with(REFUSED) {
                    tracing::warn!(%topic, %reason, count = loss.count, "a loss cannot be told on its topic");
                } else {
                    state.losses.put_back(*number, topic.clone(), loss.clone());
                }
            }
        }
        drop(state);
        shared.progress.notify_waiters();
    }
}

/// Metrics, spans and log lines.
async fn telemetry(shared: &Shared, rpc: &dyn RpcClient) {
    loop {
        let entries = {
            let mut state = shared.state.lock();
            let config = &shared.config;
            // Half for each, so that a flood of lines does not hold up the metrics.
            let (items, bytes) = (config.publish_messages / 2, config.publish_bytes / 2);
            let mut entries = state.values.take(items, bytes);
            entries.append(&mut state.logs.take(items, bytes));
            entries
        };
        if entries.is_empty() {
            shared.telemetry_wake.notified().await;
            continue;
        }
        let writing = entries
            .iter()
            .map(|entry| (entry.topic.clone(), loss_of(entry)))
            .collect();
        shared.state.lock().writing = writing;
        let messages: Vec<_> = entries.into_iter().map(|entry| encode(shared, entry)).collect();
        let delivered = publish(shared, rpc, &messages).await;
        let mut state = shared.state.lock();
        state.values.done();
        state.logs.done();
        let writing = std::mem::take(&mut state.writing);
        for (place, reason) in delivered.given_up {
            let (topic, loss) = &writing[place];
            let loss = LossReport {
                reason,
                ..loss.clone()
            };
            shared.lose(&mut state, topic, loss);
        }
        drop(state);
        shared.progress.notify_waiters();
    }
}

/// Registrations and withdrawals, in order, in few calls.
async fn registry(shared: &Shared, rpc: &dyn RpcClient) {
    loop {
        let step = next_step(&mut shared.state.lock().registry, REGISTRATIONS_AT_ONCE);
        let Some(step) = step else {
            shared.registry_wake.notified().await;
            continue;
        };
        let started = tokio::time::Instant::now();
        let mut backoff = Backoff::new(&shared.config);
        loop {
            let result = match &step {
                Step::Register(objects) => rpc.register(objects).await,
                Step::Withdraw(guids) => rpc.withdraw(guids).await,
            };
            let Err(error) = result else { break };
            shared.failed.fetch_add(1, Ordering::Relaxed);
            shared.instruments.failed.add(1, &[]);
            if !error.is_retryable() || started.elapsed() >= shared.config.retry_for {
                tracing::warn!(%error, objects = step.len(), "the registry of methods does not take a change");
                break;
            }
            backoff.wait(error.retry_delay()).await;
        }
    }
}

/// Publishes and counts.
async fn publish(shared: &Shared, rpc: &dyn RpcClient, messages: &[Message]) -> Delivered {
    let mut warned = false;
    let tried = |error: &Error| {
        // Once for each batch: the bus may be away for long.
        if !std::mem::replace(&mut warned, true) {
            tracing::warn!(%error, messages = messages.len(), "cannot publish");
        }
    };
    let delivered = deliver(rpc, &shared.config, messages, tried).await;
    let (published, failed) = (delivered.published as u64, delivered.given_up.len() as u64);
    shared.published.fetch_add(published, Ordering::Relaxed);
    shared.failed.fetch_add(failed, Ordering::Relaxed);
    shared.instruments.published.add(published, &[]);
    shared.instruments.failed.add(failed, &[]);
    delivered
}

fn loss_of(entry: &Entry) -> LossReport {
    LossReport {
        lease: Some(entry.lease),
        guid: None,
        signal: entry.records.signal().as_str().into(),
        count: entry.records.len(),
        reason: "".into(),
        first: Some(entry.sequence),
        last: Some(entry.sequence),
    }
}

fn encode(shared: &Shared, entry: Entry) -> Message {
    let signal = entry.records.signal();
    let topic: Topic = entry.topic.clone();
    let id = format!("{}-{}-{signal}-{}", entry.lease, shared.run, entry.sequence);
    let subject = subject(&entry);
    let json = entry.json;
    let data = otlp::encode(&shared.config.agent, &entry.objects, entry.records, json);
    Message {
        topic,
        envelope: Envelope {
            id,
            source: shared.source.clone(),
            event_type: format!("agent.telemetry.{signal}"),
            subject: Some(subject),
            time: Timestamp::now(),
            content_type: if json { Envelope::JSON } else { Envelope::PROTOBUF },
            traceparent: None,
            data: data.into(),
        },
    }
}
