//! Names of resource limits and io priorities.

/// Resource limits that a spec may set, by their usual names.
#[allow(clippy::unnecessary_cast, reason = "the C library's type is signed on musl")]
pub(crate) const RLIMITS: [(&str, u32); 16] = [
    ("as", libc::RLIMIT_AS as u32),
    ("core", libc::RLIMIT_CORE as u32),
    ("cpu", libc::RLIMIT_CPU as u32),
    ("data", libc::RLIMIT_DATA as u32),
    ("fsize", libc::RLIMIT_FSIZE as u32),
    ("locks", libc::RLIMIT_LOCKS as u32),
    ("memlock", libc::RLIMIT_MEMLOCK as u32),
    ("msgqueue", libc::RLIMIT_MSGQUEUE as u32),
    ("nice", libc::RLIMIT_NICE as u32),
    ("nofile", libc::RLIMIT_NOFILE as u32),
    ("nproc", libc::RLIMIT_NPROC as u32),
    ("rss", libc::RLIMIT_RSS as u32),
    ("rtprio", libc::RLIMIT_RTPRIO as u32),
    ("rttime", libc::RLIMIT_RTTIME as u32),
    ("sigpending", libc::RLIMIT_SIGPENDING as u32),
    ("stack", libc::RLIMIT_STACK as u32),
];

/// The name in the table and the kernel's number.
pub(crate) fn rlimit(name: &str) -> Option<(&'static str, u32)> {
    RLIMITS.iter().find(|(known, _)| *known == name).copied()
}

/// The kernel's value of an io priority: class 1 (realtime), 2 (best effort) or 3 (idle), level 0 (first) to 7.
pub(crate) fn ioprio(class: u8, level: u8) -> i32 {
    (i32::from(class) << 13) | i32::from(level)
}

/// Raises the agent's own soft limit of open files to the hard one, and returns what the soft limit was before the first call:
/// children are given that again, because old programs close or `select` over all descriptors up to it.
pub(crate) fn raise_nofile() -> (Option<u64>, Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    static BEFORE: std::sync::OnceLock<(Option<u64>, Option<u64>)> = std::sync::OnceLock::new();
    *BEFORE.get_or_init(|| {
        let before = getrlimit(Resource::Nofile);
        if before.current != before.maximum {
            let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
            if let Err(error) = setrlimit(Resource::Nofile, wanted) {
                tracing::warn!(%error, "the limit of open files stays as it is; sampling keeps fewer files open");
            }
        }
        (before.current, before.maximum)
    })
}
