//! Bus In from the work queue: acknowledged after the handler, in order for each object.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{Incoming, Response};
use agent_api_bus_out::Message as Report;
use agent_api_model::{Envelope, Error, ErrorKind, Result, Retry, Timestamp, Topic, format_duration};
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Stream;
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::sleep;

use crate::answer::refusal;
use crate::headers::get;
use crate::incoming::{Intake, incoming};
use crate::publish::Publisher;
use crate::subject::{StreamName, UNKNOWN};

/// The CloudEvents type of the answer to a queued command.
const ANSWERED: &str = "agent.request.answered";
/// The waits between tries: to open the queue, to have a command accepted, to have its answer stored.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The server says so often that it is there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long one pull waits.
const PULL: Duration = Duration::from_secs(30);
/// Objects whose last command is known.
const OBJECTS: usize = 65_536;

/// The last command taken of each object, by its number in the queue.
#[derive(Default)]
struct Fence(Mutex<HashMap<String, u64>>);

impl Fence {
    /// Whether a command comes too late: a later one of its object was taken.
    fn is_past(&self, object: &str, number: u64) -> bool {
        self.0.lock().get(object).is_some_and(|last| *last > number)
    }

    fn taken(&self, object: &str, number: u64) {
        let mut last = self.0.lock();
        if last.len() >= OBJECTS && !last.contains_key(object) {
            // The oldest half: what is delivered again is among the newest.
            let mut numbers: Vec<_> = last.values().copied().collect();
            numbers.sort_unstable();
            let middle = numbers[numbers.len() / 2];
            last.retain(|_, number| *number > middle);
        }
        let entry = last.entry(object.to_owned()).or_insert(number);
        *entry = number.max(*entry);
    }
}

/// Takes commands until the bus closes; those that are under way then are finished or left to the next run.
pub(crate) async fn consume(intake: Arc<Intake>, publisher: Arc<Publisher>) {
    let fence = Fence::default();
    let mut pause = PAUSE_MIN;
    while !intake.closing.is_cancelled() {
        let opened = tokio::select! {
            biased;
            () = intake.closing.cancelled() => return,
            opened = open(&intake) => opened,
        };
        match opened {
            Ok(messages) => {
                pause = PAUSE_MIN;
                intake.connection.health.note(|state| state.queue = Some(true));
                drain(&intake, &publisher, &fence, messages).await;
            }
            Err(error) => {
                let known = intake.connection.health.state().queue == Some(false);
                if !known {
                    tracing::warn!(%error, "the agent's queue of commands cannot be read");
                }
                intake.connection.health.note(|state| {
                    state.queue = Some(false);
                    state.last_error = Some(error.to_string());
                });
            }
        }
        tokio::select! {
            () = intake.closing.cancelled() => {}
            () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

async fn open(intake: &Intake) -> Result<Stream> {
    let stream = intake.layout.stream(StreamName::In);
    let broken = |error: &dyn std::error::Error| {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "cannot read the queue {stream} of agent {}: {error}",
                intake.agent
            ),
        )
        .with_hint("the bus setup makes the queue of each agent")
    };
    let consumer: PullConsumer = intake
        .connection
        .js
        .get_consumer_from_stream(&intake.agent, &stream)
        .await
        .map_err(|error| broken(&error))?;
    consumer
        .stream()
        .max_messages_per_batch(intake.limits.queued)
        .heartbeat(HEARTBEAT)
        .expires(PULL)
        .messages()
        .await
        .map_err(|error| broken(&error))
}

/// A command and what it is for.
struct Command {
    message: Message,
    incoming: Incoming,
    object: String,
    number: u64,
}

async fn drain(intake: &Intake, publisher: &Publisher, fence: &Fence, mut messages: Stream) {
    let mut running = FuturesUnordered::new();
    let mut busy: HashSet<String> = HashSet::new();
    let mut held: Option<Command> = None;
    loop {
        // One at a time for each object: the next of it waits, and all after it.
        if let Some(command) = held.take_if(|command| !busy.contains(&command.object)) {
            busy.insert(command.object.clone());
            running.push(handle(intake, publisher, fence, command));
        }
        tokio::select! {
            biased;
            () = intake.closing.cancelled() => break,
            done = running.next(), if !running.is_empty() => {
                if let Some(object) = done {
                    busy.remove(&object);
                }
            }
            message = messages.next(), if held.is_none() && running.len() < intake.limits.queued => match message {
                Some(Ok(message)) => held = command(intake, message).await,
                Some(Err(error)) => tracing::debug!(%error, "the queue hiccups"),
                None => break,
            },
        }
    }
    tokio::select! {
        () = async { while running.next().await.is_some() {} } => {}
        () = intake.force.cancelled() => {}
    }
}

/// The command in a message. What is none is taken out of the queue, and told.
async fn command(intake: &Intake, message: Message) -> Option<Command> {
    let number = message.info().ok()?.stream_sequence;
    let Some(mut incoming) = incoming(&intake.layout, &message, intake.access) else {
        tracing::error!(subject = %message.subject, "the queue held what is no command; it was taken out");
        intake.connection.health.note(|state| state.refused += 1);
        let _ = message.ack_with(AckKind::Term).await;
        return None;
    };
    if incoming.id.is_none() {
        let id = get(message.headers.as_ref(), "Nats-Msg-Id").map(str::to_owned);
        incoming.id = Some(id.unwrap_or_else(|| format!("queued-{number}")));
    }
    let object = incoming.object.clone().or_else(|| name_of(&incoming.payload));
    Some(Command {
        object: object.unwrap_or_else(|| format!("{UNKNOWN}{number}")),
        message,
        incoming,
        number,
    })
}

/// The name in the body of a create.
fn name_of(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        name: Option<String>,
    }
    serde_json::from_slice::<Body>(payload).ok()?.name
}

