//! The audit: how objects are by asking the clusters, a few lists for many objects.
//!
//! The answers go the same way as what watches bring, so that a status and its revision are the same whichever came
//! first.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use agent_api_driver::model::{Error, ErrorKind, Evidence, EvidenceSource, Guid, Timestamp};
use agent_api_driver::{ObjectState, ObjectStatus, Observed, Result, Target};
use futures_util::StreamExt;
use kube::api::ListParams;
use kube::core::DynamicObject;

use crate::handle::HandleData;
use crate::mark;
use crate::sdk::{Cluster, Resource};
use crate::watch::{
    ClusterWatch, From, Place, State, WatchKey, Watches, next_revision, parse_revision, typed,
};

/// So many things of one resource are asked for by name; from there on all of ours are listed.
const BY_NAME: usize = 3;
/// So many requests at one time.
const AT_ONCE: usize = 16;
/// How many things are listed in one request.
const PAGE: u32 = 500;

/// One request: what of a resource is asked for.
struct Question {
    key: WatchKey,
    what: What,
    /// What is looked for in the answer.
    places: Vec<Place>,
    guids: Vec<Guid>,
}

enum What {
    /// The thing of this name, in its namespace.
    Name(Place),
    /// All that bears our mark, in one namespace or all.
    Ours(Option<String>),
    /// All that bears the mark of one object.
    Object(Guid, Option<String>),
}

/// What was answered.
struct Answer {
    key: WatchKey,
    objects: Vec<DynamicObject>,
    revision: u64,
    /// Places asked for: what is not among the objects is not there.
    places: Vec<Place>,
}

impl Watches {
    /// Asks for the status of many objects. An error where nothing could be asked at all.
    pub(crate) async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) -> Result<()> {
        let mut by_cluster: BTreeMap<String, Vec<(Guid, HandleData)>> = BTreeMap::new();
        for target in targets {
            match HandleData::read(target.handle) {
                Ok(data) if self.clusters.contains_key(&data.cluster) => {
                    by_cluster
                        .entry(data.cluster.clone())
                        .or_default()
                        .push((target.guid, data));
                }
                _ => out.push(unknown(target.guid, 0)),
            }
        }
        let (mut failed, mut answered) = (None, 0);
        for (name, objects) in by_cluster {
            let Some(cluster) = self.clusters.get(&name) else {
                continue;
            };
            match cluster.observe(&objects, out).await {
                Ok(()) => answered += 1,
                Err(error) => {
                    out.extend(objects.iter().map(|(guid, _)| cluster.cannot_ask(*guid)));
                    failed = Some(error);
                }
            }
        }
        match failed {
            // Nothing is known that was not known before.
            Some(error) if answered == 0 => {
                out.retain(|observed| observed.status.state != ObjectState::Unknown);
                Err(error.with_operation("observe"))
            }
            _ => Ok(()),
        }
    }
}

