//! Logs of the pods of an object.
//!
//! A place in a container's log is found again by what the kubelet offers (see [`position`]), over its restarts (see
//! [`tail`]); a cursor holds the places of all containers of an object (see [`cursor`]). Kubernetes gives standard output
//! and error as one: all lines come as standard output. What Kubernetes says of the object comes as [`System`] lines: its
//! Events, and before lines of another container than the last ones the name of pod and container.
//!
//! [`System`]: agent_api_driver::model::LogStream::System

pub(crate) mod cursor;
pub(crate) mod kubelet;
pub(crate) mod last;
mod line;
mod position;
pub(crate) mod reach;
mod read;
pub(crate) mod tail;

pub(crate) use read::{MOST, containers, read};
