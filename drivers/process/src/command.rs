//! Commands in an object's context, and probes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, Guid, ProbeAction};
use agent_api_driver::{
    ExecInput, ExecOutput, ExecRequest, ExecStream, InputStream, ProbeOutcome, ProbeRequest, Result, Target,
};
use futures_util::StreamExt;
use rustix::process::Signal;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::error;
use crate::sdk::exec::{Input, Ours, Output, Theirs, pipes};
use crate::sdk::exit::ExitKind;
use crate::sdk::identity::{MARK_AGENT, MARK_GUID, MARK_OP};
use crate::sdk::probe;
use crate::sdk::procfs;
use crate::sdk::spawn::{self, Descriptors, Launch};
use crate::sdk::sweep::{kill_session, signal_group};
use crate::sdk::terminal::terminal;
use crate::sdk::users::Ids;
use crate::shared::Shared;
use crate::table::{Command, Watched, exit_status};

/// How long output may still come after a command has ended, from what it started and that left its group.
const DRAIN: Duration = Duration::from_secs(1);

/// A command that runs. Dropping it kills the command and what it started; the driver's task waits for it.
struct Running {
    pidfd: Arc<OwnedFd>,
    pid: i32,
    start_ticks: u64,
    /// It has a terminal, and what it started may be in other groups of its session.
    terminal: bool,
    ended: Option<oneshot::Receiver<ExitKind>>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some()
            && let Err(error) = self.kill()
        {
            tracing::warn!(pid = self.pid, %error, "cannot kill a command");
        }
    }
}

impl Running {
    fn kill(&self) -> std::io::Result<bool> {
        let pidfd = self.pidfd.as_fd();
        match self.terminal {
            true => kill_session(pidfd, self.pid, self.start_ticks),
            false => signal_group(pidfd, self.pid, self.start_ticks, Signal::KILL),
        }
    }

    /// Cancelling by drop loses nothing.
    async fn end(&mut self) -> ExitKind {
        let Some(ended) = self.ended.as_mut() else {
            return ExitKind::Unknown;
        };
        let kind = ended.await.unwrap_or(ExitKind::Unknown);
        self.ended = None;
        kind
    }
}

