//! The few things read from `/proc`, parsed by hand.

use std::io;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

/// What is used of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub pid: i32,
    pub state: u8,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    /// User and system time of the process and of the children it waited for, in ticks.
    pub cpu_ticks: u64,
    pub threads: u64,
    /// Ticks since boot.
    pub start_ticks: u64,
    pub rss_pages: u64,
}

impl Stat {
    /// Ended, but not yet waited for.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Parses `/proc/<pid>/stat`. The name in it may contain anything, also `)` and newlines.
pub(crate) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|b| *b == b'(')?;
    let close = text.iter().rposition(|b| *b == b')')?;
    let pid = number(text.get(..open)?.trim_ascii())?;
    let rest = text.get(close + 1..)?;
    let mut stat = Stat {
        pid: i32::try_from(pid).ok()?,
        ..Stat::default()
    };
    // Fields count from 3, as in proc(5).
    for (field, word) in rest
        .split(|b| *b == b' ' || *b == b'\n')
        .filter(|w| !w.is_empty())
        .enumerate()
        .map(|(i, w)| (i + 3, w))
    {
        match field {
            3 => stat.state = *word.first()?,
            4 => stat.ppid = number(word)? as i32,
            5 => stat.pgrp = number(word)? as i32,
            6 => stat.session = number(word)? as i32,
            14..=17 => stat.cpu_ticks = stat.cpu_ticks.saturating_add(number(word)?),
            20 => stat.threads = number(word)?,
            22 => stat.start_ticks = number(word)?,
            24 => {
                stat.rss_pages = number(word)?;
                return Some(stat);
            }
            _ => {}
        }
    }
    None
}

/// A decimal number; negative ones count as 0 (`tpgid`, children's times on odd kernels).
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    if let Some(digits) = word.strip_prefix(b"-") {
        return digits.iter().all(u8::is_ascii_digit).then_some(0);
    }
    let mut value = 0u64;
    for byte in word {
        value = value
            .checked_mul(10)?
            .checked_add(u64::from(byte.checked_sub(b'0').filter(|d| *d < 10)?))?;
    }
    (!word.is_empty()).then_some(value)
}

/// Reads a small file of `/proc` or a cgroup into `buffer`; `Ok(&[])` where it is empty.
pub(crate) fn read_into<'b>(path: &str, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    buffer.clear();
    loop {
        buffer.reserve(4096);
        if rustix::io::read(&fd, rustix::buffer::spare_capacity(buffer))? == 0 {
            return Ok(buffer);
        }
    }
}

/// `/proc/<pid>/stat`.
pub(crate) fn stat(pid: i32) -> io::Result<Stat> {
    let mut buffer = Vec::with_capacity(512);
    let text = read_into(&format!("/proc/{pid}/stat"), &mut buffer)?;
    parse_stat(text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat is not understood"))
}

/// The value of one variable in the environment a process was started with.
pub(crate) fn env_value<'e>(environ: &'e [u8], key: &str) -> Option<&'e str> {
    environ
        .split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
        .and_then(|value| std::str::from_utf8(value).ok())
}

/// The ids of all processes that `/proc` shows.
pub(crate) fn pids() -> io::Result<Vec<i32>> {
    Ok(std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// The living members of a process group, which is named by its leader's pid.
pub(crate) fn group_members(group: i32) -> io::Result<Vec<i32>> {
    Ok(pids()?
        .into_iter()
        .filter(|pid| stat(*pid).is_ok_and(|s| s.pgrp == group && !s.is_dead()))
        .collect())
}

/// The id of this boot of the kernel; start times are comparable within one boot only.
pub(crate) fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|s| s.trim().to_owned())
            .unwrap_or_default()
    })
}

/// The pid namespace of the agent; pids are comparable within one only. 0 where it cannot be read.
pub(crate) fn pid_namespace() -> u64 {
    static NAMESPACE: OnceLock<u64> = OnceLock::new();
    *NAMESPACE.get_or_init(|| {
        rustix::fs::stat("/proc/self/ns/pid")
            .map(|s| s.st_ino)
            .unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_confuse() {
        let text = b"42 (a) R 1 (b\n)) S 7 42 43 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 5 0 777 1000 99 18446744073709551615 1\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.pid, stat.state, stat.ppid, stat.pgrp, stat.session),
            (42, b'S', 7, 42, 43)
        );
        assert_eq!(
            (stat.cpu_ticks, stat.threads, stat.start_ticks, stat.rss_pages),
            (100, 5, 777, 99)
        );
    }

    #[test]
    fn cut_or_empty_text_is_refused() {
        for text in [&b""[..], b"1", b"1 (a", b"1 (a)", b"1 (a) S 1 2", b"x (a) S"] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
    }

    #[test]
    fn own_stat_is_read() {
        let own = stat(std::process::id() as i32).unwrap();
        assert_eq!(own.pid, std::process::id() as i32);
        assert!(own.start_ticks > 0 && own.rss_pages > 0 && !own.is_dead());
    }

    #[test]
    fn marks_are_found_in_an_environment() {
        let environ = b"A=1\0AGENT_GUID=x\0AGENT_GUID_NOT=y\0";
        assert_eq!(env_value(environ, "AGENT_GUID"), Some("x"));
        assert_eq!(env_value(environ, "AGENT"), None);
    }
}
