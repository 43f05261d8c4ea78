//! The link to one cluster: the service that every request goes through, whoever makes it.
//!
//! It connects when it is needed, connects anew when the files of the credentials change or the server refuses them,
//! bounds and paces requests, waits as long as a 429 asks for, counts, and knows how the cluster is. The client above it
//! never changes, so that watches and all else use the newest credentials with their next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use agent_api_driver::model::DriverState;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::{BoxError, Service};

use crate::config::ClusterConfig;
use crate::sdk::connect::{Connection, Files, NOWHERE, connect, is_anywhere};
use crate::sdk::requests::{Requests, Sort};

/// How often a request is tried again after a 429.
const THROTTLED_TRIES: u32 = 5;
/// The longest wait that is honoured within a request; a longer one is told to the caller.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long after a failed attempt to connect the next one is made at the earliest.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);

/// The link to one cluster.
pub(crate) struct Link {
    name: String,
    config: ClusterConfig,
    current: Mutex<Option<Current>>,
    /// Held while a connection is made, so that one is made at a time.
    connecting: tokio::sync::Mutex<Option<Failure>>,
    generation: AtomicU64,
    permits: Semaphore,
    pace: Option<Pace>,
    pub(crate) requests: Requests,
    state: watch::Sender<DriverState>,
}

#[derive(Clone)]
struct Current {
    client: Client,
    namespace: String,
    files: Files,
    looked: Instant,
    generation: u64,
}

/// An attempt to connect that failed.
struct Failure {
    at: Instant,
    reason: String,
}

/// Why a request did not leave this host.
#[derive(Debug)]
pub(crate) enum NotSent {
    /// There is no connection.
    NoConnection(String),
    /// The head of the answer did not come in time.
    NoAnswer(Duration),
}

impl std::fmt::Display for NotSent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoConnection(reason) => f.write_str(reason),
            Self::NoAnswer(after) => write!(f, "no answer within {}s", after.as_secs_f64()),
        }
    }
}

impl std::error::Error for NotSent {}

/// The service below the client that the driver uses.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<Link>);

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let link = Arc::clone(&self.0);
        Box::pin(async move { link.send(request).await })
    }
}

impl Link {
    pub(crate) fn new(name: &str, config: ClusterConfig) -> Self {
        let (state, _) = watch::channel(DriverState::Unavailable {
            reason: format!("cluster {name}: not reached yet"),
        });
        Self {
            name: name.to_owned(),
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(None),
            generation: AtomicU64::new(0),
            permits: Semaphore::new(config.max_requests),
            pace: config.requests_per_second.map(Pace::new),
            requests: Requests::new(name),
            state,
            config,
        }
    }

    /// A link over a client that exists, which is never connected anew.
    #[cfg(test)]
    pub(crate) fn over(name: &str, config: ClusterConfig, client: Client) -> Self {
        let link = Self::new(name, config);
        *link.current.lock() = Some(Current {
            namespace: client.default_namespace().to_owned(),
            client,
            files: Files::default(),
            looked: Instant::now(),
            generation: 0,
        });
        link
    }

    /// How the cluster is, and its changes.
    pub(crate) fn state(&self) -> watch::Receiver<DriverState> {
        self.state.subscribe()
    }

    /// The namespace of the connection's context, once there is a connection.
    pub(crate) fn namespace(&self) -> Option<String> {
        self.current
            .lock()
            .as_ref()
            .map(|current| current.namespace.clone())
    }

    /// Closes the connection. A request makes another one.
    pub(crate) fn close(&self) {
        *self.current.lock() = None;
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let sort = Sort::of(&request);
        let mut request = request;
        let (mut throttled, mut refused) = (0, false);
        loop {
            let again = copy(&request);
            let current = self.connection().await?;
            let answer = {
                let _permit = self.permits.acquire().await?;
                if let Some(pace) = &self.pace {
                    pace.turn().await;
                }
                self.send_once(&current, &sort, request).await?
            };
            let Some(copy) = again else { return Ok(answer) };
            match answer.status() {
                StatusCode::TOO_MANY_REQUESTS if throttled < THROTTLED_TRIES => match wait(&answer, &sort) {
                    Some(pause) => {
                        throttled += 1;
                        self.requests.throttled();
                        // Spread, so that those who were refused together do not come back together.
                        sleep(pause.mul_f64(1.0 + rand::random::<f64>() * 0.2)).await;
                    }
                    None => return Ok(answer),
                },
                StatusCode::UNAUTHORIZED if !refused => {
                    refused = true;
                    if !self.refresh(current.generation).await {
                        return Ok(answer);
                    }
                }
                _ => return Ok(answer),
            }
            request = copy;
        }
    }

