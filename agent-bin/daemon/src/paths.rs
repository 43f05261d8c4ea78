//! Where files are, by the XDG base directory specification; the system's directories for root.

use std::path::{Path, PathBuf};

/// The file in the state directory that the local socket is at.
pub const SOCKET: &str = "agent.sock";

/// The state directory where none is named: `/var/lib/agent` for root, else `$XDG_STATE_HOME/agent` or
/// `~/.local/state/agent`. None where there is no home directory.
#[must_use]
pub fn default_state_dir() -> Option<PathBuf> {
    if is_root() {
        return Some("/var/lib/agent".into());
    }
    under("XDG_STATE_HOME", ".local/state")
}

/// The directory of the configuration file: `/etc/agent` for root, else `$XDG_CONFIG_HOME/agent` or
/// `~/.config/agent`.
#[must_use]
pub fn config_dir() -> Option<PathBuf> {
    if is_root() {
        return Some("/etc/agent".into());
    }
    under("XDG_CONFIG_HOME", ".config")
}

/// The socket of the agent with this state directory.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn under(variable: &str, fallback: &str) -> Option<PathBuf> {
    // The specification: relative paths are ignored.
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    std::env::var_os(variable)
        .map(PathBuf::from)
        .and_then(absolute)
        .or_else(|| {
            std::env::home_dir()
                .and_then(absolute)
                .map(|home| home.join(fallback))
        })
        .map(|dir| dir.join("agent"))
}

/// A name for the agent from the host's name: what is not a letter or digit becomes `-`.
#[must_use]
pub fn host_name() -> agent_api_model::AgentId {
    let uname = rustix::system::uname();
    label(&uname.nodename().to_string_lossy())
}

fn label(text: &str) -> agent_api_model::AgentId {
    let first = text.split('.').next().unwrap_or_default();
    let cleaned: String = first
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    agent_api_model::AgentId::new(cleaned.trim_matches('-'))
        .or_else(|_| agent_api_model::AgentId::new("agent"))
        .expect("`agent` is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_labels() {
        for (host, name) in [
            ("web1.example.org", "web1"),
            ("Büro_PC", "b-ro-pc"),
            ("---", "agent"),
            ("", "agent"),
            (&"x".repeat(100), &"x".repeat(63)),
        ] {
            assert_eq!(label(host).as_str(), name);
        }
    }
}
