//! Which types of resources this agent ever applied, per cluster: where marks may be found.
//!
//! Kept in a file of the state directory, so that a leak scan asks the server for these only. The types of the short kinds
//! are always among them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_api_driver::Result;
use agent_api_driver::model::Error;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A type of resources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct TypeRef {
    /// Group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
}

impl TypeRef {
    pub(crate) fn new(api_version: &str, kind: &str) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        }
    }
}

/// The file.
const FILE: &str = "types.json";

type Known = BTreeMap<String, BTreeSet<TypeRef>>;

/// The types by cluster.
pub(crate) struct Types {
    path: PathBuf,
    known: Mutex<Known>,
    /// Held while the file is written.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Types {
    /// Reads the file; a damaged one counts as empty and is told of.
    pub(crate) async fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        let file = path.clone();
        let known = tokio::task::spawn_blocking(move || read(&file))
            .await
            .map_err(|error| Error::internal("the types could not be read").with_source(error))??;
        Ok(Self {
            path,
            known: Mutex::new(known),
            writing: Arc::default(),
        })
    }

    /// The types in which marks may be found in a cluster.
    pub(crate) fn of(&self, cluster: &str) -> BTreeSet<TypeRef> {
        let mut types = self.known.lock().get(cluster).cloned().unwrap_or_default();
        types.extend([
            TypeRef::new("apps/v1", "Deployment"),
            TypeRef::new("batch/v1", "Job"),
            TypeRef::new("v1", "Pod"),
        ]);
        types
    }

    /// Notes types before something of them is applied. Returns when they are on disk.
    pub(crate) async fn note(&self, cluster: &str, types: &BTreeSet<TypeRef>) -> Result<()> {
        if types.is_subset(&self.of(cluster)) {
            return Ok(());
        }
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let mut next = self.known.lock().clone();
        next.entry(cluster.to_owned())
            .or_default()
            .extend(types.iter().cloned());
        let (path, written) = (self.path.clone(), next.clone());
        // The turn goes with the writing, which goes on where the caller is dropped.
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            write(&path, &written)
        })
        .await
        .map_err(|error| Error::internal("the types could not be written").with_source(error))?
        .map_err(|error| {
            let file = self.path.display();
            Error::internal(format!("cannot write {file}: {error}"))
        })?;
        *self.known.lock() = next;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Known> {
    match std::fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "damaged; leaks of rare types may not be found");
            Known::new()
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Known::new()),
        Err(error) => Err(Error::internal(format!(
            "cannot read {}: {error}",
            path.display()
        ))),
    }
}

/// Writes a new file and puts it in the place of the old one, so that a crash leaves one of them whole.
fn write(path: &Path, known: &Known) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let next = path.with_extension("next");
    let mut file = std::fs::File::create(&next)?;
    file.write_all(&serde_json::to_vec(known)?)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn types_outlive_the_driver() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let types = Types::open(&state).await.unwrap();
        assert_eq!(types.of("a").len(), 3);
        let wanted = BTreeSet::from([TypeRef::new("v1", "ConfigMap"), TypeRef::new("v1", "Pod")]);
        types.note("a", &wanted).await.unwrap();
        let types = Types::open(&state).await.unwrap();
        assert!(wanted.is_subset(&types.of("a")));
        assert_eq!((types.of("a").len(), types.of("b").len()), (4, 3));
        std::fs::write(state.join(FILE), b"{").unwrap();
        assert_eq!(Types::open(&state).await.unwrap().of("a").len(), 3);
    }
}
