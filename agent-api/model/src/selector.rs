//! Choosing objects by label.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Kind, Labels};

/// Chooses objects by label and kind: `app=web,tier!=db,env,!old`. Empty chooses all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Equals(String, String),
    Differs(String, String),
    Has(String),
    Lacks(String),
}

impl Selector {
    /// Chooses all.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether it chooses all.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object with these labels and this kind is chosen. The key `kind` stands for the kind.
    #[must_use]
    pub fn matches(&self, labels: &Labels, kind: &Kind) -> bool {
        let value = |key: &str| {
            labels
                .get(key)
                .map(String::as_str)
                .or_else(|| (key == "kind").then_some(kind.as_str()))
        };
        self.terms.iter().all(|term| match term {
            Term::Equals(key, wanted) => value(key) == Some(wanted),
            Term::Differs(key, wanted) => value(key) != Some(wanted),
            Term::Has(key) => value(key).is_some(),
            Term::Lacks(key) => value(key).is_none(),
        })
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let terms = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(term)
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }
}

fn term(part: &str) -> Result<Term, String> {
    let term = if let Some((key, value)) = part.split_once("!=") {
        Term::Differs(key.trim().into(), value.trim().into())
    } else if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        Term::Equals(key.trim().into(), value.trim().into())
    } else if let Some(key) = part.strip_prefix('!') {
        Term::Lacks(key.trim().into())
    } else {
        Term::Has(part.into())
    };
    let (Term::Equals(key, _) | Term::Differs(key, _) | Term::Has(key) | Term::Lacks(key)) = &term;
    if key.is_empty()
        || !key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
    {
        return Err(format!(
            "{part:?} is not a selector; write for example app=web,tier!=db,env,!old"
        ));
    }
    Ok(term)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match term {
                Term::Equals(key, value) => write!(f, "{comma}{key}={value}")?,
                Term::Differs(key, value) => write!(f, "{comma}{key}!={value}")?,
                Term::Has(key) => write!(f, "{comma}{key}")?,
                Term::Lacks(key) => write!(f, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Selector {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Selector".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "examples": ["app=web,tier!=db,env,!old"]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_by_label_and_kind() {
        let labels: Labels = [("app".into(), "web".into()), ("env".into(), "prod".into())].into();
        let kind = Kind::new("process").unwrap();
        for (text, chosen) in [
            ("", true),
            ("app=web", true),
            ("app==web,env", true),
            ("app!=web", false),
            ("tier!=db", true),
            ("!env", false),
            ("kind=process", true),
            ("kind=simulated", false),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&labels, &kind), chosen, "{text:?}");
            assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
        }
        for bad in ["=x", "!", "a b=c", "a=b,=,"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }
}
