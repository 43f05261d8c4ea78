//! The kind `ray/cluster`: a cluster that is there already, as an object. Creating it looks whether it answers and watches it; deleting it
//! ends the watching. Nothing on the cluster is ever changed for it.

mod details;
mod spec;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Condition, ControlAction, Diagnostic, Error, ErrorKind, Evidence, EvidenceSource, FieldChange, Guid,
    ObjectSpec, Plan, PlanAction, Signal, TelemetryBatch, Timestamp,
};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, ControlRequest, DeleteRequest, Deleted, DriverEvent,
    FieldChangeMode, Handle, KindSchema, LogReadRequest, LogStreamOut, Mark, Method, ObjectState,
    ObjectStatus, Observed, PlanRequest, Recovered, RecoveredState, Result, StatusSource, Target,
    async_trait,
};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

pub use details::{ActiveJob, Amount, ClusterDetails, Jobs, NodeDetails, Nodes};
pub use spec::ClusterSpec;

use crate::head::{Head, Hint, Look};
use crate::kind::KindDriver;
use crate::metrics::Source;
use crate::revision;
use crate::shared::Shared;
use spec::ClusterHandle;

/// The last part of the kind.
pub(crate) const TYPE: &str = "cluster";
/// The method that makes the full lists now.
const REFRESH: &str = "refresh";
/// How old the nodes may be that a view shows.
const NODES_AGE: Duration = Duration::from_secs(5);

struct Entry {
    handle: ClusterHandle,
    last: Option<ObjectStatus>,
    revision: u64,
}

/// What only a full list tells, of one cluster: made seldom, because it costs the head time with all that it remembers.
#[derive(Clone, Default)]
struct Lists {
    at: Option<(Instant, Timestamp)>,
    session: String,
    jobs: Option<Jobs>,
    applications: BTreeMap<String, String>,
    activity: Option<crate::sdk::Activity>,
}

/// Watches clusters.
pub(crate) struct ClusterKind {
    shared: Arc<Shared>,
    schema: KindSchema,
    capabilities: Capabilities,
    table: Mutex<HashMap<Guid, Entry>>,
    lists: BTreeMap<String, tokio::sync::Mutex<Lists>>,
}

