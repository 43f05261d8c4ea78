//! The seam: Ray's REST interface as it is, without a word of the contract beyond its errors.

mod auth;
mod breaker;
mod client;
mod jobs;
mod meter;
mod packages;
mod serve;
mod state;
mod summary;

pub(crate) use client::{Client, Pieces};
pub(crate) use jobs::{JobInfo, JobStatus, Submission};
pub(crate) use packages::Package;
pub(crate) use serve::{Application, ApplicationStatus, Deployment, ServeConfig, ServeInstance, Source};
pub(crate) use state::{Node, Version};
pub use summary::Activity;
