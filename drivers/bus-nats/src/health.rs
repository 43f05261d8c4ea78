//! What the connection is, and what went wrong on it.

use std::time::Duration;

use agent_api_model::Timestamp;
use async_nats::{Event, ServerError};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Whether a server is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Not yet.
    #[default]
    Pending,
    /// Yes.
    Up,
    /// It went away; the connection is tried again and again.
    Down,
    /// The bus was closed.
    Closed,
}

/// What the bus does now, and what went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsState {
    /// Whether a server is there.
    pub link: Link,
    /// Since when that is so.
    pub since: Option<Timestamp>,
    /// How often a server was reached.
    pub connects: u64,
    /// Whether the server said that it will go away.
    pub lame_duck: bool,
    /// What the permissions of the server refused: an error of its configuration or of ours.
    pub denied: u64,
    /// Whether the server refuses the credentials.
    pub unauthorised: bool,
    /// Messages that came faster than they were read, and were dropped.
    pub slow: u64,
    /// The last error of the server or the connection; without any credential.
    pub last_error: Option<String>,
    /// Requests being answered now.
    pub requests: usize,
    /// Long replies now.
    pub streams: usize,
    /// Requests refused by the bus itself: too many, too late, not understood.
    pub refused: u64,
    /// Queued commands answered.
    pub queued: u64,
    /// Queued commands refused because a later one for the same object had been taken.
    pub overtaken: u64,
    /// Whether the agent's queue of commands can be read; none where it is not asked for.
    pub queue: Option<bool>,
    /// Messages acknowledged by a stream.
    pub stored: u64,
    /// Telemetry that was sent and never acknowledged: it may be lost.
    pub lost: u64,
}

/// The numbers of the connection, kept by its events.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: NatsState,
    /// When a server was last reached.
    up: Option<Instant>,
    /// Connections in a row that did not live long.
    short: u32,
}

/// A connection that lives shorter than this is one of those that make a hot loop.
const SHORT: Duration = Duration::from_secs(5);

impl Health {
    pub(crate) fn state(&self) -> NatsState {
        self.0.lock().state.clone()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut NatsState)) {
        change(&mut self.0.lock().state);
    }

    /// How many connections in a row were lost soon after they were made.
    pub(crate) fn short_lived(&self) -> u32 {
        self.0.lock().short
    }

    /// Takes an event in, and logs what somebody must know.
    pub(crate) fn event(&self, event: &Event, name: &str) {
        let mut inner = self.0.lock();
        match event {
            Event::Connected => {
                inner.set(Link::Up);
                inner.state.connects += 1;
                inner.state.lame_duck = false;
                inner.state.unauthorised = false;
                inner.up = Some(Instant::now());
                tracing::info!(connection = name, "the bus is there");
            }
            Event::Disconnected => {
                inner.set(Link::Down);
                let short = inner.up.take().is_some_and(|up| up.elapsed() < SHORT);
                inner.short = if short { inner.short.saturating_add(1) } else { 0 };
                tracing::warn!(
                    connection = name,
                    "the bus went away; the agent works on and tries to reach it"
                );
            }
            Event::LameDuckMode => {
                inner.state.lame_duck = true;
                tracing::info!(connection = name, "the server will go away; moving to another");
            }
            Event::SlowConsumer(_) => inner.state.slow += 1,
            Event::ServerError(error) => inner.server_error(error, name),
            Event::ClientError(error) => inner.client_error(error.to_string(), name),
            Event::Draining | Event::Closed => inner.set(Link::Closed),
        }
    }
}

impl Inner {
    fn set(&mut self, link: Link) {
        if self.state.link != link {
            self.state.link = link;
            self.state.since = Some(Timestamp::now());
        }
    }

    fn client_error(&mut self, text: String, name: &str) {
        if is_refusal(&text) {
            self.refused(&text, name);
        } else {
            tracing::warn!(connection = name, error = text, "cannot reach the bus");
        }
        self.state.last_error = Some(text);
    }

    fn refused(&mut self, text: &str, name: &str) {
        self.state.unauthorised = true;
        tracing::error!(
            connection = name,
            error = text,
            "the server refuses the credentials; renew them, the files are read at each try"
        );
    }

    fn server_error(&mut self, error: &ServerError, name: &str) {
        if let ServerError::SlowConsumer(_) = error {
            self.state.slow += 1;
            return;
        }
        let text = error.to_string();
        if text.to_ascii_lowercase().contains("permissions violation") {
            self.state.denied += 1;
            tracing::error!(
                connection = name,
                error = text,
                "the server's permissions do not allow what the agent needs; correct its account"
            );
        } else if is_refusal(&text) {
            self.refused(&text, name);
        } else {
            tracing::warn!(
                connection = name,
                error = text,
                "the bus says that something is wrong"
            );
        }
        self.state.last_error = Some(text);
    }
}

/// Whether an error says that the credentials are not, or no longer, good.
fn is_refusal(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("authorization") || text.contains("authentication")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn permission_errors_are_counted_and_short_connections_known() {
        let health = Health::default();
        health.event(&Event::Connected, "a1");
        assert_eq!(health.state().link, Link::Up);
        let denied = "Permissions Violation for Publish to \"agent.out.a2.status\"";
        health.event(&Event::ServerError(ServerError::Other(denied.into())), "a1");
        assert_eq!(health.state().denied, 1);
        assert!(health.state().last_error.unwrap().contains("agent.out.a2.status"));
        assert!(!health.state().unauthorised);
        health.event(&Event::Disconnected, "a1");
        assert_eq!((health.state().link, health.short_lived()), (Link::Down, 1));
        health.event(&Event::ServerError(ServerError::AuthorizationViolation), "a1");
        assert!(health.state().unauthorised);
        health.event(&Event::Connected, "a1");
        assert!(!health.state().unauthorised);
        tokio::time::advance(Duration::from_secs(60)).await;
        health.event(&Event::Disconnected, "a1");
        assert_eq!(health.short_lived(), 0);
    }
}