/// Handles a command until it is answered for good, has its answer stored, and only then takes it out of the queue.
async fn handle(intake: &Intake, publisher: &Publisher, fence: &Fence, command: Command) -> String {
    let Command {
        message,
        incoming,
        object,
        number,
    } = command;
    let id = incoming.id.clone();
    let response = if !matches!(incoming.verb.as_str(), "create" | "update" | "delete") {
        let error = Error::new(
            ErrorKind::Unsupported,
            format!("{:?} cannot wait in a queue", incoming.verb),
        );
        Some(refusal(id.as_deref(), error))
    } else if fence.is_past(&object, number) {
        intake.connection.health.note(|state| state.overtaken += 1);
        let error = Error::new(
            ErrorKind::Conflict,
            "a later command for the object was taken before this one",
        )
        .with_object(&object);
        Some(refusal(id.as_deref(), error))
    } else {
        accept(intake, &message, &incoming).await
    };
    // Left in the queue: the agent is stopping, and its next run takes it.
    let Some(Response::One { body, .. }) = response else {
        return object;
    };
    fence.taken(&object, number);
    let report = report(intake, &message.subject, &incoming, body);
    let Some(report) = report else { return object };
    if until_stored(intake, publisher, &report).await && message.double_ack().await.is_ok() {
        intake.connection.health.note(|state| state.queued += 1);
    }
    object
}

/// Asks the handler until its answer is for good; none where the bus closes before.
async fn accept(intake: &Intake, message: &Message, incoming: &Incoming) -> Option<Response> {
    let mut pause = PAUSE_MIN;
    loop {
        let handled = AssertUnwindSafe(intake.handler.handle(incoming.clone())).catch_unwind();
        let response = tokio::select! {
            biased;
            handled = handled => handled.unwrap_or_else(|_| {
                let error = Error::internal("the agent failed while it handled the command");
                refusal(incoming.id.as_deref(), error)
            }),
            () = intake.force.cancelled() => return None,
        };
        let retry = match &response {
            Response::One {
                error: Some(kind), ..
            } => kind.default_retry() == Retry::Later,
            Response::One { .. } => false,
            _ => {
                let error = Error::internal("a queued command was answered with a stream");
                return Some(refusal(incoming.id.as_deref(), error));
            }
        };
        if !retry {
            return Some(response);
        }
        tracing::debug!(
            id = incoming.id,
            "a queued command waits {}",
            format_duration(pause)
        );
        tokio::select! {
            () = intake.closing.cancelled() => return None,
            () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
        // Not delivered again meanwhile.
        let _ = message.ack_with(AckKind::Progress).await;
    }
}

async fn until_stored(intake: &Intake, publisher: &Publisher, report: &Report) -> bool {
    let mut pause = PAUSE_MIN;
    loop {
        match publisher.publish(std::slice::from_ref(report)).await {
            Ok(()) => return true,
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "an answer is not stored yet");
            }
            Err(error) => {
                tracing::error!(%error, "an answer cannot be stored; its command is done all the same");
                return true;
            }
        }
        tokio::select! {
            () = intake.closing.cancelled() => return false,
            () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

/// The answer as an event. Its id is the request's, so that it is stored once.
fn report(intake: &Intake, subject: &str, incoming: &Incoming, body: Bytes) -> Option<Report> {
    let (_, kind) = intake.layout.verb_of(subject)?;
    let id = incoming.id.as_deref().unwrap_or_default();
    Some(Report {
        topic: Topic::new(intake.layout.result(&intake.agent, kind)).ok()?,
        envelope: Envelope {
            id: format!("{id}:answer"),
            source: format!("/agents/{}", intake.agent),
            event_type: ANSWERED.into(),
            subject: incoming.object.clone().or_else(|| name_of(&incoming.payload)),
            time: Timestamp::now(),
            content_type: Envelope::JSON,
            traceparent: incoming.traceparent.clone(),
            data: body,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_a_later_one_overtook_is_past() {
        let fence = Fence::default();
        assert!(!fence.is_past("web", 5));
        fence.taken("web", 5);
        fence.taken("web", 3);
        assert!(fence.is_past("web", 4));
        assert!(!fence.is_past("web", 5), "the same one again is answered again");
        assert!(!fence.is_past("db", 1));
        for number in 10..OBJECTS as u64 + 20 {
            fence.taken(&format!("o{number}"), number);
        }
        assert!(fence.0.lock().len() <= OBJECTS);
        assert!(
            fence.is_past(&format!("o{}", OBJECTS + 19), 1),
            "the newest are kept"
        );
    }

    #[test]
    fn the_object_of_a_create_is_in_its_body() {
        assert_eq!(
            name_of(br#"{"kind":"process","name":"web","spec":{}}"#),
            Some("web".into())
        );
        assert_eq!(name_of(b"no json"), None);
    }
}
