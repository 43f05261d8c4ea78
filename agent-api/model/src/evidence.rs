//! How a status is known.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How a status is known, since when, and in which revision of the substrate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Evidence {
    /// How it is known.
    pub source: EvidenceSource,
    /// When the substrate was in this state, as closely as is known.
    pub at: Timestamp,
    /// Grows with each change the driver saw of this object. An older revision never overwrites a newer one.
    pub revision: u64,
}

impl Evidence {
    /// Evidence of this moment.
    #[must_use]
    pub fn now(source: EvidenceSource, revision: u64) -> Self {
        Self {
            source,
            at: Timestamp::now(),
            revision,
        }
    }
}

/// How a status is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EvidenceSource {
    /// The substrate told us.
    Event,
    /// We asked the substrate.
    Poll,
    /// It follows from something else, and may be wrong.
    Inferred,
}

/// How a process, job or pod ended. All empty: it ended, and nobody can say how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ExitStatus {
    /// The exit code, where it ended by itself and the code is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it, for example `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Why, in the substrate's words, for example `oom-killed` or `exited while the agent was away`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ended, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

impl ExitStatus {
    /// Ended by itself with this code.
    #[must_use]
    pub fn with_code(code: i32) -> Self {
        Self {
            code: Some(code),
            at: Some(Timestamp::now()),
            ..Self::default()
        }
    }

    /// Ended by this signal.
    #[must_use]
    pub fn with_signal(signal: impl Into<String>) -> Self {
        Self {
            signal: Some(signal.into()),
            at: Some(Timestamp::now()),
            ..Self::default()
        }
    }

    /// Whether it ended with code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, &self.signal) {
            (Some(code), _) => write!(f, "exited with code {code}")?,
            (None, Some(signal)) => write!(f, "killed by {signal}")?,
            (None, None) => write!(f, "ended, exit code unknown")?,
        }
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// A named fact about an object beside its phase, as in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Condition {
    /// What it is about, for example `Ready`, `BackOff`, `Waiting`, `LimitsEnforced`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// One word for programs.
    pub reason: String,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when it is so.
    pub since: Timestamp,
}

impl Condition {
    /// The condition by which a driver says that the real thing is not what the spec wants, because someone else
    /// changed it. The manager acts on it by the object's [`DriftPolicy`](crate::DriftPolicy).
    pub const DRIFTED: &'static str = "Drifted";

    /// A condition that begins now.
    #[must_use]
    pub fn new(kind: &str, status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            status,
            reason: reason.into(),
            message: message.into(),
            since: Timestamp::now(),
        }
    }
}
