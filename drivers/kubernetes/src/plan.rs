//! What a change would do, by the server's own word: a dry run of the apply, beside what is there now.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Diagnostic, Error, ErrorKind, FieldChange, ObjectSpec, OpId, Plan, PlanAction,
};
use agent_api_driver::{PlanRequest, Result};
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::apply::Wanted;
use crate::handle::{HandleData, ObjectRef};
use crate::kinds::{self, KubeKind, RenderContext, Spec};
use crate::put::may_be_replaced;
use crate::sdk::Cluster;
use crate::shared::Shared;
use crate::target::{How, Refusal, Target};
use crate::{dropped, mark};

/// How long a plan may wait for the server in all.
const LIMIT: Duration = Duration::from_secs(20);

/// What is found of one object.
#[derive(Default)]
struct Found {
    changes: Vec<FieldChange>,
    /// Fields that force it to be made anew.
    replaced: Vec<String>,
    /// Fields that cannot be changed at all.
    impossible: Vec<String>,
    /// What goes to a namespace that is not there, and what the server says of it.
    homeless: Vec<(String, Error)>,
    notes: Vec<Diagnostic>,
}

impl Shared {
    pub(crate) async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        self.open("plan")?;
        let name = request.next.name.clone();
        self.plan_one(request)
            .await
            .map_err(|error| error.with_operation("plan").with_object(name))
    }

    async fn plan_one(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let next = Spec::parse(request.next)?;
        let cluster = self.wanted_cluster(&next)?;
        if let Some(previous) = request.previous
            && previous.spec == request.next.spec
            && previous.resources == request.next.resources
        {
            return Ok(Plan::new(PlanAction::NoOp, Vec::new()));
        }
        if !KubeKind::of(request.next)?.owned() {
            return Ok(plan_of_existing(&request));
        }
        let data = request.handle.map(HandleData::read).transpose()?;
        let wanted = self.rendered(&request, &next, cluster, data.as_ref()).await?;
        let mut found = Found::default();
        for wanted in &wanted {
            let known = data.as_ref().and_then(|data| known(data, cluster, wanted));
            self.plan_object(
                cluster,
                wanted,
                known,
                next.place().is_some_and(|place| place.force),
                &mut found,
            )
            .await?;
        }
        if let Some(data) = &data {
            found.prune(data, cluster, &wanted);
        }
        found.new_namespaces(
            &wanted,
            next.place()
                .and_then(|place| place.create_namespace)
                .unwrap_or(cluster.config.create_namespaces),
        );
        let details = json!({"manifests": wanted.iter().map(shown).collect::<Vec<_>>()});
        let mut plan = found.plan(&request);
        plan.details = details;
        Ok(plan)
    }

    async fn rendered(
        &self,
        request: &PlanRequest<'_>,
        next: &Spec,
        cluster: &Arc<Cluster>,
        data: Option<&HandleData>,
    ) -> Result<Vec<Wanted>> {
        let namespace = next
            .namespace()
            .map_or_else(|| cluster.default_namespace(), str::to_owned);
        let context = RenderContext {
            agent: &self.agent,
            guid: request.guid,
            generation: data.map_or(1, |data| data.generation),
            // The same for each plan of the same change. Nothing is made, so that it is never seen.
            op_id: data.map_or(OpId(request.guid.0), |data| data.op_id),
            incarnation: data.and_then(|data| data.incarnation),
            namespace: &namespace,
        };
        self.wanted(request.next, cluster, &context, Instant::now() + LIMIT)
            .await
    }

    async fn plan_object(
        &self,
        cluster: &Arc<Cluster>,
        wanted: &Wanted,
        known: Option<&ObjectRef>,
        force: bool,
        found: &mut Found,
    ) -> Result<()> {
        let short = wanted.place.short();
        let target = match Target::of(cluster, &wanted.place).await {
            Ok(target) => target,
            // A type that the same manifest defines.
            Err(error) if error.kind() == ErrorKind::Invalid => {
                found.notes.push(Diagnostic::warning(
                    short,
                    format!("cannot be tried yet: {}", error.message()),
                ));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let live = match known {
            Some(_) => target.get().await?,
            None => None,
        };
        let live = live.filter(|live| mark::guid(&live.metadata, &self.agent).is_some());
        let how = How {
            uid: live.as_ref().and_then(|live| live.metadata.uid.as_deref()),
            create_only: true,
            force,
            dry_run: true,
        };
        match target.apply(&wanted.object, how).await {
            Ok(then) => {
                found
                    .notes
                    .extend(dropped::dropped(&wanted.object, &then).into_iter().map(|field| {
                        Diagnostic::warning(
                            format!("{short}.{field}"),
                            "the server does not know this field and drops it",
                        )
                    }));
                let then = stripped(&then);
                let now = live.as_ref().map_or(Value::Null, stripped);
                found.changes.extend(match live {
                    Some(_) => concealed(&wanted.place, FieldChange::between(&short, &now, &then)),
                    None => vec![FieldChange {
                        path: short,
                        from: Value::Null,
                        to: shown(wanted),
                    }],
                });
                Ok(())
            }
            Err(Refusal::Immutable(fields)) => {
                let now = live.as_ref().map_or(Value::Null, stripped);
                let then = merged(&now, &stripped(&wanted.object));
                found.changes.extend(concealed(
                    &wanted.place,
                    FieldChange::between(&short, &now, &then),
                ));
                if may_be_replaced(&wanted.place.kind) {
                    found.replaced.extend(fields);
                } else {
                    found.impossible.extend(fields);
                }
                Ok(())
            }
            Err(Refusal::NoNamespace(error)) => {
                found.homeless.push((short, error));
                Ok(())
            }
            Err(Refusal::NotAsThought) if live.is_none() => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "there is a {} already, and it is not of this object",
                    wanted.place
                ),
            )),
            Err(other) => Err(other.into()),
        }
    }
}

