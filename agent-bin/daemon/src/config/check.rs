//! The offline check of what belongs to drivers and buses.

use agent_api_model::{Diagnostic, Severity};
use serde_json::Value;

use super::{ConfigError, Loaded};
use crate::keys::{closest, unknown_keys};

/// Says what is wrong with the configuration of a driver or bus, offline.
pub type CheckPart<'a> = Box<dyn Fn(&Value) -> Vec<Diagnostic> + 'a>;

/// A driver or bus that could be named in the configuration.
pub struct Known<'a> {
    /// `drivers` or `buses`.
    pub section: &'static str,
    /// Its name.
    pub name: String,
    /// The feature that would compile it in, where it is not.
    pub missing_feature: Option<&'static str>,
    /// The JSON Schema of its configuration.
    pub schema: Value,
    /// What it says of a configuration, offline.
    pub check: CheckPart<'a>,
}

/// Checks the parts of drivers and buses. Returns errors and warnings; nothing is built and nothing reached.
#[must_use]
pub fn check(loaded: &Loaded, known: &[Known<'_>]) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let sections = [
        ("drivers", &loaded.config.drivers),
        ("buses", &loaded.config.buses),
    ];
    for (section, entries) in sections {
        for (name, value) in entries {
            let path = format!("{section}.{name}");
            let mut fail = |path: String, message: String| {
                errors.push(loaded.error(path, message));
            };
            let Some(part) = known
                .iter()
                .find(|known| known.section == section && known.name == *name)
            else {
                fail(path, not_known(section, name, known));
                continue;
            };
            if *value == Value::Bool(false) {
                continue;
            }
            if let Some(feature) = part.missing_feature {
                fail(
                    path,
                    format!("is not compiled in; build with `--features {feature}`"),
                );
                continue;
            }
            if !(value.is_object() || value.is_null() || *value == Value::Bool(true)) {
                fail(path, "must be a map, or false to turn it off".into());
                continue;
            }
            let value = part_config(value);
            for key in unknown_keys(&part.schema, &value) {
                fail(format!("{path}.{}", key.path), key.sentence());
            }
            for diagnostic in (part.check)(&value) {
                let at = match diagnostic.path.as_str() {
                    "" => path.clone(),
                    inner => format!("{path}.{inner}"),
                };
                let error = loaded.error(at, diagnostic.message);
                match diagnostic.severity {
                    Severity::Error => errors.push(error),
                    Severity::Warning => warnings.push(error),
                }
            }
        }
    }
    // An unknown key may be told by the schema and by the part itself.
    let mut seen = std::collections::HashSet::new();
    errors.retain(|error| seen.insert(error.path.clone()));
    (errors, warnings)
}

/// What a driver or bus gets of its entry: null where there is none.
#[must_use]
pub(crate) fn part_config(value: &Value) -> Value {
    match value {
        Value::Bool(_) => Value::Null,
        value => value.clone(),
    }
}

fn not_known(section: &str, name: &str, known: &[Known<'_>]) -> String {
    let names: Vec<_> = known
        .iter()
        .filter(|known| known.section == section)
        .map(|known| known.name.as_str())
        .collect();
    match closest(name, names.iter().copied()) {
        Some(suggestion) => format!("not known; did you mean `{suggestion}`?"),
        None => format!("not known; this build has {}", names.join(", ")),
    }
}

impl Loaded {
    fn error(&self, path: String, message: String) -> ConfigError {
        ConfigError {
            source: self.source.clone(),
            line: self.document.line_of(&path),
            path,
            message,
        }
    }
}
