//! What the driver keeps of each object in its state directory: what the substrate cannot be asked for later.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind, Guid, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Whether a record must be on disk before the call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// A crash of the agent keeps it, a crash of the host may not.
    Cached,
    /// On disk.
    Synced,
}

/// One file for each object, named by its GUID.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

/// A record with the type of its object, the last part of its kind.
#[derive(Debug, Serialize, Deserialize)]
struct Stored<T> {
    #[serde(rename = "type")]
    type_name: String,
    #[serde(flatten)]
    data: T,
}

#[derive(Deserialize)]
struct TypeOnly {
    #[serde(rename = "type")]
    type_name: String,
}

impl Records {
    /// Opens the directory, and makes it where it is not there. Blocks.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// Whether there is any record.
    pub(crate) async fn is_any(&self) -> bool {
        let dir = self.dir.clone();
        let first = blocking(move || Ok(fs::read_dir(dir)?.next().is_some()));
        first.await.unwrap_or(true)
    }

    /// The type of the object that has a record of this GUID.
    pub(crate) async fn type_of(&self, guid: Guid) -> Result<Option<String>> {
        Ok(self.load::<TypeOnly>(guid).await?.map(|stored| stored.type_name))
    }

    /// The record of an object; none where there is none, or one of another type.
    pub(crate) async fn read<T: DeserializeOwned + Send + 'static>(
        &self,
        type_name: &str,
        guid: Guid,
    ) -> Result<Option<T>> {
        if self.type_of(guid).await?.as_deref() != Some(type_name) {
            return Ok(None);
        }
        Ok(self.load::<Stored<T>>(guid).await?.map(|stored| stored.data))
    }

    async fn load<T: DeserializeOwned + Send + 'static>(&self, guid: Guid) -> Result<Option<T>> {
        let path = self.path(guid);
        let bytes = match blocking(move || fs::read(path)).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", guid, &e)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                // A crash of the host in the middle of a write: what it said is found out anew.
                tracing::warn!(%guid, %error, "a record of the Ray driver cannot be read");
                Ok(None)
            }
        }
    }

    /// Writes the record of an object, as a whole.
    pub(crate) async fn write<T: Serialize>(
        &self,
        type_name: &str,
        guid: Guid,
        data: &T,
        durability: Durability,
    ) -> Result<()> {
        let stored = Stored {
            type_name: type_name.to_owned(),
            data,
        };
        let bytes = serde_json::to_vec(&stored).expect("records have only string keys and finite numbers");
        let path = self.path(guid);
        blocking(move || replace(&path, &bytes, durability))
            .await
            .map_err(|e| failed("write", guid, &e))
    }

    /// Removes the record of an object; one that is not there is success.
    pub(crate) async fn remove(&self, guid: Guid) -> Result<()> {
        let path = self.path(guid);
        match blocking(move || fs::remove_file(path)).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", guid, &e)),
            _ => Ok(()),
        }
    }

    /// All records of a type.
    pub(crate) async fn all<T: DeserializeOwned + Send + 'static>(
        &self,
        type_name: &'static str,
    ) -> Vec<(Guid, T)> {
        let dir = self.dir.clone();
        let files = blocking(move || {
            let mut files = Vec::new();
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if let Some(guid) = guid_of(&path) {
                    files.push((guid, fs::read(&path)?));
                }
            }
            Ok(files)
        })
        .await
        .unwrap_or_default();
        files
            .into_iter()
            .filter_map(|(guid, bytes)| {
                let type_only: TypeOnly = serde_json::from_slice(&bytes).ok()?;
                if type_only.type_name != type_name {
                    return None;
                }
                let stored: Stored<T> = serde_json::from_slice(&bytes).ok()?;
                Some((guid, stored.data))
            })
            .collect()
    }

    /// Removes records that `is_done` and that were not written for so long.
    pub(crate) async fn prune<T: DeserializeOwned + Send + 'static>(
        &self,
        type_name: &'static str,
        older: Duration,
        is_done: impl Fn(&T) -> bool,
    ) {
        for (guid, data) in self.all::<T>(type_name).await {
            let path = self.path(guid);
            let age = blocking(move || fs::metadata(path)?.modified())
                .await
                .ok()
                .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
                .map(|at| {
                    Timestamp::now().since(Timestamp::from_micros(
                        i64::try_from(at.as_micros()).unwrap_or(i64::MAX),
                    ))
                });
            if is_done(&data) && age.is_some_and(|age| age >= older) {
                let _ = self.remove(guid).await;
            }
        }
    }

    fn path(&self, guid: Guid) -> PathBuf {
        self.dir.join(format!("{guid}.json"))
    }
}

fn guid_of(path: &Path) -> Option<Guid> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    if durability == Durability::Synced {
        file.sync_data()?;
    }
    fs::rename(&new, path)?;
    if durability == Durability::Synced
        && let Some(dir) = path.parent()
    {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}

fn failed(what: &str, guid: Guid, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("cannot {what} the driver's record of it: {error}")).with_object(guid)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn records_are_of_one_object_and_type() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("objects")).unwrap();
        let (one, two) = (Guid::generate(), Guid::generate());
        assert_eq!(records.type_of(one).await.unwrap(), None);
        for durability in [Durability::Cached, Durability::Synced] {
            records
                .write("job", one, &json!({"attempt": 3}), durability)
                .await
                .unwrap();
        }
        records
            .write("serve", two, &json!({}), Durability::Cached)
            .await
            .unwrap();
        assert_eq!(records.type_of(two).await.unwrap().as_deref(), Some("serve"));
        assert_eq!(
            records.read::<Value>("job", one).await.unwrap().unwrap()["attempt"],
            3
        );
        assert_eq!(records.read::<Value>("job", two).await.unwrap(), None);
        assert_eq!(records.all::<Value>("job").await.len(), 1);
        std::fs::write(dir.path().join(format!("objects/{two}.json")), "{\"type\":").unwrap();
        assert_eq!(
            records.type_of(two).await.unwrap(),
            None,
            "a half-written one counts as none"
        );
        records
            .prune::<Value>("job", Duration::from_secs(60), |_| true)
            .await;
        assert_eq!(records.all::<Value>("job").await.len(), 1, "too young");
        records.prune::<Value>("job", Duration::ZERO, |_| true).await;
        assert_eq!(records.all::<Value>("job").await.len(), 0);
        records.remove(one).await.unwrap();
    }
}
