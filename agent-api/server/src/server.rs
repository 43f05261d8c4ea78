//! The server.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_api_agent::AgentApi;
use agent_api_bus_in::{Access, Incoming, RequestHandler, Response};
use agent_api_model::{
    Error, ErrorKind, ExecInput, ExecInputRequest, ExecRequest, HealthReport, ListRequest, LogRequest,
    MonitorRequest, PlanRequest, ReplyBody, RequestId, RequestMeta, Result, StageTimes, Target, Timestamp,
    Verb, WatchRequest,
};
use async_trait::async_trait;
use futures_util::FutureExt;

use crate::body::{Drain, Nothing, SchemaBody, Unmonitor};
use crate::change::{Wanted, no_object, wanted};
use crate::config::{ServerConfig, ServerState};
use crate::decode::{alike, decode};
use crate::limit::{Places, Rate};
use crate::reply::{reply, since_received, validated};
use crate::rights::access_needed;
use crate::{audit, batch, stream};

/// How long a drain may take where the request says nothing.
const DRAIN: Duration = Duration::from_secs(30);
/// The longest trace context that is passed on.
const LONGEST_TRACE: usize = 512;
/// What is wrong with a terminal of no size.
const NO_SIZE: &str = "a terminal has at least one column and one row";
/// Asked for beside the verbs: whether it lives, whether it is ready, its metrics.
const LIVE: &str = "live";
const READY: &str = "ready";
const METRICS: &str = "metrics";

/// Answers the requests of all buses for one agent.
pub struct Server {
    agent: Arc<dyn AgentApi>,
    config: ServerConfig,
    requests: Places,
    streams: Places,
    rate: Rate,
    handled: AtomicU64,
    refused: AtomicU64,
    busy: AtomicU64,
}

/// A request whose head was checked.
struct Checked {
    verb: Verb,
    object: Option<Target>,
    meta: RequestMeta,
    incoming: Incoming,
}

/// An answer and its stage times.
type Answer = (ReplyBody, StageTimes);

impl Server {
    /// A server in front of an agent.
    #[must_use]
    pub fn new(agent: Arc<dyn AgentApi>, config: ServerConfig) -> Self {
        Self {
            agent,
            requests: Places::new(config.requests, "requests"),
            streams: Places::new(config.streams, "streams"),
            rate: Rate::new(config.rate),
            config,
            handled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        }
    }

    /// What it does now, and what it did.
    #[must_use]
    pub fn state(&self) -> ServerState {
        ServerState {
            requests: self.requests.taken(),
            streams: self.streams.taken(),
            handled: self.handled.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
        }
    }

    async fn answer(&self, mut incoming: Incoming) -> Response {
        if incoming.received == Timestamp::EPOCH {
            incoming.received = Timestamp::now();
        }
        let received = incoming.received;
        if let Some(response) = self.probe(&incoming) {
            return response;
        }
        let id = match request_id(incoming.id.as_deref(), "id") {
            Ok(id) => id.unwrap_or_else(RequestId::generate),
            Err(error) => return reply(None, Err(error), validated(received)),
        };
        let result = match self.check(incoming, id.clone()) {
            Ok(checked) => self.ask(checked).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(Asked::One(answer, stages)) => reply(Some(id), Ok(answer), stages),
            Ok(Asked::Stream(response)) => response,
            Err(error) => reply(Some(id), Err(error), validated(received)),
        }
    }

