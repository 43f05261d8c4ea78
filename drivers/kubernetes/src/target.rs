//! One thing in a cluster, and the requests that are made about it.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind};
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
    ValidationDirective,
};
use kube::core::Status;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::handle::{ObjectRef, Propagation};
use crate::sdk::cluster::Version;
use crate::sdk::{Cluster, Resource};
use crate::{error, mark};

/// Between two looks at something that is going.
const LOOK_FIRST: Duration = Duration::from_millis(40);
/// See [`LOOK_FIRST`]; each look doubles the pause up to this.
const LOOK_LAST: Duration = Duration::from_secs(1);
/// The first servers that check unknown fields by themselves.
const STRICT_SINCE: Version = Version { major: 1, minor: 25 };
/// Servers from here on take a version in the create of a Service.
const SERVICES_SINCE: Version = Version { major: 1, minor: 21 };

/// One place in a cluster.
pub(crate) struct Target<'a> {
    pub cluster: &'a Arc<Cluster>,
    pub resource: Arc<Resource>,
    pub place: ObjectRef,
    api: Api<DynamicObject>,
}

/// How an object is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How<'a> {
    /// Only this one; none where it must not exist yet.
    pub uid: Option<&'a str>,
    /// Whether it must not exist yet, where no uid is given.
    pub create_only: bool,
    /// Take over what other managers have.
    pub force: bool,
    /// Change nothing.
    pub dry_run: bool,
}

/// What a server says of an apply, sorted by what can be done about it.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It exists, exists no more, or is another one than was thought.
    NotAsThought,
    /// Other managers have fields of it.
    Fields(Error),
    /// These fields cannot be changed.
    Immutable(Vec<String>),
    /// Its namespace does not exist.
    NoNamespace(Error),
    /// Anything else.
    Other(Error),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotAsThought => Self::new(
                ErrorKind::Conflict,
                "it was changed at the same time by someone else",
            )
            .with_retry(agent_api_driver::model::Retry::Later),
            Refusal::Immutable(fields) => Self::new(
                ErrorKind::Conflict,
                format!("cannot be changed: {}", fields.join(", ")),
            ),
            Refusal::Fields(error) | Refusal::NoNamespace(error) | Refusal::Other(error) => error,
        }
    }
}

impl<'a> Target<'a> {
    /// The place of a reference.
    pub(crate) async fn of(cluster: &'a Arc<Cluster>, place: &ObjectRef) -> Result<Self> {
        let resource = cluster.resource(&place.api_version, &place.kind).await?;
        Ok(Self::at(cluster, resource, place.clone()))
    }

    /// A place of a known resource.
    pub(crate) fn at(cluster: &'a Arc<Cluster>, resource: Arc<Resource>, place: ObjectRef) -> Self {
        let api = cluster.api(&resource, place.namespace.as_deref());
        Self {
            cluster,
            resource,
            place,
            api,
        }
    }

    /// What is there; none where nothing is.
    pub(crate) async fn get(&self) -> Result<Option<DynamicObject>> {
        let found = self
            .cluster
            .call(
                "get",
                &self.resource,
                self.place.namespace.as_deref(),
                &self.place.name,
                self.api.get_opt(&self.place.name),
            )
            .await?;
        Ok(found.map(|found| self.typed(found)))
    }

    /// Applies an object here by server-side apply.
    pub(crate) async fn apply(&self, wanted: &DynamicObject, how: How<'_>) -> Result<DynamicObject, Refusal> {
        let mut body = serde_json::to_value(wanted).map_err(|error| {
            Refusal::Other(Error::internal("cannot be written as JSON").with_source(error))
        })?;
        let server = self.cluster.server_version().await.map_err(Refusal::Other)?;
        match how.uid {
            Some(uid) => body["metadata"]["uid"] = json!(uid),
            // Looking first must do for these.
            None if how.create_only && self.takes_no_version(server) => self.must_be_free().await?,
            // No object has this version: where one exists the server answers with a conflict, where none does it is made.
            None if how.create_only => body["metadata"]["resourceVersion"] = json!("1"),
            None => {}
        }
        let strict = server >= STRICT_SINCE;
        let params = PatchParams {
            dry_run: how.dry_run,
            force: how.force,
            field_manager: Some(self.cluster.manager().to_owned()),
            field_validation: strict.then_some(ValidationDirective::Strict),
        };
        let patch = Patch::Apply(&body);
        let call = self.api.patch(&self.place.name, &params, &patch);
        match self.cluster.attempt(call).await.map_err(Refusal::Other)? {
            Ok(live) => Ok(self.typed(live)),
            Err(error) => Err(self.refusal(error)),
        }
    }

    async fn must_be_free(&self) -> Result<(), Refusal> {
        match self.get().await.map_err(Refusal::Other)? {
            Some(_) => Err(Refusal::NotAsThought),
            None => Ok(()),
        }
    }

    /// Whether the server takes no version in a create of this type: Services, before 1.21.
    fn takes_no_version(&self, server: Version) -> bool {
        server < SERVICES_SINCE && self.resource.api.group.is_empty() && self.resource.api.kind == "Service"
    }

