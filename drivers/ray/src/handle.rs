//! Handles: a form for each kind, told apart by the field `type`.

use agent_api_driver::model::Error;
use agent_api_driver::{Handle, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The version of handles written now.
pub(crate) const VERSION: u32 = 1;

/// The handle to store: the data, a map, with its type.
pub(crate) fn write(type_name: &str, data: &impl Serialize) -> Handle {
    let mut data = serde_json::to_value(data).expect("the data has only string keys and finite numbers");
    if let Value::Object(map) = &mut data {
        map.insert("type".to_owned(), json!(type_name));
    }
    Handle::new(VERSION, data)
}

/// Reads a handle of this type in any version ever written.
pub(crate) fn read<T: DeserializeOwned>(type_name: &str, handle: &Handle) -> Result<T> {
    match self::type_name(handle)? {
        found if found == type_name => serde_json::from_value(handle.data.clone())
            .map_err(|e| Error::invalid("handle", format!("the handle cannot be read: {e}"))),
        found => Err(Error::invalid(
            "handle",
            format!("this is the handle of a ray/{found} and not of a ray/{type_name}"),
        )),
    }
}

/// The type of a handle, which says what kind it belongs to.
pub(crate) fn type_name(handle: &Handle) -> Result<&str> {
    if handle.version != VERSION {
        return Err(Error::invalid(
            "handle",
            format!(
                "handle version {} is not known; this driver reads {VERSION}",
                handle.version
            ),
        ));
    }
    handle
        .data
        .get("type")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::invalid("handle", "the handle cannot be read: it names no type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_of_one_type_and_version() {
        let handle = write("job", &json!({"id": "a"}));
        assert_eq!(read::<Value>("job", &handle).unwrap()["id"], "a");
        assert!(read::<Value>("serve", &handle).is_err());
        assert!(read::<Value>("job", &Handle::new(2, handle.data)).is_err());
        assert!(type_name(&Handle::new(1, json!("nonsense"))).is_err());
    }
}
