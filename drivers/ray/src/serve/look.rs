//! How applications are: one answer of a cluster for all of its objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Condition, Evidence, EvidenceSource, Guid, Timestamp};
use agent_api_driver::{
    DriverEvent, Handle, Mark, ObjectState, ObjectStatus, Observed, Recovered, RecoveredState, Result, Target,
};
use futures_util::future::join_all;

use super::handle::ServeHandle;
use super::render::{digest, mark_of};
use super::status::{is_settled, status};
use super::{ServeKind, ServeRecord, TYPE};
use crate::head::{Head, Look};
use crate::revision;
use crate::sdk::{Application, ApplicationStatus, ServeInstance};

/// How long after a change the agent looks often, whatever Serve's own words: `RUNNING` may be of the time before it.
const AFTER_CHANGE: Duration = Duration::from_secs(10);

/// One object of this run of the agent.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) handle: ServeHandle,
    last: Option<ObjectStatus>,
    revision: u64,
}

/// Targets with what their handles say, by cluster.
type ByCluster<'a> = BTreeMap<String, Vec<(Target<'a>, ServeHandle)>>;

/// What a cluster's answer says of one object.
enum Found<'a> {
    Ours(&'a Application),
    /// Something of that name that is not this object's.
    Foreign,
    Gone,
}

