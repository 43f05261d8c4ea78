//! The client and its methods that have one answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, Response};
use agent_api_bus_out::BusReader;
use agent_api_model::{
    Accepted, AgentInfo, BatchItem, Change, ControlAction, DeleteRequest, Description, DriverView, Error,
    ErrorKind, ExecInputRequest, Explanation, HealthReport, Kind, Lease, LeaseId, ListRequest,
    MonitorRequest, ObjectSpec, ObjectView, Plan, PlanRequest, ReplyBody, Result, Selector, Target,
    UpdateRequest, Verb,
};
use futures_core::Stream;
use serde_json::{Value, json};

use crate::send::{Call, unexpected};

/// A stream of results; dropping it tells the agent to stop.
pub type ResultStream<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

/// How a [`Client`] asks.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How long a request may take with all its repeats; 30 s by default. It is also told to the agent, so that a
    /// change is never made after the caller gave up.
    pub deadline: Duration,
    /// How long one try may take; 10 s by default.
    pub attempt: Duration,
    /// Whether to wait for an agent that is not there, within the deadline. Not by default: a person wants to know at
    /// once.
    pub wait_for_agent: bool,
    /// W3C trace context that each request bears.
    pub traceparent: Option<String>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            attempt: Duration::from_secs(10),
            wait_for_agent: false,
            traceparent: None,
        }
    }
}

/// What [`Client::apply`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What was accepted.
    pub accepted: Accepted,
    /// Whether the object was created; else an object of that name was there and got this spec.
    pub created: bool,
}

/// A client of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) caller: Arc<dyn BusCaller>,
    pub(crate) reader: Option<Arc<dyn BusReader>>,
    pub(crate) config: Arc<ClientConfig>,
}

macro_rules! expect_body {
    ($reply:expr, $verb:expr, $($variant:ident)|+) => {
        match $reply {
            $(ReplyBody::$variant(body) => Ok(body),)+
            other => Err(unexpected($verb, &other)),
        }
    };
}

impl Client {
    /// A client over a bus. Without a reader there are no events.
    #[must_use]
    pub fn new(caller: Arc<dyn BusCaller>, reader: Option<Arc<dyn BusReader>>) -> Self {
        Self {
            caller,
            reader,
            config: Arc::default(),
        }
    }

    /// The same client with another configuration.
    #[must_use]
    pub fn with_config(mut self, config: ClientConfig) -> Self {
        self.config = Arc::new(config);
        self
    }

    /// How it asks.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Creates an object. Returns when that is durable, not when the object runs: see [`Client::wait_for`].
    pub async fn create(&self, spec: &ObjectSpec) -> Result<Accepted> {
        let call = Call::new(Verb::Create).body(spec)?;
        expect_body!(self.one(call).await?, Verb::Create, Accepted)
    }

    /// Changes an object's spec.
    pub async fn update(&self, target: &Target, request: &UpdateRequest) -> Result<Accepted> {
        let call = Call::new(Verb::Update).object(target).body(request)?;
        expect_body!(self.one(call).await?, Verb::Update, Accepted)
    }

