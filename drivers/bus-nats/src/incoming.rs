//! Bus In: requests from subscriptions to the handler and back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent_api_bus_in::{Access, Incoming, RequestHandler, Response};
use agent_api_model::{Error, ErrorKind, Timestamp};
use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Answerer, Steered, Steering, refusal};
use crate::config::{NatsLimits, Placement};
use crate::connection::Connection;
use crate::headers::{self, DEADLINE, EXPIRES, ID, KEY, LABELS, OBJECT, STREAM, TRACE, answers, get};
use crate::subject::{CREDIT, LEAVE, Layout};

/// What all requests share.
pub(crate) struct Intake {
    pub(crate) connection: Arc<Connection>,
    pub(crate) layout: Layout,
    pub(crate) agent: String,
    pub(crate) handler: Arc<dyn RequestHandler>,
    pub(crate) access: Access,
    pub(crate) placement: Option<Placement>,
    pub(crate) limits: NatsLimits,
    pub(crate) steering: Arc<Steering>,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    /// Requests without a whole answer.
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// No more requests are taken, and streams are cut.
    pub(crate) closing: CancellationToken,
    /// The deadline of the end has passed.
    pub(crate) force: CancellationToken,
    /// One task per request being answered.
    pub(crate) answering: TaskTracker,
}

struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes requests until the bus closes, and then those that have come.
pub(crate) async fn take_requests(intake: Arc<Intake>, mut requests: Subscriber, any: bool) {
    loop {
        let message = tokio::select! {
            biased;
            () = intake.closing.cancelled() => break,
            message = requests.next() => message,
        };
        match message {
            Some(message) => intake.take(message, any).await,
            None => return,
        }
    }
    let _ = requests.unsubscribe().await;
    while let Some(message) = requests.next().await {
        intake.take(message, any).await;
    }
}

/// Takes what callers say of their long replies, as long as there are any.
pub(crate) async fn take_steering(intake: Arc<Intake>, mut steers: Subscriber, end: CancellationToken) {
    loop {
        let message = tokio::select! {
            biased;
            () = end.cancelled() => return,
            message = steers.next() => message,
        };
        let Some(message) = message else { return };
        let (Some(reply), Some((_, what))) = (&message.reply, message.subject.rsplit_once('.')) else {
            continue;
        };
        let call = get(message.headers.as_ref(), STREAM).unwrap_or(reply.as_str());
        match what {
            CREDIT => intake.steering.credit(call, reply.clone(), &message.payload),
            LEAVE => intake.steering.leave(call),
            _ => {}
        }
    }
}

impl Intake {
    async fn take(self: &Arc<Self>, message: Message, any: bool) {
        // Without a place for the reply nobody asks.
        let Some(reply) = message.reply.clone() else {
            self.connection.health.note(|state| state.refused += 1);
            return;
        };
        let steered = self.steering.enter(reply);
        if any && !self.accepts(&message) {
            let _ = self.answerer(&steered).bare(answers::DECLINED).await;
            return;
        }
        let place = Arc::clone(&self.requests).try_acquire_owned();
        let Ok(place) = place else {
            let error = Error::new(
                ErrorKind::Busy,
                format!(
                    "{} requests are being answered, which is the limit",
                    self.limits.requests
                ),
            );
            self.refuse(&steered, &message, error).await;
            return;
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight(Arc::clone(&self.in_flight));
        let intake = Arc::clone(self);
        self.answering.spawn(async move {
            intake.answer(message, steered, in_flight, place).await;
        });
    }

    fn accepts(&self, message: &Message) -> bool {
        let wanted = get(message.headers.as_ref(), LABELS)
            .map(headers::decode)
            .map(|text| headers::labels(&text))
            .unwrap_or_default();
        self.placement
            .as_ref()
            .is_some_and(|placement| (placement.accepts)(&wanted))
    }

    fn answerer<'a>(&'a self, steered: &'a Steered) -> Answerer<'a> {
        Answerer {
            connection: &self.connection,
            agent: &self.agent,
            steer: &steered.steer,
            keep_alive: self.limits.keep_alive,
            closing: &self.closing,
            sent: 0,
        }
    }

    async fn refuse(&self, steered: &Steered, message: &Message, error: Error) {
        self.connection.health.note(|state| state.refused += 1);
        let id = get(message.headers.as_ref(), ID);
        let _ = self.answerer(steered).send(refusal(id, error)).await;
    }

    async fn answer(
        &self,
        message: Message,
        steered: Steered,
        in_flight: InFlight,
        _place: OwnedSemaphorePermit,
    ) {
        let Some(incoming) = incoming(&self.layout, &message, self.access) else {
            let error = Error::invalid("subject", "is not <root>.in.<agent>.<verb>.<kind>");
            return self.refuse(&steered, &message, error).await;
        };
        let now = Timestamp::now();
        let expires = get(message.headers.as_ref(), EXPIRES).and_then(|text| text.parse::<Timestamp>().ok());
        if expires.is_some_and(|at| at < now) {
            let error = Error::new(
                ErrorKind::Expired,
                "the request came after its caller had given up; nothing was done",
            )
            .with_hint("where that happens often, compare the clocks of both hosts");
            return self.refuse(&steered, &message, error).await;
        }
        let patience = async {
            match expires {
                Some(at) => tokio::time::sleep(at.since(now)).await,
                None => std::future::pending().await,
            }
        };
        let id = incoming.id.clone();
        let handled = AssertUnwindSafe(self.handler.handle(incoming)).catch_unwind();
        let response = tokio::select! {
            biased;
            handled = handled => handled.unwrap_or_else(|_| {
                let error = Error::internal("the agent failed while it handled the request");
                refusal(id.as_deref(), error)
            }),
            () = steered.steer.left.cancelled() => return,
            () = patience => return,
            () = self.force.cancelled() => {
                let _ = self.answerer(&steered).bare(answers::STOPPING).await;
                return;
            }
        };
        let mut answerer = self.answerer(&steered);
        let streamed = match &response {
            Response::Stream(_) => match Arc::clone(&self.streams).try_acquire_owned() {
                Ok(permit) => {
                    drop(in_flight);
                    Some(permit)
                }
                Err(_) => {
                    let error = Error::new(
                        ErrorKind::Busy,
                        format!(
                            "{} long replies are under way, which is the limit",
                            self.limits.streams
                        ),
                    );
                    return self.refuse(&steered, &message, error).await;
                }
            },
            _ => None,
        };
        tokio::select! {
            biased;
            _ = answerer.send(response) => {}
            () = self.force.cancelled() => {}
        }
        drop(streamed);
    }
}

/// The request in a message; the verb is that of the subject, because permissions are by subject.
pub(crate) fn incoming(layout: &Layout, message: &Message, access: Access) -> Option<Incoming> {
    let (verb, _) = layout.verb_of(&message.subject)?;
    let text = |name: &str| get(message.headers.as_ref(), name).map(headers::decode);
    Some(Incoming {
        verb: verb.to_owned(),
        object: text(OBJECT),
        id: text(ID),
        idempotency_key: text(KEY),
        deadline: text(DEADLINE),
        traceparent: text(TRACE),
        caller: "nats".into(),
        access,
        payload: message.payload.clone(),
        received: Timestamp::now(),
    })
}