impl Found {
    /// Namespaces that will be made are changes; those that will not are told of.
    fn new_namespaces(&mut self, wanted: &[Wanted], create: bool) {
        let homeless = std::mem::take(&mut self.homeless);
        if !create {
            let notes = homeless
                .into_iter()
                .map(|(short, error)| Diagnostic::warning(short, error.to_string()));
            self.notes.extend(notes);
            return;
        }
        for wanted in wanted {
            if !homeless.iter().any(|(short, _)| *short == wanted.place.short()) {
                continue;
            }
            let path = format!(
                "Namespace/{}",
                wanted.place.namespace.as_deref().unwrap_or_default()
            );
            if !self.changes.iter().any(|change| change.path == path) {
                self.changes.insert(
                    0,
                    FieldChange {
                        path,
                        from: Value::Null,
                        to: json!({}),
                    },
                );
            }
            self.changes.push(FieldChange {
                path: wanted.place.short(),
                from: Value::Null,
                to: shown(wanted),
            });
        }
    }

    /// What the new spec does not name any more, and what goes to another place.
    fn prune(&mut self, data: &HandleData, cluster: &Cluster, wanted: &[Wanted]) {
        for old in &data.objects {
            let kept = data.cluster == cluster.name && wanted.iter().any(|new| new.place.same_place(old));
            if !kept {
                self.changes.push(FieldChange {
                    path: old.short(),
                    from: json!(old.to_string()),
                    to: Value::Null,
                });
            }
        }
        let moved = |old: &ObjectRef| {
            data.cluster != cluster.name
                || wanted.iter().any(|new| {
                    (&new.place.kind, &new.place.name) == (&old.kind, &old.name) && !new.place.same_place(old)
                })
        };
        let all_new = !wanted.is_empty()
            && !wanted
                .iter()
                .any(|new| data.objects.iter().any(|old| new.place.same_place(old)));
        self.replaced.extend(
            data.objects
                .iter()
                .filter(|old| moved(old) || (all_new && data.kind != KubeKind::Manifest))
                .map(|old| format!("{}.metadata.namespace", old.short())),
        );
    }