    /// Creates the object, or gives the object of that name this spec.
    pub async fn apply(&self, spec: &ObjectSpec) -> Result<Applied> {
        match self.create(spec).await {
            Ok(accepted) => {
                return Ok(Applied {
                    accepted,
                    created: true,
                });
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let request = UpdateRequest {
            change: Change::Replace(Box::new(spec.clone())),
            expected_generation: None,
        };
        let accepted = self.update(&Target::Name(spec.name.clone()), &request).await?;
        Ok(Applied {
            accepted,
            created: false,
        })
    }

    /// Deletes one object; the request's selector must not be set.
    pub async fn delete(&self, target: &Target, request: &DeleteRequest) -> Result<Accepted> {
        let call = Call::new(Verb::Delete).object(target).body(request)?;
        expect_body!(self.one(call).await?, Verb::Delete, Accepted)
    }

    /// Deletes all objects that the selector chooses; each is accepted or refused for itself.
    pub async fn delete_selected(
        &self,
        selector: &Selector,
        request: &DeleteRequest,
    ) -> Result<Vec<BatchItem>> {
        let request = DeleteRequest {
            selector: Some(selector.clone()),
            ..request.clone()
        };
        let call = Call::new(Verb::Delete).body(&request)?;
        expect_body!(self.one(call).await?, Verb::Delete, Batch)
    }

    /// Pauses, resumes, restarts, signals, scales or resizes one object, or calls a method of its kind.
    pub async fn control(&self, target: &Target, action: &ControlAction) -> Result<Accepted> {
        let verb = action.verb();
        let call = Call::new(verb)
            .object(target)
            .body(&control_body(action, None)?)?;
        expect_body!(self.one(call).await?, verb, Accepted)
    }

    /// The same with all objects that the selector chooses; each is accepted or refused for itself.
    pub async fn control_selected(
        &self,
        selector: &Selector,
        action: &ControlAction,
    ) -> Result<Vec<BatchItem>> {
        let verb = action.verb();
        let call = Call::new(verb).body(&control_body(action, Some(selector))?)?;
        expect_body!(self.one(call).await?, verb, Batch)
    }

    /// View, spec and methods of an object.
    pub async fn describe(&self, target: &Target) -> Result<Description> {
        let call = Call::new(Verb::Describe).object(target);
        Ok(*expect_body!(self.one(call).await?, Verb::Describe, Description)?)
    }

    /// Views by name.
    pub async fn list(&self, request: &ListRequest) -> Result<Vec<Arc<ObjectView>>> {
        let call = Call::new(Verb::List).body(request)?;
        expect_body!(self.one(call).await?, Verb::List, List)
    }

    /// The chain of events that led an object where it is.
    pub async fn explain(&self, target: &Target) -> Result<Explanation> {
        let call = Call::new(Verb::Explain).object(target);
        Ok(*expect_body!(self.one(call).await?, Verb::Explain, Explanation)?)
    }

    /// What a request would do. Changes nothing.
    pub async fn plan(&self, request: &PlanRequest) -> Result<Plan> {
        let call = Call::new(Verb::Plan).body(request)?;
        Ok(*expect_body!(self.one(call).await?, Verb::Plan, Plan)?)
    }

    /// Begins a monitor lease. Not repeated where the answer got lost: a second lease would run beside the first.
    pub async fn monitor(&self, request: &MonitorRequest) -> Result<Lease> {
        let call = Call::new(Verb::Monitor).body(request)?.once();
        Ok(*expect_body!(self.one(call).await?, Verb::Monitor, Lease)?)
    }

    /// Renews a monitor lease.
    pub async fn renew(&self, id: LeaseId) -> Result<Lease> {
        let call = Call::new(Verb::Monitor).body(&json!({ "renew": id }))?;
        Ok(*expect_body!(self.one(call).await?, Verb::Monitor, Lease)?)
    }

    /// Ends a monitor lease.
    pub async fn unmonitor(&self, id: LeaseId) -> Result<()> {
        self.done(Call::new(Verb::Unmonitor).body(&json!({ "lease": id }))?)
            .await
    }

    /// What the agent says of itself.
    pub async fn info(&self) -> Result<AgentInfo> {
        Ok(*expect_body!(
            self.one(Call::new(Verb::Info)).await?,
            Verb::Info,
            Info
        )?)
    }

    /// The drivers and their kinds.
    pub async fn drivers(&self) -> Result<Vec<DriverView>> {
        expect_body!(self.one(Call::new(Verb::Drivers)).await?, Verb::Drivers, Drivers)
    }

    /// The JSON Schema of a whole object of a kind.
    pub async fn schema(&self, kind: &Kind) -> Result<Value> {
        let call = Call::new(Verb::Schema).body(&json!({ "kind": kind }))?;
        expect_body!(self.one(call).await?, Verb::Schema, Schema)
    }

    /// Whether the agent can work.
    pub async fn health(&self) -> Result<HealthReport> {
        expect_body!(self.one(Call::new(Verb::Health)).await?, Verb::Health, Health)
    }

    /// The agent's own metrics, as Prometheus reads them.
    pub async fn metrics(&self) -> Result<String> {
        match self.send(&Call::named("metrics")).await? {
            Response::Text { body, .. } => Ok(String::from_utf8_lossy(&body).into_owned()),
            Response::One { body, .. } => {
                let other = crate::send::read_reply(&body)?;
                Err(unexpected("metrics", &other))
            }
            Response::Stream(_) => Err(unexpected("metrics", &"a stream")),
        }
    }

    /// Tells the agent to take no more changes, to finish by the deadline, and to end. Returns when it is drained.
    pub async fn drain(&self, deadline: Duration) -> Result<()> {
        let text = agent_api_model::format_duration(deadline);
        self.done(
            Call::new(Verb::Drain)
                .body(&json!({ "deadline": text }))?
                .within(deadline + self.config.deadline),
        )
        .await
    }

    /// Tells the agent to read its configuration again. Returns what changed, a sentence each.
    pub async fn reload(&self) -> Result<Vec<String>> {
        expect_body!(self.one(Call::new(Verb::Reload)).await?, Verb::Reload, Reloaded)
    }

    /// Sends input, or the size of its terminal, to a command that was started interactively: see
    /// [`ExecFrame::Session`](agent_api_model::ExecFrame::Session). Send one after the other: each waits until there is
    /// room. Sent again only where nothing of it was taken in.
    pub async fn exec_input(&self, request: &ExecInputRequest) -> Result<()> {
        self.done(Call::new(Verb::ExecInput).body(request)?.once()).await
    }

    async fn done(&self, call: Call) -> Result<()> {
        let verb = call.verb.clone();
        match self.one(call).await? {
            ReplyBody::Done => Ok(()),
            other => Err(unexpected(verb, &other)),
        }
    }
}

fn control_body(action: &ControlAction, selector: Option<&Selector>) -> Result<Value> {
    let mut body = serde_json::to_value(action)
        .map_err(|error| Error::internal("the request cannot be written as JSON").with_source(error))?;
    if let Some(fields) = body.as_object_mut() {
        fields.remove("verb");
        if let Some(selector) = selector {
            fields.insert("selector".into(), Value::String(selector.to_string()));
        }
    }
    Ok(body)
}
