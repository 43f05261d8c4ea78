//! The phases of an object.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where an object is in its life. The transition function lives in the manager; here is only the word.
///
/// `Pending → Creating → Running ⇄ Paused`, `Running → Updating → Running`, `Running → Succeeded | Failed`,
/// any → `Deleting` → gone, any → `Unknown` when there is no evidence.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Phase {
    /// Accepted, and waiting: for a dependency, for a free slot, for the back-off before a restart.
    Pending,
    /// The driver is making it.
    Creating,
    /// It runs.
    Running,
    /// It is held still by request.
    Paused,
    /// A change is being applied.
    Updating,
    /// It ended as it should and is not started again.
    Succeeded,
    /// It ended as it should not, or could not be made, and is not started again. Never without evidence.
    Failed,
    /// It is being removed.
    Deleting,
    /// There is no evidence of what it is. Never taken for failed or deleted.
    Unknown,
}

impl Phase {
    /// All phases, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Creating,
        Self::Running,
        Self::Paused,
        Self::Updating,
        Self::Succeeded,
        Self::Failed,
        Self::Deleting,
        Self::Unknown,
    ];

    /// The word people and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Creating => "Creating",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Updating => "Updating",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
            Self::Unknown => "Unknown",
        }
    }

    /// Whether nothing happens to it any more without a new request.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|phase| phase.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                format!(
                    "{text:?} is not a phase; use one of {}",
                    Self::ALL.map(Self::as_str).join(", ")
                )
            })
    }
}
