//! The driver on the lab's cluster (`dev/lab/kubernetes`): a real API server, real controllers and a real node.
//!
//! The tests start the cluster where it does not run, and fail where that cannot be done. Each has a namespace and an
//! agent of its own.
#![allow(clippy::unwrap_used)]

mod control;
mod cut;
mod exec;
mod eyes;
mod lab;
mod lifecycle;
mod logs;
mod manifests;
mod metrics;
mod ownership;
mod rbac;
mod support;
mod watch;
