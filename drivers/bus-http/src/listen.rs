//! Listening: the Unix socket and the loopback port.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_api_model::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};

const BACKLOG: u32 = 1_024;
/// The longest path of a socket that the kernel takes.
const LONGEST: usize = 107;

/// A socket file of ours: removed when dropped, unless somebody put another in its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on a Unix socket that only its owner may open.
pub(crate) async fn listen_unix(path: &Path) -> Result<(UnixListener, SocketFile)> {
    if path.as_os_str().len() > LONGEST {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "the socket's path {} has {} bytes, and the kernel takes {LONGEST}",
                path.display(),
                path.as_os_str().len()
            ),
        )
        .with_hint("choose a shorter state directory"));
    }
    prepare_directory(path)?;
    clear_place(path).await?;
    let cannot = |error: io::Error| cannot_listen(path.display(), &error);
    let socket = UnixSocket::new_stream().map_err(cannot)?;
    // Before the bind, which gives the file this mode: there is no moment in which others could connect.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .map_err(|error| cannot(error.into()))?;
    socket.bind(path).map_err(cannot)?;
    let listener = socket.listen(BACKLOG).map_err(cannot)?;
    let metadata = fs::symlink_metadata(path).map_err(cannot)?;
    let file = SocketFile {
        path: path.into(),
        inode: (metadata.dev(), metadata.ino()),
    };
    if metadata.mode() & 0o177 != 0 {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "the socket {} would be open to others: this file system does not keep its mode",
                path.display()
            ),
        ));
    }
    Ok((listener, file))
}

/// Listens on a port of this machine.
pub(crate) async fn listen_tcp(address: SocketAddr) -> Result<TcpListener> {
    if !address.ip().is_loopback() {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("{address} is not an address of this machine alone; the agent listens on loopback only"),
        )
        .with_hint("use 127.0.0.1, and a proxy with TLS where others must reach it"));
    }
    TcpListener::bind(address)
        .await
        .map_err(|error| cannot_listen(address, &error))
}

fn prepare_directory(path: &Path) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| fs::metadata(directory))
        .map_err(|error| cannot_listen(path.display(), &error))
        .and_then(|metadata| {
            let (all_may_write, sticky) = (metadata.mode() & 0o002 != 0, metadata.mode() & 0o1000 != 0);
            if all_may_write && !sticky {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!(
                        "anybody may replace a socket in {}, which all may write to",
                        directory.display()
                    ),
                )
                .with_hint(format!("chmod 700 {}", directory.display())));
            }
            Ok(())
        })
}

/// Removes a socket that nobody listens on. Anything else in its place is an error.
async fn clear_place(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_listen(path.display(), &error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("{} is there and is not a socket", path.display()),
        )
        .with_hint("move it away, or choose another socket"));
    }
    let tried = tokio::time::timeout(Duration::from_secs(2), UnixStream::connect(path)).await;
    match tried {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| cannot_listen(path.display(), &error))
        }
        Ok(Err(error)) => Err(cannot_listen(path.display(), &error)),
        // Connected, or so busy that it cannot even be connected to.
        Ok(Ok(_)) | Err(_) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("an agent is already listening on {}", path.display()),
        )
        .with_hint("use it, stop it with `agent drain`, or choose another --state-dir")),
    }
}

fn cannot_listen(place: impl std::fmt::Display, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::AddrInUse => ErrorKind::AlreadyExists,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("cannot listen on {place}: {error}")).with_operation("bus.open")
}