    /// What a probe asks for: answered whatever the load.
    fn probe(&self, incoming: &Incoming) -> Option<Response> {
        let stages = || validated(incoming.received);
        let health = |ok: fn(&HealthReport) -> bool, what: &str| {
            let report = self.agent.health();
            let answer = if ok(&report) {
                Ok(ReplyBody::Health(report))
            } else {
                let why = if report.draining {
                    "it is draining".into()
                } else {
                    report.problems.join("; ")
                };
                let why = if why.is_empty() { why } else { format!(": {why}") };
                Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the agent is not {what}{why}"),
                ))
            };
            reply(None, answer, stages())
        };
        if !matches!(incoming.verb.as_str(), LIVE | READY | METRICS) {
            return None;
        }
        if incoming.access < Access::Read {
            return Some(reply(
                None,
                Err(no_right(&incoming.caller, &incoming.verb)),
                stages(),
            ));
        }
        Some(match (incoming.verb.as_str(), &self.config.metrics) {
            (LIVE, _) => health(|report| report.live, "alive"),
            (READY, _) => health(|report| report.ready && !report.draining, "ready"),
            (_, Some(metrics)) => Response::Text {
                content_type: "text/plain; version=0.0.4",
                body: metrics().into(),
            },
            (_, None) => {
                let error = Error::new(ErrorKind::Unsupported, "this agent was built without metrics");
                reply(None, Err(error), stages())
            }
        })
    }

    /// Everything but the body: verb, rights, limits, names, deadline.
    fn check(&self, incoming: Incoming, id: RequestId) -> Result<Checked> {
        let meta = RequestMeta {
            id,
            idempotency_key: None,
            deadline: None,
            traceparent: incoming
                .traceparent
                .clone()
                .filter(|text| text.len() <= LONGEST_TRACE && text.bytes().all(|b| b.is_ascii_graphic())),
            caller: incoming.caller.clone(),
        };
        let verb = verb(&incoming.verb)?;
        if incoming.access < access_needed(verb) {
            let error = no_right(&incoming.caller, verb.as_str());
            let object: String = incoming
                .object
                .iter()
                .flat_map(|name| name.chars())
                .take(80)
                .collect();
            audit::write(&meta, verb.as_str(), &object, Some(&error));
            return Err(error);
        }
        if verb != Verb::Health {
            self.rate.take(&incoming.caller)?;
        }
        let object = match incoming.object.as_deref() {
            None => None,
            Some(text) => Some(
                text.parse::<Target>()
                    .map_err(|message| Error::invalid("object", message))?,
            ),
        };
        let deadline = match incoming.deadline.as_deref() {
            None => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| {
                Error::invalid("deadline", "is not an RFC 3339 time such as 2026-01-31T12:00:00Z")
            })?),
        };
        if deadline.is_some_and(|deadline| deadline < Timestamp::now()) {
            return Err(Error::new(
                ErrorKind::Expired,
                "the request's deadline had passed before it began; nothing was done",
            ));
        }
        let meta = RequestMeta {
            idempotency_key: request_id(incoming.idempotency_key.as_deref(), "idempotency_key")?,
            deadline,
            ..meta
        };
        Ok(Checked {
            verb,
            object,
            meta,
            incoming,
        })
    }

    async fn ask(&self, request: Checked) -> Result<Asked> {
        let _place = match request.verb {
            Verb::Health => None,
            _ => Some(self.requests.take()?),
        };
        let body = &request.incoming.payload;
        let limits = self.config.body;
        let change = wanted(request.verb, request.object.clone(), body, limits);
        match change {
            Ok(None) => {}
            Ok(Some(change)) => return self.change(request, change).await.map(Asked::from),
            Err(error) => {
                let object = request
                    .object
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                audit::write(&request.meta, request.verb.as_str(), &object, Some(&error));
                return Err(error);
            }
        }
        match request.verb {
            Verb::Watch => {
                let mut watch: WatchRequest = decode(body, limits)?;
                place_object(&mut watch.object, request.object)?;
                let place = self.streams.take()?;
                Ok(Asked::Stream(stream::frames(self.agent.watch(&watch)?, place)))
            }
            Verb::Logs => {
                let logs: LogRequest = decode(body, limits)?;
                let target = request.object.as_ref().ok_or_else(|| no_object(Verb::Logs))?;
                let place = self.streams.take()?;
                let lines = self.agent.logs(target, &logs).await?;
                Ok(Asked::Stream(stream::frames(lines, place)))
            }
            Verb::Exec => {
                let result = self.exec(&request).await;
                let object = request
                    .object
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                audit::write(
                    &request.meta,
                    request.verb.as_str(),
                    &object,
                    result.as_ref().err(),
                );
                result.map(Asked::Stream)
            }
            Verb::Describe | Verb::Explain => {
                let target = request.object.as_ref().ok_or_else(|| no_object(request.verb))?;
                decode::<Nothing>(body, limits)?;
                let stages = validated(request.incoming.received);
                let answer = if request.verb == Verb::Describe {
                    ReplyBody::Description(Box::new(self.agent.describe(target)?))
                } else {
                    ReplyBody::Explanation(Box::new(self.agent.explain(target)?))
                };
                Ok(Asked::One(answer, stages))
            }
            Verb::Monitor => self.monitor(request).await.map(Asked::from),
            _ => self.ask_agent(request).await.map(Asked::from),
        }
    }

    async fn change(&self, request: Checked, change: Wanted) -> Result<Answer> {
        let received = request.incoming.received;
        match change {
            Wanted::One(change) => {
                let object = match &change {
                    agent_api_agent::Change::Create(spec) => spec.name.to_string(),
                    _ => request
                        .object
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                };
                let result = self.agent.submit(request.meta.clone(), change).await;
                audit::write(
                    &request.meta,
                    request.verb.as_str(),
                    &object,
                    result.as_ref().err(),
                );
                let (accepted, stages) = result?;
                Ok((ReplyBody::Accepted(accepted), since_received(stages, received)))
            }
            Wanted::Many(selector, each) => {
                let stages = validated(received);
                let concurrency = self.config.batch_concurrency;
                let chosen = selector.to_string();
                let (agent, meta) = (&self.agent, &request.meta);
                let items = batch::run(agent, meta, request.verb, selector, &each, concurrency)
                    .await
                    .inspect_err(|error| audit::write(meta, request.verb.as_str(), &chosen, Some(error)))?;
                Ok((ReplyBody::Batch(items), stages))
            }
        }
    }

    async fn exec(&self, request: &Checked) -> Result<Response> {
        let exec: ExecRequest = decode(&request.incoming.payload, self.config.body)?;
        let target = request.object.as_ref().ok_or_else(|| no_object(Verb::Exec))?;
        if exec.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command", "must not be empty"));
        }
        if exec
            .terminal
            .is_some_and(|size| size.columns == 0 || size.rows == 0)
        {
            return Err(Error::invalid("terminal", NO_SIZE));
        }
        let place = self.streams.take()?;
        let frames = self.agent.exec(&request.meta.caller, target, &exec).await?;
        Ok(stream::frames(frames, place))
    }

    /// Input for a command. What is refused leaves a line in the audit log; the rest belongs to the exec that has one.
    async fn exec_input(&self, request: &Checked) -> Result<ReplyBody> {
        let input: ExecInputRequest = decode(&request.incoming.payload, self.config.body)?;
        if let ExecInput::Resize { size } = &input.input
            && (size.columns == 0 || size.rows == 0)
        {
            return Err(Error::invalid("input.size", NO_SIZE));
        }
        self.agent
            .exec_input(&request.meta.caller, &input)
            .await
            .inspect_err(|error| audit::write(&request.meta, request.verb.as_str(), "", Some(error)))?;
        Ok(ReplyBody::Done)
    }

    async fn monitor(&self, request: Checked) -> Result<Answer> {
        let mut monitor: MonitorRequest = decode(&request.incoming.payload, self.config.body)?;
        place_object(&mut monitor.object, request.object)?;
        let stages = validated(request.incoming.received);
        let result = self.agent.monitor(&monitor).await;
        let object = monitor
            .object
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        audit::write(
            &request.meta,
            request.verb.as_str(),
            &object,
            result.as_ref().err(),
        );
        Ok((ReplyBody::Lease(Box::new(result?)), stages))
    }

    /// The verbs that address no object.
    async fn ask_agent(&self, request: Checked) -> Result<Answer> {
        if request.object.is_some() {
            return Err(Error::invalid(
                "object",
                format!("{} takes no object in its address", request.verb),
            ));
        }
        let (body, limits) = (&request.incoming.payload, self.config.body);
        let stages = validated(request.incoming.received);
        let agent = &self.agent;
        let nothing = || decode::<Nothing>(body, limits);
        let audited = |result: Result<ReplyBody>| {
            audit::write(&request.meta, request.verb.as_str(), "", result.as_ref().err());
            result
        };
        let answer = match request.verb {
            Verb::List => ReplyBody::List(agent.list(&decode::<ListRequest>(body, limits)?)),
            Verb::Plan => {
                let plan: PlanRequest = decode(body, limits)?;
                if let PlanRequest::Apply(spec) = &plan {
                    spec.check()?;
                }
                ReplyBody::Plan(Box::new(agent.plan(&plan).await?))
            }
            Verb::Unmonitor => {
                let lease = decode::<Unmonitor>(body, limits)?.lease;
                audited(agent.unmonitor(lease).await.map(|()| ReplyBody::Done))?
            }
            Verb::ExecInput => self.exec_input(&request).await?,
            Verb::Info => nothing().map(|_| ReplyBody::Info(Box::new(agent.info())))?,
            Verb::Drivers => nothing().map(|_| ReplyBody::Drivers(agent.drivers()))?,
            Verb::Health => nothing().map(|_| ReplyBody::Health(agent.health()))?,
            Verb::Schema => ReplyBody::Schema(agent.schema(&decode::<SchemaBody>(body, limits)?.kind)?),
            Verb::Drain => {
                let deadline = decode::<Drain>(body, limits)?.deadline.unwrap_or(DRAIN);
                audited(agent.drain(deadline).await.map(|()| ReplyBody::Done))?
            }
            Verb::Reload => {
                nothing()?;
                audited(agent.reload().await.map(ReplyBody::Reloaded))?
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{other} is not answered by this server"),
                ));
            }
        };
        Ok((answer, stages))
    }
}

