//! What the parts of an agent are made from, and how.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent_api::bus_out::BusOut;
use agent_api::collector::CollectorApi;
use agent_api::driver::DriverSet;
use agent_api::manager::ManagerApi;
use agent_api::model::{AgentId, Error, Result};
use agent_api::reporter::{ReportSink, ReporterApi};

/// What the parts of an agent are made from: given to an embedding program's own
/// [`manager`](crate::AgentBuilder::manager), [`reporter`](crate::AgentBuilder::reporter) or
/// [`collector`](crate::AgentBuilder::collector).
#[derive(Clone)]
pub struct Setup {
    /// The agent's name.
    pub agent: AgentId,
    /// Where the agent keeps what survives a restart.
    pub state_dir: PathBuf,
    /// The drivers that could be built.
    pub drivers: DriverSet,
    /// How many shards there are, and so how many partitions are wanted.
    pub shards: u16,
    /// How long a driver call may take where its driver says nothing else.
    pub operation_timeout: Duration,
    /// The first word of the topics.
    pub topic_root: String,
    /// Where reports go; none where the embedding program gave none.
    pub bus_out: Option<Arc<dyn BusOut>>,
}

type Made<T> = Pin<Box<dyn Future<Output = Result<Arc<T>>> + Send>>;
pub(crate) type MakeManager = Box<dyn FnOnce(Setup) -> Made<dyn ManagerApi> + Send>;
pub(crate) type MakeReporter = Box<dyn FnOnce(Setup) -> Made<dyn ReporterApi> + Send>;
pub(crate) type MakeCollector =
    Box<dyn FnOnce(Setup, Arc<dyn ReportSink>) -> Made<dyn CollectorApi> + Send>;

#[cfg_attr(
    all(feature = "manager", feature = "collector", feature = "reporter"),
    expect(dead_code, reason = "used where a default part is left out")
)]
fn absent(part: &str) -> Error {
    Error::invalid(
        part,
        format!("agent-core was built without its feature `{part}`, and no other {part} was given"),
    )
    .with_hint(format!("turn the feature on, or call AgentBuilder::{part}"))
}

pub(crate) async fn default_manager(setup: Setup) -> Result<Arc<dyn ManagerApi>> {
    #[cfg(feature = "manager")]
    {
        let _ = setup;
        Err(Error::internal("not wired"))
    }
    #[cfg(not(feature = "manager"))]
    {
        let _ = setup;
        Err(absent("manager"))
    }
}

pub(crate) async fn default_reporter(setup: Setup) -> Result<Arc<dyn ReporterApi>> {
    #[cfg(feature = "reporter")]
    {
        let _ = setup;
        Err(Error::internal("not wired"))
    }
    #[cfg(not(feature = "reporter"))]
    {
        let _ = setup;
        Err(absent("reporter"))
    }
}

pub(crate) async fn default_collector(
    setup: Setup,
    sink: Arc<dyn ReportSink>,
) -> Result<Arc<dyn CollectorApi>> {
    #[cfg(feature = "collector")]
    {
        let _ = (setup, sink);
        Err(Error::internal("not wired"))
    }
    #[cfg(not(feature = "collector"))]
    {
        let _ = (setup, sink);
        Err(absent("collector"))
    }
}