impl ClusterKind {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            schema: KindSchema {
                spec: schemars::schema_for!(ClusterSpec).to_value(),
                status: schemars::schema_for!(ClusterDetails).to_value(),
            },
            capabilities: capabilities(),
            table: Mutex::default(),
            lists: shared
                .heads
                .keys()
                .map(|name| (name.clone(), tokio::sync::Mutex::default()))
                .collect(),
            shared,
        }
    }

    fn check(&self, object: &ObjectSpec) -> Result<ClusterSpec> {
        let spec = ClusterSpec::parse(object)?;
        self.shared.head(spec.cluster.as_deref())?;
        let resources = serde_json::to_value(&object.resources).unwrap_or_default();
        match resources.as_object().and_then(|set| set.keys().next()) {
            Some(field) => Err(Error::invalid(
                format!("resources.{field}"),
                "a cluster that is only watched cannot be limited",
            )),
            None => Ok(spec),
        }
    }

    /// What a cluster is now; an error where it does not answer. Full lists are made where they are older than `lists_age`.
    async fn ask(&self, head: &Head, min_nodes: Option<u32>, lists_age: Duration) -> Result<ObjectStatus> {
        let version = match head.look().await {
            Look::Away(error) => return Err(error),
            _ => head.version().await?,
        };
        let (nodes, usage, is_well) =
            futures_util::join!(head.nodes(NODES_AGE), head.client.usage(), head.client.is_well());
        let nodes = nodes?;
        let lists = self.lists(head, &version.session_name, lists_age).await;
        let mut status = ObjectStatus::new(ObjectState::Running, Evidence::now(EvidenceSource::Poll, 0));
        let shown = details::nodes(&nodes);
        let alive = shown.alive;
        status.details = details_value(&ClusterDetails {
            cluster: head.name.clone(),
            address: head.client.address(),
            version: version.ray_version,
            session: version.session_name,
            nodes: shown,
            resources: details::resources(&nodes, usage.as_ref().ok()),
            jobs: lists.jobs,
            applications: lists.applications,
            activity: lists.activity,
            listed_at: lists.at.map(|(_, at)| at),
        });
        let mut not_ready = |reason: &str, message: String| {
            status
                .conditions
                .push(Condition::new("Ready", false, reason, message));
        };
        if !is_well {
            not_ready(
                "Unhealthy",
                "the control service of the cluster does not answer".to_owned(),
            );
        } else if min_nodes.is_some_and(|least| alive < least) {
            let least = min_nodes.unwrap_or(0);
            not_ready(
                "TooFewNodes",
                format!("{alive} nodes are alive, at least {least} are wanted"),
            );
        }
        Ok(status)
    }

    async fn lists(&self, head: &Head, session: &str, age: Duration) -> Lists {
        let Some(kept) = self.lists.get(&head.name) else {
            return Lists::default();
        };
        let mut kept = kept.lock().await;
        let fresh = kept.at.is_some_and(|(at, _)| at.elapsed() < age) && kept.session == session;
        if !fresh {
            let client = &head.client;
            let (jobs, serve, activity) = futures_util::join!(
                client.jobs(),
                client.serve(head.config.list_timeout),
                client.activity(None)
            );
            *kept = Lists {
                at: Some((Instant::now(), Timestamp::now())),
                session: session.to_owned(),
                jobs: jobs.ok().map(|all| details::jobs(&all)),
                applications: serve
                    .ok()
                    .map(|instance| details::applications(&instance))
                    .unwrap_or_default(),
                activity: activity.ok(),
            };
        }
        kept.clone()
    }

    fn unknown(&self, guid: Guid, reason: &str) -> ObjectStatus {
        let mut status = ObjectStatus::new(ObjectState::Unknown, Evidence::now(EvidenceSource::Inferred, 0));
        if let Some(last) = self.table.lock().get(&guid).and_then(|entry| entry.last.as_ref()) {
            status.details = last.details.clone();
        }
        status
            .conditions
            .push(Condition::new("Reachable", false, "NoAnswer", reason));
        status
    }

    /// Gives a status its revision, and says so where it differs from the last.
    fn note(&self, guid: Guid, floor: u64, mut seen: ObjectStatus) -> ObjectStatus {
        let mut table = self.table.lock();
        let Some(entry) = table.get_mut(&guid) else {
            seen.evidence.revision = floor;
            return seen;
        };
        if let Some(last) = &entry.last {
            for condition in &mut seen.conditions {
                if let Some(same) = last.conditions.iter().find(|c| c.reason == condition.reason) {
                    condition.since = same.since;
                }
            }
        }
        let changed = entry.last.as_ref().is_none_or(|last| differs(last, &seen));
        if changed {
            entry.revision = revision::after(entry.revision.max(floor));
        }
        seen.evidence.revision = entry.revision;
        entry.last = Some(seen.clone());
        if changed {
            // Within the lock, so that events come in the order of their revisions.
            self.shared.events.send(DriverEvent::Status(Observed {
                guid,
                handle: None,
                status: seen.clone(),
            }));
        }
        seen
    }

    /// Takes an object into the table with this status; its handle.
    fn watch(&self, handle: ClusterHandle, seen: ObjectStatus) -> (Handle, ObjectStatus) {
        let guid = handle.guid;
        {
            let mut table = self.table.lock();
            let revision = table
                .get(&guid)
                .map_or(handle.revision, |entry| entry.revision.max(handle.revision));
            let last = table.remove(&guid).and_then(|entry| entry.last);
            let entry = Entry {
                handle: handle.clone(),
                last,
                revision,
            };
            table.insert(guid, entry);
        }
        let seen = self.note(guid, handle.revision, seen);
        let handle = ClusterHandle {
            revision: seen.evidence.revision,
            ..handle
        };
        (handle.write(), seen)
    }

    async fn look(&self, guid: Guid, handle: &ClusterHandle, lists_age: Duration) -> ObjectStatus {
        let seen = match self.shared.heads.get(&handle.cluster) {
            None => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the Ray cluster {:?} is no longer in the driver's configuration",
                    handle.cluster
                ),
            )),
            Some(head) => self.ask(head, handle.min_nodes, lists_age).await,
        };
        let seen = seen.unwrap_or_else(|error| self.unknown(guid, error.message()));
        self.note(guid, handle.revision, seen)
    }
}

fn details_value(details: &ClusterDetails) -> Value {
    serde_json::to_value(details).expect("details are plain data")
}

/// Whether two statuses say different things. What is in use, and when lists were made, changes all the time and is no news.
fn differs(a: &ObjectStatus, b: &ObjectStatus) -> bool {
    let plain = |status: &ObjectStatus| {
        let mut details = status.details.clone();
        if let Some(map) = details.as_object_mut() {
            map.remove("listed_at");
            map.remove("activity");
            if let Some(resources) = map.get_mut("resources").and_then(Value::as_object_mut) {
                for amount in resources.values_mut().filter_map(Value::as_object_mut) {
                    amount.remove("free");
                }
            }
        }
        details
    };
    let conditions = |status: &ObjectStatus| -> Vec<_> {
        status
            .conditions
            .iter()
            .map(|c| (c.kind.clone(), c.reason.clone(), c.message.clone()))
            .collect()
    };
    a.state != b.state || conditions(a) != conditions(b) || plain(a) != plain(b)
}