impl ServeKind {
    fn find<'a>(&self, instance: &'a ServeInstance, handle: &ServeHandle) -> Found<'a> {
        match instance.applications.get(&handle.application) {
            None => Found::Gone,
            // Without its configuration it does not say whose it was; gone it is in any case.
            Some(app) if app.status == ApplicationStatus::Deleting => Found::Gone,
            Some(app) => match app.deployed_app_config.as_ref().and_then(mark_of) {
                mark if self.is_ours(mark.as_ref(), handle.guid) => Found::Ours(app),
                _ => Found::Foreign,
            },
        }
    }

    /// Takes an application into the table, as this answer shows it; its handle with the revision in it.
    pub(super) fn adopt(&self, handle: ServeHandle, instance: &ServeInstance) -> (Handle, ObjectStatus) {
        let guid = handle.guid;
        let seen = match self.find(instance, &handle) {
            Found::Ours(app) => status(&handle, instance, app),
            Found::Foreign | Found::Gone => {
                ObjectStatus::new(ObjectState::Gone, Evidence::now(EvidenceSource::Poll, 0))
            }
        };
        {
            let mut table = self.table.lock();
            match table.get_mut(&guid) {
                Some(entry) => entry.handle = handle.clone(),
                None => {
                    let entry = Entry {
                        handle: handle.clone(),
                        last: None,
                        revision: handle.revision,
                    };
                    table.insert(guid, entry);
                }
            }
        }
        let seen = self.note(guid, handle.revision, seen);
        let handle = ServeHandle {
            revision: seen.evidence.revision,
            ..handle
        };
        if let Some(entry) = self.table.lock().get_mut(&guid) {
            entry.handle.revision = handle.revision;
        }
        (handle.write(), seen)
    }

    /// Whether an object was there when it was looked for last: Ray shows metrics of what is gone for a while.
    pub(super) fn is_there(&self, guid: Guid) -> bool {
        let table = self.table.lock();
        let last = table.get(&guid).and_then(|entry| entry.last.as_ref());
        last.is_some_and(|last| last.state != ObjectState::Gone)
    }

    /// Out of the table: nothing is reported of it any more.
    pub(super) fn forget(&self, guid: Guid) {
        self.table.lock().remove(&guid);
        self.anchors.lock().retain(|(of, _), _| *of != guid);
    }

    /// Gives a status its revision, and says so where it differs from the last.
    fn note(&self, guid: Guid, floor: u64, mut seen: ObjectStatus) -> ObjectStatus {
        let mut table = self.table.lock();
        let Some(entry) = table.get_mut(&guid) else {
            // Looked at without having been adopted: no history to compare with.
            seen.evidence.revision = floor;
            return seen;
        };
        if let Some(last) = &entry.last {
            for condition in &mut seen.conditions {
                let same = last.conditions.iter().find(|c| {
                    (&c.kind, c.status, &c.reason) == (&condition.kind, condition.status, &condition.reason)
                });
                if let Some(same) = same {
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

    /// What an answer says of one object, with its revision.
    fn seen(
        &self,
        target: Guid,
        handle: &ServeHandle,
        instance: &ServeInstance,
        orphan: bool,
    ) -> ObjectStatus {
        let now = |state| ObjectStatus::new(state, Evidence::now(EvidenceSource::Poll, 0));
        let seen = match self.find(instance, handle) {
            Found::Ours(app) if handle.guid == target && !orphan => status(handle, instance, app),
            _ => now(ObjectState::Gone),
        };
        self.note(target, handle.revision, seen)
    }

    /// Nobody can say: the last details with the reason.
    fn unknown(&self, guid: Guid, floor: u64, reason: &str) -> ObjectStatus {
        let mut seen = ObjectStatus::new(ObjectState::Unknown, Evidence::now(EvidenceSource::Inferred, 0));
        if let Some(last) = self.table.lock().get(&guid).and_then(|entry| entry.last.as_ref()) {
            seen.details = last.details.clone();
            seen.limits.clone_from(&last.limits);
        }
        seen.conditions
            .push(Condition::new("Reachable", false, "NoAnswer", reason));
        self.note(guid, floor, seen)
    }

    /// Targets by cluster; those whose handle is not of this kind or names no cluster, with the reason.
    fn by_cluster<'a>(&self, targets: &[Target<'a>]) -> (ByCluster<'a>, Vec<(Guid, String)>) {
        let mut by_cluster = ByCluster::new();
        let mut unreadable = Vec::new();
        for target in targets {
            let read =
                ServeHandle::read(target.handle).and_then(|handle| self.head_of(&handle).map(|_| handle));
            match read {
                Ok(handle) => by_cluster
                    .entry(handle.cluster.clone())
                    .or_default()
                    .push((*target, handle)),
                Err(error) => unreadable.push((target.guid, error.to_string())),
            }
        }
        (by_cluster, unreadable)
    }

    async fn ask(&self, cluster: &str) -> Result<ServeInstance> {
        let head = self.shared.head(Some(cluster))?;
        head.client.serve(head.config.list_timeout).await
    }

    pub(super) async fn recover_all(&self, targets: &[Target<'_>]) -> Vec<Recovered> {
        let (by_cluster, unreadable) = self.by_cluster(targets);
        let lost = unreadable.into_iter().map(|(guid, why)| Recovered {
            guid,
            state: RecoveredState::Lost(why),
        });
        let asked = by_cluster.into_iter().map(|(cluster, targets)| async move {
            let answer = self.ask(&cluster).await;
            let mut all = Vec::with_capacity(targets.len());
            for (target, handle) in targets {
                let orphan = self.is_orphan(target.guid).await;
                let state = self.recovered(target.guid, handle, answer.as_ref(), orphan);
                all.push(Recovered {
                    guid: target.guid,
                    state,
                });
            }
            if let Ok(head) = self.shared.head(Some(&cluster)) {
                head.wake();
            }
            all
        });
        lost.chain(join_all(asked).await.into_iter().flatten()).collect()
    }

    fn recovered(
        &self,
        guid: Guid,
        handle: ServeHandle,
        answer: Result<&ServeInstance, &agent_api_driver::Error>,
        orphan: bool,
    ) -> RecoveredState {
        if handle.guid != guid || orphan {
            return RecoveredState::Foreign("the application is not this object's".into());
        }
        match answer {
            Err(error) => {
                // Adopted by its handle; what it is shows when the cluster answers.
                let entry = Entry {
                    revision: handle.revision,
                    handle: handle.clone(),
                    last: None,
                };
                self.table.lock().entry(guid).or_insert(entry);
                RecoveredState::Adopted(self.unknown(guid, handle.revision, error.message()), None)
            }
            Ok(instance) => match self.find(instance, &handle) {
                Found::Ours(_) => {
                    let (_, seen) = self.adopt(handle, instance);
                    if seen.state == ObjectState::Exited {
                        RecoveredState::Exited(seen)
                    } else {
                        RecoveredState::Adopted(seen, None)
                    }
                }
                Found::Foreign => RecoveredState::Foreign(format!(
                    "the application {} of {} is not this object's any more",
                    handle.application, handle.cluster
                )),
                Found::Gone => RecoveredState::Lost(format!(
                    "there is no application {} on {} any more",
                    handle.application, handle.cluster
                )),
            },
        }
    }

    pub(super) async fn discover_all(&self) -> Result<Vec<(Mark, Handle)>> {
        let answers = join_all(self.shared.heads.values().map(|head| async move {
            let answer = head.client.serve(head.config.list_timeout).await;
            (head, answer)
        }))
        .await;
        let records = self.shared.records.all::<ServeRecord>(TYPE).await;
        let mut found = Vec::new();
        for (head, answer) in answers {
            let instance = match answer {
                Ok(instance) => instance,
                Err(error) => {
                    if records
                        .iter()
                        .any(|(_, record)| record.cluster == head.name && !record.orphan)
                    {
                        return Err(error);
                    }
                    // Nothing of ours is known there: a cluster that is not up says nothing about it.
                    tracing::debug!(cluster = head.name, %error, "not looked for applications of this agent");
                    continue;
                }
            };
            self.forget_orphans(&records, head, &instance).await;
            for (name, app) in instance.applications {
                let Some(config) = app.deployed_app_config else {
                    continue;
                };
                let Some(mark) = mark_of(&config).filter(|mark| mark.agent == self.shared.agent) else {
                    continue;
                };
                if app.status == ApplicationStatus::Deleting || self.is_orphan(mark.guid).await {
                    continue;
                }
                let known = self
                    .table
                    .lock()
                    .get(&mark.guid)
                    .map(|entry| entry.handle.clone());
                let handle = known.unwrap_or_else(|| ServeHandle {
                    cluster: head.name.clone(),
                    application: name,
                    guid: mark.guid,
                    op_id: mark.op_id,
                    digest: digest(&config),
                    revision: 0,
                    main: None,
                    limits: BTreeMap::new(),
                    external_scaler: app_has_external_scaler(&config),
                });
                found.push((mark, handle.write()));
            }
        }
        Ok(found)
    }

    /// Orphans that are gone from the cluster need no record any more.
    async fn forget_orphans(&self, records: &[(Guid, ServeRecord)], head: &Head, instance: &ServeInstance) {
        for (guid, record) in records {
            if record.orphan
                && record.cluster == head.name
                && !instance.applications.contains_key(&record.application)
                && self.shared.records.remove(*guid).await.is_ok()
            {
                self.orphans().await.lock().remove(guid);
            }
        }
    }

    pub(super) async fn observe_all(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) {
        let (by_cluster, unreadable) = self.by_cluster(targets);
        out.extend(unreadable.into_iter().map(|(guid, why)| Observed {
            guid,
            handle: None,
            status: self.unknown(guid, 0, &why),
        }));
        let asked = by_cluster.into_iter().map(|(cluster, targets)| async move {
            let answer = self.ask(&cluster).await;
            let mut all = Vec::with_capacity(targets.len());
            for (target, handle) in targets {
                let orphan = self.is_orphan(target.guid).await;
                let handle = self.current(target.guid, handle);
                let status = match &answer {
                    Ok(instance) => self.seen(target.guid, &handle, instance, orphan),
                    Err(error) => self.unknown(target.guid, handle.revision, error.message()),
                };
                all.push(Observed {
                    guid: target.guid,
                    handle: None,
                    status,
                });
            }
            all
        });
        out.extend(join_all(asked).await.into_iter().flatten());
    }

    /// The newest handle: an operation that is being answered may have changed it.
    fn current(&self, guid: Guid, handle: ServeHandle) -> ServeHandle {
        match self.table.lock().get(&guid) {
            Some(entry) if entry.handle.guid == handle.guid && entry.handle.revision >= handle.revision => {
                entry.handle.clone()
            }
            _ => handle,
        }
    }

    /// One turn: all objects of a cluster by one question, where there are any.
    pub(super) async fn look_after(&self, head: &Arc<Head>, look: &Look) -> Duration {
        let poll = head.config.poll;
        let ours: Vec<ServeHandle> = self
            .table
            .lock()
            .values()
            .filter(|entry| entry.handle.cluster == head.name)
            .map(|entry| entry.handle.clone())
            .collect();
        if ours.is_empty() {
            return poll.idle;
        }
        let answer = match look {
            Look::Away(error) => Err(error.clone()),
            _ => head.client.serve(head.config.list_timeout).await,
        };
        match answer {
            Ok(instance) => {
                let mut settled = true;
                for handle in &ours {
                    if let Found::Ours(app) = self.find(&instance, handle) {
                        settled &= is_settled(app) || app.status == ApplicationStatus::DeployFailed;
                    }
                    self.seen(handle.guid, handle, &instance, false);
                }
                if !settled || head.touched().is_some_and(|ago| ago < AFTER_CHANGE) {
                    poll.fast
                } else {
                    poll.busy
                }
            }
            Err(error) => {
                let since = head
                    .outage()
                    .map_or(Duration::ZERO, |outage| Timestamp::now().since(outage.since));
                if since >= head.config.unknown_after {
                    for handle in &ours {
                        self.unknown(handle.guid, handle.revision, error.message());
                    }
                }
                poll.busy
            }
        }
    }
}

fn app_has_external_scaler(config: &super::render::Config) -> bool {
    config.get("external_scaler_enabled") == Some(&serde_json::Value::Bool(true))
}

/// Whether two statuses say different things: neither when nor how it was seen counts, nor when anyone deployed anything.
fn differs(a: &ObjectStatus, b: &ObjectStatus) -> bool {
    let plain = |status: &ObjectStatus| {
        let mut details = status.details.clone();
        if let Some(map) = details.as_object_mut() {
            map.remove("deployed_at");
        }
        details
    };
    let conditions = |status: &ObjectStatus| {
        status
            .conditions
            .iter()
            .map(|c| (c.kind.clone(), c.status, c.reason.clone(), c.message.clone()))
            .collect::<Vec<_>>()
    };
    a.state != b.state
        || a.exit != b.exit
        || a.limits != b.limits
        || conditions(a) != conditions(b)
        || plain(a) != plain(b)
}
