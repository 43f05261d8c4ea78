//! The API server: decodes, validates and authorises requests, and replies.