impl ClusterWatch {
    async fn observe(&self, objects: &[(Guid, HandleData)], out: &mut Vec<Observed>) -> Result<()> {
        let single = !self.cluster.config.namespaces.is_empty();
        let first = ask(&self.cluster, questions(objects, single)).await;
        // What a list of all that bears our mark lacks may have lost the mark: it is asked for by name.
        let missing = missing(&first);
        let second = ask(&self.cluster, missing).await;
        let mut blind: HashSet<Guid> = HashSet::new();
        let (mut answers, mut error) = (Vec::new(), None);
        for (question, answer) in first.into_iter().chain(second) {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(why) => {
                    blind.extend(question.guids);
                    error = Some(why);
                }
            }
        }
        if let Some(error) = error
            && answers.is_empty()
        {
            return Err(error);
        }
        let tracked: HashSet<Guid> = self.read(|state| {
            let known = objects.iter().filter(|(guid, _)| state.is_tracked(*guid));
            known.map(|(guid, _)| *guid).collect()
        });
        if tracked.len() < objects.len() {
            self.observe_strangers(objects, &tracked, &blind, &answers, out);
        }
        self.change(|state| {
            for answer in answers {
                state.take_answer(answer);
            }
        });
        for (guid, _) in objects.iter().filter(|(guid, _)| tracked.contains(guid)) {
            if blind.contains(guid) {
                out.push(self.cannot_ask(*guid));
                continue;
            }
            let status = self.change(|state| {
                state.settle(*guid, true);
                state.last_status(*guid)
            });
            out.push(match status {
                Some(status) => polled(*guid, status),
                None => self.cannot_ask(*guid),
            });
        }
        Ok(())
    }

    /// Objects that are not tracked: looking at them tracks none.
    fn observe_strangers(
        &self,
        objects: &[(Guid, HandleData)],
        tracked: &HashSet<Guid>,
        blind: &HashSet<Guid>,
        answers: &[Answer],
        out: &mut Vec<Observed>,
    ) {
        let mut state = State::apart(&self.cluster);
        let strangers = || objects.iter().filter(|(guid, _)| !tracked.contains(guid));
        for (guid, data) in strangers() {
            state.track(*guid, data.clone());
        }
        for answer in answers {
            state.take_answer(Answer {
                key: answer.key.clone(),
                objects: answer.objects.clone(),
                revision: answer.revision,
                places: answer.places.clone(),
            });
        }
        for (guid, _) in strangers() {
            if blind.contains(guid) {
                out.push(unknown(*guid, 0));
                continue;
            }
            state.settle(*guid, false);
            out.push(match state.last_status(*guid) {
                Some(status) => polled(*guid, status),
                None => unknown(*guid, 0),
            });
        }
    }

    fn cannot_ask(&self, guid: Guid) -> Observed {
        unknown(guid, self.read(|state| state.last_revision(guid)))
    }
}

impl State {
    fn take_answer(&mut self, answer: Answer) {
        let Answer {
            key,
            objects,
            revision,
            places,
        } = answer;
        let there: HashSet<Place> = objects.iter().map(Place::of).collect();
        let mut touched = std::collections::BTreeSet::new();
        for object in objects {
            touched.append(&mut self.put(&key, object, From::Answer));
        }
        for place in places.iter().filter(|place| !there.contains(place)) {
            touched.append(&mut self.remove(&key, place, revision, From::Answer));
        }
        self.settle_all(touched);
    }
}

fn polled(guid: Guid, mut status: ObjectStatus) -> Observed {
    // A revision is given to changes only: what is seen again keeps its own.
    status.evidence.source = EvidenceSource::Poll;
    status.evidence.at = Timestamp::now();
    Observed {
        guid,
        handle: None,
        status,
    }
}

fn unknown(guid: Guid, revision: u64) -> Observed {
    let revision = if revision == 0 { next_revision(0) } else { revision };
    Observed {
        guid,
        handle: None,
        status: ObjectStatus::new(
            ObjectState::Unknown,
            Evidence::now(EvidenceSource::Inferred, revision),
        ),
    }
}

/// What to ask for these objects.
fn questions(objects: &[(Guid, HandleData)], single: bool) -> Vec<Question> {
    struct Wanted {
        places: Vec<Place>,
        guids: Vec<Guid>,
    }
    let mut by_key: BTreeMap<WatchKey, Wanted> = BTreeMap::new();
    let mut pods: BTreeMap<WatchKey, Vec<(Guid, String)>> = BTreeMap::new();
    for (guid, data) in objects {
        for reference in &data.objects {
            let key = WatchKey::of_reference(reference, data.owned, single);
            let wanted = by_key.entry(key).or_insert_with(|| Wanted {
                places: Vec::new(),
                guids: Vec::new(),
            });
            wanted.places.push(Place::of_reference(reference));
            wanted.guids.push(*guid);
            // The pods of what is not ours are known by its watch alone.
            if let Some(namespace) = reference.namespace.as_deref().filter(|_| data.owned)
                && reference.kind != "Pod"
                && crate::watch::has_pods(reference)
            {
                let key = WatchKey::of_pods(namespace, true, single);
                pods.entry(key).or_default().push((*guid, namespace.to_owned()));
            }
        }
    }
    let mut all = Vec::new();
    for (key, wanted) in by_key {
        let Wanted { places, guids } = wanted;
        if !key.ours || places.len() <= BY_NAME {
            all.extend(places.into_iter().zip(guids).map(|(place, guid)| Question {
                key: key.clone(),
                what: What::Name(place.clone()),
                places: vec![place],
                guids: vec![guid],
            }));
            continue;
        }
        let namespace = common(places.iter().map(|place| place.namespace.as_deref()));
        all.push(Question {
            what: What::Ours(namespace),
            key,
            places,
            guids,
        });
    }
    for (key, wanted) in pods {
        let namespace = common(wanted.iter().map(|(_, namespace)| Some(namespace.as_str())));
        let first = wanted[0].0;
        let what = if wanted.iter().all(|(guid, _)| *guid == first) {
            What::Object(first, namespace)
        } else {
            What::Ours(namespace)
        };
        all.push(Question {
            key,
            what,
            places: Vec::new(),
            guids: wanted.into_iter().map(|(guid, _)| guid).collect(),
        });
    }
    all
}