impl Shared {
    /// The environment, directory and user of the object's own process as they are now.
    fn context(&self, guid: Guid) -> Result<(Launch, crate::sdk::cgroup::Group)> {
        let pinned =
            self.pinned(guid)
                .ok_or_else(|| match self.table.lock().objects.contains_key(&guid) {
                    true => Error::new(ErrorKind::Conflict, "its process does not run").with_object(guid),
                    false => error::not_found(guid, "nothing of that handle is there"),
                })?;
        let pid = pinned.pid;
        let failed = |e: std::io::Error| error::system(&e, "cannot read the process's context", guid);
        let mut buffer = Vec::new();
        let environ = procfs::read_into(&format!("/proc/{pid}/environ"), &mut buffer).map_err(failed)?;
        let env: Vec<(String, String)> = environ
            .split(|b| *b == 0)
            .filter_map(|entry| std::str::from_utf8(entry).ok()?.split_once('='))
            // Without the operation's mark: a command is not the object.
            .filter(|(key, _)| ![MARK_OP, MARK_GUID, MARK_AGENT].contains(key))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .chain([
                (MARK_AGENT.to_owned(), self.agent.to_string()),
                (MARK_GUID.to_owned(), guid.to_string()),
            ])
            .collect();
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed)?;
        let id = |key: &str| {
            status.lines().find_map(|line| {
                line.strip_prefix(key)?
                    .split_whitespace()
                    .nth(1)?
                    .parse::<u32>()
                    .ok()
            })
        };
        let own = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let ids = id("Uid:")
            .zip(id("Gid:"))
            .filter(|ids| *ids != own)
            .map(|(uid, gid)| Ids { uid, gid });
        let umask = status
            .lines()
            .find_map(|l| u32::from_str_radix(l.strip_prefix("Umask:")?.trim(), 8).ok());
        let launch = Launch {
            env,
            cwd,
            ids,
            umask: umask.unwrap_or(0o022),
            ..Launch::default()
        };
        Ok((launch, pinned.group))
    }

    /// A start returns when the new program has its memory; the kernel shows its environment a moment later.
    async fn until_started(&self, guid: Guid) {
        let begun = Instant::now();
        while let Some(pinned) = self.pinned(guid) {
            let mut buffer = Vec::new();
            let environ = procfs::read_into(&format!("/proc/{}/environ", pinned.pid), &mut buffer);
            if !matches!(environ, Ok([])) || begun.elapsed() > DRAIN {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn run_command(
        self: &Arc<Self>,
        guid: Guid,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
        theirs: Option<Theirs>,
        terminal: bool,
    ) -> Result<Running> {
        self.check_open()?;
        if argv.first().is_none_or(String::is_empty) || argv.iter().any(|a| a.contains('\0')) {
            return Err(
                Error::invalid("command", "must name a program, and have no NUL byte").with_object(guid),
            );
        }
        if env
            .iter()
            .any(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            return Err(Error::invalid(
                "env",
                "names must not be empty nor have `=`, and nothing a NUL byte",
            )
            .with_object(guid));
        }
        let slot = Arc::clone(&self.commands).try_acquire_owned().map_err(|_| {
            let most = self.config.exec_sessions;
            Error::new(
                ErrorKind::Busy,
                format!("{most} commands run already, which is the most (exec_sessions)"),
            )
            .with_object(guid)
        })?;
        self.until_started(guid).await;
        let shared = Arc::clone(self);
        let work = move |scratch: &mut crate::sdk::pool::Scratch| -> Result<Running> {
            let (mut launch, group) = shared.context(guid)?;
            launch.argv = argv;
            launch.env.retain(|(key, _)| !env.contains_key(key));
            launch.env.extend(env);
            launch.terminal = terminal;
            let failed = |e: std::io::Error| error::system(&e, "cannot start the command", guid);
            let null = || {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open("/dev/null")
                    .map(OwnedFd::from)
                    .map_err(failed)
            };
            let cgroup = group.directory().map_err(failed)?;
            let cgroups = group.entries().map_err(failed)?;
            let fds = match theirs {
                Some(t) => {
                    if let (true, Some(ids)) = (terminal, launch.ids) {
                        // So that the command can open its terminal by name; it works without, too.
                        let owner = Some(rustix::fs::Uid::from_raw(ids.uid));
                        let _ = rustix::fs::fchown(&t.stdin, owner, None);
                    }
                    Descriptors {
                        stdin: Some(t.stdin),
                        stdout: t.stdout,
                        stderr: t.stderr,
                        cgroup,
                        cgroups,
                    }
                }
                None => Descriptors {
                    stdin: None,
                    stdout: null()?,
                    stderr: null()?,
                    cgroup,
                    cgroups,
                },
            };
            let spawned = spawn::spawn(&launch, fds, &mut scratch.stack)
                .map_err(|e| error::spawn(&e, guid).with_path("command"))?;
            let pidfd = Arc::new(spawned.pidfd);
            let (done, ended) = oneshot::channel();
            let running = Running {
                pidfd: Arc::clone(&pidfd),
                pid: spawned.identity.pid,
                start_ticks: spawned.identity.start_ticks,
                terminal,
                ended: Some(ended),
                _slot: slot,
            };
            let mut table = shared.table.lock();
            let key = table.new_key();
            table.watched.insert(
                key,
                Watched::Command(Command {
                    pidfd: Arc::clone(&pidfd),
                    done: Some(done),
                }),
            );
            if let Err(e) = shared.watch.add(pidfd.as_fd(), key) {
                table.watched.remove(&key);
                return Err(failed(e));
            }
            drop(table);
            Ok(running)
        };
        self.pool.run(work).await.map_err(error::closed)?
    }

    /// See [`agent_api_driver::Exec::exec`].
    pub(crate) async fn exec(
        self: &Arc<Self>,
        target: Target<'_>,
        request: ExecRequest,
        input: InputStream,
    ) -> Result<ExecStream> {
        let (
            Ours {
                stdin,
                stdout,
                stderr,
            },
            theirs,
        ) = match request.terminal {
            Some(size) => terminal(size.columns, size.rows)
                .map_err(|e| error::system(&e, "cannot make a terminal", target.guid))?,
            None => pipes().map_err(|e| error::system(&e, "cannot make pipes", target.guid))?,
        };
        let deadline = Instant::now() + request.timeout;
        let running = self
            .run_command(
                target.guid,
                request.command,
                request.env,
                Some(theirs),
                request.terminal.is_some(),
            )
            .await?;
        let session = Session {
            guid: target.guid,
            running,
            stdin: Some(stdin),
            input: Some(input),
            unwritten: bytes::Bytes::new(),
            stdout,
            stderr,
            deadline,
            exit: None,
            drain_until: None,
            over: false,
        };
        Ok(Box::pin(futures_util::stream::unfold(
            session,
            |mut session| async move {
                let item = session.next().await?;
                Some((item, session))
            },
        )))
    }

    /// See [`agent_api_driver::Probe::probe`].
    pub(crate) async fn probe(self: &Arc<Self>, request: ProbeRequest<'_>) -> Result<ProbeOutcome> {
        self.check_open()?;
        let guid = request.target.guid;
        let result = match request.action {
            ProbeAction::Tcp(address) => probe::tcp(address, request.timeout).await,
            ProbeAction::Http(url) => {
                let url =
                    probe::parse_http(url).map_err(|m| Error::invalid("health.http", m).with_object(guid))?;
                probe::http(&url, request.timeout).await
            }
            ProbeAction::Exec(command) => {
                let try_once = async {
                    let mut running = self
                        .run_command(guid, command.clone(), BTreeMap::new(), None, false)
                        .await?;
                    Ok::<_, Error>(running.end().await)
                };
                match timeout(request.timeout, try_once).await {
                    Err(_) => Err(format!("the command did not end within {:?}", request.timeout)),
                    Ok(Ok(ExitKind::Code(0))) => Ok(()),
                    Ok(Ok(kind)) => Err(format!("the command {}", exit_status(kind, None))),
                    // A command that is not there will not get well by trying; it is the answer, not a failure to ask.
                    Ok(Err(e))
                        if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Denied)
                            && e.path() == Some("command") =>
                    {
                        Err(e.message().to_owned())
                    }
                    Ok(Err(e)) => return Err(e),
                }
            }
        };
        Ok(match result {
            Ok(()) => ProbeOutcome::Healthy,
            Err(reason) => ProbeOutcome::Unhealthy(reason),
        })
    }
}

struct Session {
    guid: Guid,
    running: Running,
    stdin: Option<Input>,
    input: Option<InputStream>,
    unwritten: bytes::Bytes,
    stdout: Output,
    stderr: Output,
    deadline: Instant,
    exit: Option<ExitKind>,
    drain_until: Option<Instant>,
    over: bool,
}

impl Session {
    async fn next(&mut self) -> Option<Result<ExecOutput>> {
        if self.over {
            return None;
        }
        loop {
            if let Some(kind) = self.exit
                && self.stdout.is_closed()
                && self.stderr.is_closed()
            {
                self.over = true;
                return Some(Ok(ExecOutput::Exit(exit_status(kind, None))));
            }
            let until = self.drain_until.unwrap_or(self.deadline);
            tokio::select! {
                biased;
                Some(piece) = self.stdout.next(), if !self.stdout.is_closed() => return Some(Ok(ExecOutput::Stdout(piece))),
                Some(piece) = self.stderr.next(), if !self.stderr.is_closed() => return Some(Ok(ExecOutput::Stderr(piece))),
                kind = self.running.end(), if self.exit.is_none() => {
                    self.exit = Some(kind);
                    self.drain_until = Some(Instant::now() + DRAIN);
                    (self.stdin, self.input) = (None, None);
                }
                () = feed(&mut self.stdin, &mut self.input, &mut self.unwritten), if self.stdin.is_some() => {}
                () = sleep_until(until) => {
                    self.over = true;
                    return Some(match self.exit {
                        // Somebody who left the group still holds the pipes; what it writes is no longer this command's.
                        Some(kind) => Ok(ExecOutput::Exit(exit_status(kind, None))),
                        None => {
                            let killed = self.running.kill();
                            let error = error::timeout(self.guid, "the command");
                            Err(match killed {
                                Ok(_) => error,
                                Err(e) => error.with_context("left", format!("pid {}: {e}", self.running.pid)),
                            })
                        }
                    });
                }
            }
        }
    }
}

/// Writes one piece of input, or closes standard input at the end of it. Cancelling by drop loses nothing.
async fn feed(stdin: &mut Option<Input>, input: &mut Option<InputStream>, unwritten: &mut bytes::Bytes) {
    if unwritten.is_empty() {
        let next = match input.as_mut() {
            Some(stream) => stream.next().await,
            None => None,
        };
        match (next, stdin.as_ref()) {
            (Some(ExecInput::Stdin(piece)), _) => *unwritten = piece,
            (Some(ExecInput::Resize(size)), Some(Input::Terminal(terminal))) => {
                if let Err(error) = terminal.resize(size.columns, size.rows) {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
            (Some(ExecInput::Resize(_)), _) => {}
            (None, Some(Input::Terminal(terminal))) => {
                *input = None;
                terminal.close().await;
                *stdin = None;
            }
            (None, _) => (*stdin, *input) = (None, None),
        }
        return;
    }
    if let Some(writer) = stdin.as_mut()
        && writer.write(unwritten).await.is_err()
    {
        // The command does not read any more.
        (*stdin, *input) = (None, None);
        unwritten.clear();
    }
}