fn capabilities() -> Capabilities {
    let mut can = Capabilities::default();
    can.metrics = true;
    can.orphan = true;
    can.adoptable = true;
    can.status = StatusSource::Event;
    can.batch_size = 100;
    can.fields = BTreeMap::from([
        ("spec.cluster".to_owned(), FieldChangeMode::Recreate),
        ("spec.min_nodes".to_owned(), FieldChangeMode::Live),
    ]);
    can.methods = BTreeMap::from([(
        REFRESH.to_owned(),
        Method {
            summary:
                "Lists jobs, applications, actors and tasks now; else they are listed every few minutes."
                    .to_owned(),
            arguments: serde_json::json!({"type": "object", "additionalProperties": false}),
        },
    )]);
    can
}

#[async_trait]
impl KindDriver for ClusterKind {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn schema(&self) -> &KindSchema {
        &self.schema
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn validate(&self, object: &ObjectSpec) -> Vec<Diagnostic> {
        match self.check(object) {
            Ok(_) => Vec::new(),
            Err(error) => vec![Diagnostic::error(error.path().unwrap_or("spec"), error.message())],
        }
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let next = self.check(request.next)?;
        let Some(previous) = request.previous else {
            return Ok(Plan::new(PlanAction::Create, Vec::new()).because("the cluster is watched, not made"));
        };
        let old = ClusterSpec::parse(previous)?;
        let changes = FieldChange::between("spec", &previous.spec, &request.next.spec);
        Ok(if old == next {
            Plan::new(PlanAction::NoOp, Vec::new())
        } else if old.cluster == next.cluster {
            Plan::new(PlanAction::InPlace, changes)
        } else {
            Plan::new(PlanAction::Recreate, changes)
                .because("another cluster is watched then; both stay as they are")
        })
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        let spec = self.check(request.spec)?;
        let head = self.shared.head(spec.cluster.as_deref())?;
        let old = request.handle.map(ClusterHandle::read).transpose()?;
        let status = timeout(
            request.deadline,
            self.ask(head, spec.min_nodes, head.config.poll.audit),
        )
        .await
        .map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                format!("the Ray cluster {} did not answer in time", head.name),
            )
        })??;
        let handle = ClusterHandle {
            guid: request.guid,
            cluster: head.name.clone(),
            min_nodes: spec.min_nodes,
            revision: old.map_or(0, |old| old.revision),
        };
        let (handle, status) = self.watch(handle, status);
        head.wake();
        Ok(Applied::new(handle, status))
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        if let Some(handle) = request.handle
            && ClusterHandle::read(handle)?.guid != request.guid
        {
            return Ok(Deleted::default());
        }
        self.table.lock().remove(&request.guid);
        Ok(Deleted::default())
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Vec<Recovered> {
        let mut all = Vec::with_capacity(targets.len());
        for target in targets {
            let state = match ClusterHandle::read(target.handle) {
                Err(error) => RecoveredState::Lost(error.to_string()),
                Ok(handle) if handle.guid != target.guid => {
                    RecoveredState::Foreign("the handle is another object's".to_owned())
                }
                Ok(handle) => match self.shared.heads.get(&handle.cluster) {
                    None => RecoveredState::Lost(format!(
                        "the Ray cluster {:?} is no longer in the driver's configuration",
                        handle.cluster
                    )),
                    Some(head) => {
                        let seen = match self.ask(head, handle.min_nodes, head.config.poll.audit).await {
                            Ok(seen) => seen,
                            Err(error) => self.unknown(target.guid, error.message()),
                        };
                        let (_, seen) = self.watch(handle, seen);
                        head.wake();
                        RecoveredState::Adopted(seen, None)
                    }
                },
            };
            all.push(Recovered {
                guid: target.guid,
                state,
            });
        }
        all
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        Ok(Vec::new())
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) {
        for target in targets {
            let status = match ClusterHandle::read(target.handle) {
                Ok(handle) if handle.guid == target.guid && self.table.lock().contains_key(&target.guid) => {
                    let age = self.audit(&handle);
                    self.look(target.guid, &handle, age).await
                }
                // It was deleted, or is another object's: nobody watches it.
                Ok(_) => ObjectStatus::new(ObjectState::Gone, Evidence::now(EvidenceSource::Poll, 0)),
                Err(error) => self.unknown(target.guid, &error.to_string()),
            };
            out.push(Observed {
                guid: target.guid,
                handle: None,
                status,
            });
        }
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        _: &mut Vec<(Guid, String)>,
    ) {
        if !request.signals.contains(&Signal::Metrics) {
            return;
        }
        let sources = request.targets.iter().filter_map(|target| {
            let handle = ClusterHandle::read(target.handle)
                .ok()
                .filter(|handle| handle.guid == target.guid)?;
            self.table.lock().contains_key(&target.guid).then_some((
                target.guid,
                handle.cluster,
                Source::Cluster,
            ))
        });
        self.shared
            .metrics
            .collect(&self.shared, sources.collect(), request.deadline, out)
            .await;
    }

    async fn stop_all(&self, _: Duration) {}

    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        let handle = ClusterHandle::read(request.handle)?;
        let known = self
            .table
            .lock()
            .get(&request.guid)
            .map(|entry| entry.handle.clone());
        match request.action {
            ControlAction::Call { method, .. } if method == REFRESH => {}
            ControlAction::Call { method, .. } => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("clusters have no method {method:?}; they have {REFRESH}"),
                ));
            }
            action => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("a cluster that is only watched cannot {}", action.verb().as_str()),
                ));
            }
        }
        if known.is_none_or(|known| known.guid != handle.guid) {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the cluster is not watched by this object",
            ));
        }
        if let ControlAction::Call { arguments, .. } = request.action
            && !(arguments.is_null() || arguments.as_object().is_some_and(Map::is_empty))
        {
            return Err(Error::invalid("arguments", format!("{REFRESH} has none")));
        }
        let seen = timeout(request.deadline, self.look(request.guid, &handle, Duration::ZERO))
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Timeout,
                    "the full lists took longer than the operation may take",
                )
            })?;
        Ok(Applied::new(request.handle.clone(), seen))
    }

    async fn read_logs(&self, _: Target<'_>, _: LogReadRequest) -> Result<LogStreamOut> {
        Err(
            Error::new(ErrorKind::Unsupported, "a cluster has no log of its own")
                .with_hint("its jobs and applications have"),
        )
    }

    async fn tick(&self, head: &Arc<Head>, look: &Look) -> Duration {
        let ours: Vec<ClusterHandle> = self
            .table
            .lock()
            .values()
            .filter(|entry| entry.handle.cluster == head.name)
            .map(|entry| entry.handle.clone())
            .collect();
        let gone_for = head.outage().map(|outage| Timestamp::now().since(outage.since));
        for handle in &ours {
            match look {
                Look::Away(error)
                    if gone_for.is_some_and(|gone_for| gone_for >= head.config.unknown_after) =>
                {
                    let seen = self.unknown(handle.guid, error.message());
                    self.note(handle.guid, handle.revision, seen);
                }
                Look::Away(_) => {}
                _ if self.is_due(handle, head, look) => {
                    self.look(handle.guid, handle, head.config.poll.audit).await;
                }
                _ => {}
            }
        }
        head.config.poll.idle
    }

    fn hint(&self, _: &Arc<Head>, _: &Hint) {}
}

