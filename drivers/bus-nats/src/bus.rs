//! The agent's end.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_api_bus_in::{Access, BusIn, RequestHandler};
use agent_api_bus_out::{BusOut, BusReader, DeliveryStream, Message, StartAt};
use agent_api_model::{AgentId, Error, ErrorKind, Result, format_duration};
use async_nats::client::RequestErrorKind;
use async_nats::service::{Service, ServiceExt};
use async_nats::{Request, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Steering;
use crate::config::{ConnectConfig, NatsLimits, Placement};
use crate::connection::Connection;
use crate::health::{Link, NatsState};
use crate::incoming::{Intake, take_requests, take_steering};
use crate::publish::Publisher;
use crate::queue;
use crate::reader;
use crate::subject::{Layout, token};

/// How long tasks have to notice that they are cut.
const CUT: Duration = Duration::from_secs(1);
/// Under this name agents are found by `$SRV` requests.
const SERVICE: &str = "agent";

/// What a [`NatsBus`] is told.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The servers.
    pub connect: ConnectConfig,
    /// The subjects.
    pub layout: Layout,
    /// The agent whose bus it is.
    pub agent: AgentId,
    /// What callers may do whom the server's permissions let in; everything by default.
    pub access: Access,
    /// Which requests for any agent it takes; none by default.
    pub placement: Option<Placement>,
    /// Whether it takes the commands of its queue; so by default. The queue is made by [`setup`](crate::setup()).
    pub queue: bool,
    /// Bounds.
    pub limits: NatsLimits,
}

impl NatsConfig {
    /// The defaults for an agent on these servers.
    #[must_use]
    pub fn new(connect: ConnectConfig, agent: AgentId) -> Self {
        Self {
            connect,
            layout: Layout::default(),
            agent,
            access: Access::Full,
            placement: None,
            queue: true,
            limits: NatsLimits::default(),
        }
    }
}

/// The agent's end of the bus: takes requests and publishes.
pub struct NatsBus {
    config: NatsConfig,
    link: OnceCell<Out>,
    open: Mutex<Option<Arc<Open>>>,
    closing: CancellationToken,
}

/// The connection and what publishes on it.
struct Out {
    connection: Arc<Connection>,
    publisher: Arc<Publisher>,
    /// Readers of this bus end.
    ended: CancellationToken,
}

/// What there is while it is open, or was.
struct Open {
    intake: Arc<Intake>,
    /// The loops that take requests and commands.
    takers: TaskTracker,
    /// The loop that hears of long replies.
    steering: TaskTracker,
    steering_end: CancellationToken,
    service: Mutex<Option<Service>>,
}

impl fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBus")
            .field("address", &self.config.connect.shown())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Drop for NatsBus {
    /// Without a close before, everything is cut.
    fn drop(&mut self) {
        if let Some(open) = self.open.lock().take() {
            open.intake.closing.cancel();
            open.intake.force.cancel();
            open.steering_end.cancel();
        }
        if let Some(out) = self.link.get() {
            out.ended.cancel();
            out.connection.closing.cancel();
        }
    }
}

impl NatsBus {
    /// A bus that is not connected yet; the first use connects.
    #[must_use]
    pub fn new(config: NatsConfig) -> Self {
        Self {
            config,
            link: OnceCell::new(),
            open: Mutex::new(None),
            closing: CancellationToken::new(),
        }
    }

    /// What it does now, and what went wrong.
    #[must_use]
    pub fn state(&self) -> NatsState {
        let mut state = match self.link.get() {
            Some(out) => out.connection.health.state(),
            None => NatsState::default(),
        };
        if self.closing.is_cancelled() {
            state.link = Link::Closed;
        }
        if let Some(open) = self.open.lock().as_ref() {
            let limits = &open.intake.limits;
            state.requests = open.intake.in_flight.load(Ordering::Relaxed);
            state.streams = limits.streams - open.intake.streams.available_permits().min(limits.streams);
        }
        state
    }

