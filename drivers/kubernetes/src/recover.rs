//! Finding objects again after a restart of the agent: one list per type, whatever the number of objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use agent_api_driver::model::{Error, ErrorKind, Evidence, EvidenceSource, Guid};
use agent_api_driver::{ObjectState, ObjectStatus, Recovered, RecoveredState, Result, Target as Asked};
use futures_util::StreamExt;
use kube::api::DynamicObject;

use crate::handle::{HandleData, ObjectRef};
use crate::kinds::KubeKind;
use crate::mark;
use crate::sdk::Cluster;
use crate::shared::Shared;
use crate::target::Target;
use crate::types::TypeRef;
use crate::watch::next_revision;

/// How many things are asked for by name at one time.
const AT_ONCE: usize = 16;

type Place = (String, String, Option<String>, String);

impl Shared {
    pub(crate) async fn recover(&self, targets: &[Asked<'_>]) -> Result<Vec<Recovered>> {
        self.open("recover")?;
        let mut answers = Vec::with_capacity(targets.len());
        let mut by_cluster: BTreeMap<String, Vec<(Guid, HandleData)>> = BTreeMap::new();
        let lost = |guid, why: String| Recovered {
            guid,
            state: RecoveredState::Lost(why),
        };
        for target in targets {
            match HandleData::read(target.handle) {
                Err(error) => answers.push(lost(target.guid, error.to_string())),
                Ok(data) if data.guid != target.guid => answers.push(Recovered {
                    guid: target.guid,
                    state: RecoveredState::Foreign("the handle is of another object".to_owned()),
                }),
                Ok(data) => match self.cluster_of(&data) {
                    Err(error) => answers.push(lost(target.guid, error.to_string())),
                    Ok(_) => by_cluster
                        .entry(data.cluster.clone())
                        .or_default()
                        .push((target.guid, data)),
                },
            }
        }
        for objects in by_cluster.into_values() {
            let cluster = self.cluster_of(&objects[0].1)?;
            answers.extend(self.recover_in(cluster, objects).await);
        }
        Ok(answers)
    }

    async fn recover_in(&self, cluster: &Arc<Cluster>, objects: Vec<(Guid, HandleData)>) -> Vec<Recovered> {
        let owned = objects.iter().filter(|(_, data)| data.owned);
        let types: BTreeSet<TypeRef> = owned
            .flat_map(|(_, data)| &data.objects)
            .map(|place| TypeRef::new(&place.api_version, &place.kind))
            .collect();
        let listed = match self
            .listed(cluster, types, &mark::selector_of_agent(&self.agent))
            .await
        {
            Ok(listed) => listed,
            Err(error) => return self.cannot_ask(objects, &error),
        };
        let found: HashMap<Place, DynamicObject> = listed
            .into_iter()
            .flat_map(|(_, live)| live)
            .map(|live| (key(&ObjectRef::of(&live)), live))
            .collect();
        futures_util::stream::iter(objects)
            .map(|(guid, data)| {
                let found = &found;
                async move {
                    let state = self.recover_one(cluster, guid, data, found).await;
                    Recovered { guid, state }
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    /// The cluster does not answer: the objects are ours as far as anybody knows, and the watches tell when it is back.
    fn cannot_ask(&self, objects: Vec<(Guid, HandleData)>, error: &Error) -> Vec<Recovered> {
        tracing::warn!(%error, objects = objects.len(), "objects are adopted unseen");
        let adopt = |(guid, data): (Guid, HandleData)| {
            self.watches.track(guid, &data);
            Recovered {
                guid,
                state: RecoveredState::Adopted(unseen(), None),
            }
        };
        objects.into_iter().map(adopt).collect()
    }

    async fn recover_one(
        &self,
        cluster: &Arc<Cluster>,
        guid: Guid,
        mut data: HandleData,
        found: &HashMap<Place, DynamicObject>,
    ) -> RecoveredState {
        let (mut live, mut gone, mut changed) = (Vec::new(), Vec::new(), false);
        for place in &mut data.objects {
            let there = match found.get(&key(place)) {
                Some(there) => Ok(Some(there.clone())),
                // Not among those that bear our mark: asked for by name.
                None => self.read(cluster, place).await,
            };
            match there {
                Err(error) if error.kind() == ErrorKind::Invalid => gone.push(place.to_string()),
                Err(error) => {
                    tracing::warn!(%guid, %error, "adopted unseen");
                    self.watches.track(guid, &data);
                    return RecoveredState::Adopted(unseen(), None);
                }
                Ok(None) => gone.push(place.to_string()),
                Ok(Some(there)) => {
                    let same = there.metadata.uid == place.uid;
                    let ours = mark::guid(&there.metadata, &self.agent) == Some(guid);
                    if data.kind == KubeKind::Adopted && !same {
                        return RecoveredState::Foreign(format!("{place} is another one of that name"));
                    }
                    if data.owned && !ours {
                        return RecoveredState::Foreign(format!("{place} does not bear our mark"));
                    }
                    if !same {
                        // Made anew by an operation whose answer was lost.
                        place.uid = there.metadata.uid.clone();
                        changed = true;
                    }
                    live.push(there);
                }
            }
        }
        if live.is_empty() && !data.objects.is_empty() {
            return RecoveredState::Lost(format!(
                "{} was deleted while the agent was away",
                gone.join(", ")
            ));
        }
        let handle = changed.then(|| data.write());
        match self.watches.applied(guid, &data, &live) {
            Ok(status) if status.state == ObjectState::Exited => RecoveredState::Exited(status),
            Ok(status) => RecoveredState::Adopted(status, handle),
            Err(error) => RecoveredState::Lost(error.to_string()),
        }
    }

    async fn read(&self, cluster: &Arc<Cluster>, place: &ObjectRef) -> Result<Option<DynamicObject>> {
        Target::of(cluster, place).await?.get().await
    }
}

fn key(place: &ObjectRef) -> Place {
    (
        place.group().to_owned(),
        place.kind.clone(),
        place.namespace.clone(),
        place.name.clone(),
    )
}

fn unseen() -> ObjectStatus {
    let evidence = Evidence::now(EvidenceSource::Inferred, next_revision(0));
    ObjectStatus::new(ObjectState::Unknown, evidence)
}
