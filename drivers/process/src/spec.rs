//! The spec of kind `process`, as a person writes it, and what it means.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use agent_api_driver::model::{ByteQuantity, Cpu, Error, IoLimit, ObjectSpec, Resources};
use rustix::process::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sdk::cgroup::Wanted;
use crate::sdk::limits;
use crate::sdk::signal;
use crate::sdk::spawn::{DEFAULT_PATH, Launch, Rlimit};
use crate::sdk::users::{self, Ids};

/// A local process. It is started without a shell, in a session of its own, with nothing of the agent's environment or
/// descriptors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// The program and its arguments, no shell. A name without `/` is looked up in the `PATH` of `env`.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Environment variables: all that the process gets, beside `PATH` (a default where it is not given), with `user` also `HOME`,
    /// `USER` and `LOGNAME`, and the agent's mark `AGENT_ID`, `AGENT_GUID`, `AGENT_OP_ID`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The working directory, absolute; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// The user to run as, by name or number; the agent's own by default. Only root may choose another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The group to run as, by name or number; the user's own by default. Supplementary groups are cleared with either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// File mode mask in octal; `022` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-7]{1,4}$"))]
    pub umask: Option<String>,
    /// Resource limits by their usual names in lower case (`nofile`, `core`, `as`, `nproc` …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rlimits: BTreeMap<String, RlimitSpec>,
    /// Scheduling priority, -20 (first) to 19; 0 by default. Only root may go below 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -20, max = 19))]
    pub nice: Option<i32>,
    /// Priority of its disk input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ioprio: Option<IoPriority>,
    /// How readily the kernel kills it when memory runs out, -1000 (never) to 1000 (first); 0 by default. Only root may go below 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub oom_score_adj: Option<i32>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Stdin::is_default")]
    pub stdin: Stdin,
    /// The signal that asks it to end; `TERM` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How long it may then take before it is killed; the driver's `stop_grace` (10 s) by default.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub stop_grace: Option<Duration>,
}

/// What a process reads from its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stdin {
    /// Nothing: `/dev/null`.
    #[default]
    Null,
    /// A file, by its absolute path.
    File(PathBuf),
}

impl Stdin {
    fn is_default(&self) -> bool {
        *self == Self::Null
    }
}

/// A resource limit: one value for both, or soft and hard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RlimitSpec {
    /// Soft and hard limit.
    Both(RlimitValue),
    /// Each on its own.
    #[serde(rename_all = "snake_case")]
    Each {
        /// What is enforced; the process may raise it up to `hard`.
        soft: RlimitValue,
        /// The most the process may raise it to.
        hard: RlimitValue,
    },
}

/// The value of a resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RlimitValue {
    /// A number, in the unit of the limit.
    Number(u64),
    /// No limit.
    Word(Unlimited),
}

/// The word for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unlimited {
    /// No limit.
    Unlimited,
}

impl RlimitValue {
    fn get(self) -> u64 {
        match self {
            Self::Number(n) => n,
            Self::Word(Unlimited::Unlimited) => libc::RLIM_INFINITY,
        }
    }
}

/// Priority of disk input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IoPriority {
    /// The class.
    pub class: IoClass,
    /// Within the class, 0 (first) to 7; 4 by default.
    #[serde(default = "default_io_level")]
    #[schemars(range(min = 0, max = 7))]
    pub level: u8,
}

fn default_io_level() -> u8 {
    4
}

/// A class of io priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IoClass {
    /// Before all others; only root may.
    Realtime,
    /// As usual.
    BestEffort,
    /// Only when nobody else wants the disk.
    Idle,
}

/// A wrong field: its path and a sentence.
pub(crate) type Wrong = (String, String);