    async fn send_once(
        &self,
        current: &Current,
        sort: &Sort,
        request: Request<Body>,
    ) -> Result<Response<Body>, BoxError> {
        let begun = Instant::now();
        let limit = self.config.request_timeout;
        let answer = timeout(limit, current.client.send(request)).await;
        let seconds = begun.elapsed().as_secs_f64();
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.requests.answered(sort, None, seconds);
                self.is(DriverState::Unavailable {
                    reason: format!("cluster {}: {}", self.name, crate::error::chain(&error)),
                });
                return Err(Box::new(error));
            }
            Err(_) => {
                self.requests.answered(sort, None, seconds);
                let error = NotSent::NoAnswer(limit);
                self.is(DriverState::Unavailable {
                    reason: format!("cluster {}: {error}", self.name),
                });
                return Err(Box::new(error));
            }
        };
        self.requests
            .answered(sort, Some(answer.status().as_u16()), seconds);
        self.is(match answer.status() {
            StatusCode::UNAUTHORIZED => DriverState::Unavailable {
                reason: format!("cluster {}: the server refuses the credentials", self.name),
            },
            // 503 comes from single aggregated APIs too, which says nothing of the rest.
            _ => DriverState::Healthy,
        });
        Ok(answer)
    }

    fn is(&self, next: DriverState) {
        self.state.send_if_modified(|state| {
            let changes = *state != next;
            if changes {
                *state = next;
            }
            changes
        });
    }

    /// The connection; makes one where there is none or its files have changed.
    async fn connection(&self) -> Result<Current, NotSent> {
        let (current, look) = {
            let mut current = self.current.lock();
            let look = current
                .as_mut()
                .filter(|current| current.looked.elapsed() >= Files::INTERVAL)
                .map(|current| current.looked = Instant::now())
                .is_some();
            (current.clone(), look)
        };
        match current {
            Some(current) if !look || !current.files.changed().await => Ok(current),
            Some(current) => {
                // The new files may be half written: the old connection serves until they can be read.
                Ok(self.reconnect(current.generation).await.unwrap_or(current))
            }
            None => self.reconnect(0).await,
        }
    }

    /// Connects anew where the files of the connection have changed since it was made. Says whether there is a newer
    /// connection than that one.
    async fn refresh(&self, generation: u64) -> bool {
        let current = self.current.lock().clone();
        match current {
            Some(current) if current.generation != generation => true,
            Some(current) if current.files.changed().await => self.reconnect(generation).await.is_ok(),
            _ => false,
        }
    }

    async fn reconnect(&self, generation: u64) -> Result<Current, NotSent> {
        let mut failure = self.connecting.lock().await;
        if let Some(current) = self
            .current
            .lock()
            .clone()
            .filter(|current| current.generation != generation)
        {
            return Ok(current);
        }
        if let Some(failure) = failure
            .as_ref()
            .filter(|failure| failure.at.elapsed() < CONNECT_PAUSE)
        {
            return Err(NotSent::NoConnection(failure.reason.clone()));
        }
        match connect(&self.config).await {
            Ok(Connection {
                client,
                namespace,
                files,
            }) => {
                *failure = None;
                let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
                let current = Current {
                    client,
                    namespace,
                    files,
                    looked: Instant::now(),
                    generation,
                };
                *self.current.lock() = Some(current.clone());
                if generation > 1 {
                    tracing::info!(cluster = self.name, "connected with new credentials");
                }
                Ok(current)
            }
            Err(error) => {
                let reason = match is_anywhere(&self.config) {
                    true => crate::error::chain(&error),
                    false => NOWHERE.to_owned(),
                };
                *failure = Some(Failure {
                    at: Instant::now(),
                    reason: reason.clone(),
                });
                self.is(DriverState::Unavailable {
                    reason: format!("cluster {}: {reason}", self.name),
                });
                Err(NotSent::NoConnection(reason))
            }
        }
    }
}

/// The same request once more; none where its body can be read only once.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let body = request.body().try_clone()?;
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// How long a 429 asks to wait. None where it does not say, where that is too long to wait here, and for evictions:
/// those are refused by a disruption budget, which is the caller's matter.
fn wait(answer: &Response<Body>, sort: &Sort) -> Option<Duration> {
    if sort.resource == "pods/eviction" {
        return None;
    }
    let seconds = answer
        .headers()
        .get(http::header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    let wait = Duration::from_secs(seconds);
    (wait <= LONGEST_WAIT).then_some(wait)
}

/// Spaces requests evenly.
struct Pace {
    between: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        Self {
            between: Duration::from_secs_f64(1.0 / per_second),
            next: Mutex::default(),
        }
    }

    async fn turn(&self) {
        let at = {
            let mut next = self.next.lock();
            let at = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(at + self.between);
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests;
