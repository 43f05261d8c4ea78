//! Creating and changing objects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{DriftPolicy, Error, ErrorKind, ObjectSpec, Severity};
use agent_api_driver::{Applied, ApplyRequest, Result};
use futures_util::StreamExt;
use kube::api::DynamicObject;
use tokio::time::{Instant, sleep};

use crate::handle::{HandleData, ObjectRef};
use crate::kinds::{self, AdoptedSpec, CONTAINER, KubeKind, RenderContext, Spec, rank};
use crate::put::{Intent, Made};
use crate::sdk::{Cluster, Resource};
use crate::shared::Shared;
use crate::status::fingerprint::fingerprint;
use crate::target::Target;
use crate::types::TypeRef;

/// How many objects of one manifest are applied or deleted at one time.
pub(crate) const AT_ONCE: usize = 8;
/// Between two looks at whether a new type is served.
const TYPE_PAUSE: Duration = Duration::from_millis(100);

/// A rendered object and the resource it belongs to.
pub(crate) struct Wanted {
    pub object: DynamicObject,
    pub place: ObjectRef,
}

impl Shared {
    pub(crate) async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.open("apply")?;
        let name = request.spec.name.clone();
        self.apply_one(request)
            .await
            .map_err(|error| error.with_operation("apply").with_object(name))
    }

    async fn apply_one(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        let wrong = self
            .validate(request.spec)
            .into_iter()
            .find(|found| found.severity == Severity::Error);
        if let Some(wrong) = wrong {
            return Err(Error::invalid(wrong.path, wrong.message));
        }
        let spec = Spec::parse(request.spec)?;
        let previous = request.handle.map(HandleData::read).transpose()?;
        if previous.as_ref().is_some_and(|data| data.guid != request.guid) {
            return Err(Error::invalid("handle", "this is the handle of another object"));
        }
        let cluster = self.wanted_cluster(&spec)?;
        let _changing = self.watches.changing(request.guid);
        match &spec {
            Spec::Adopted(adopted) => self.adopt(&request, cluster, adopted).await,
            Spec::Cluster(_) => {
                cluster.probe().await?;
                let data = self.data(&request, KubeKind::Cluster, cluster, previous.as_ref());
                self.settled(request.guid, &data, &[])
            }
            _ => self.make(&request, &spec, cluster, previous).await,
        }
    }

    /// The cluster that a spec names, or the default one.
    pub(crate) fn wanted_cluster(&self, spec: &Spec) -> Result<&Arc<Cluster>> {
        let name = spec
            .cluster()
            .or_else(|| self.config.default_cluster())
            .ok_or_else(|| {
                Error::invalid(
                    "spec.cluster",
                    "names no cluster, there are several and the configuration has no default",
                )
            })?;
        self.cluster(name)
    }

    fn data(
        &self,
        request: &ApplyRequest<'_>,
        kind: KubeKind,
        cluster: &Cluster,
        previous: Option<&HandleData>,
    ) -> HandleData {
        HandleData {
            guid: request.guid,
            cluster: cluster.name.clone(),
            kind,
            owned: kind.owned(),
            op_id: request.op_id,
            generation: request.generation,
            incarnation: previous.and_then(|data| data.incarnation),
            container: matches!(kind, KubeKind::Deployment | KubeKind::Job | KubeKind::Pod)
                .then(|| CONTAINER.to_owned()),
            objects: Vec::new(),
            deletion: previous.map(|data| data.deletion).unwrap_or_default(),
            limits: crate::capabilities::limit_statuses(&request.spec.resources),
            dropped: Vec::new(),
        }
    }

    async fn adopt(
        &self,
        request: &ApplyRequest<'_>,
        cluster: &Arc<Cluster>,
        spec: &AdoptedSpec,
    ) -> Result<Applied> {
        let resource = cluster.resource(&spec.api_version, &spec.kind).await?;
        let place = spec.place(
            request.spec.name.as_str(),
            resource.namespaced,
            &cluster.default_namespace(),
        );
        let target = Target::at(cluster, resource, place);
        let live = target.get().await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no {}", target.place))
                .with_hint("an adopted object must exist already")
        })?;
        let mut data = self.data(request, KubeKind::Adopted, cluster, None);
        data.objects = vec![ObjectRef {
            uid: live.metadata.uid.clone(),
            ..target.place.clone()
        }];
        self.settled(request.guid, &data, &[live])
    }

    /// The objects that a spec becomes, with the namespaces they go to.
    pub(crate) async fn wanted(
        &self,
        spec: &ObjectSpec,
        cluster: &Arc<Cluster>,
        context: &RenderContext<'_>,
        until: Instant,
    ) -> Result<Vec<Wanted>> {
        let rendered = kinds::render(spec, context)?;
        let own = defined_types(&rendered);
        let mut wanted = Vec::with_capacity(rendered.len());
        for mut object in rendered {
            let mut place = ObjectRef::of(&object);
            let group = (place.group().to_owned(), place.kind.clone());
            // Types that the manifest itself defines are known once their definition is there.
            let namespaced = match own.get(&group) {
                Some(namespaced) => *namespaced,
                None => self.resource(cluster, &place, false, until).await?.namespaced,
            };
            let namespace = object.metadata.namespace.take().filter(|_| namespaced);
            place.namespace = namespaced.then(|| namespace.unwrap_or_else(|| context.namespace.to_owned()));
            object.metadata.namespace = place.namespace.clone();
            wanted.push(Wanted { object, place });
        }
        Ok(wanted)
    }

    /// The resource of a place; waits for one that was just defined.
    pub(crate) async fn resource(
        &self,
        cluster: &Cluster,
        place: &ObjectRef,
        defined: bool,
        until: Instant,
    ) -> Result<Arc<Resource>> {
        loop {
            match cluster.resource(&place.api_version, &place.kind).await {
                Err(error)
                    if defined
                        && error.kind() == ErrorKind::Invalid
                        && Instant::now() + TYPE_PAUSE < until =>
                {
                    cluster.forget_group(&place.api_version);
                    sleep(TYPE_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn make(
        &self,
        request: &ApplyRequest<'_>,
        spec: &Spec,
        cluster: &Arc<Cluster>,
        previous: Option<HandleData>,
    ) -> Result<Applied> {
        let until = Instant::now() + request.deadline.mul_f64(0.95);
        let kind = KubeKind::of(request.spec)?;
        let place = spec.place().cloned().unwrap_or_default();
        let namespace = place
            .namespace
            .clone()
            .unwrap_or_else(|| cluster.default_namespace());
        let context = RenderContext {
            agent: &self.agent,
            guid: request.guid,
            generation: request.generation,
            op_id: request.op_id,
            incarnation: previous.as_ref().and_then(|data| data.incarnation),
            namespace: &namespace,
        };
        let wanted = self.wanted(request.spec, cluster, &context, until).await?;
        let types: BTreeSet<TypeRef> = wanted
            .iter()
            .map(|wanted| TypeRef::new(&wanted.place.api_version, &wanted.place.kind))
            .collect();
        self.types.note(&cluster.name, &types).await?;
        let here = previous.as_ref().filter(|data| data.cluster == cluster.name);
        let intent = Intent {
            guid: request.guid,
            op_id: request.op_id,
            maybe_applied: request.maybe_applied,
            force: place.force,
            // What was applied before and is applied again unchanged is a repair: it takes back what was ours.
            repair: request.spec.drift == DriftPolicy::Repair
                && here.is_some_and(|data| data.generation == request.generation),
            create_namespace: place.create_namespace.unwrap_or(cluster.config.create_namespaces),
            deletion: place.deletion,
            runs_again: runs_again(kind, &wanted),
            until,
        };
        let made = self.put_all(cluster, &wanted, &intent, here).await?;
        let mut data = self.data(request, kind, cluster, previous.as_ref());
        data.deletion = place.deletion;
        for (wanted, made) in wanted.iter().zip(&made) {
            let short = wanted.place.short();
            data.dropped.extend(
                crate::dropped::dropped(&wanted.object, &made.live)
                    .into_iter()
                    .map(|field| format!("{short}.{field}")),
            );
            data.objects.push(ObjectRef {
                uid: made.live.metadata.uid.clone(),
                fingerprint: fingerprint(&made.live, cluster.manager()),
                ..wanted.place.clone()
            });
        }
        if let Some(previous) = &previous {
            self.prune(previous, &data, until).await?;
        }
        let live: Vec<DynamicObject> = made.into_iter().map(|made| made.live).collect();
        self.settled(request.guid, &data, &live)
    }

    /// Applies all, those of a lower rank first. Where a create fails, what it made is removed again.
    async fn put_all(
        &self,
        cluster: &Arc<Cluster>,
        wanted: &[Wanted],
        intent: &Intent,
        before: Option<&HandleData>,
    ) -> Result<Vec<Made>> {
        let mut made: Vec<Made> = Vec::with_capacity(wanted.len());
        let mut failed = None;
        for group in wanted.chunk_by(|a, b| rank(&a.place.kind) == rank(&b.place.kind)) {
            let known = |place: &ObjectRef| {
                let found = before?.objects.iter().find(|known| known.same_place(place))?;
                found.uid.clone()
            };
            let calls: Vec<_> = group
                .iter()
                .map(|wanted| self.put(cluster, wanted, intent, known(&wanted.place)))
                .collect();
            let answers: Vec<Result<Made>> = futures_util::stream::iter(calls)
                .buffered(AT_ONCE)
                .collect()
                .await;
            for answer in answers {
                match answer {
                    Ok(answer) => made.push(answer),
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failed.take() {
                return Err(self.undo(cluster, made, intent, error).await);
            }
        }
        Ok(made)
    }

    /// Removes what a failed operation made anew; the error says what could not be removed.
    async fn undo(
        &self,
        cluster: &Arc<Cluster>,
        made: Vec<Made>,
        intent: &Intent,
        mut error: Error,
    ) -> Error {
        for made in made.into_iter().rev().filter(|made| made.new) {
            let place = ObjectRef::of(&made.live);
            let Some(uid) = place.uid.clone() else { continue };
            let removed = match Target::of(cluster, &place).await {
                Ok(target) => target.remove(&uid, intent.deletion, intent.until).await,
                Err(error) => Err(error),
            };
            if let Err(why) = removed {
                error = error.with_context("left", format!("{place}: {why}"));
            }
        }
        error
    }

    /// Deletes what an earlier spec made and the new one does not name.
    async fn prune(&self, previous: &HandleData, now: &HandleData, until: Instant) -> Result<()> {
        let cluster = self.cluster_of(previous)?;
        for old in previous.objects.iter().rev() {
            let kept = previous.cluster == now.cluster && now.objects.iter().any(|new| new.same_place(old));
            let Some(uid) = old.uid.as_deref().filter(|_| !kept) else {
                continue;
            };
            match Target::of(cluster, old).await {
                Ok(target) => target.remove(uid, previous.deletion, until).await?,
                // Its type is gone, and all of that type with it.
                Err(error) if error.kind() == ErrorKind::Invalid => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether what has ended is made anew: for the kinds that end, and for manifests of nothing else.
fn runs_again(kind: KubeKind, wanted: &[Wanted]) -> bool {
    match kind {
        KubeKind::Pod | KubeKind::Job => true,
        KubeKind::Manifest => {
            let runs = |kind: &str| {
                matches!(
                    kind,
                    "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "CronJob"
                )
            };
            !wanted.iter().any(|wanted| runs(&wanted.place.kind))
        }
        _ => false,
    }
}

/// Types that a manifest itself defines, and whether their objects live in namespaces.
fn defined_types(rendered: &[DynamicObject]) -> std::collections::BTreeMap<(String, String), bool> {
    rendered
        .iter()
        .filter(|object| {
            object
                .types
                .as_ref()
                .is_some_and(|types| types.kind == "CustomResourceDefinition")
        })
        .filter_map(|definition| {
            let spec = &definition.data["spec"];
            let group = spec["group"].as_str()?.to_owned();
            let kind = spec["names"]["kind"].as_str()?.to_owned();
            Some(((group, kind), spec["scope"] != "Cluster"))
        })
        .collect()
}

#[cfg(test)]
mod tests;
