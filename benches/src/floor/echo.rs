//! An echo over a Unix stream socket: what a request costs where nothing is done.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::row::Times;

/// An echo server on a thread of its own; ends when its client leaves.
pub struct Echo {
    stream: UnixStream,
    server: Option<std::thread::JoinHandle<()>>,
    buffer: Vec<u8>,
}

impl Echo {
    /// Starts it. `answer` bytes come back for each request of `request` bytes, after `work` was done.
    pub fn start(
        dir: &Path,
        request: usize,
        answer: usize,
        mut work: impl FnMut() + Send + 'static,
    ) -> Result<Self> {
        let path = dir.join("echo.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        let server = std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            let (mut question, reply) = (vec![0; request], vec![b'x'; answer]);
            while stream.read_exact(&mut question).is_ok() {
                work();
                if stream.write_all(&reply).is_err() {
                    return;
                }
            }
        });
        let stream = UnixStream::connect(&path)?;
        Ok(Self {
            stream,
            server: Some(server),
            buffer: vec![b'x'; request.max(answer)],
        })
    }

    /// One request and its answer.
    pub fn ask(&mut self, request: usize, answer: usize) -> Result<()> {
        self.stream.write_all(&self.buffer[..request])?;
        self.stream.read_exact(&mut self.buffer[..answer])?;
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Many echoes, one after the other.
pub fn echoes(dir: &Path, count: usize, request: usize, answer: usize) -> Result<Times> {
    let mut echo = Echo::start(dir, request, answer, || {})?;
    let mut times = Times::new();
    for _ in 0..count {
        let start = Instant::now();
        echo.ask(request, answer)?;
        times.record(start.elapsed());
    }
    Ok(times)
}
