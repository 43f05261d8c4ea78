//! Limits in the words of both versions.

use std::io;
use std::path::Path;

use super::{Controller, Group, Host, make_dir, write_file};

/// The period of cpu quotas, in microseconds; the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// The smallest quota the kernel takes.
const CPU_SMALLEST: u64 = 1_000;

/// The limits wanted; what is `None` is lifted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
    /// Bytes per second read.
    pub io_read: Option<u64>,
    /// Bytes per second written.
    pub io_write: Option<u64>,
}

impl Wanted {
    pub(crate) fn is_set(&self, controller: Controller) -> bool {
        match controller {
            Controller::Cpu => self.cpu_millis.is_some(),
            Controller::Memory => self.memory_bytes.is_some(),
            Controller::Pids => self.pids.is_some(),
            Controller::Io => self.io_read.is_some() || self.io_write.is_some(),
            Controller::Freezer => false,
        }
    }
}

/// What became of one limit: enforced by this, or advisory because of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub controller: Controller,
    pub result: Result<String, String>,
}

impl Host {
    /// Makes the groups an object needs and sets its limits, one result for each limit that is wanted. `members` are moved into
    /// groups made only now, for a limit that a running object gets.
    ///
    /// Fails where the machine is out of something (`ENOSPC`, `ENOMEM`); a limit that cannot be set is a result, not a failure.
    pub(crate) fn apply(
        &self,
        guid: &str,
        group: &mut Group,
        wanted: &Wanted,
        members: &[i32],
    ) -> io::Result<Vec<Applied>> {
        if let (Some((base, _)), None) = (&self.v2, &group.v2) {
            let dir = base.join(guid);
            make_below(base, &dir)?;
            enter(&dir, members)?;
            group.v2 = Some(dir);
        }
        let mut applied = Vec::new();
        for controller in Controller::LIMITS {
            let set = wanted.is_set(controller);
            let result = match self.enforces(controller) {
                Err(reason) => Err(reason),
                Ok(2) => {
                    let dir = group.v2.clone().unwrap_or_default();
                    set_v2(&dir, controller, wanted)
                }
                Ok(_) => {
                    if set && !group.v1.iter().any(|(c, _)| *c == controller) {
                        self.enter_v1(guid, group, controller, members)?;
                    }
                    match group.v1.iter().find(|(c, _)| *c == controller) {
                        Some((_, dir)) => set_v1(dir, controller, wanted),
                        None => continue,
                    }
                }
            };
            if set {
                applied.push(Applied { controller, result });
            }
        }
        Ok(applied)
    }

    /// Makes sure that the tree can be frozen; without v2 that takes a v1 freezer group.
    pub(crate) fn prepare_freezer(&self, guid: &str, group: &mut Group, members: &[i32]) -> io::Result<()> {
        let v1 = group.v1.iter().any(|(c, _)| *c == Controller::Freezer);
        if group.v2.is_none() && !v1 && self.v1.iter().any(|(c, _)| *c == Controller::Freezer) {
            self.enter_v1(guid, group, Controller::Freezer, members)?;
        }
        Ok(())
    }

    fn enter_v1(
        &self,
        guid: &str,
        group: &mut Group,
        controller: Controller,
        members: &[i32],
    ) -> io::Result<()> {
        let Some((_, base)) = self.v1.iter().find(|(c, _)| *c == controller) else {
            return Ok(());
        };
        let dir = base.join(guid);
        make_below(base, &dir)?;
        enter(&dir, members)?;
        group.v1.push((controller, dir));
        Ok(())
    }
}

/// Makes a group in our directory, which somebody who found it empty may have removed.
fn make_below(base: &Path, dir: &Path) -> io::Result<()> {
    match make_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_dir(base)?;
            make_dir(dir)
        }
        other => other,
    }
}

fn enter(dir: &Path, members: &[i32]) -> io::Result<()> {
    for pid in members {
        match write_file(&dir.join("cgroup.procs"), &pid.to_string()) {
            // Ended meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

fn quota(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD) / 1_000).max(CPU_SMALLEST)
}

fn or_max(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |v| v.to_string())
}

fn set(dir: &Path, file: &str, text: &str) -> Result<(), String> {
    write_file(&dir.join(file), text).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => format!("{file}: more is in use than {text} allows"),
        _ => format!("{file}: {e}"),
    })
}

