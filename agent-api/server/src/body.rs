//! The bodies that have no type in the model.

use std::time::Duration;

use agent_api_model::{
    Change, Error, Generation, Kind, LeaseId, ObjectSpec, Resources, Result, Selector, UpdateRequest,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Verbs that need no body take an empty one only.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// Pause and resume.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plain {
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restart {
    #[serde(default, deserialize_with = "duration")]
    pub(crate) grace: Option<Duration>,
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalBody {
    pub(crate) signal: String,
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scale {
    pub(crate) replicas: u32,
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resize {
    pub(crate) resources: Resources,
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    pub(crate) method: String,
    #[serde(default)]
    pub(crate) arguments: Value,
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchemaBody {
    pub(crate) kind: Kind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unmonitor {
    pub(crate) lease: LeaseId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drain {
    #[serde(default, deserialize_with = "duration")]
    pub(crate) deadline: Option<Duration>,
}

/// As [`UpdateRequest`], field by field, so that errors have the field's path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    #[serde(default)]
    replace: Option<Box<ObjectSpec>>,
    #[serde(default)]
    merge: Option<Value>,
    #[serde(default)]
    expected_generation: Option<Generation>,
}

impl Update {
    pub(crate) fn checked(self) -> Result<UpdateRequest> {
        let change = match (self.replace, self.merge) {
            (Some(spec), None) => {
                spec.check()?;
                Change::Replace(spec)
            }
            (None, Some(patch)) if patch.is_object() => Change::Merge(patch),
            (None, Some(_)) => {
                return Err(Error::invalid(
                    "merge",
                    "must be a map: a JSON merge patch of the object",
                ));
            }
            _ => {
                return Err(Error::invalid(
                    "",
                    "an update has either `replace` (the whole object) or `merge` (what changes)",
                ));
            }
        };
        Ok(UpdateRequest {
            change,
            expected_generation: self.expected_generation,
        })
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| agent_api_model::parse_duration(&text).map_err(serde::de::Error::custom))
        .transpose()
}
