//! What the driver keeps of an object in its handle, version 1.

use agent_api_driver::model::{Error, Generation, Guid, LimitStatus, OpId};
use agent_api_driver::{Handle, Result};
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};

use crate::kinds::KubeKind;

/// The version of handles written now.
pub(crate) const VERSION: u32 = 1;

/// The data of a handle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HandleData {
    /// Whose it is: the handle of another object is not followed.
    pub guid: Guid,
    /// The cluster, by its name in the configuration.
    pub cluster: String,
    /// The kind of the object.
    pub kind: KubeKind,
    /// Whether the driver made it: not so for what was adopted, and for clusters.
    pub owned: bool,
    /// The operation that applied it last.
    pub op_id: OpId,
    /// The generation that was applied last.
    pub generation: Generation,
    /// The restart that its pods come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<OpId>,
    /// The container that logs and commands are about where nobody says; the first one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What it consists of, in the order in which it was applied. Empty for a cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectRef>,
    /// How its dependents are deleted.
    #[serde(default)]
    pub deletion: Propagation,
    /// The limits that the spec sets, as they are held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitStatus>,
    /// Fields of the spec that the server does not know and dropped, for example `Job/a.spec.suspend`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
}

/// One thing in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRef {
    /// Group and version, for example `apps/v1`.
    pub api_version: String,
    /// For example `Deployment`.
    pub kind: String,
    /// None for what has no namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Which of all that ever had this name; none where it was never seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Of the fields we apply, as they were after the last apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<u64>,
}

impl ObjectRef {
    /// Where an object of the server is, and which.
    pub(crate) fn of(object: &DynamicObject) -> Self {
        let types = object.types.clone().unwrap_or_default();
        Self {
            api_version: types.api_version,
            kind: types.kind,
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone(),
            fingerprint: None,
        }
    }

    /// `Deployment/web`, as it stands in the paths of a plan.
    pub(crate) fn short(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    /// Whether the other is in the same place, whichever of that name it is.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        self.group() == other.group()
            && (&self.kind, &self.namespace, &self.name) == (&other.kind, &other.namespace, &other.name)
    }

    /// The API group; empty for the core group.
    pub(crate) fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// How the dependents of what is deleted go: pods of a Deployment, for example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// First the dependents, then the object: when it is gone, all is gone.
    #[default]
    Foreground,
    /// The object at once, the dependents by the cluster's garbage collector afterwards.
    Background,
}

impl HandleData {
    /// Reads a handle of any version ever written.
    pub(crate) fn read(handle: &Handle) -> Result<Self> {
        if handle.version != VERSION {
            return Err(Error::invalid(
                "handle",
                format!(
                    "handle version {} is not known; this driver reads {VERSION}",
                    handle.version
                ),
            ));
        }
        serde_json::from_value(handle.data.clone())
            .map_err(|e| Error::invalid("handle", format!("the handle cannot be read: {e}")))
    }

    /// The handle to store.
    pub(crate) fn write(&self) -> Handle {
        Handle::new(
            VERSION,
            serde_json::to_value(self).expect("the data has only string keys and integers"),
        )
    }
}
