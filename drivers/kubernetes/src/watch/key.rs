//! What is watched.

use std::sync::Arc;

use crate::handle::{HandleData, ObjectRef};
use crate::kinds::KubeKind;

/// What one watch is of: a resource, over the cluster or in one namespace, all of it or only what bears our mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WatchKey {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Option<Arc<str>>,
    pub ours: bool,
}

/// Kinds of which everything is kept, also where it does not bear our mark.
const KEPT: [&str; 3] = ["Pod", "Node", "Namespace"];

impl WatchKey {
    fn new(api_version: &str, kind: &str, namespace: Option<&str>, ours: bool) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: namespace.map(Into::into),
            ours,
        }
    }

    /// Whether all that it shows is kept.
    pub(crate) fn keeps_all(&self) -> bool {
        self.ours || KEPT.contains(&&*self.kind)
    }

    /// Whether it is of Kubernetes Events.
    pub(crate) fn of_events(&self) -> bool {
        &*self.kind == "Event" && &*self.api_version == "v1" && !self.ours
    }

    /// Of one thing of an object. `single` says that rights are per namespace.
    pub(crate) fn of_reference(reference: &ObjectRef, owned: bool, single: bool) -> Self {
        let namespace = reference.namespace.as_deref();
        // What is not ours is watched where it is; what is ours over all the cluster at once.
        let namespace = namespace.filter(|_| single || !owned);
        Self::new(&reference.api_version, &reference.kind, namespace, owned)
    }

    /// Of the pods that belong to what is in a namespace.
    pub(crate) fn of_pods(namespace: &str, owned: bool, single: bool) -> Self {
        Self::new("v1", "Pod", Some(namespace).filter(|_| single || !owned), owned)
    }

    /// Of the Events in a namespace.
    pub(crate) fn of_event_log(namespace: &str) -> Self {
        Self::new("v1", "Event", Some(namespace), false)
    }

    /// Of namespaces.
    pub(crate) fn of_namespaces() -> Self {
        Self::new("v1", "Namespace", None, false)
    }

    /// Of nodes.
    pub(crate) fn of_nodes() -> Self {
        Self::new("v1", "Node", None, false)
    }

    /// All that must be watched for an object.
    pub(crate) fn all_of(data: &HandleData, single: bool) -> Vec<Self> {
        if data.kind == KubeKind::Cluster {
            return vec![Self::of_nodes()];
        }
        let mut keys = Vec::new();
        for reference in &data.objects {
            keys.push(Self::of_reference(reference, data.owned, single));
            match &reference.namespace {
                Some(namespace) => {
                    keys.push(Self::of_event_log(namespace));
                    if has_pods(reference) {
                        keys.push(Self::of_pods(namespace, data.owned, single));
                    }
                    // Rights in some namespaces do not go with the right to watch namespaces.
                    if !single {
                        keys.push(Self::of_namespaces());
                    }
                }
                // The cluster keeps Events of what has no namespace there.
                None => keys.push(Self::of_event_log("default")),
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }
}

/// Whether pods may belong to it: workloads, and whatever a custom resource's controller makes.
pub(crate) fn has_pods(reference: &ObjectRef) -> bool {
    let passive = crate::status::role(reference.group(), &reference.kind) == crate::status::Role::Passive;
    !passive || reference.kind == "Pod"
}

impl std::fmt::Display for WatchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.kind, self.api_version)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => write!(f, " in all namespaces"),
        }
    }
}
