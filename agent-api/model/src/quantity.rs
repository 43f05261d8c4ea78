//! Quantities in Kubernetes notation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Processor time in thousandths of a core: `500m`, `2`, `0.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(u64);

/// A number of bytes: `1048576`, `256Mi`, `1G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

impl Cpu {
    /// From thousandths of a core.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Thousandths of a core.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }
}

impl Bytes {
    /// From bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

const UNITS: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// A decimal number with up to nine fractional digits, times `unit`; `None` where it does not fit or is not whole.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || (number.contains('.') && !digits(fraction)) || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parsed: u128 = format!("{whole}{fraction}").parse().ok()?;
    let total = parsed.checked_mul(u128::from(unit))?;
    (total % scale == 0).then_some(())?;
    u64::try_from(total / scale).ok()
}

impl FromStr for Cpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('m') {
            Some(millis) => scaled(millis, 1),
            None => scaled(text, 1_000),
        };
        parsed.map(Self).ok_or_else(|| {
            format!("{text:?} is not an amount of cpu; write for example 500m, 2 or 0.5 (thousandths are the smallest)")
        })
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, *unit)))
            .unwrap_or((text, 1));
        scaled(number, unit).map(Self).ok_or_else(|| {
            format!("{text:?} is not a number of bytes; write for example 256Mi, 1G or 1048576")
        })
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            write!(f, "{}", self.0 / 1_000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS[..6]
            .iter()
            .rev()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match binary {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Numbers are allowed beside text, as YAML writes `cpu: 2` without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

impl Written {
    fn text(self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

macro_rules! quantity_serde {
    ($name:ident, $expecting:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Written::deserialize(deserializer)
                    .map_err(|_| serde::de::Error::custom($expecting))?
                    .text()
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": ["string", "number"], "description": $expecting})
            }
        }
    };
}

quantity_serde!(Cpu, "an amount of cpu such as 500m or 2");
quantity_serde!(Bytes, "a number of bytes such as 256Mi or 1048576");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_kubernetes_notation() {
        for (text, millis) in [("500m", 500), ("2", 2_000), ("0.5", 500), ("1.25", 1_250)] {
            assert_eq!(text.parse::<Cpu>().unwrap().millis(), millis, "{text}");
        }
        for (text, bytes) in [
            ("256Mi", 256 << 20),
            ("1G", 1_000_000_000),
            ("1.5Gi", 3 << 29),
            ("7", 7),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().get(), bytes, "{text}");
        }
        for bad in ["", "m", "-1", "1.", ".5", "0.0001", "1e3", "99999999999E", "1 Gi"] {
            assert!(
                bad.parse::<Cpu>().is_err() && bad.parse::<Bytes>().is_err(),
                "{bad:?}"
            );
        }
        assert_eq!(serde_json::from_str::<Cpu>("0.5").unwrap().millis(), 500);
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(n: u64) {
            prop_assert_eq!(Cpu(n).to_string().parse::<Cpu>().unwrap(), Cpu(n));
            prop_assert_eq!(Bytes(n).to_string().parse::<Bytes>().unwrap(), Bytes(n));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = (text.parse::<Cpu>(), text.parse::<Bytes>());
        }
    }
}