    /// Tasks now: those of the connection and its readers, three or four that take requests, and one per request.
    #[must_use]
    pub fn tasks(&self) -> usize {
        let connection = self.link.get().map_or(0, |out| out.connection.tasks.len());
        let open = self.open.lock();
        connection
            + open.as_ref().map_or(0, |open| {
                open.takers.len() + open.steering.len() + open.intake.answering.len()
            })
    }

    async fn out(&self) -> Result<&Out> {
        if self.closing.is_cancelled() {
            return Err(closed("bus.publish"));
        }
        self.link
            .get_or_try_init(|| async {
                let connection = Connection::begin(self.config.connect.clone()).await?;
                Ok(Out {
                    publisher: Arc::new(Publisher::new(
                        Arc::clone(&connection),
                        self.config.layout.clone(),
                    )),
                    connection,
                    ended: CancellationToken::new(),
                })
            })
            .await
    }

    async fn subscriptions(
        &self,
        connection: &Connection,
    ) -> Result<(Subscriber, Subscriber, Vec<Subscriber>)> {
        let layout = &self.config.layout;
        let agent = self.config.agent.as_str();
        let failed = |error: async_nats::SubscribeError| {
            Error::internal("cannot subscribe to requests")
                .with_source(error)
                .with_operation("bus.open")
        };
        let client = &connection.client;
        // In a group, so that two agents with one id never both do what is asked once.
        let requests = client
            .queue_subscribe(layout.steer(agent, "*.*"), agent.to_owned())
            .await
            .map_err(failed)?;
        let steers = client.subscribe(layout.steer(agent, "*")).await.map_err(failed)?;
        let mut any = Vec::new();
        for kind in self
            .config
            .placement
            .iter()
            .flat_map(|placement| &placement.kinds)
        {
            let word = token(kind.as_str());
            let subject = layout.any_of(&word);
            any.push(client.queue_subscribe(subject, word).await.map_err(failed)?);
        }
        Ok((requests, steers, any))
    }
}

fn closed(operation: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "the bus is closed").with_operation(operation)
}

#[async_trait]
impl BusIn for NatsBus {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn address(&self) -> String {
        format!("{} as {}", self.config.connect.shown(), self.config.agent)
    }

    async fn open(&self, handler: Arc<dyn RequestHandler>) -> Result<()> {
        if self.open.lock().is_some() {
            return Err(
                Error::new(ErrorKind::Conflict, "the bus was opened before").with_operation("bus.open")
            );
        }
        let out = self.out().await?;
        let connection = &out.connection;
        let limits = self.config.limits.clone();
        let intake = Arc::new(Intake {
            connection: Arc::clone(connection),
            layout: self.config.layout.clone(),
            agent: self.config.agent.to_string(),
            handler,
            access: self.config.access,
            placement: self.config.placement.clone(),
            steering: Arc::new(Steering::default()),
            requests: Arc::new(Semaphore::new(limits.requests)),
            streams: Arc::new(Semaphore::new(limits.streams)),
            limits,
            in_flight: Arc::new(AtomicUsize::new(0)),
            closing: CancellationToken::new(),
            force: CancellationToken::new(),
            answering: TaskTracker::new(),
        });
        let (requests, steers, any) = self.subscriptions(connection).await?;
        let open = Arc::new(Open {
            intake: Arc::clone(&intake),
            takers: TaskTracker::new(),
            steering: TaskTracker::new(),
            steering_end: CancellationToken::new(),
            service: Mutex::new(None),
        });
        open.takers
            .spawn(take_requests(Arc::clone(&intake), requests, false));
        for subscriber in any {
            open.takers
                .spawn(take_requests(Arc::clone(&intake), subscriber, true));
        }
        open.steering.spawn(take_steering(
            Arc::clone(&intake),
            steers,
            open.steering_end.clone(),
        ));
        if self.config.queue {
            open.takers
                .spawn(queue::consume(intake, Arc::clone(&out.publisher)));
        }
        let metadata = HashMap::from([
            ("agent".to_owned(), self.config.agent.to_string()),
            ("root".to_owned(), self.config.layout.root().to_owned()),
        ]);
        match connection
            .client
            .service_builder()
            .description("An agent that manages objects")
            .metadata(metadata)
            .start(SERVICE, env!("CARGO_PKG_VERSION"))
            .await
        {
            Ok(service) => *open.service.lock() = Some(service),
            Err(error) => tracing::warn!(%error, "the agent cannot be discovered on the bus"),
        }
        *self.open.lock() = Some(open);
        // Where no server is there yet, the subscriptions are made as soon as it is.
        if connection.is_up()
            && let Err(error) = connection.barrier(self.config.connect.ack_timeout).await
        {
            tracing::warn!(%error, "the bus is slow to take the agent's subscriptions");
        }
        Ok(())
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        if self.closing.is_cancelled() {
            return Ok(());
        }
        let end = tokio::time::Instant::now() + deadline;
        let open = self.open.lock().clone();
        let mut left = 0;
        if let Some(open) = open {
            left = close_in(&open, self.link.get(), end).await;
        }
        self.closing.cancel();
        if let Some(out) = self.link.get() {
            out.publisher.close().await;
            if out.connection.is_up() {
                let _ = out.connection.barrier(CUT).await;
            }
            out.ended.cancel();
            out.connection.close().await;
        }
        if left == 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Timeout,
            format!("{left} requests got no whole answer before the bus closed"),
        )
        .with_operation("bus.close"))
    }
}

