//! Where a spec's objects go, and how they are changed and removed: what all kinds that make something have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::handle::Propagation;

/// Where objects go, and how they are changed and removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Place {
    /// The cluster, by its name in the driver's configuration; its default cluster without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The namespace of what names none; that of the cluster's configuration without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Make namespaces that do not exist; as the cluster's configuration says without. A namespace made this way stays
    /// when the object is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_namespace: Option<bool>,
    /// Take over fields that another manager has, and what exists under the same name and is not of this agent; otherwise
    /// that is a conflict.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// How dependents are deleted.
    #[serde(skip_serializing_if = "is_default")]
    pub deletion: Propagation,
}

fn is_default(deletion: &Propagation) -> bool {
    *deletion == Propagation::default()
}
