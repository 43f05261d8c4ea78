//! Hears of births: the datagram socket on which each kid tells its name.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The socket, and how long a birth may take before the bench gives up.
pub struct Births {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Births {
    /// Listens in this directory.
    pub fn listen(dir: &Path) -> Result<Self> {
        let path = dir.join("births.sock");
        let socket = UnixDatagram::bind(&path).with_context(|| format!("cannot bind {}", path.display()))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
        Ok(Self { socket, path })
    }

    /// What a kid is told.
    pub fn path(&self) -> &str {
        self.path
            .to_str()
            .expect("temporary directories have UTF-8 names")
    }

    /// Waits for the next birth and returns when it was heard.
    pub fn next(&self) -> Result<Instant> {
        let mut name = [0; 128];
        self.socket.recv(&mut name).context("no birth in 30 s")?;
        Ok(Instant::now())
    }

    /// Waits for so many births and returns when the last was heard.
    pub fn wait(&self, count: usize) -> Result<Instant> {
        let mut last = Instant::now();
        for _ in 0..count {
            last = self.next()?;
        }
        Ok(last)
    }
}
