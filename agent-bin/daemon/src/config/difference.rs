//! What a reload changes.

use agent_api_model::FieldChange;

use super::Config;

/// One field that differs, and whether a reload applies it.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The field and its values.
    pub change: FieldChange,
    /// Whether it takes effect at once; else at the next start.
    pub live: bool,
}

impl Difference {
    /// One sentence for people. Values of drivers and buses are left out: they may be secret.
    #[must_use]
    pub fn sentence(&self) -> String {
        let path = &self.change.path;
        let effect = if self.live {
            "applied"
        } else {
            "takes effect at the next start"
        };
        if path.starts_with("drivers") || path.starts_with("buses") {
            format!("{path} changed: {effect}")
        } else {
            format!("{path}: {} -> {}: {effect}", self.change.from, self.change.to)
        }
    }
}

/// The fields that differ, in order.
#[must_use]
pub fn differences(from: &Config, to: &Config) -> Vec<Difference> {
    let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    FieldChange::between("", &value(from), &value(to))
        .into_iter()
        .map(|change| Difference {
            live: ["core.heartbeat", "log.filter", "stop.deadline", "stop.objects"]
                .contains(&change.path.as_str()),
            change,
        })
        .collect()
}