    fn refusal(&self, error: kube::Error) -> Refusal {
        let kube::Error::Api(status) = error else {
            return Refusal::Other(self.error("patch", error));
        };
        let immutable = error::immutable_fields(&status);
        let not_as_thought = (status.code == 409 && error::field_conflicts(&status).is_empty())
            || immutable.iter().any(|field| field == "metadata.uid");
        let no_namespace = status.code == 404
            && status
                .details
                .as_ref()
                .is_some_and(|details| details.kind == "namespaces");
        if not_as_thought {
            return Refusal::NotAsThought;
        }
        if !immutable.is_empty() {
            let short = self.place.short();
            return Refusal::Immutable(immutable.iter().map(|field| format!("{short}.{field}")).collect());
        }
        let conflict = status.code == 409;
        let error = self.error("patch", kube::Error::Api(status));
        if conflict {
            Refusal::Fields(error)
        } else if no_namespace {
            let namespace = self.place.namespace.as_deref().unwrap_or_default();
            Refusal::NoNamespace(
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no namespace {namespace:?}"),
                )
                .with_path("spec.namespace")
                .with_hint("`spec.create_namespace` makes it"),
            )
        } else {
            Refusal::Other(error)
        }
    }

    fn error(&self, verb: &str, error: kube::Error) -> Error {
        error::map(
            error,
            &self.cluster.name,
            verb,
            &self.resource.api.plural,
            self.place.namespace.as_deref(),
            &self.place.name,
        )
    }

    /// Deletes what is here, if it is the one with this uid. Says whether it is gone already; it counts as gone where
    /// another one is in its place.
    pub(crate) async fn delete(
        &self,
        uid: &str,
        propagation: Propagation,
        grace: Option<Duration>,
    ) -> Result<bool> {
        let foreground = propagation == Propagation::Foreground && self.has_dependents();
        let params = DeleteParams {
            dry_run: false,
            grace_period_seconds: grace.map(whole_seconds),
            propagation_policy: Some(if foreground {
                PropagationPolicy::Foreground
            } else {
                PropagationPolicy::Background
            }),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
        };
        match self
            .cluster
            .attempt(self.api.delete(&self.place.name, &params))
            .await?
        {
            Ok(answer) => Ok(answer.right().is_some_and(|status: Status| status.is_success())),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            // The precondition: what has this name now is another one.
            Err(kube::Error::Api(status))
                if status.code == 409 && status.message.contains("precondition") =>
            {
                Ok(true)
            }
            Err(error) => Err(self.error("delete", error)),
        }
    }

    /// Whether what is here may own other things. Waiting for dependents that cannot exist would cost a turn of the garbage
    /// collector.
    fn has_dependents(&self) -> bool {
        let api = &self.resource.api;
        match api.group.as_str() {
            "" => api.kind == "ReplicationController",
            "rbac.authorization.k8s.io"
            | "networking.k8s.io"
            | "policy"
            | "scheduling.k8s.io"
            | "storage.k8s.io"
            | "apiextensions.k8s.io" => false,
            _ => true,
        }
    }

    /// Waits until the one with this uid is gone. Its finalizers where it is not by then.
    pub(crate) async fn until_gone(&self, uid: &str, until: Instant) -> Result<()> {
        let mut pause = LOOK_FIRST;
        loop {
            let Some(live) = self
                .get()
                .await?
                .filter(|live| live.metadata.uid.as_deref() == Some(uid))
            else {
                return Ok(());
            };
            if Instant::now() + pause >= until {
                return Err(self.still_there(&live));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    fn still_there(&self, live: &DynamicObject) -> Error {
        let finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        let others: Vec<&str> = finalizers
            .iter()
            .map(String::as_str)
            .filter(|name| *name != "foregroundDeletion")
            .collect();
        let why = if !others.is_empty() {
            format!("its finalizer {} holds it", others.join(", "))
        } else if finalizers.is_empty() {
            "it has not ended yet".to_owned()
        } else {
            "what depends on it is not gone yet".to_owned()
        };
        let error = Error::new(
            ErrorKind::Timeout,
            format!("{} is being deleted: {why}", self.place),
        );
        match others.first() {
            Some(first) => error
                .with_context("finalizer", first)
                .with_hint("see that its controller runs; without the finalizer it goes at once"),
            None => error,
        }
    }

    /// Deletes what is here, if it is the one with this uid, with all that depends on it, and waits until it is gone.
    pub(crate) async fn remove(&self, uid: &str, propagation: Propagation, until: Instant) -> Result<()> {
        if self.delete(uid, propagation, None).await? {
            return Ok(());
        }
        self.until_gone(uid, until).await
    }

    /// Takes our marks away from the one with this uid. What is gone or another one needs nothing.
    pub(crate) async fn release(&self, uid: &str) -> Result<()> {
        let none =
            |keys: &[&str]| -> Value { keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect() };
        let body = json!({"metadata": {
            "uid": uid,
            "labels": none(&mark::LABELS),
            "annotations": none(&mark::ANNOTATIONS),
        }});
        let params = PatchParams::default();
        let patch = Patch::Merge(&body);
        let call = self.api.patch(&self.place.name, &params, &patch);
        match self.cluster.attempt(call).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(kube::Error::Api(status))
                if error::immutable_fields(&status)
                    .iter()
                    .any(|field| field == "metadata.uid") =>
            {
                Ok(())
            }
            Err(error) => Err(self.error("patch", error)),
        }
    }

    /// Lists leave the types of their items out.
    fn typed(&self, mut object: DynamicObject) -> DynamicObject {
        if object.types.is_none() {
            object.types = Some(types(&self.resource));
        }
        object
    }
}

/// The types of a resource's objects.
pub(crate) fn types(resource: &Resource) -> kube::core::TypeMeta {
    kube::core::TypeMeta {
        api_version: resource.api.api_version.clone(),
        kind: resource.api.kind.clone(),
    }
}

/// Whole seconds, rounded up: half a second of grace is not none.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
