//! Which hierarchies this host has and which of them we may use.

use std::path::{Path, PathBuf};

use super::{Controller, Group, make_dir, write_file};

/// The hierarchies in which objects may have groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// Our directory in the v2 hierarchy, and the controllers objects get there.
    pub(super) v2: Option<(PathBuf, Vec<Controller>)>,
    /// Our directory in each v1 hierarchy.
    pub(super) v1: Vec<(Controller, PathBuf)>,
    /// Why there is not more.
    why_not: Vec<(Option<Controller>, String)>,
}

impl Host {
    /// A host without cgroups, or where they are switched off.
    pub(crate) fn none(reason: &str) -> Self {
        Self {
            why_not: vec![(None, reason.to_owned())],
            ..Self::default()
        }
    }

    /// Looks at the mounts and at our own groups, and makes our directories. `root` is a path in each hierarchy; our own group
    /// without.
    pub(crate) fn detect(agent: &str, root: Option<&Path>) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::from_texts(&mounts, &own, &format!("agent-{agent}"), root)
    }

    fn from_texts(mounts: &str, own: &str, name: &str, root: Option<&Path>) -> Self {
        let mut host = Self::default();
        for mount in mounts.lines().filter_map(Mount::parse) {
            if mount.version == 2 {
                let Some(dir) = mount.dir_of(own, root, |controllers| controllers.is_empty()) else {
                    continue;
                };
                match prepare_v2(&dir, name) {
                    Ok((ours, controllers, refused)) => {
                        host.why_not.extend(refused);
                        host.v2 = Some((ours, controllers));
                    }
                    Err(reason) => host.why_not.push((None, reason)),
                }
                continue;
            }
            for controller in Controller::LIMITS.into_iter().chain([Controller::Freezer]) {
                let wanted = controller.v1_name();
                if !mount.options.split(',').any(|o| o == wanted) {
                    continue;
                }
                let of_mount = |controllers: &str| controllers.split(',').any(|c| c == wanted);
                let Some(dir) = mount.dir_of(own, root, of_mount) else {
                    continue;
                };
                let ours = dir.join(name);
                match make_dir(&ours) {
                    Ok(()) => host.v1.push((controller, ours)),
                    Err(e) => host
                        .why_not
                        .push((Some(controller), format!("cannot make {}: {e}", ours.display()))),
                }
            }
        }
        if host.v2.is_none() && host.v1.is_empty() && host.why_not.is_empty() {
            host.why_not
                .push((None, "no cgroup hierarchy is mounted".to_owned()));
        }
        host
    }

    /// Whether a limit of this kind can be enforced: by what, or why not.
    pub(crate) fn enforces(&self, controller: Controller) -> Result<u8, String> {
        if self
            .v2
            .as_ref()
            .is_some_and(|(_, list)| list.contains(&controller))
        {
            return Ok(2);
        }
        if self.v1.iter().any(|(c, _)| *c == controller) {
            return Ok(1);
        }
        let reason = self
            .why_not
            .iter()
            .find(|(c, _)| *c == Some(controller))
            .or_else(|| self.why_not.iter().find(|(c, _)| c.is_none()));
        Err(reason.map_or_else(
            || format!("no cgroup hierarchy has the {} controller", controller.v1_name()),
            |(_, r)| r.clone(),
        ))
    }

    /// The groups of an object that was started before, as far as they are there.
    pub(crate) fn existing(&self, guid: &str) -> Group {
        Group {
            v2: self
                .v2
                .as_ref()
                .map(|(dir, _)| dir.join(guid))
                .filter(|dir| dir.is_dir()),
            v1: self
                .v1
                .iter()
                .map(|(c, dir)| (*c, dir.join(guid)))
                .filter(|(_, dir)| dir.is_dir())
                .collect(),
        }
    }

    /// Names of all groups in our directories: the objects that have, or left, one.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let dirs = self
            .v2
            .iter()
            .map(|(dir, _)| dir)
            .chain(self.v1.iter().map(|(_, dir)| dir));
        let mut names: Vec<String> = dirs
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flatten()
            .filter_map(|entry| {
                entry
                    .ok()
                    .filter(|e| e.path().is_dir())?
                    .file_name()
                    .into_string()
                    .ok()
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Removes our own directories where no object has a group any more.
    pub(crate) fn remove_if_empty(&self) {
        for dir in self
            .v2
            .iter()
            .map(|(dir, _)| dir)
            .chain(self.v1.iter().map(|(_, dir)| dir))
        {
            // Not empty: objects outlive the agent.
            let _kept = rustix::fs::rmdir(dir);
        }
    }
}

/// A cgroup mount of `/proc/self/mountinfo`.
struct Mount {
    version: u8,
    root: String,
    point: PathBuf,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let version = match *right.first()? {
            "cgroup2" => 2,
            "cgroup" => 1,
            _ => return None,
        };
        Some(Self {
            version,
            root: (*left.get(3)?).to_owned(),
            point: PathBuf::from(left.get(4)?),
            options: (*right.get(2)?).to_owned(),
        })
    }

    /// The directory below which we work: `root`, or our own group, as this mount shows it.
    fn dir_of(&self, own: &str, root: Option<&Path>, is_mine: impl Fn(&str) -> bool) -> Option<PathBuf> {
        let path = match root {
            Some(root) => root.to_str()?.to_owned(),
            None => {
                let line = own
                    .lines()
                    .find(|line| line.split(':').nth(1).is_some_and(&is_mine))?;
                line.splitn(3, ':').nth(2)?.to_owned()
            }
        };
        let below = path
            .strip_prefix(self.root.trim_end_matches('/'))
            .unwrap_or(&path);
        Some(self.point.join(below.trim_start_matches('/')))
    }
}

