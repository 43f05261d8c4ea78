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

use crate::quiet::Quiet;

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
pub(crate) type MakeCollector = Box<dyn FnOnce(Setup, Arc<dyn ReportSink>) -> Made<dyn CollectorApi> + Send>;

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
        use agent_manager::{Manager, ManagerConfig};
        let mut config = ManagerConfig::new(setup.agent, setup.state_dir);
        config.shards = setup.shards;
        config.operation_timeout = setup.operation_timeout;
        // It reads the whole journal.
        let opened = tokio::task::spawn_blocking(move || Manager::open(config, setup.drivers)).await;
        let manager = opened.map_err(|error| {
            Error::internal("the manager panicked when it was opened").with_source(error)
        })??;
        Ok(manager)
    }
    #[cfg(not(feature = "manager"))]
    {
        drop(setup);
        Err(absent("manager"))
    }
}

pub(crate) async fn default_reporter(setup: Setup) -> Result<Arc<dyn ReporterApi>> {
    let Some(bus) = setup.bus_out.clone() else {
        return Ok(Arc::new(Quiet::default()));
    };
    #[cfg(feature = "reporter")]
    {
        use agent_reporter::{BusRpcClient, Reporter, ReporterConfig, RpcConfig};
        let mut rpc = RpcConfig::new(setup.agent.clone());
        rpc.root.clone_from(&setup.topic_root);
        let mut config = ReporterConfig::new(setup.agent.clone(), &setup.topic_root);
        for (_, driver) in setup.drivers.iter() {
            for kind in &driver.info().kinds {
                if let Some(capabilities) = driver.capabilities(kind) {
                    config.methods.insert(kind.clone(), capabilities.control_verbs());
                }
            }
        }
        Ok(Reporter::start(config, Arc::new(BusRpcClient::new(rpc, bus))))
    }
    #[cfg(not(feature = "reporter"))]
    {
        drop(bus);
        Err(absent("reporter"))
    }
}

pub(crate) async fn default_collector(
    setup: Setup,
    sink: Arc<dyn ReportSink>,
) -> Result<Arc<dyn CollectorApi>> {
    #[cfg(feature = "collector")]
    {
        use agent_collector::{Collector, CollectorConfig};
        Ok(Collector::start(CollectorConfig::default(), setup.drivers, sink))
    }
    #[cfg(not(feature = "collector"))]
    {
        drop((setup, sink));
        Err(absent("collector"))
    }
}