fn set_v2(dir: &Path, controller: Controller, wanted: &Wanted) -> Result<String, String> {
    let by = |file: &str| Ok(format!("cgroup v2 {file}"));
    match controller {
        Controller::Cpu => {
            let quota = wanted.cpu_millis.map(quota);
            set(dir, "cpu.max", &format!("{} {CPU_PERIOD}", or_max(quota)))?;
            by("cpu.max")
        }
        Controller::Memory => {
            set(dir, "memory.max", &or_max(wanted.memory_bytes))?;
            by("memory.max")
        }
        Controller::Pids => {
            set(dir, "pids.max", &or_max(wanted.pids))?;
            by("pids.max")
        }
        Controller::Io => {
            let disks = disks();
            for (_, number) in &disks {
                let text = format!(
                    "{number} rbps={} wbps={}",
                    or_max(wanted.io_read),
                    or_max(wanted.io_write)
                );
                set(dir, "io.max", &text)?;
            }
            by(&format!("io.max, for each of {}", names(&disks)?))
        }
        Controller::Freezer => Err("not a limit".to_owned()),
    }
}

fn set_v1(dir: &Path, controller: Controller, wanted: &Wanted) -> Result<String, String> {
    let or_minus_one = |value: Option<u64>| value.map_or_else(|| "-1".to_owned(), |v| v.to_string());
    let by = |file: &str| Ok(format!("cgroup v1 {file}"));
    match controller {
        Controller::Cpu => {
            set(dir, "cpu.cfs_period_us", &CPU_PERIOD.to_string())?;
            set(
                dir,
                "cpu.cfs_quota_us",
                &or_minus_one(wanted.cpu_millis.map(quota)),
            )?;
            by("cpu.cfs_quota_us")
        }
        Controller::Memory => {
            set(dir, "memory.limit_in_bytes", &or_minus_one(wanted.memory_bytes))?;
            by("memory.limit_in_bytes")
        }
        Controller::Pids => {
            set(dir, "pids.max", &or_max(wanted.pids))?;
            by("pids.max")
        }
        Controller::Io => {
            let disks = disks();
            for (_, number) in &disks {
                set(
                    dir,
                    "blkio.throttle.read_bps_device",
                    &format!("{number} {}", wanted.io_read.unwrap_or(0)),
                )?;
                set(
                    dir,
                    "blkio.throttle.write_bps_device",
                    &format!("{number} {}", wanted.io_write.unwrap_or(0)),
                )?;
            }
            by(&format!(
                "blkio.throttle, for each of {}; cached writes pass it",
                names(&disks)?
            ))
        }
        Controller::Freezer => Err("not a limit".to_owned()),
    }
}

fn names(disks: &[(String, String)]) -> Result<String, String> {
    if disks.is_empty() {
        return Err("this host shows no disk to limit".to_owned());
    }
    Ok(disks
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(", "))
}

/// Whole disks: their names and device numbers. Loop, memory and compressed-memory devices are not disks.
fn disks() -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let mut disks: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let unreal = ["loop", "ram", "zram", "sr", "fd"].iter().any(|kind| {
                name.strip_prefix(kind)
                    .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
            });
            let number = std::fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
            (!unreal).then(|| (name, number.trim().to_owned()))
        })
        .collect();
    disks.sort();
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas() {
        assert_eq!(quota(500), 50_000);
        assert_eq!(quota(1), CPU_SMALLEST);
        assert_eq!(quota(4_000), 400_000);
    }

    #[test]
    fn files_of_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        for name in [
            "cpu.max",
            "memory.max",
            "pids.max",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "memory.limit_in_bytes",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let wanted = Wanted {
            cpu_millis: Some(1_500),
            memory_bytes: Some(1 << 20),
            pids: None,
            ..Wanted::default()
        };
        for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
            assert!(
                set_v2(dir.path(), controller, &wanted)
                    .unwrap()
                    .starts_with("cgroup v2")
            );
        }
        assert_eq!(
            (at("cpu.max"), at("memory.max"), at("pids.max")),
            ("150000 100000".into(), "1048576".into(), "max".into())
        );
        for controller in [Controller::Cpu, Controller::Memory] {
            assert!(
                set_v1(dir.path(), controller, &wanted)
                    .unwrap()
                    .starts_with("cgroup v1")
            );
        }
        assert_eq!(
            (at("cpu.cfs_quota_us"), at("memory.limit_in_bytes")),
            ("150000".into(), "1048576".into())
        );
        let lifted = Wanted::default();
        std::fs::write(dir.path().join("cpu.cfs_quota_us"), "").unwrap();
        set_v1(dir.path(), Controller::Cpu, &lifted).unwrap();
        assert_eq!(at("cpu.cfs_quota_us"), "-1");
    }

    #[test]
    fn a_limit_that_cannot_be_set_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            memory_bytes: Some(1),
            ..Wanted::default()
        };
        assert!(
            set_v2(dir.path(), Controller::Memory, &wanted)
                .unwrap_err()
                .starts_with("memory.max:")
        );
    }
}