/// Ends Bus In; says how many requests got no whole answer.
async fn close_in(open: &Open, out: Option<&Out>, end: tokio::time::Instant) -> usize {
    let intake = &open.intake;
    let service = open.service.lock().take();
    if let Some(service) = service {
        let _ = service.stop().await;
    }
    intake.closing.cancel();
    open.takers.close();
    // The queue ends by `force` at the latest.
    let takers = tokio::time::timeout_at(end, open.takers.wait()).await;
    if let Some(out) = out
        && out.connection.is_up()
    {
        // From here on the server says that nobody is there.
        let _ = out.connection.barrier(CUT).await;
    }
    intake.answering.close();
    let answered = tokio::time::timeout_at(end, intake.answering.wait()).await;
    let left = intake.in_flight.load(Ordering::Relaxed);
    if takers.is_err() || answered.is_err() {
        intake.force.cancel();
        let rest = async {
            open.takers.wait().await;
            intake.answering.wait().await;
        };
        let _ = tokio::time::timeout(CUT, rest).await;
    }
    open.steering_end.cancel();
    open.steering.close();
    open.steering.wait().await;
    left
}

#[async_trait]
impl BusOut for NatsBus {
    fn name(&self) -> &'static str {
        "nats"
    }

    async fn publish(&self, messages: &[Message]) -> Result<()> {
        self.out().await?.publisher.publish(messages).await
    }

    async fn call(&self, method: &str, payload: Bytes, deadline: Duration) -> Result<Bytes> {
        let connection = &self.out().await?.connection;
        connection.need_up("bus.call")?;
        // An inbox of its own: a call without an answer leaves nothing behind.
        let request = Request::new()
            .payload(payload)
            .inbox(connection.client.new_inbox())
            .timeout(Some(deadline));
        let error = match connection.client.send_request(method.to_owned(), request).await {
            Ok(answer) => return Ok(answer.payload),
            Err(error) => error,
        };
        Err(match error.kind() {
            RequestErrorKind::NoResponders => Error::new(
                ErrorKind::Unsupported,
                format!("nobody answers {method:?} on the nats bus"),
            ),
            RequestErrorKind::TimedOut => Error::new(
                ErrorKind::Timeout,
                format!("{method} was not answered within {}", format_duration(deadline)),
            ),
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Error::new(
                ErrorKind::Invalid,
                format!("{method:?} cannot be called: {error}"),
            ),
            _ => connection.away("bus.call"),
        }
        .with_operation("bus.call"))
    }
}

/// For readers in the same process: they end when the bus closes.
#[async_trait]
impl BusReader for NatsBus {
    async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream> {
        let out = self.out().await?;
        reader::subscribe(
            Arc::clone(&out.connection),
            &self.config.layout,
            pattern,
            &from,
            out.ended.clone(),
        )
        .await
    }
}
