//! What bears our mark, whatever run of the agent made it.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api_driver::model::{ErrorKind, Guid};
use agent_api_driver::{Handle, Mark, Result};
use futures_util::StreamExt;
use kube::api::{DynamicObject, ListParams};

use crate::handle::{HandleData, ObjectRef};
use crate::kinds::{CONTAINER, KubeKind, rank};
use crate::mark;
use crate::sdk::Cluster;
use crate::shared::Shared;
use crate::status::fingerprint::fingerprint;
use crate::target::types;
use crate::types::TypeRef;

/// How many types are listed at one time.
const AT_ONCE: usize = 8;
/// How many objects are listed in one request.
const PAGE: u32 = 500;

impl Shared {
    pub(crate) async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.open("discover")?;
        let mut found = Vec::new();
        for cluster in self.clusters.values() {
            let marked = self.marked(cluster, &mark::selector_of_agent(&self.agent)).await;
            let marked = marked.map_err(|error| error.with_operation("discover"))?;
            found.extend(marked.into_iter().map(|(mark, data)| (mark, data.write())));
        }
        Ok(found)
    }

    /// The objects of ours that have parts with these labels in a cluster, each with a handle made of what is there.
    pub(crate) async fn marked(
        &self,
        cluster: &Arc<Cluster>,
        labels: &str,
    ) -> Result<Vec<(Mark, HandleData)>> {
        let types = self.types.of(&cluster.name);
        let mut parts: BTreeMap<Guid, Vec<DynamicObject>> = BTreeMap::new();
        for (_, live) in self.listed(cluster, types, labels).await? {
            for object in live
                .into_iter()
                .filter(|object| !mark::is_derived(&object.metadata))
            {
                if let Some(mark) = mark::mark(&object.metadata, &self.agent) {
                    parts.entry(mark.guid).or_default().push(object);
                }
            }
        }
        Ok(parts
            .into_iter()
            .filter_map(|(guid, parts)| self.assembled(cluster, guid, parts))
            .collect())
    }

    /// What the server has of these types with these labels. A type that it does not know has nothing.
    pub(crate) async fn listed(
        &self,
        cluster: &Arc<Cluster>,
        types: impl IntoIterator<Item = TypeRef>,
        labels: &str,
    ) -> Result<Vec<(TypeRef, Vec<DynamicObject>)>> {
        let lists: Vec<Result<(TypeRef, Vec<DynamicObject>)>> = futures_util::stream::iter(types)
            .map(|one| async move {
                let live = self.list(cluster, &one, labels).await?;
                Ok((one, live))
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        lists.into_iter().collect()
    }

    async fn list(&self, cluster: &Arc<Cluster>, one: &TypeRef, labels: &str) -> Result<Vec<DynamicObject>> {
        let resource = match cluster.resource(&one.api_version, &one.kind).await {
            Ok(resource) => resource,
            Err(error) if error.kind() == ErrorKind::Invalid => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        // Where the agent may see some namespaces only, it has made nothing elsewhere.
        let spaces: Vec<Option<&str>> = match cluster.config.namespaces.as_slice() {
            some @ [_, ..] if resource.namespaced => some.iter().map(|name| Some(name.as_str())).collect(),
            _ => vec![None],
        };
        for namespace in spaces {
            let api = cluster.api(&resource, namespace);
            let mut params = ListParams::default().labels(labels).limit(PAGE);
            loop {
                let page = match cluster
                    .call("list", &resource, namespace, "", api.list(&params))
                    .await
                {
                    // Its definition was taken away since it was discovered.
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        cluster.forget_group(&one.api_version);
                        return Ok(Vec::new());
                    }
                    // What may not be listed was most likely never allowed to be made either: it must not hide the rest.
                    Err(error) if error.kind() == ErrorKind::Denied => {
                        tracing::warn!(cluster = %cluster.name, "left out of the search for our marks: {error}");
                        return Ok(found);
                    }
                    other => other?,
                };
                found.extend(page.items.into_iter().map(|mut object| {
                    object.types = Some(types(&resource));
                    object
                }));
                params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
                if params.continue_token.is_none() {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// One object from its parts.
    fn assembled(
        &self,
        cluster: &Cluster,
        guid: Guid,
        mut parts: Vec<DynamicObject>,
    ) -> Option<(Mark, HandleData)> {
        parts.sort_by_key(|part| rank(part.types.as_ref().map_or("", |types| types.kind.as_str())));
        // Of an operation that was cut off some parts bear the mark, and others that of the one before.
        let newest = parts.iter().max_by_key(|part| mark::generation(&part.metadata))?;
        let mark = mark::mark(&newest.metadata, &self.agent)?;
        let kind = mark::kind(&newest.metadata).unwrap_or(KubeKind::Manifest);
        let data = HandleData {
            guid,
            cluster: cluster.name.clone(),
            kind,
            owned: true,
            op_id: mark.op_id,
            generation: mark::generation(&newest.metadata).unwrap_or_default(),
            incarnation: incarnation(newest),
            container: (kind != KubeKind::Manifest).then(|| CONTAINER.to_owned()),
            objects: parts
                .iter()
                .map(|part| ObjectRef {
                    fingerprint: fingerprint(part, cluster.manager()),
                    ..ObjectRef::of(part)
                })
                .collect(),
            deletion: crate::handle::Propagation::default(),
            limits: Vec::new(),
            dropped: Vec::new(),
        };
        Some((mark, data))
    }
}

/// The restart that the pods of a workload come from.
fn incarnation(live: &DynamicObject) -> Option<agent_api_driver::model::OpId> {
    let template = live.data.pointer("/spec/template/metadata/annotations");
    let own = || {
        live.metadata
            .annotations
            .as_ref()?
            .get(mark::INCARNATION)
            .cloned()
    };
    let text = template
        .and_then(|annotations| annotations[mark::INCARNATION].as_str().map(str::to_owned))
        .or_else(own)?;
    text.parse().ok()
}
