//! Calls to one cluster's dashboard: timeouts on each, the token, limits, breakers, counts.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind};
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::auth::Auth;
use super::breaker::Breaker;
use super::meter::Meter;
use crate::config::{ClusterConfig, Secret};
use crate::error;

/// Ray takes calls that look like a browser's for an attack.
const USER_AGENT: &str = concat!("agent-driver-ray/", env!("CARGO_PKG_VERSION"));
/// The largest answer that is taken into memory.
const MAX_ANSWER: usize = 64 << 20;
/// The largest text of a refusal that is read.
const MAX_REFUSAL: usize = 64 << 10;

/// A body that comes in pieces.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The dashboard of one cluster.
pub(crate) struct Client {
    cluster: String,
    base: Url,
    http: reqwest::Client,
    auth: Auth,
    meter: Meter,
    /// Reading and changing go different ways inside Ray: one may hang while the other answers.
    reads: Side,
    writes: Side,
    read_timeout: Duration,
    write_timeout: Duration,
    list_timeout: Duration,
}

struct Side {
    limit: Arc<Semaphore>,
    breaker: Breaker,
}

/// One call, built up and then sent.
pub(crate) struct Call<'a> {
    client: &'a Client,
    endpoint: &'static str,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<(Bytes, &'static str)>,
    timeout: Duration,
}

/// An answer that is a success.
pub(crate) struct Answer {
    response: Response,
    client_cluster: String,
    endpoint: &'static str,
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

fn install_tls() {
    static ONCE: Once = Once::new();
    // Another part of the program may have chosen one before: that one is as good.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

impl Client {
    /// A client for this cluster. Reaches nothing yet.
    pub(crate) fn new(cluster: &str, config: &ClusterConfig) -> Result<Self> {
        install_tls();
        let wrong = |field: &str, why: String| Error::invalid(format!("clusters.{cluster}.{field}"), why);
        let address = config.resolve_address();
        let base =
            Url::parse(&address).map_err(|e| wrong("address", format!("{address:?} is no address: {e}")))?;
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(config.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(config.max_reads)
            .tcp_keepalive(Duration::from_secs(30));
        let read = |field: &str, file: &std::path::Path| {
            std::fs::read(file).map_err(|e| wrong(field, format!("{} cannot be read: {e}", file.display())))
        };
        if let Some(file) = &config.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(&read("ca", file)?)
                .map_err(|e| wrong("ca", format!("{} is no certificate: {e}", file.display())))?;
            builder = builder.tls_certs_only(certificates);
        }
        if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
            let mut pem = read("cert", cert)?;
            pem.push(b'\n');
            pem.extend(read("key", key)?);
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|e| wrong("cert", format!("certificate and key do not fit: {e}")))?;
            builder = builder.identity(identity);
        }
        let http = builder
            .build()
            .map_err(|e| Error::internal("cannot make an HTTP client").with_source(e))?;
        let side = |most| Side {
            limit: Arc::new(Semaphore::new(most)),
            breaker: Breaker::new(config.breaker),
        };
        Ok(Self {
            cluster: cluster.to_owned(),
            base,
            http,
            auth: Auth::new(config),
            meter: Meter::new(cluster),
            reads: side(config.max_reads),
            writes: side(config.max_writes),
            read_timeout: config.read_timeout,
            write_timeout: config.write_timeout,
            list_timeout: config.list_timeout,
        })
    }

    /// Where the dashboard is, without credentials.
    pub(crate) fn address(&self) -> String {
        let mut shown = self.base.clone();
        // Only addresses that cannot have a user refuse this.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.as_str().trim_end_matches('/').to_owned()
    }

