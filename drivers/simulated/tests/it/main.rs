//! What specs ask for happens, and ten thousand objects cost little.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

mod faults;
mod scale;
mod support;