impl ProcessSpec {
    /// Reads the driver's part of a spec.
    pub(crate) fn parse(spec: &ObjectSpec) -> Result<Self, Error> {
        let value = if spec.spec.is_null() {
            Value::Object(serde_json::Map::new())
        } else {
            spec.spec.clone()
        };
        serde_json::from_value(value).map_err(|e| {
            let message = e.to_string();
            let field = message
                .split('`')
                .nth(1)
                .filter(|f| f.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            let path = field.map_or_else(|| "spec".to_owned(), |field| format!("spec.{field}"));
            Error::invalid(path, message).with_hint("see `agent schema process`")
        })
    }

    /// All that is wrong with it in itself, whatever the host.
    pub(crate) fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut say = |path: String, message: &str| wrong.push((path, message.to_owned()));
        if self.command.first().is_none_or(String::is_empty) {
            say("spec.command".into(), "must name a program");
        }
        for (i, argument) in self.command.iter().enumerate().filter(|(_, a)| a.contains('\0')) {
            let _ = argument;
            say(
                format!("spec.command[{i}]"),
                "has a NUL byte, which no program can be given",
            );
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                say(
                    format!("spec.env[{key:?}]"),
                    "names must not be empty nor have `=`, and neither names nor values a NUL byte",
                );
            } else if matches!(key.as_str(), "AGENT_GUID" | "AGENT_OP_ID" | "AGENT_ID") {
                say(
                    format!("spec.env.{key}"),
                    "is set by the agent: it is the mark by which the process is found again",
                );
            }
        }
        let bad_path =
            |path: &PathBuf| !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0);
        if self.cwd.as_ref().is_some_and(bad_path) {
            say("spec.cwd".into(), "must be an absolute path");
        }
        if let Stdin::File(path) = &self.stdin
            && bad_path(path)
        {
            say("spec.stdin.file".into(), "must be an absolute path");
        }
        if self
            .umask
            .as_deref()
            .is_some_and(|text| parse_umask(text).is_none())
        {
            say("spec.umask".into(), "must be octal, 000 to 777");
        }
        if self.nice.is_some_and(|n| !(-20..=19).contains(&n)) {
            say("spec.nice".into(), "must be from -20 to 19");
        }
        if self.oom_score_adj.is_some_and(|n| !(-1000..=1000).contains(&n)) {
            say("spec.oom_score_adj".into(), "must be from -1000 to 1000");
        }
        if self.ioprio.is_some_and(|io| io.level > 7) {
            say("spec.ioprio.level".into(), "must be from 0 to 7");
        }
        for (name, limit) in &self.rlimits {
            if limits::rlimit(name).is_none() {
                let known = limits::RLIMITS.map(|(known, _)| known).join(", ");
                say(
                    format!("spec.rlimits.{name}"),
                    &format!("is not a limit; known are {known}"),
                );
            } else if matches!(limit, RlimitSpec::Each { soft, hard } if soft.get() > hard.get()) {
                say(
                    format!("spec.rlimits.{name}"),
                    "the soft limit is above the hard one",
                );
            }
        }
        if let Some(Err(message)) = self.stop_signal.as_deref().map(signal::parse) {
            say("spec.stop_signal".into(), &message);
        }
        wrong
    }

    /// The signal that asks it to end.
    pub(crate) fn stop_signal(&self) -> Signal {
        self.stop_signal
            .as_deref()
            .and_then(|s| signal::parse(s).ok())
            .unwrap_or(Signal::TERM)
    }

    /// The user and group to become, where they are not the agent's own, and the user's entry.
    pub(crate) fn resolve_user(&self) -> Result<(Option<Ids>, Option<users::User>), Wrong> {
        let user = self
            .user
            .as_deref()
            .map(users::user)
            .transpose()
            .map_err(|e| ("spec.user".to_owned(), e))?;
        let group = self
            .group
            .as_deref()
            .map(users::group)
            .transpose()
            .map_err(|e| ("spec.group".to_owned(), e))?;
        let (own_uid, own_gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let uid = user.as_ref().map_or(own_uid, |u| u.uid);
        let gid = group.or(user.as_ref().map(|u| u.gid)).unwrap_or(own_gid);
        let ids = (uid, gid) != (own_uid, own_gid) || (own_uid == 0 && (user.is_some() || group.is_some()));
        if ids && own_uid != 0 {
            let field = if self.user.is_some() {
                "spec.user"
            } else {
                "spec.group"
            };
            return Err((
                field.to_owned(),
                format!(
                    "only root may start processes as uid {uid} gid {gid}; the agent runs as uid {own_uid}"
                ),
            ));
        }
        Ok((ids.then_some(Ids { uid, gid }), user))
    }

    /// Everything about the start, with the mark in the environment.
    pub(crate) fn launch(&self, mark: [(&str, String); 3]) -> Result<Launch, Wrong> {
        if let Some(wrong) = self.check().into_iter().next() {
            return Err(wrong);
        }
        let (ids, user) = self.resolve_user()?;
        let mut env = self.env.clone();
        let mut default = |key: &str, value: &str| {
            env.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        };
        default("PATH", DEFAULT_PATH);
        if let Some(user) = user {
            default("HOME", user.home.as_deref().unwrap_or("/"));
            if let Some(name) = &user.name {
                default("USER", name);
                default("LOGNAME", name);
            }
        }
        let mut env: Vec<_> = env.into_iter().collect();
        env.extend(mark.map(|(key, value)| (key.to_owned(), value)));
        Ok(Launch {
            argv: self.command.clone(),
            env,
            cwd: Some(self.cwd.clone().unwrap_or_else(|| "/".into())),
            ids,
            umask: self.umask.as_deref().and_then(parse_umask).unwrap_or(0o022),
            rlimits: self.rlimits(),
            nice: self.nice,
            ioprio: self.ioprio.map(|io| {
                let class = match io.class {
                    IoClass::Realtime => 1,
                    IoClass::BestEffort => 2,
                    IoClass::Idle => 3,
                };
                limits::ioprio(class, if class == 3 { 0 } else { io.level })
            }),
            oom_score_adj: self.oom_score_adj,
            stdin: match &self.stdin {
                Stdin::Null => None,
                Stdin::File(path) => Some(path.clone()),
            },
            terminal: false,
        })
    }

    fn rlimits(&self) -> Vec<Rlimit> {
        let mut all: Vec<Rlimit> = self
            .rlimits
            .iter()
            .filter_map(|(name, limit)| {
                let (name, resource) = limits::rlimit(name)?;
                let (soft, hard) = match limit {
                    RlimitSpec::Both(value) => (value.get(), value.get()),
                    RlimitSpec::Each { soft, hard } => (soft.get(), hard.get()),
                };
                Some(Rlimit {
                    name,
                    resource,
                    soft,
                    hard,
                })
            })
            .collect();
        // The agent raises its own; its children get what it was started with.
        if let (false, (soft, hard)) = (self.rlimits.contains_key("nofile"), limits::raise_nofile())
            && let Some((name, resource)) = limits::rlimit("nofile")
        {
            let infinite = libc::RLIM_INFINITY;
            all.push(Rlimit {
                name,
                resource,
                soft: soft.unwrap_or(infinite),
                hard: hard.unwrap_or(infinite),
            });
        }
        all
    }

    /// A number that is the same for specs that need no restart between them.
    pub(crate) fn restart_digest(&self) -> u64 {
        let same = Self {
            stop_signal: None,
            stop_grace: None,
            ..self.clone()
        };
        let text = serde_json::to_vec(&same).unwrap_or_default();
        // FNV-1a: stable over versions and hosts, because it is kept in handles.
        text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
    }
}

