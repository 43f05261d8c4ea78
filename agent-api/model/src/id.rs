//! A newtype for every id, so that one is never taken for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::object::MAX_NAME_LENGTH;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one: a UUIDv7, so that ids sort by the time they were made.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(with = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and takes it; the error is a sentence for a person.
            pub fn new(text: impl AsRef<str>) -> Result<Self, String> {
                $check(text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id! {
    /// The identity of an object over all agents and for all time; a name may be used again, a GUID never.
    Guid
}
uuid_id! {
    /// The identity of one operation: one driver call for one object. The same `op_id` never has its effect twice.
    OpId
}
uuid_id! {
    /// The identity of a monitor lease.
    LeaseId
}
text_id! {
    /// The name of an object, unique in its agent: a DNS label.
    ObjectName, dns_label
}
text_id! {
    /// The name of an agent: a DNS label, unique on its bus.
    AgentId, dns_label
}
text_id! {
    /// The name of a driver: the first part of the kinds it manages.
    DriverName, dns_label
}
text_id! {
    /// What an object is: `driver` or `driver/type`, for example `process` or `ray/job`.
    Kind, kind
}
text_id! {
    /// The identity of a request, chosen by the caller or made by the bus: 1 to 128 visible ASCII characters.
    RequestId, request_id
}

impl Kind {
    /// The driver's part.
    #[must_use]
    pub fn driver(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(driver, _)| driver)
    }

    /// The type's part, where there is one.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, name)| name)
    }
}

impl RequestId {
    /// A new unique id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }
}

/// Counts the changes of an object's spec, from 1, as in Kubernetes.
pub type Generation = u64;

/// The number of a shard, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

fn dns_label(text: &str) -> Result<(), String> {
    let fits = !text.is_empty()
        && text.len() <= MAX_NAME_LENGTH
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits {
        return Ok(());
    }
    Err(format!(
        "{} is not a name: use 1 to {MAX_NAME_LENGTH} lower-case letters, digits and '-', not '-' at either end",
        shown(text)
    ))
}

fn kind(text: &str) -> Result<(), String> {
    let (driver, name) = text
        .split_once('/')
        .map_or((text, None), |(driver, name)| (driver, Some(name)));
    match dns_label(driver).and_then(|()| name.map_or(Ok(()), dns_label)) {
        Ok(()) => Ok(()),
        Err(_) => Err(format!(
            "{} is not a kind: write `driver` or `driver/type`, for example `process`",
            shown(text)
        )),
    }
}

fn request_id(text: &str) -> Result<(), String> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!(
        "{} is not a request id: use 1 to 128 visible ASCII characters",
        shown(text)
    ))
}

/// Quoted, with control characters escaped, and cut where hostile input is long.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        format!("{cut:?}…")
    } else {
        format!("{cut:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert!(ObjectName::new(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "ä",
            "a b",
            "a\n",
            "../x",
            &"x".repeat(64),
        ] {
            assert!(ObjectName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kinds_have_a_driver() {
        let kind = Kind::new("ray/job").unwrap();
        assert_eq!((kind.driver(), kind.type_name()), ("ray", Some("job")));
        assert_eq!(Kind::new("process").unwrap().driver(), "process");
        for bad in ["", "/", "a/", "/b", "a/b/c", "A/b"] {
            assert!(Kind::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hostile_text_is_cut_and_escaped_in_errors() {
        let message = ObjectName::new("\u{1b}[2J".to_string() + &"x".repeat(5_000)).unwrap_err();
        assert!(message.len() < 400 && !message.contains('\u{1b}'), "{message}");
    }
}