type Refused = Vec<(Option<Controller>, String)>;

fn prepare_v2(dir: &Path, name: &str) -> Result<(PathBuf, Vec<Controller>, Refused), String> {
    let ours = dir.join(name);
    make_dir(&ours).map_err(|e| format!("cannot make {}: {e}", ours.display()))?;
    let mut controllers = Vec::new();
    let mut refused = Vec::new();
    for controller in Controller::LIMITS {
        let Some(name) = controller.v2_name() else {
            continue;
        };
        let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        if !available.split_whitespace().any(|c| c == name) {
            continue;
        }
        let enabled = [dir, &ours].iter().try_for_each(|at| enable(at, name));
        match enabled {
            Ok(()) => controllers.push(controller),
            Err(reason) => refused.push((Some(controller), reason)),
        }
    }
    Ok((ours, controllers, refused))
}

fn enable(dir: &Path, controller: &str) -> Result<(), String> {
    let file = dir.join("cgroup.subtree_control");
    if std::fs::read_to_string(&file).is_ok_and(|text| text.split_whitespace().any(|c| c == controller)) {
        return Ok(());
    }
    write_file(&file, &format!("+{controller}")).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => format!(
            "{} has processes of its own, so that it cannot pass on the {controller} controller; \
             run the agent in a sub-group (systemd: Delegate=yes, DelegateSubgroup=main) and set cgroup_root to the group above it",
            dir.display()
        ),
        _ => format!("cannot pass on the {controller} controller in {}: {e}", dir.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_own_groups_are_matched() {
        let line = "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let mount = Mount::parse(line).unwrap();
        let own = "4:memory:/a/b\n0::/c\n";
        let mine = |c: &str| c.split(',').any(|c| c == "memory");
        assert_eq!(
            mount.dir_of(own, None, mine).unwrap(),
            Path::new("/sys/fs/cgroup/memory/a/b")
        );
        assert_eq!(
            mount.dir_of(own, Some(Path::new("/x")), mine).unwrap(),
            Path::new("/sys/fs/cgroup/memory/x")
        );

        let inside = "30 25 0:26 /c /sys/fs/cgroup ro - cgroup2 cgroup2 rw,nsdelegate";
        let mount = Mount::parse(inside).unwrap();
        assert_eq!(
            mount.dir_of(own, None, str::is_empty).unwrap(),
            Path::new("/sys/fs/cgroup")
        );
        assert!(Mount::parse("1 2 0:1 / / rw - ext4 /dev/vda rw").is_none());
    }

    #[test]
    fn a_host_without_cgroups_says_so() {
        let host = Host::from_texts("1 2 0:1 / / rw - ext4 /dev/vda rw\n", "0::/\n", "agent-a", None);
        assert_eq!(
            host.enforces(Controller::Memory).unwrap_err(),
            "no cgroup hierarchy is mounted"
        );
        assert!(!host.existing("x").holds_tree());
    }

    #[test]
    fn a_closed_hierarchy_is_a_reason_not_an_error() {
        let mounts = "30 25 0:26 / /proc rw - cgroup cgroup rw,memory\n";
        let host = Host::from_texts(mounts, "4:memory:/\n", "agent-a", None);
        assert!(
            host.enforces(Controller::Memory)
                .unwrap_err()
                .contains("cannot make /proc/agent-a")
        );
    }
}
