//! One connection: made once, kept for ever, told about in [`NatsState`](crate::NatsState).

use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result, Timestamp, format_duration};
use async_nats::client::RequestErrorKind;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions, Event, Request, ServerAddr};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth;
use crate::config::{ConnectConfig, Credentials};
use crate::health::{Health, Link};

/// Events that wait to be looked at; more are not missed, they only repeat what is known.
const EVENTS: usize = 1_024;
/// The first wait between two tries to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A lame server is left within this time, at random, so that not all leave at once.
const LAME_SPREAD: Duration = Duration::from_secs(3);
/// What a barrier asks.
const QUESTION: &str = "$JS.API.INFO";
/// How long the first connection is waited for; after that it is tried in the background.
const FIRST: Duration = Duration::from_secs(5);

/// A connection and its task.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) js: Context,
    pub(crate) health: Arc<Health>,
    pub(crate) config: ConnectConfig,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the connection is given up.
    pub(crate) closing: CancellationToken,
}

impl Connection {
    /// Begins to connect. Returns when a server is there, or after a few seconds without one: it is tried for ever.
    pub(crate) async fn begin(config: ConnectConfig) -> Result<Arc<Self>> {
        config.check()?;
        auth::check(&config.credentials)?;
        let servers = config
            .servers
            .iter()
            .map(|server| server.parse::<ServerAddr>())
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|_| Error::invalid("servers", "is not an address"))?;
        let health = Arc::new(Health::default());
        let (sender, events) = mpsc::channel(EVENTS);
        let client = options(&config, &health, sender)
            .connect(servers)
            .await
            .map_err(|error| {
                Error::new(
                    ErrorKind::Unavailable,
                    format!("cannot begin to connect to {}: {error}", config.shown()),
                )
                .with_operation("bus.connect")
            })?;
        let builder = ContextBuilder::new().timeout(config.ack_timeout);
        let js = match &config.domain {
            Some(domain) => {
                let mut js = ContextBuilder::new().domain(domain).build(client.clone());
                js.set_timeout(config.ack_timeout);
                js
            }
            None => builder.build(client.clone()),
        };
        let connection = Arc::new(Self {
            client,
            js,
            health,
            config,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        connection.tasks.spawn(watch(
            connection.client.clone(),
            Arc::clone(&connection.health),
            connection.config.clone(),
            events,
            connection.closing.clone(),
        ));
        let end = Instant::now() + FIRST;
        while !connection.is_up() && Instant::now() < end && !connection.health.state().unauthorised {
            sleep(Duration::from_millis(10)).await;
        }
        if connection.health.state().unauthorised {
            let shown = connection.config.shown();
            connection.close().await;
            return Err(Error::new(
                ErrorKind::Denied,
                format!("the server at {shown} refuses the credentials"),
            )
            .with_operation("bus.connect")
            .with_hint("check the files that `credentials` names, and the account on the server"));
        }
        Ok(connection)
    }

    /// Whether a server is there, as far as is known.
    pub(crate) fn is_up(&self) -> bool {
        self.health.state().link == Link::Up
    }

    /// An error where no server is there: what was sent now would be sent later, when nobody waits for it.
    pub(crate) fn need_up(&self, operation: &str) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        Err(self.away(operation))
    }

