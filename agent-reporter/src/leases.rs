//! Monitor leases: granted, renewed, ended.

use std::collections::HashMap;
use std::time::Duration;

use agent_api_model::{
    Error, ErrorKind, Guid, Lease, LeaseId, MonitorRequest, Result, Timestamp, Topic, format_duration,
};
use agent_api_reporter::Topics;
use tokio::time::Instant;

const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The second words of topics that carry requests and calls: telemetry there would be taken for them.
const REQUEST_TOPICS: [&str; 4] = ["in", "q", "call", "ctl"];

/// The leases in force. They end by the runtime's clock; what the wall clock does is of no matter.
#[derive(Debug)]
pub(crate) struct Leases {
    held: HashMap<LeaseId, Held>,
    max: usize,
    root: String,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    ttl: Duration,
    ends: Instant,
}

impl Leases {
    pub(crate) fn new(max: usize, root: String) -> Self {
        Self {
            held: HashMap::new(),
            max,
            root,
        }
    }

    /// Grants or renews.
    pub(crate) fn subscribe(
        &mut self,
        topics: &Topics,
        request: &MonitorRequest,
        guid: Option<Guid>,
    ) -> Result<Lease> {
        self.end_old();
        match request.renew {
            Some(id) => self.renew(id),
            None => self.grant(topics, request, guid),
        }
    }

    fn renew(&mut self, id: LeaseId) -> Result<Lease> {
        let Some(held) = self.held.get_mut(&id) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the lease {id} has ended or never was"),
            )
            .with_path("renew")
            .with_operation("monitor")
            .with_hint("ask for a new lease without `renew`"));
        };
        held.ends = Instant::now() + held.ttl;
        held.lease.expires = Some(Timestamp::now().plus(held.ttl));
        Ok(held.lease.clone())
    }

    fn grant(&mut self, topics: &Topics, request: &MonitorRequest, guid: Option<Guid>) -> Result<Lease> {
        check(request).map_err(|error| error.with_operation("monitor"))?;
        if self.held.len() >= self.max {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{} monitor leases are in force, and no more are granted",
                    self.max
                ),
            )
            .with_operation("monitor")
            .with_hint("end one with `unmonitor`, or wait for one to expire"));
        }
        let id = LeaseId::generate();
        let topic = match &request.topic {
            Some(topic) => self
                .named_topic(topic)
                .map_err(|error| error.with_operation("monitor"))?,
            None => topics.lease(id),
        };
        let mut signals = request.signals.clone();
        signals.sort_unstable();
        signals.dedup();
        let lease = Lease {
            id,
            guid,
            selector: request.selector.clone(),
            signals,
            interval: request.interval,
            topic: topic.as_str().to_owned(),
            json: request.json,
            expires: Some(Timestamp::now().plus(request.ttl)),
            ttl: Some(request.ttl),
        };
        self.held.insert(
            id,
            Held {
                lease: lease.clone(),
                ttl: request.ttl,
                ends: Instant::now() + request.ttl,
            },
        );
        Ok(lease)
    }

    fn named_topic(&self, text: &str) -> Result<Topic> {
        let topic = Topic::new(text).map_err(|message| Error::invalid("topic", message))?;
        let mut words = text.split('.');
        let ours = words.next() == Some(self.root.as_str());
        match words.next() {
            Some(word) if ours && REQUEST_TOPICS.contains(&word) => Err(Error::invalid(
                "topic",
                format!("topics under {}.{word} carry requests, not telemetry", self.root),
            )),
            _ => Ok(topic),
        }
    }

    /// Ends a lease.
    pub(crate) fn unsubscribe(&mut self, id: LeaseId) -> bool {
        self.end_old();
        self.held.remove(&id).is_some()
    }

    /// How many are in force.
    pub(crate) fn len(&mut self) -> usize {
        self.end_old();
        self.held.len()
    }

    fn end_old(&mut self) {
        let now = Instant::now();
        self.held.retain(|_, held| held.ends > now);
        if self.held.capacity() > 4 * self.held.len().max(64) {
            self.held.shrink_to_fit();
        }
    }
}

fn check(request: &MonitorRequest) -> Result<()> {
    if request.interval < SHORTEST_INTERVAL {
        return Err(Error::invalid("interval", "must be at least 10ms"));
    }
    if request.ttl.is_zero() || request.ttl > LONGEST_TTL {
        return Err(Error::invalid(
            "ttl",
            format!(
                "must be more than 0s and at most {}",
                format_duration(LONGEST_TTL)
            ),
        ));
    }
    if request.signals.is_empty() {
        return Err(Error::invalid(
            "signals",
            "must name at least one of metrics, logs, traces",
        ));
    }
    Ok(())
}
