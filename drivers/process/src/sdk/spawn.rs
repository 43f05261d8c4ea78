//! Starting a program: what a spec asks for, resolved, and precise errors when it does not start.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::identity::Identity;
use super::sys::{self, CHILD_STACK, ChildFailure, ChildSetup, Step};
use super::users::Ids;

/// Where commands are looked up when the spec's environment has no `PATH`.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A limit to set in the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rlimit {
    pub name: &'static str,
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Everything about a start but the descriptors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    pub argv: Vec<String>,
    /// The whole environment of the child.
    pub env: Vec<(String, String)>,
    pub cwd: Option<PathBuf>,
    pub ids: Option<Ids>,
    pub umask: u32,
    pub rlimits: Vec<Rlimit>,
    pub nice: Option<i32>,
    pub ioprio: Option<i32>,
    pub oom_score_adj: Option<i32>,
    /// A file to read from; `/dev/null` without.
    pub stdin: Option<PathBuf>,
    /// The descriptor for stdin is a terminal, which becomes the program's controlling one.
    pub terminal: bool,
}

/// The descriptors of a start; all are close-on-exec here and become 0 to 2 in the child, or are written to.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// What the child reads; what [`Launch::stdin`] says without.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// The directory of the group that holds the tree, where there is one.
    pub cgroup: Option<OwnedFd>,
    /// `cgroup.procs` files, opened for writing.
    pub cgroups: Vec<OwnedFd>,
}

/// A started program.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub identity: Identity,
    pub pidfd: OwnedFd,
}

/// Why a program did not start. The message is for the person who wrote the spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SpawnError {
    /// The spec's field that is to blame, where one is.
    pub path: Option<&'static str>,
    pub message: String,
    pub errno: i32,
}

impl SpawnError {
    /// The machine is short of something now; the same start may work later.
    pub(crate) fn is_exhaustion(&self) -> bool {
        matches!(
            self.errno,
            libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC
        )
    }

    fn new(path: Option<&'static str>, errno: i32, message: impl Into<String>) -> Self {
        Self {
            path,
            message: message.into(),
            errno,
        }
    }
}

/// Starts the program; blocks until it runs or has failed to, about 0.1 ms. `stack` is scratch memory of the calling thread.
pub(crate) fn spawn(launch: &Launch, fds: Descriptors, stack: &mut Vec<u8>) -> Result<Spawned, SpawnError> {
    stack.resize(CHILD_STACK, 0);
    let stdin = fds.stdin.map_or_else(|| open_stdin(launch), Ok)?;
    let above = |fd: OwnedFd| {
        sys::above_stdio(fd)
            .map_err(|e| SpawnError::new(None, errno_of(&e), format!("out of descriptors: {e}")))
    };
    let stdio = [above(stdin)?, above(fds.stdout)?, above(fds.stderr)?];
    let setup = ChildSetup {
        programs: programs(launch)?,
        argv: launch
            .argv
            .iter()
            .map(|a| c_string(a, "command"))
            .collect::<Result<_, _>>()?,
        envp: launch
            .env
            .iter()
            .map(|(k, v)| c_string(&format!("{k}={v}"), "env"))
            .collect::<Result<_, _>>()?,
        stdio: [stdio[0].as_raw_fd(), stdio[1].as_raw_fd(), stdio[2].as_raw_fd()],
        cgroup: fds.cgroup.as_ref().map(AsRawFd::as_raw_fd),
        cgroups: fds.cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
        cwd: launch
            .cwd
            .as_ref()
            .map(|p| c_string(&p.to_string_lossy(), "cwd"))
            .transpose()?,
        umask: launch.umask,
        rlimits: launch
            .rlimits
            .iter()
            .map(|l| (l.resource, l.soft, l.hard))
            .collect(),
        // What the spec does not ask for is set back to the system's default, as far as that is allowed.
        nice: Some(launch.nice.map_or((0, false), |n| (n, true))),
        ioprio: launch.ioprio,
        oom_score_adj: match launch.oom_score_adj {
            Some(value) => Some((c_string(&value.to_string(), "oom_score_adj")?, true)),
            None => Some((c"0".to_owned(), false)),
        },
        ids: launch.ids.map(|ids| (ids.uid, ids.gid)),
        terminal: launch.terminal,
    };
    let child = sys::spawn(&setup, stack).map_err(|failure| explain(failure, launch))?;
    let identity = Identity::of_child(child.pid).map_err(|e| {
        SpawnError::new(
            None,
            errno_of(&e),
            format!("cannot read /proc/{}/stat: {e}", child.pid),
        )
    })?;
    Ok(Spawned {
        identity,
        pidfd: child.pidfd,
    })
}

