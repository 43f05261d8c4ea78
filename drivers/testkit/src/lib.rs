//! The conformance suite for object drivers: a case for each line of the *Behavior* lists in
//! [`agent_api_driver`], chosen by what the driver says it can.
//!
//! A driver author implements [`Subject`]: how the driver is built, samples of its spec, and hooks that look at the
//! substrate from outside. Then one line in `tests/conformance.rs` makes one test of each case:
//!
//! ```
//! use std::sync::Arc;
//!
//! use agent_api_driver::model::{Kind, ObjectSpec};
//! use agent_api_driver::DriverFactory;
//! use agent_driver_testkit::{async_trait, Sample, Subject};
//! # fn my_factory() -> Arc<dyn DriverFactory> { unreachable!("stands for your driver's factory") }
//!
//! struct MySubject;
//!
//! #[async_trait]
//! impl Subject for MySubject {
//!     fn factory(&self) -> Arc<dyn DriverFactory> {
//!         my_factory()
//!     }
//!
//!     fn kind(&self) -> Kind {
//!         Kind::new("my-driver").expect("lower-case letters and '-'")
//!     }
//!
//!     fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
//!         let spec = match sample {
//!             Sample::LongRunning => r#"{"run_for": "1h"}"#,
//!             Sample::Ends { after, code: 0 } if after.is_zero() => r#"{"run_for": "0s"}"#,
//!             // The cases that need another sample do not apply then, and say so.
//!             _ => return None,
//!         };
//!         let text = format!(r#"{{"kind": "my-driver", "name": "sample", "spec": {spec}}}"#);
//!         Some(serde_json::from_str(&text).expect("a spec"))
//!     }
//! }
//!
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
//!
//! # Under chaos
//!
//! [`conformance_with_chaos!`] makes the same tests a second time, with [`Chaos`] between the case and the driver: calls
//! fail before or after they had their effect, hang or panic, and events come twice, late or not at all. The case then
//! calls as the manager does, on an error that may pass again with the same `op_id` and `maybe_applied`, and expects
//! what it expects without chaos. All chance comes from one seed, which a failure names; the environment variable
//! `AGENT_CHAOS_SEED` replaces it. [`Chaos`] can also stand before a driver in other tests.

mod cases;
mod chaos;
mod place;
mod report;
mod runner;
mod subject;
mod table;
mod trial;

pub use chaos::{Chaos, Faults};
pub use place::Place;
pub use report::{Outcome, Report, Row};
pub use runner::{CaseInfo, cases, run, run_test, run_test_with_chaos, run_with_chaos};
pub use subject::{ExecSample, LogShape, Made, ProbeSample, Refused, Rotation, Sample, Subject};

/// Re-exported for [`Subject`] implementations.
pub use agent_api_driver::async_trait;