    /// The cluster's name, for errors.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// A call that reads. `endpoint` names it in metrics.
    pub(crate) fn get(&self, endpoint: &'static str, path: impl Into<String>) -> Call<'_> {
        self.call(endpoint, Method::GET, path.into(), self.read_timeout)
    }

    /// A call that lists everything and may take long.
    pub(crate) fn list(&self, endpoint: &'static str, path: impl Into<String>) -> Call<'_> {
        self.call(endpoint, Method::GET, path.into(), self.list_timeout)
    }

    /// A call that changes something.
    pub(crate) fn write(&self, endpoint: &'static str, method: Method, path: impl Into<String>) -> Call<'_> {
        self.call(endpoint, method, path.into(), self.write_timeout)
    }

    fn call(&self, endpoint: &'static str, method: Method, path: String, timeout: Duration) -> Call<'_> {
        Call {
            client: self,
            endpoint,
            method,
            path,
            query: Vec::new(),
            body: None,
            timeout,
        }
    }

    async fn send(&self, call: &Call<'_>, token: Option<&Secret>, left: Duration) -> Result<Response> {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}{}",
            self.base.path().trim_end_matches('/'),
            call.path
        ));
        if !call.query.is_empty() {
            url.query_pairs_mut()
                .extend_pairs(call.query.iter().map(|(key, value)| (*key, value)));
        }
        let mut request = self.http.request(call.method.clone(), url).timeout(left);
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal())).map_err(|_| {
                Error::new(
                    ErrorKind::Denied,
                    format!(
                        "the token of the Ray cluster {} is no token: it has characters that cannot be sent",
                        self.cluster
                    ),
                )
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let mut sent = 0;
        if let Some((body, content_type)) = &call.body {
            sent = body.len();
            request = request.header(CONTENT_TYPE, *content_type).body(body.clone());
        }
        let changes = call.method != Method::GET;
        let side = if changes { &self.writes } else { &self.reads };
        let began = Instant::now();
        let result = request.send().await;
        side.breaker.note(result.is_ok());
        let outcome = match &result {
            Ok(response) => response.status().as_u16().to_string(),
            Err(e) if e.is_timeout() => "timeout".to_owned(),
            Err(_) => "unreachable".to_owned(),
        };
        self.meter.call(call.endpoint, &outcome, began.elapsed(), sent);
        result.map_err(|e| error::no_answer(&e, changes, &self.cluster))
    }
}

impl<'a> Call<'a> {
    /// Adds a parameter.
    pub(crate) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// Sends this as JSON.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("bodies have only string keys and finite numbers");
        self.body = Some((body.into(), "application/json"));
        self
    }

    /// Sends these bytes.
    pub(crate) fn bytes(mut self, body: Bytes) -> Self {
        self.body = Some((body, "application/octet-stream"));
        self
    }

    /// Ends by then, if the call's own timeout is not shorter.
    pub(crate) fn within(mut self, left: Duration) -> Self {
        self.timeout = self.timeout.min(left);
        self
    }

    /// Sends it; an answer that is no success is an error.
    pub(crate) async fn send(self) -> Result<Answer> {
        let client = self.client;
        let deadline = Instant::now() + self.timeout;
        let side = if self.method == Method::GET {
            &client.reads
        } else {
            &client.writes
        };
        side.breaker.admit().map_err(|wait| {
            Error::new(
                ErrorKind::Unavailable,
                format!("the Ray cluster {} did not answer the last calls", client.cluster),
            )
            .retry_after(wait)
        })?;
        let permit = match timeout(self.timeout, Arc::clone(&side.limit).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "too many calls to the Ray cluster {} are in flight",
                        client.cluster
                    ),
                ));
            }
        };
        let token = client.auth.token().await;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut response = client.send(&self, token.as_ref(), left()).await?;
        if matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) && client.auth.refused(token.as_ref()).await
        {
            let token = client.auth.token().await;
            response = client.send(&self, token.as_ref(), left()).await?;
        }
        let status = response.status();
        let answer = Answer {
            response,
            client_cluster: client.cluster.clone(),
            endpoint: self.endpoint,
            deadline,
            _permit: permit,
        };
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.take(MAX_REFUSAL, client).await.unwrap_or_default();
        Err(error::answer(
            status.as_u16(),
            &String::from_utf8_lossy(&text),
            &client.cluster,
        ))
    }

    /// Sends it and reads the answer as JSON.
    pub(crate) async fn json_answer<T: DeserializeOwned>(self) -> Result<T> {
        let (client, endpoint) = (self.client, self.endpoint);
        let body = self.body().await?;
        serde_json::from_slice(&body).map_err(|e| error::unreadable(endpoint, e, &client.cluster))
    }

    /// Sends it and reads the `data` of Ray's envelope `{"result": …, "msg": …, "data": …}`.
    pub(crate) async fn data<T: DeserializeOwned>(self) -> Result<T> {
        #[derive(serde::Deserialize)]
        struct Envelope {
            result: bool,
            #[serde(default)]
            msg: String,
            #[serde(default)]
            data: Value,
        }
        let (client, endpoint) = (self.client, self.endpoint);
        let envelope: Envelope = self.json_answer().await?;
        if !envelope.result {
            return Err(error::answer(500, &envelope.msg, &client.cluster));
        }
        serde_json::from_value(envelope.data).map_err(|e| error::unreadable(endpoint, e, &client.cluster))
    }

    /// Sends it and reads the whole answer.
    pub(crate) async fn body(self) -> Result<Bytes> {
        let client = self.client;
        self.send().await?.take(MAX_ANSWER, client).await
    }
}

impl Answer {
    async fn take(self, most: usize, client: &Client) -> Result<Bytes> {
        let endpoint = self.endpoint;
        let mut pieces = self.pieces(client);
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if all.len() + piece.len() > most {
                return Err(error::unreadable(
                    endpoint,
                    format!("it is larger than {most} bytes"),
                    client.cluster(),
                ));
            }
            if all.is_empty() {
                all.reserve(piece.len());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }

    /// The body in pieces, until the call's deadline. Dropping it ends the call.
    pub(crate) fn pieces(self, client: &Client) -> Pieces {
        let (endpoint, deadline, cluster) = (self.endpoint, self.deadline, self.client_cluster);
        let received = client.meter.received_by(endpoint);
        let permit = self._permit;
        let state = (
            Box::pin(self.response.bytes_stream()),
            received,
            permit,
            cluster,
            false,
        );
        Box::pin(futures_util::stream::unfold(
            state,
            move |(mut body, received, permit, cluster, failed)| async move {
                if failed {
                    return None;
                }
                let item = match tokio::time::timeout_at(deadline, body.next()).await {
                    Ok(Some(Ok(bytes))) => {
                        received.add(bytes.len());
                        Ok(bytes)
                    }
                    Ok(None) => return None,
                    Ok(Some(Err(e))) => Err(error::no_answer(&e, false, &cluster)),
                    Err(_) => Err(Error::new(
                        ErrorKind::Timeout,
                        format!("the Ray cluster {cluster} did not end its answer in time"),
                    )),
                };
                let failed = item.is_err();
                Some((item, (body, received, permit, cluster, failed)))
            },
        ))
    }
}