fn errno_of(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn c_string(text: &str, path: &'static str) -> Result<CString, SpawnError> {
    CString::new(text).map_err(|_| {
        SpawnError::new(
            Some(path),
            libc::EINVAL,
            format!("{path} has a NUL byte, which no program can be given"),
        )
    })
}

fn open_stdin(launch: &Launch) -> Result<OwnedFd, SpawnError> {
    let path = launch.stdin.clone().unwrap_or_else(|| "/dev/null".into());
    rustix::fs::open(
        &path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .and_then(|fd| {
        // Opened without waiting for a FIFO's writer; read as usual.
        rustix::fs::fcntl_setfl(&fd, OFlags::empty())?;
        Ok(fd)
    })
    .map_err(|e| {
        SpawnError::new(
            Some("stdin"),
            e.raw_os_error(),
            format!(
                "cannot open stdin file {}: {}",
                path.display(),
                io(e.raw_os_error())
            ),
        )
    })
}

fn search_path(launch: &Launch) -> &str {
    launch
        .env
        .iter()
        .rev()
        .find(|(key, _)| key == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value)
}

/// The paths to try, as a shell would; a name with a slash is taken as it is, relative to the working directory.
fn programs(launch: &Launch) -> Result<Vec<CString>, SpawnError> {
    let name = launch.argv.first().map_or("", String::as_str);
    if name.is_empty() {
        return Err(SpawnError::new(
            Some("command"),
            libc::EINVAL,
            "the command is empty",
        ));
    }
    if name.contains('/') {
        return Ok(vec![c_string(name, "command")?]);
    }
    search_path(launch)
        .split(':')
        .map(|dir| {
            c_string(
                &if dir.is_empty() {
                    format!("./{name}")
                } else {
                    format!("{dir}/{name}")
                },
                "command",
            )
        })
        .collect()
}

fn io(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn explain(failure: ChildFailure, launch: &Launch) -> SpawnError {
    let ChildFailure { step, index, errno } = failure;
    let reason = io(errno);
    let who = launch
        .ids
        .map_or_else(String::new, |ids| format!(" as uid {}", ids.uid));
    let (path, message) = match step {
        Step::Exec => return explain_exec(errno, launch),
        Step::Cwd => {
            let cwd = launch
                .cwd
                .as_deref()
                .map(|p| p.display().to_string())
                .unwrap_or_default();
            (
                Some("cwd"),
                format!("cannot enter the working directory {cwd:?}{who}: {reason}"),
            )
        }
        Step::Ids => {
            let ids = launch.ids.unwrap_or_default();
            (
                Some("user"),
                format!(
                    "cannot become uid {} gid {}: {reason} (only root or CAP_SETUID/CAP_SETGID may)",
                    ids.uid, ids.gid
                ),
            )
        }
        Step::Rlimit => {
            let limit = launch.rlimits.get(index);
            let text = limit
                .map(|l| format!("{} (soft {}, hard {})", l.name, l.soft, l.hard))
                .unwrap_or_default();
            (
                Some("rlimits"),
                format!("cannot set limit {text}: {reason}; only root may raise a hard limit"),
            )
        }
        Step::Nice => (
            Some("nice"),
            format!("cannot set nice: {reason}; only root may go below the agent's own"),
        ),
        Step::IoPriority => (Some("ioprio"), format!("cannot set the io priority: {reason}")),
        Step::OomScore => (
            Some("oom_score_adj"),
            format!("cannot set oom_score_adj: {reason}; only root may lower it"),
        ),
        Step::Cgroup => (None, format!("cannot enter the cgroup: {reason}")),
        Step::Clone if matches!(errno, libc::EAGAIN | libc::ENOMEM) => (
            None,
            format!(
                "the machine has no room for another process: {reason} (pids limit, RLIMIT_NPROC or memory)"
            ),
        ),
        Step::Clone => (None, format!("cannot start a process: {reason}")),
        Step::Session | Step::Stdio | Step::Terminal | Step::CloseFds => {
            (None, format!("cannot prepare the process ({step:?}): {reason}"))
        }
    };
    SpawnError::new(path, errno, message)
}

fn explain_exec(errno: i32, launch: &Launch) -> SpawnError {
    let name = launch.argv.first().map_or("", String::as_str);
    let reason = io(errno);
    let by_path = name.contains('/');
    let on_disk = if by_path {
        launch
            .cwd
            .as_deref()
            .map_or_else(|| PathBuf::from(name), |cwd| cwd.join(name))
    } else {
        PathBuf::new()
    };
    let message = match errno {
        libc::ENOENT | libc::ENOTDIR if !by_path => {
            format!(
                "command not found: {name:?} (looked in PATH {})",
                search_path(launch)
            )
        }
        libc::ENOENT if on_disk.exists() => {
            format!(
                "cannot run {name:?}: the file is there, but the interpreter that its first line or its ELF header names is not"
            )
        }
        libc::ENOENT | libc::ENOTDIR => format!("command not found: {name:?}"),
        libc::EACCES => {
            let who = launch
                .ids
                .map_or_else(String::new, |ids| format!(" as uid {}", ids.uid));
            format!(
                "cannot run {name:?}{who}: permission denied (not executable, or a directory on the way is closed)"
            )
        }
        libc::ENOEXEC => {
            format!("cannot run {name:?}: not a program; a script needs a first line such as #!/bin/sh")
        }
        libc::E2BIG => format!("cannot run {name:?}: arguments and environment are too long"),
        _ => format!("cannot run {name:?}: {reason}"),
    };
    SpawnError::new(Some("command[0]"), errno, message)
}