    pub(crate) fn away(&self, operation: &str) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("the bus at {} cannot be reached", self.config.shown()),
        )
        .with_operation(operation)
    }

    /// Returns when the server has handled all that was sent before: when it has answered a question, whatever it says.
    /// The question is one that all accounts may ask; a publish to its own inbox no agent may.
    pub(crate) async fn barrier(&self, within: Duration) -> Result<()> {
        let question = Request::new()
            .inbox(self.client.new_inbox())
            .timeout(Some(within));
        let answer = self.client.send_request(QUESTION, question).await;
        match answer.map_err(|error| error.kind()) {
            Ok(_) | Err(RequestErrorKind::NoResponders) => Ok(()),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the bus at {} did not answer within {}",
                    self.config.shown(),
                    format_duration(within)
                ),
            )
            .with_operation("bus.barrier")),
        }
    }

    /// Sends what waits, gives the connection up and joins its task.
    pub(crate) async fn close(&self) {
        if self.is_up() {
            let _ = self.barrier(Duration::from_secs(1)).await;
        }
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.client.drain()).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn options(config: &ConnectConfig, health: &Arc<Health>, sender: mpsc::Sender<Event>) -> ConnectOptions {
    let credentials = config.credentials.clone();
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let credentials = credentials.clone();
        async move { auth::answer(&credentials, &nonce) }
    });
    if credentials_none(config) {
        options = ConnectOptions::new();
    }
    let (backoff, longest) = (Arc::clone(health), config.backoff_max);
    options = options
        .name(&config.name)
        .custom_inbox_prefix(&config.inbox)
        .retry_on_initial_connect()
        .ping_interval(config.ping)
        .request_timeout(Some(config.ack_timeout))
        .reconnect_delay_callback(move |tries| {
            let tries = u32::try_from(tries)
                .unwrap_or(u32::MAX)
                .max(backoff.short_lived());
            delay(tries, longest, rand::random::<f64>())
        })
        .event_callback(move |event| {
            let _ = sender.try_send(event);
            async {}
        })
        .require_tls(config.tls.required);
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &config.tls.client {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    options
}

fn credentials_none(config: &ConnectConfig) -> bool {
    config.credentials == Credentials::None
}

/// The wait before the next try: doubled each time, and somewhere in its upper half, so that a fleet does not come back
/// all at once.
fn delay(tries: u32, longest: Duration, random: f64) -> Duration {
    if tries == 0 {
        return Duration::ZERO;
    }
    let top = BACKOFF_MIN.saturating_mul(1 << tries.min(16)).min(longest);
    top.div_f64(2.0) + top.mul_f64(random / 2.0)
}

/// Looks at the events, leaves lame servers, and renews tokens before they expire.
async fn watch(
    client: Client,
    health: Arc<Health>,
    config: ConnectConfig,
    mut events: mpsc::Receiver<Event>,
    closing: CancellationToken,
) {
    let mut leave: Option<Instant> = None;
    let mut renew: Option<Instant> = None;
    let mut used = None;
    loop {
        let timer = [leave, renew].into_iter().flatten().min();
        let due = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            event = events.recv() => {
                let Some(event) = event else { return };
                health.event(&event, &config.name);
                match event {
                    Event::LameDuckMode => {
                        leave = Some(Instant::now() + LAME_SPREAD.mul_f64(rand::random::<f64>()));
                    }
                    Event::Connected => {
                        leave = None;
                        used = auth::lifetime(&config.credentials);
                        renew = used.map(|(made, expires)| {
                            Instant::now() + auth::renew_in(made, expires, Timestamp::now())
                        });
                    }
                    _ => {}
                }
            }
            () = due => {
                let now = Instant::now();
                if leave.is_some_and(|at| at <= now) {
                    leave = None;
                    let _ = client.force_reconnect().await;
                }
                if renew.is_some_and(|at| at <= now) {
                    renew = again(&client, &health, &config, used).await;
                }
            }
        }
    }
}

/// Connects anew where the file has a newer token than the one in use; says so where it has not.
async fn again(
    client: &Client,
    health: &Health,
    config: &ConnectConfig,
    used: Option<(Timestamp, Timestamp)>,
) -> Option<Instant> {
    let found = auth::lifetime(&config.credentials);
    if found != used {
        let _ = client.force_reconnect().await;
        return None;
    }
    let (made, expires) = used?;
    let text = format!("the bus credentials expire at {expires} and their file has no newer ones");
    tracing::warn!(connection = config.name, "{text}");
    health.note(|state| state.last_error = Some(text));
    Some(Instant::now() + auth::renew_in(made, expires, Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_spread_and_end_somewhere() {
        let longest = Duration::from_secs(20);
        assert_eq!(delay(0, longest, 0.5), Duration::ZERO);
        assert_eq!(delay(1, longest, 0.0), Duration::from_millis(100));
        assert_eq!(delay(1, longest, 1.0), Duration::from_millis(200));
        assert_eq!(delay(40, longest, 1.0), longest);
        assert_eq!(delay(u32::MAX, longest, 0.0), Duration::from_secs(10));
    }
}
