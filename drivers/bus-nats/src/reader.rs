//! The reader's end of Bus Out: what is kept first, then what is published.

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_out::{DeliveryStream, StartAt};
use agent_api_model::{Error, Result};
use agent_bus_memory::check_pattern;
use async_nats::Subscriber;
use futures_util::StreamExt;
use futures_util::stream::select_all;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backlog::Backlog;
use crate::connection::Connection;
use crate::headers;
use crate::replay::Replay;
use crate::subject::Layout;

/// For so long a new reader waits for a server.
const WAIT: Duration = Duration::from_secs(2);

struct Reader {
    replay: Option<Replay>,
    backlog: Arc<Backlog>,
    _gone: DropGuard,
}

/// Reads topics until `closing`, or for ever.
///
/// What is published from now on comes as it is published, from whichever stream or none: it is heard on core NATS,
/// and what was missed is known by the counts of its agents. What is kept comes from the streams before it.
pub(crate) async fn subscribe(
    connection: Arc<Connection>,
    layout: &Layout,
    pattern: &str,
    from: &StartAt,
    closing: CancellationToken,
) -> Result<DeliveryStream> {
    check_pattern(pattern)?;
    let end = Instant::now() + WAIT;
    while !connection.is_up() {
        if Instant::now() >= end || closing.is_cancelled() {
            return Err(connection.away("bus.subscribe"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    let subjects = layout.subjects(pattern);
    let mut live = Vec::with_capacity(subjects.len());
    for subject in &subjects {
        let subscriber = connection
            .client
            .subscribe(subject.clone())
            .await
            .map_err(|error| {
                Error::internal("cannot subscribe")
                    .with_source(error)
                    .with_operation("bus.subscribe")
            })?;
        live.push(subscriber);
    }
    // What is published after this is heard.
    connection.barrier(connection.config.ack_timeout).await?;
    let backlog = Arc::new(Backlog::default());
    let gone = CancellationToken::new();
    connection.tasks.spawn(hear(
        Arc::clone(&connection),
        layout.clone(),
        pattern.to_owned(),
        live,
        Arc::clone(&backlog),
        [closing, gone.clone()],
    ));
    let gone = gone.drop_guard();
    let replay = match from {
        StartAt::Now => None,
        StartAt::Kept => Some(Replay::begin(&connection, layout, pattern, 0).await?),
        StartAt::After(last) => Some(Replay::begin(&connection, layout, pattern, *last).await?),
    };
    let reader = Reader {
        replay,
        backlog,
        _gone: gone,
    };
    Ok(Box::pin(futures_util::stream::unfold(
        reader,
        async |mut reader| {
            if let Some(replay) = &mut reader.replay
                && let Some(delivery) = replay.next().await
            {
                return Some((delivery, reader));
            }
            loop {
                let delivery = reader.backlog.next().await?;
                let known = reader.replay.as_ref().is_some_and(|replay| replay.has(&delivery));
                if !known {
                    return Some((Ok(delivery), reader));
                }
            }
        },
    )))
}

/// Takes messages as they come, so that nobody else waits for a slow reader.
async fn hear(
    connection: Arc<Connection>,
    layout: Layout,
    pattern: String,
    live: Vec<Subscriber>,
    backlog: Arc<Backlog>,
    [closing, gone]: [CancellationToken; 2],
) {
    let push = |message: async_nats::Message| {
        let Some(topic) = layout
            .topic(&message.subject)
            .filter(|topic| topic.matches(&pattern))
        else {
            return;
        };
        if let Some((message, numbers)) = headers::message(topic, message.headers.as_ref(), message.payload) {
            backlog.push(message, numbers);
        }
    };
    let mut live = select_all(live);
    loop {
        tokio::select! {
            biased;
            () = gone.cancelled() => return,
            () = connection.closing.cancelled() => break,
            () = closing.cancelled() => break,
            message = live.next() => match message {
                Some(message) => push(message),
                None => break,
            },
        }
    }
    // What had come by then is read.
    for mut subscriber in live.into_iter() {
        let _ = subscriber.unsubscribe().await;
        while let Some(message) = subscriber.next().await {
            push(message);
        }
    }
    backlog.close();
}