impl ClusterKind {
    fn audit(&self, handle: &ClusterHandle) -> Duration {
        self.shared
            .heads
            .get(&handle.cluster)
            .map_or(Duration::ZERO, |head| head.config.poll.audit)
    }

    /// Whether a turn that came for another reason is one for this object too.
    fn is_due(&self, handle: &ClusterHandle, head: &Head, look: &Look) -> bool {
        if !matches!(look, Look::Same) {
            return true;
        }
        let table = self.table.lock();
        let last = table.get(&handle.guid).and_then(|entry| entry.last.as_ref());
        last.is_none_or(|last| {
            let age = Timestamp::now().since(last.evidence.at);
            last.state != ObjectState::Running || age >= head.config.poll.idle.mul_f64(0.9)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(details: Value) -> ObjectStatus {
        ObjectStatus {
            details,
            ..ObjectStatus::new(ObjectState::Running, Evidence::now(EvidenceSource::Poll, 0))
        }
    }

    #[test]
    fn what_changes_all_the_time_is_no_news() {
        let a = status(
            json!({"session": "s", "listed_at": 1, "activity": {}, "resources": {"CPU": {"total": 4, "free": 1}}}),
        );
        let b =
            status(json!({"session": "s", "listed_at": 2, "resources": {"CPU": {"total": 4, "free": 3}}}));
        assert!(!differs(&a, &b));
        let c = status(json!({"session": "t", "resources": {"CPU": {"total": 4}}}));
        assert!(differs(&a, &c));
        let mut d = a.clone();
        d.conditions
            .push(Condition::new("Ready", false, "TooFewNodes", ""));
        assert!(differs(&a, &d));
        let e = ObjectStatus {
            state: ObjectState::Unknown,
            ..a.clone()
        };
        assert!(differs(&a, &e));
    }
}