    fn plan(self, request: &PlanRequest<'_>) -> Plan {
        let Some(previous) = request.previous else {
            let mut plan = Plan::new(PlanAction::Create, self.changes);
            plan.diagnostics = self.notes;
            return plan;
        };
        // What changes in the spec alone: how it is deleted, for example.
        let changes = match self.changes.is_empty() {
            true => spec_changes(previous, request.next),
            false => self.changes,
        };
        let mut plan = if !self.impossible.is_empty() {
            Plan::new(PlanAction::Infeasible, changes).because(format!(
                "{} cannot be changed, and what holds data is not made anew",
                self.impossible.join(", ")
            ))
        } else if !self.replaced.is_empty() {
            let fields = self.replaced.join(", ");
            let only_limits = previous.spec == request.next.spec;
            let is_pod = KubeKind::find(&request.next.kind) == Some(KubeKind::Pod);
            if only_limits && is_pod {
                Plan::new(PlanAction::Restart, changes).because(format!(
                    "this cluster cannot resize a running pod ({fields}): it is started again"
                ))
            } else {
                Plan::new(PlanAction::Recreate, changes)
                    .because(format!("{fields} cannot be changed in place"))
            }
        } else if changes.is_empty() {
            Plan::new(PlanAction::NoOp, changes)
        } else {
            Plan::new(PlanAction::InPlace, changes)
        };
        plan.diagnostics = self.notes;
        plan
    }
}

fn spec_changes(previous: &ObjectSpec, next: &ObjectSpec) -> Vec<FieldChange> {
    let shown = |spec: &ObjectSpec| {
        let mut spec = spec.clone();
        kinds::redact(&mut spec);
        (
            spec.spec,
            serde_json::to_value(&spec.resources).unwrap_or_default(),
        )
    };
    let ((old, old_resources), (new, new_resources)) = (shown(previous), shown(next));
    let mut changes = FieldChange::between("spec", &old, &new);
    changes.extend(FieldChange::between("resources", &old_resources, &new_resources));
    changes
}

/// Nothing is written for what is only looked at: another reference is another thing.
fn plan_of_existing(request: &PlanRequest<'_>) -> Plan {
    match request.previous {
        None => Plan::new(PlanAction::Create, Vec::new()).because("it exists already and is watched only"),
        Some(previous) => {
            let changes = spec_changes(previous, request.next);
            if previous.spec == request.next.spec {
                return Plan::new(PlanAction::InPlace, changes);
            }
            Plan::new(PlanAction::Recreate, changes)
                .because("another thing is watched from then on; none is touched")
        }
    }
}

fn known<'a>(data: &'a HandleData, cluster: &Cluster, wanted: &Wanted) -> Option<&'a ObjectRef> {
    let here = data.cluster == cluster.name;
    data.objects
        .iter()
        .find(|known| here && known.same_place(&wanted.place))
}

/// The changes of a Secret name its fields and not their values.
fn concealed(place: &ObjectRef, mut changes: Vec<FieldChange>) -> Vec<FieldChange> {
    if place.kind == "Secret" {
        for value in changes
            .iter_mut()
            .flat_map(|change| [&mut change.from, &mut change.to])
        {
            if !value.is_null() {
                *value = json!(kinds::REDACTED);
            }
        }
    }
    changes
}

/// An object without what belongs to the server and what changes with each operation.
fn stripped(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        for field in ["status", "apiVersion", "kind"] {
            map.remove(field);
        }
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.retain(|field, _| matches!(field.as_str(), "labels" | "annotations" | "finalizers"));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| {
                !mark::ANNOTATIONS.contains(&key.as_str()) && key != "deployment.kubernetes.io/revision"
            });
        }
    }
    value
}

/// What is there with what is wanted laid over it: the server's defaults stay.
fn merged(now: &Value, wanted: &Value) -> Value {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => {
            let mut all = now.clone();
            for (field, value) in wanted {
                let next = merged(now.get(field).unwrap_or(&Value::Null), value);
                all.insert(field.clone(), next);
            }
            Value::Object(all)
        }
        (Value::Array(now), Value::Array(wanted)) if now.len() == wanted.len() => now
            .iter()
            .zip(wanted)
            .map(|(now, wanted)| merged(now, wanted))
            .collect(),
        (_, wanted) => wanted.clone(),
    }
}

/// A manifest as it is shown.
fn shown(wanted: &Wanted) -> Value {
    let mut value = serde_json::to_value(&wanted.object).unwrap_or_default();
    kinds::redact_value(&mut value);
    if let Some(annotations) = value
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.retain(|key, _| !mark::ANNOTATIONS.contains(&key.as_str()));
    }
    value
}
