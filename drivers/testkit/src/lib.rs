//! The conformance suite for object drivers: a case for each line of the *Behavior* lists in
//! [`agent_api_driver`], chosen by what the driver says it can.
//!
//! A driver author implements [`Subject`]: how the driver is built, samples of its spec, and hooks that look at the
//! substrate from outside. Then one line in `tests/conformance.rs` makes one test of each case:
//!
//! ```ignore
//! agent_driver_testkit::conformance!(MySubject);
//! ```
//!
//! The tests are named after method and behaviour, for example `apply::the_same_op_id_never_has_its_effect_twice`.
//! A case that does not apply, because the driver cannot do it or the subject has no sample or hook for it, says so
//! and why on standard error; [`run`] returns the same as a [`Report`].
//!
//! Each case gets a [`Place`] of its own (an agent's name and an empty state directory), waits for conditions with a
//! deadline and never for a fixed time, and is followed by a leak check: all that it made is deleted, and then neither
//! [`discover`](agent_api_driver::ObjectDriver::discover) nor [`Subject::leftovers`] may find anything.

mod cases;
mod place;
mod report;
mod runner;
mod subject;
mod table;
mod trial;

pub use place::Place;
pub use report::{Outcome, Report, Row};
pub use runner::{CaseInfo, cases, run, run_test};
pub use subject::{ExecSample, LogShape, Made, ProbeSample, Refused, Rotation, Sample, Subject};

/// Re-exported for [`Subject`] implementations.
pub use agent_api_driver::async_trait;
