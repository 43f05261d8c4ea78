//! Control groups, both versions, also mounted beside each other.
//!
//! Own file I/O instead of the `cgroups-rs` crate, after looking at it (0.5.1): it makes a group in *every* mounted v1
//! hierarchy or needs the list again at each load, cannot open `cgroup.procs` for a child to enter before `execve`, brings
//! `zbus` and a second `nix`, and panics on paths that are not UTF-8. What is needed here is a dozen one-line files.
//!
//! The group of an object is `<root>/agent-<agent>/<guid>`, with the agent's own group as root unless configured. In the v2
//! hierarchy every object has one where that hierarchy can be written: children begin in it (see [`clone3`](super::clone3)), holds the whole tree
//! whatever it forks, and gives `cgroup.kill` and `cgroup.freeze`, which need no controller. In v1 hierarchies an object has a
//! group only where it has a limit of that controller, or is paused without v2.

mod detect;
mod limits;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

pub(crate) use detect::Host;
pub(crate) use limits::{Applied, Wanted};

/// What a hierarchy can hold to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Cpu,
    Memory,
    Pids,
    Io,
    Freezer,
}

impl Controller {
    pub(crate) const LIMITS: [Self; 4] = [Self::Cpu, Self::Memory, Self::Pids, Self::Io];

    fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "blkio",
            Self::Freezer => "freezer",
        }
    }

    fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::Memory => Some("memory"),
            Self::Pids => Some("pids"),
            Self::Io => Some("io"),
            Self::Freezer => None,
        }
    }
}

/// The groups of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group {
    v2: Option<PathBuf>,
    v1: Vec<(Controller, PathBuf)>,
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // One write: the kernel takes each as one command.
    rustix::io::write(&fd, text.as_bytes())?;
    Ok(())
}

fn make_dir(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

impl Group {
    /// Its directories, for the handle.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        self.v2
            .iter()
            .chain(self.v1.iter().map(|(_, dir)| dir))
            .cloned()
            .collect()
    }

    /// Whether one group holds the whole tree, whatever the object forks.
    pub(crate) fn holds_tree(&self) -> bool {
        self.v2.is_some()
    }

    /// The directory of the group that holds the tree, for a child that begins in it.
    pub(crate) fn directory(&self) -> io::Result<Option<OwnedFd>> {
        let open = |dir: &PathBuf| {
            rustix::fs::open(
                dir,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        Ok(self.v2.as_ref().map(open).transpose()?)
    }

    /// `cgroup.procs` of every group, that of [`directory`](Self::directory) first, for a child that enters them before
    /// `execve`.
    pub(crate) fn entries(&self) -> io::Result<Vec<OwnedFd>> {
        self.dirs()
            .iter()
            .map(|dir| {
                Ok(rustix::fs::open(
                    dir.join("cgroup.procs"),
                    OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?)
            })
            .collect()
    }

    /// The file that lists the members, where a group holds the tree.
    pub(crate) fn procs_file(&self) -> Option<PathBuf> {
        self.v2.as_ref().map(|dir| dir.join("cgroup.procs"))
    }

    /// The members; empty without a group that holds the tree.
    pub(crate) fn members(&self) -> io::Result<Vec<i32>> {
        let Some(file) = self.procs_file() else {
            return Ok(Vec::new());
        };
        Ok(std::fs::read_to_string(file)?
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect())
    }

    /// Kills every member at once; false where the kernel or the host cannot, and the caller walks the tree.
    pub(crate) fn kill(&self) -> bool {
        let Some(dir) = &self.v2 else { return false };
        match write_file(&dir.join("cgroup.kill"), "1") {
            Ok(()) => true,
            // Removed already: nobody is in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => !dir.exists(),
            Err(_) => false,
        }
    }

    /// Freezes or thaws the whole tree; false where there is no freezer and the caller uses signals.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<bool> {
        if let Some(dir) = &self.v2 {
            let file = dir.join("cgroup.freeze");
            if file.exists() {
                write_file(&file, if frozen { "1" } else { "0" })?;
                return Ok(true);
            }
        }
        let Some((_, dir)) = self.v1.iter().find(|(c, _)| *c == Controller::Freezer) else {
            return Ok(false);
        };
        write_file(
            &dir.join("freezer.state"),
            if frozen { "FROZEN" } else { "THAWED" },
        )?;
        Ok(true)
    }

    /// Whether all members stand still; `None` without a freezer.
    pub(crate) fn is_frozen(&self) -> Option<bool> {
        if let Some(dir) = &self.v2 {
            let events = std::fs::read_to_string(dir.join("cgroup.events")).ok()?;
            if let Some(value) = events.lines().find_map(|line| line.strip_prefix("frozen ")) {
                return Some(value == "1");
            }
        }
        let (_, dir) = self.v1.iter().find(|(c, _)| *c == Controller::Freezer)?;
        Some(std::fs::read_to_string(dir.join("freezer.state")).ok()?.trim() == "FROZEN")
    }

    /// Whether the kernel killed a member because the group was out of memory.
    pub(crate) fn was_oom_killed(&self) -> bool {
        let v2 = self.v2.iter().map(|dir| dir.join("memory.events"));
        let v1 = self
            .v1
            .iter()
            .filter(|(c, _)| *c == Controller::Memory)
            .map(|(_, dir)| dir.join("memory.oom_control"));
        v2.chain(v1)
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .any(|text| {
                text.lines()
                    .filter_map(|line| line.strip_prefix("oom_kill "))
                    .any(|count| count.trim() != "0")
            })
    }

    /// Removes the groups; false while one still has members.
    pub(crate) fn remove(&self) -> bool {
        remove_dirs(&self.dirs())
    }
}

/// Removes groups; false while one still has members.
pub(crate) fn remove_dirs(dirs: &[PathBuf]) -> bool {
    dirs.iter()
        .all(|dir| matches!(rustix::fs::rmdir(dir), Ok(()) | Err(rustix::io::Errno::NOENT)))
}