/// The one namespace of all, where there is one.
fn common<'a>(mut namespaces: impl Iterator<Item = Option<&'a str>>) -> Option<String> {
    let first = namespaces.next()??;
    namespaces
        .all(|other| other == Some(first))
        .then(|| first.to_owned())
}

fn missing(answers: &[(Question, Result<Answer>)]) -> Vec<Question> {
    let mut found = Vec::new();
    for (question, answer) in answers {
        let (What::Ours(_), Ok(answer)) = (&question.what, answer) else {
            continue;
        };
        let there: HashSet<Place> = answer.objects.iter().map(Place::of).collect();
        for (place, guid) in question.places.iter().zip(&question.guids) {
            if !there.contains(place) {
                found.push(Question {
                    key: question.key.clone(),
                    what: What::Name(place.clone()),
                    places: vec![place.clone()],
                    guids: vec![*guid],
                });
            }
        }
    }
    found
}

async fn ask(cluster: &Arc<Cluster>, questions: Vec<Question>) -> Vec<(Question, Result<Answer>)> {
    futures_util::stream::iter(questions)
        .map(|question| async move {
            let answer = ask_one(cluster, &question).await;
            (question, answer)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

async fn ask_one(cluster: &Cluster, question: &Question) -> Result<Answer> {
    let key = &question.key;
    let resource = match cluster.resource(&key.api_version, &key.kind).await {
        Ok(resource) => resource,
        // Its definition is gone, and it with that.
        Err(error) if error.kind() == ErrorKind::Invalid => {
            return Ok(Answer {
                key: key.clone(),
                objects: Vec::new(),
                revision: 0,
                places: question.places.clone(),
            });
        }
        Err(error) => return Err(error),
    };
    let (namespace, params) = match &question.what {
        What::Name(place) => (
            place.namespace.as_deref(),
            ListParams::default().fields(&format!("metadata.name={}", place.name)),
        ),
        What::Ours(namespace) => (
            namespace.as_deref().or(key.namespace.as_deref()),
            ListParams::default().labels(&mark::selector_of_agent(&cluster.agent)),
        ),
        What::Object(guid, namespace) => (
            namespace.as_deref().or(key.namespace.as_deref()),
            ListParams::default().labels(&mark::selector_of_object(&cluster.agent, *guid)),
        ),
    };
    let (objects, revision) = list(cluster, &resource, namespace, params).await?;
    // What a name finds in a list of all places may lie outside the list's namespace.
    let asked = question
        .places
        .iter()
        .filter(|_| !matches!(question.what, What::Ours(_)));
    Ok(Answer {
        key: key.clone(),
        objects,
        revision,
        places: asked.cloned().collect(),
    })
}

/// A whole list, and its revision.
async fn list(
    cluster: &Cluster,
    resource: &Resource,
    namespace: Option<&str>,
    params: ListParams,
) -> Result<(Vec<DynamicObject>, u64), Error> {
    let api = cluster.api(resource, namespace);
    let mut params = params.limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = cluster
            .call("list", resource, namespace, "", api.list(&params))
            .await?;
        objects.extend(page.items.into_iter().map(|object| typed(resource, object)));
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok((objects, parse_revision(page.metadata.resource_version.as_deref())));
        }
    }
}
