//! The last message of a streamed reply that failed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Error;

const BEGIN: &[u8] = b"{\"error\":";

#[derive(Serialize)]
struct Written<'a> {
    error: &'a Error,
}

#[derive(Deserialize)]
struct Read {
    error: Error,
}

impl Error {
    /// The error as a message of a stream: `{"error":{…}}`. It is the stream's last one.
    #[must_use]
    pub fn to_frame(&self) -> Bytes {
        serde_json::to_vec(&Written { error: self })
            .expect("an error is strings and numbers")
            .into()
    }

    /// The error that a message of a stream is, where it is one. No other message of any stream begins with the
    /// field `error`.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        if !frame.starts_with(BEGIN) {
            return None;
        }
        Some(match serde_json::from_slice::<Read>(frame) {
            Ok(read) => read.error,
            Err(error) => {
                Self::internal("the stream ended with an error that cannot be read").with_source(error)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_frame_is_read_as_what_it_was() {
        let error = Error::invalid("cursor", "is not a cursor").with_object("web");
        assert_eq!(Error::from_frame(&error.to_frame()), Some(error));
        assert_eq!(Error::from_frame(br#"{"type":"synced"}"#), None);
        assert!(Error::from_frame(br#"{"error":7}"#).is_some());
    }
}