enum Asked {
    One(ReplyBody, StageTimes),
    Stream(Response),
}

impl From<Answer> for Asked {
    fn from((body, stages): Answer) -> Self {
        Self::One(body, stages)
    }
}

/// The verb, or the one that may have been meant.
fn verb(text: &str) -> Result<Verb> {
    text.parse::<Verb>().map_err(
        |error| match alike(text, Verb::ALL.iter().map(|verb| verb.as_str())) {
            Some(meant) => error.with_hint(format!("did you mean `{meant}`?")),
            None => error,
        },
    )
}

fn no_right(caller: &str, verb: &str) -> Error {
    let caller = if caller.is_empty() { "this caller" } else { caller };
    Error::new(ErrorKind::Denied, format!("{caller} may not {verb}"))
        .with_hint("ask as the agent's own user, as root, or with its token")
}

fn request_id(text: Option<&str>, path: &str) -> Result<Option<RequestId>> {
    text.map(|text| RequestId::new(text).map_err(|message| Error::invalid(path, message)))
        .transpose()
}

/// The object of the address goes into the body, where none is there.
fn place_object(place: &mut Option<Target>, object: Option<Target>) -> Result<()> {
    match (&place, object) {
        (Some(_), Some(_)) => Err(Error::invalid(
            "object",
            "is in the address already; use one or the other",
        )),
        (None, Some(object)) => {
            *place = Some(object);
            Ok(())
        }
        (_, None) => Ok(()),
    }
}

#[async_trait]
impl RequestHandler for Server {
    async fn handle(&self, incoming: Incoming) -> Response {
        self.handled.fetch_add(1, Ordering::Relaxed);
        let received = incoming.received;
        // A fault in the agent fails this request alone.
        let response = match AssertUnwindSafe(self.answer(incoming)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!("a request made the agent panic");
                let error = Error::internal("a fault of the agent; the request may have been accepted")
                    .with_hint("see the agent's own log, and `agent explain` of the object");
                reply(None, Err(error), validated(received))
            }
        };
        if let Response::One {
            error: Some(kind), ..
        } = &response
        {
            self.refused.fetch_add(1, Ordering::Relaxed);
            if *kind == ErrorKind::Busy {
                self.busy.fetch_add(1, Ordering::Relaxed);
            }
        }
        response
    }
}
