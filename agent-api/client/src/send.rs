//! Sending, and sending again.

use std::fmt::{Debug, Display};
use std::time::Duration;

use agent_api_bus_in::{Access, Incoming, Response};
use agent_api_model::{Error, ErrorKind, Reply, ReplyBody, RequestId, Result, Target, Timestamp, Verb};
use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::Client;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One request, to be sent once or several times.
pub(crate) struct Call {
    pub(crate) verb: String,
    object: Option<String>,
    payload: Bytes,
    /// Whether a second try after one without an answer does no harm.
    repeatable: bool,
    within: Option<Duration>,
}

impl Call {
    pub(crate) fn new(verb: Verb) -> Self {
        Self::named(verb.as_str())
    }

    pub(crate) fn named(verb: &str) -> Self {
        Self {
            verb: verb.into(),
            object: None,
            payload: Bytes::new(),
            repeatable: true,
            within: None,
        }
    }

    pub(crate) fn object(mut self, target: &Target) -> Self {
        self.object = Some(target.to_string());
        self
    }

    pub(crate) fn body(mut self, body: &impl Serialize) -> Result<Self> {
        self.payload = serde_json::to_vec(body)
            .map_err(|error| Error::internal("the request cannot be written as JSON").with_source(error))?
            .into();
        Ok(self)
    }

    /// Not to be sent again where no answer came.
    pub(crate) fn once(mut self) -> Self {
        self.repeatable = false;
        self
    }

    /// With a deadline other than the client's.
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.within = Some(deadline);
        self
    }
}

impl Client {
    /// Sends a request, again where that is safe and may help, and returns the first answer that is no such error.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response> {
        let within = call.within.unwrap_or(self.config.deadline);
        let end = Instant::now() + within;
        let attempt = if call.within.is_some() {
            within
        } else {
            self.config.attempt
        };
        let request = Incoming {
            verb: call.verb.clone(),
            object: call.object.clone(),
            id: Some(RequestId::generate().to_string()),
            idempotency_key: None,
            deadline: Some(Timestamp::now().plus(within).to_string()),
            traceparent: self.config.traceparent.clone(),
            caller: String::new(),
            access: Access::None,
            payload: call.payload.clone(),
            received: Timestamp::EPOCH,
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let answer = self.caller.call(request.clone(), left.min(attempt)).await;
            let error = match answer {
                Ok(Response::One { error: Some(_), body }) => match read_reply(&body) {
                    Err(error) => error,
                    Ok(_) => Error::internal("the agent's answer is an error and a success at once"),
                },
                other => {
                    if let Err(error) = other {
                        error
                    } else {
                        return other;
                    }
                }
            };
            let wait = error.retry_delay().unwrap_or(pause);
            if !self.may_repeat(call, &error) || Instant::now() + wait >= end {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn may_repeat(&self, call: &Call, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Busy => true,
            ErrorKind::Unavailable => call.repeatable && (error.is_retryable() || self.config.wait_for_agent),
            ErrorKind::Timeout => call.repeatable && error.is_retryable(),
            _ => false,
        }
    }

    /// The answer to a request that has one.
    pub(crate) async fn one(&self, call: Call) -> Result<ReplyBody> {
        match self.send(&call).await? {
            Response::One { body, .. } => read_reply(&body),
            Response::Text { .. } => Err(unexpected(call.verb, &"text")),
            Response::Stream(_) => Err(unexpected(call.verb, &"a stream")),
        }
    }
}

/// Reads a reply: its answer, or its error.
pub(crate) fn read_reply(body: &[u8]) -> Result<ReplyBody> {
    let reply: Reply = serde_json::from_slice(body).map_err(|error| {
        Error::internal("the answer is not one of an agent of this version")
            .with_hint("is the agent newer or older than this program?")
            .with_source(error)
    })?;
    match (reply.ok, reply.error) {
        (_, Some(error)) => Err(error),
        (Some(body), None) => Ok(body),
        (None, None) => Err(Error::internal("the answer has neither a result nor an error")),
    }
}

pub(crate) fn unexpected(verb: impl Display, answer: &dyn Debug) -> Error {
    let text: String = format!("{answer:?}").chars().take(120).collect();
    Error::internal(format!("the agent answered {verb} with something else: {text}"))
}
