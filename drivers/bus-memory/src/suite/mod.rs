//! The test suite of every bus: a case for each line of the Behavior lists of Bus In and Bus Out.
//!
//! A bus driver runs it in its own tests with one call:
//!
//! ```text
//! agent_bus_memory::bus_suite!(async || my_two_ends().await);
//! ```
//!
//! The cases assert by panicking, as tests do.

mod handler;
mod requests;
mod topics;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, BusIn, Incoming};
use agent_api_bus_out::{BusOut, BusReader};

pub use handler::{Seen, TestHandler};
pub use requests::*;
pub use topics::*;

/// How long anything may take before a case fails. Long, because test machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A bus that is not open yet, and the other ends of it.
pub struct Ends {
    /// Where the agent takes requests.
    pub bus_in: Arc<dyn BusIn>,
    /// Where the agent publishes.
    pub bus_out: Arc<dyn BusOut>,
    /// A caller with full access, outside of the agent.
    pub caller: Arc<dyn BusCaller>,
    /// A reader outside of the agent.
    pub reader: Arc<dyn BusReader>,
    /// What must live as long: a directory, a server.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl Ends {
    /// Opens the bus with a handler that answers by verb.
    pub(crate) async fn open(&self) -> Arc<TestHandler> {
        let handler = Arc::new(TestHandler::default());
        self.bus_in.open(handler.clone()).await.expect("the bus opens");
        handler
    }

    pub(crate) async fn close(&self) {
        self.bus_in.close(PATIENCE).await.expect("the bus closes in time");
    }
}

pub(crate) fn request(verb: &str, payload: &str) -> Incoming {
    Incoming {
        verb: verb.into(),
        payload: payload.to_owned().into(),
        ..Incoming::default()
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < end, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs the whole suite over buses that an async closure makes, a test for each case.
#[macro_export]
macro_rules! bus_suite {
    ($make:expr) => {
        $crate::bus_suite! { @cases $make;
            a_request_arrives_whole,
            errors_texts_and_large_answers_arrive,
            streams_arrive_in_order_and_end,
            an_error_ends_a_stream,
            no_answer_in_time_is_a_timeout,
            a_caller_that_leaves_ends_its_stream,
            requests_pass_while_a_stream_is_open,
            many_callers_get_their_own_answers,
            nobody_there_is_unavailable,
            close_answers_what_it_has_and_cuts_streams,
            close_says_what_got_no_answer,
            topics_arrive_in_order,
            a_slow_reader_misses_and_knows_how_many,
            a_reader_goes_on_where_it_was,
            a_reader_that_leaves_is_forgotten,
            what_is_no_pattern_is_refused,
            readers_end_when_the_bus_closes,
            calls_to_nobody_are_unsupported,
        }
    };
    (@cases $make:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let make = $make;
                let case = $crate::suite::$case(make().await);
                tokio::time::timeout($crate::suite::PATIENCE * 2, case)
                    .await
                    .expect("the case ends in time");
            }
        )*
    };
}
