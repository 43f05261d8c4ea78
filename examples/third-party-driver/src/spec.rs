//! What is wanted of a file.

use agent_api_driver::model::ObjectSpec;
use agent_api_driver::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest content, in bytes.
pub const MAX_CONTENT: usize = 64 << 10;

/// The `spec` part of an object of the kind `file`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FileSpec {
    /// What is in the file; at most 64 KiB.
    pub content: String,
}

impl FileSpec {
    /// Reads the driver's part of an object; no part is an empty file.
    pub fn of(object: &ObjectSpec) -> Result<Self> {
        if object.spec.is_null() {
            return Ok(Self::default());
        }
        let file: Self = serde_json::from_value(object.spec.clone())
            .map_err(|error| Error::invalid("spec", error.to_string()))?;
        if file.content.len() > MAX_CONTENT {
            return Err(Error::invalid(
                "spec.content",
                format!("at most {MAX_CONTENT} bytes are allowed"),
            ));
        }
        Ok(file)
    }
}
