//! Which resources a server has, by its own word.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::discovery::ApiResource;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long ago a group was read at the least before it is read again for a kind that it did not have.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a group that is not served counts as such without being asked for again.
const ABSENT: Duration = Duration::from_secs(60);

/// One resource of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// What the library needs of it.
    pub api: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Its subresources: `scale`, `status`, `log` …
    pub subresources: Vec<String>,
}

impl Resource {
    /// Whether it has this subresource.
    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|known| known == subresource)
    }
}

/// The resources of one group and version.
pub(crate) type Group = Arc<Vec<Arc<Resource>>>;

/// Reads the answer of a server to `/api/v1` or `/apis/GROUP/VERSION`.
pub(crate) fn resources(list: &APIResourceList) -> Group {
    let api_version = list.group_version.as_str();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let mut found: Vec<Resource> = Vec::new();
    for resource in list
        .resources
        .iter()
        .filter(|resource| !resource.name.contains('/'))
    {
        found.push(Resource {
            api: ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version: api_version.to_owned(),
                kind: resource.kind.clone(),
                plural: resource.name.clone(),
            },
            namespaced: resource.namespaced,
            subresources: Vec::new(),
        });
    }
    for resource in &list.resources {
        if let Some((owner, sub)) = resource.name.split_once('/')
            && let Some(owner) = found.iter_mut().find(|resource| resource.api.plural == owner)
        {
            owner.subresources.push(sub.to_owned());
        }
    }
    Arc::new(found.into_iter().map(Arc::new).collect())
}

/// What is known of a server's groups.
#[derive(Default)]
pub(crate) struct Cache(Mutex<HashMap<String, Entry>>);

struct Entry {
    read: Instant,
    /// None where the server does not have it.
    group: Option<Group>,
}

impl Cache {
    /// What is known of a group and version: nothing, or whether it is served and with what.
    pub(crate) fn group(&self, api_version: &str) -> Option<Option<Group>> {
        let entries = self.0.lock();
        let entry = entries.get(api_version)?;
        if entry.group.is_none() && entry.read.elapsed() >= ABSENT {
            return None;
        }
        Some(entry.group.clone())
    }

    /// Whether it is time to read a group again, because it lacks a kind that somebody wants.
    pub(crate) fn is_old(&self, api_version: &str) -> bool {
        self.0
            .lock()
            .get(api_version)
            .is_none_or(|entry| entry.read.elapsed() >= AGAIN)
    }

    pub(crate) fn put(&self, api_version: &str, group: Option<Group>) {
        let read = Instant::now();
        self.0
            .lock()
            .insert(api_version.to_owned(), Entry { read, group });
    }

    /// Forgets a group, whose resources were just changed.
    pub(crate) fn forget(&self, api_version: &str) {
        self.0.lock().remove(api_version);
    }
}

#[cfg(test)]
mod tests;
