//! The agent binary.