fn parse_umask(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mask| *mask <= 0o777 && !text.starts_with('+'))
}

/// The limits of an object in the words of the cgroup code.
pub(crate) fn wanted(resources: &Resources) -> Wanted {
    Wanted {
        cpu_millis: resources.cpu.map(|c| c.millis()),
        memory_bytes: resources.memory.map(|m| m.get()),
        pids: resources.pids,
        io_read: resources.io.and_then(|io| io.read).map(|b| b.get()),
        io_write: resources.io.and_then(|io| io.write).map(|b| b.get()),
    }
}

/// The other way round, for limits that are known from a handle.
pub(crate) fn resources(wanted: &Wanted) -> Resources {
    let bytes = |value: Option<u64>| value.map(ByteQuantity::new);
    let io = IoLimit {
        read: bytes(wanted.io_read),
        write: bytes(wanted.io_write),
    };
    Resources {
        cpu: wanted.cpu_millis.map(Cpu::from_millis),
        memory: bytes(wanted.memory_bytes),
        pids: wanted.pids,
        io: (io != IoLimit::default()).then_some(io),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: Value) -> ProcessSpec {
        serde_json::from_value(value).unwrap()
    }

    fn wrong_paths(value: Value) -> Vec<String> {
        spec(value).check().into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(wrong_paths(json!({"command": []})), ["spec.command"]);
        assert_eq!(wrong_paths(json!({"command": [""]})), ["spec.command"]);
        assert_eq!(wrong_paths(json!({"command": ["a", "b\0"]})), ["spec.command[1]"]);
        assert_eq!(wrong_paths(json!({"command": ["a"], "cwd": "x"})), ["spec.cwd"]);
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "stdin": {"file": "x"}})),
            ["spec.stdin.file"]
        );
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "umask": "999"})),
            ["spec.umask"]
        );
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "env": {"A=B": ""}})),
            ["spec.env[\"A=B\"]"]
        );
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "env": {"AGENT_GUID": ""}})),
            ["spec.env.AGENT_GUID"]
        );
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "rlimits": {"x": 1}})),
            ["spec.rlimits.x"]
        );
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "rlimits": {"core": {"soft": "unlimited", "hard": 1}}})),
            ["spec.rlimits.core"]
        );
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "nice": 20, "oom_score_adj": 1001, "stop_signal": "X"}))
                .len(),
            3
        );
        assert_eq!(
            wrong_paths(json!({"command": ["a"], "rlimits": {"core": {"soft": 0, "hard": "unlimited"}}})),
            [""; 0]
        );
    }

    #[test]
    fn unknown_fields_are_refused() {
        for value in [
            json!({"command": ["a"], "shell": true}),
            json!({"command": "a b"}),
            json!({}),
        ] {
            assert!(serde_json::from_value::<ProcessSpec>(value).is_err());
        }
    }

    #[test]
    fn only_stop_fields_need_no_restart() {
        let base = spec(json!({"command": ["a"]})).restart_digest();
        assert_eq!(
            spec(json!({"command": ["a"], "stop_signal": "INT", "stop_grace": "1s"})).restart_digest(),
            base
        );
        assert_ne!(spec(json!({"command": ["a"], "nice": 1})).restart_digest(), base);
        assert_eq!(base, spec(json!({"command": ["a"], "env": {}})).restart_digest());
    }

    #[test]
    fn an_unknown_user_is_named() {
        let mark = [
            ("AGENT_ID", String::new()),
            ("AGENT_GUID", String::new()),
            ("AGENT_OP_ID", String::new()),
        ];
        let error = spec(json!({"command": ["a"], "user": "no-such-user"}))
            .launch(mark)
            .unwrap_err();
        assert_eq!(error.0, "spec.user");
    }
}
