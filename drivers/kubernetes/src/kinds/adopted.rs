//! `kubernetes/adopted` and `kubernetes/cluster`: what is there already.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::handle::ObjectRef;

/// Something that exists already: watched and controlled, never written otherwise and never removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptedSpec {
    /// The cluster, by its name in the driver's configuration; its default cluster without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Its group and version, for example `apps/v1`.
    pub api_version: String,
    /// Its kind, for example `Deployment`.
    pub kind: String,
    /// Its namespace; that of the cluster's configuration without. Not for what has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name in the cluster; the object's own name without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl AdoptedSpec {
    /// Where it is.
    pub(crate) fn place(&self, own_name: &str, namespaced: bool, default_namespace: &str) -> ObjectRef {
        ObjectRef {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: namespaced.then(|| {
                self.namespace
                    .clone()
                    .unwrap_or_else(|| default_namespace.to_owned())
            }),
            name: self.name.clone().unwrap_or_else(|| own_name.to_owned()),
            uid: None,
            fingerprint: None,
        }
    }
}

/// A cluster of the configuration, for verbs about its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// The cluster, by its name in the driver's configuration; its default cluster without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}
