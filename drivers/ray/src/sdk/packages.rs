//! Packages of code: zipped here, named by their content, uploaded once.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::ErrorKind;
use bytes::Bytes;
use reqwest::Method;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use super::client::Client;

/// A package that is ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// The name by its content: the same files always have the same.
    name: String,
    zip: Bytes,
}

/// Why there is no package: the path that is to blame, and a sentence.
#[derive(Debug)]
pub(crate) struct Unpackable {
    pub path: PathBuf,
    pub why: String,
}

impl Package {
    /// Packs a directory, or takes a `.zip` file as it is. Blocks.
    pub(crate) fn make(path: &Path, most: u64) -> Result<Self, Unpackable> {
        let zip = if path.is_dir() {
            pack(path, most)?
        } else {
            let file = File::open(path).map_err(|e| unpackable(path, e))?;
            let mut all = Vec::new();
            file.take(most + 1)
                .read_to_end(&mut all)
                .map_err(|e| unpackable(path, e))?;
            all
        };
        if zip.len() as u64 > most {
            return Err(unpackable(
                path,
                format!("the package is larger than {most} bytes"),
            ));
        }
        let mut name = "_ray_pkg_".to_owned();
        for byte in &Sha256::digest(&zip)[..16] {
            let _ = write!(name, "{byte:02x}");
        }
        name.push_str(".zip");
        Ok(Self {
            name,
            zip: zip.into(),
        })
    }

    /// What a runtime environment calls it.
    pub(crate) fn uri(&self) -> String {
        format!("gcs://{}", self.name)
    }
}

impl Client {
    /// Brings a package to the cluster, where it is not there. Asking also keeps it there for a while.
    pub(crate) async fn upload(&self, package: &Package, left: Duration) -> Result<()> {
        let path = format!("/api/packages/gcs/{}", package.name);
        match self.get("packages.get", path.clone()).within(left).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => self
                .write("packages.put", Method::PUT, path)
                .bytes(package.zip.clone())
                .within(left)
                .send()
                .await
                .map(drop),
            Err(error) => Err(error),
        }
    }
}

fn unpackable(path: &Path, why: impl ToString) -> Unpackable {
    Unpackable {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

fn pack(root: &Path, most: u64) -> Result<Vec<u8>, Unpackable> {
    let mut files = Vec::new();
    let inside = root.canonicalize().map_err(|e| unpackable(root, e))?;
    list(&inside, &inside, &mut files)?;
    // The same content gives the same bytes: sorted, and without times.
    files.sort();
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let mut total = 0u64;
    for file in &files {
        let name = file.strip_prefix(&inside).unwrap_or(file);
        let name = name
            .to_str()
            .ok_or_else(|| unpackable(file, "its name is not UTF-8"))?;
        let from = File::open(file).map_err(|e| unpackable(file, e))?;
        let meta = from.metadata().map_err(|e| unpackable(file, e))?;
        total += meta.len();
        // Packed ten to one at best: what is larger than that is not read at all.
        if total > most.saturating_mul(10) {
            return Err(unpackable(
                root,
                format!("its files are too many for a package of {most} bytes"),
            ));
        }
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(mode(&meta));
        zip.start_file(name, options).map_err(|e| unpackable(file, e))?;
        copy(from, &mut zip).map_err(|e| unpackable(file, e))?;
    }
    let done = zip.finish().map_err(|e| unpackable(root, e))?;
    Ok(done.into_inner())
}

fn mode(meta: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    // Only whether it is executable: the rest is of this host and would change the name.
    if meta.permissions().mode() & 0o111 == 0 {
        0o644
    } else {
        0o755
    }
}

fn copy(mut from: File, to: &mut impl Write) -> io::Result<()> {
    io::copy(&mut from, to).map(drop)
}

/// All files below; links are followed as long as they stay inside.
fn list(dir: &Path, inside: &Path, files: &mut Vec<PathBuf>) -> Result<(), Unpackable> {
    for entry in std::fs::read_dir(dir).map_err(|e| unpackable(dir, e))? {
        let entry = entry.map_err(|e| unpackable(dir, e))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|e| unpackable(&path, e))?;
        if matches!(entry.file_name().to_str(), Some(".git" | "__pycache__")) {
            continue;
        }
        if kind.is_symlink() {
            let target = path.canonicalize().map_err(|e| unpackable(&path, e))?;
            if !target.starts_with(inside) {
                return Err(unpackable(&path, "the link leads out of the directory"));
            }
            if target.is_file() {
                files.push(path);
            }
            // A link to a directory inside would be packed twice, or for ever.
        } else if kind.is_dir() {
            list(&path, inside, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 1 << 20;

    #[test]
    fn the_name_is_of_the_content_alone() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            std::fs::create_dir(dir.path().join("pkg")).unwrap();
            std::fs::write(dir.path().join("pkg/b.py"), "b").unwrap();
            std::fs::write(dir.path().join("main.py"), "print(1)").unwrap();
            std::fs::create_dir(dir.path().join("__pycache__")).unwrap();
            std::fs::write(dir.path().join("__pycache__/x.pyc"), format!("{dir:?}")).unwrap();
        }
        let name = |dir: &tempfile::TempDir| Package::make(dir.path(), MOST).unwrap().name;
        assert_eq!(name(&one), name(&two));
        std::fs::write(two.path().join("main.py"), "print(2)").unwrap();
        assert_ne!(name(&one), name(&two));
    }

    #[test]
    fn files_are_at_the_top_and_a_zip_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.py"), "print(1)").unwrap();
        let package = Package::make(dir.path(), MOST).unwrap();
        let mut read = zip::ZipArchive::new(Cursor::new(package.zip.to_vec())).unwrap();
        let mut text = String::new();
        read.by_name("main.py")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "print(1)");
        let file = dir.path().join("package.zip");
        std::fs::write(&file, &package.zip).unwrap();
        assert_eq!(Package::make(&file, MOST).unwrap().uri(), package.uri());
    }

    #[test]
    fn what_leads_out_or_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let error = Package::make(dir.path(), MOST).unwrap_err();
        assert!(
            error.path.ends_with("link") && error.why.contains("leads out"),
            "{error:?}"
        );
        std::fs::remove_file(dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("big"), vec![0; 4096]).unwrap();
        assert!(Package::make(dir.path(), 16).is_err());
        assert!(Package::make(Path::new("/no/such/dir"), MOST).is_err());
    }
}
