//! Object driver for Ray clusters over REST: jobs, Serve applications, and the clusters themselves. No Python in the agent.
//!
//! # Parts
//!
//! One task for each cluster (`head`), and one more where Ray posts its events to the agent; none for an object, and none for a reader of
//! logs.
//!
//! - `driver`: the contract's calls, handed to the kind they are for; `kind` is what each kind does.
//! - `job`: the kind `ray/job`.
//! - `serve`: the kind `ray/serve`. `cluster`: the kind `ray/cluster`. `metrics`: what Ray's Prometheus endpoints say of all of them.
//! - `head`: one cluster's head: whether it answers, its session, its nodes, its events, and the task that looks after it.
//! - `records`, `revision`, `events`: what the driver keeps of objects, and its one stream of events.
//! - `spec`, `config`, `handle`: what a person writes, and what the manager stores.
//! - `sdk`: Ray's REST interface, without a word of the contract; `error` says what its answers mean.
//!
//! # What holds
//!
//! - A submission's id is chosen here and written down before it is sent, so that a reply that is lost is asked for by its id, and no id is
//!   ever used twice.
//! - A state is what a GET of the job says. Events and files of the cluster are hints that it is time to ask; without an answer the state
//!   is unknown, and never guessed.
//! - Each call has a timeout, a limit of calls in flight and a breaker, apart for reading and changing: Ray's agent may hang while its
//!   dashboard answers.

mod cluster;
mod config;
mod driver;
mod error;
mod events;
mod handle;
mod head;
mod job;
mod kind;
mod metrics;
mod records;
mod revision;
mod sdk;
mod serve;
mod shared;
mod text_duration;

use std::sync::Arc;

use agent_api_driver::model::{Diagnostic, DriverName, Kind};
use agent_api_driver::{Build, DriverFactory, ObjectDriver, Result, async_trait};
use serde_json::Value;

pub use cluster::{ActiveJob, Amount, ClusterDetails, ClusterSpec, Jobs, NodeDetails, Nodes};
pub use config::{BreakerConfig, ClusterConfig, ListenConfig, PollConfig, RayConfig, Secret};
pub use driver::RayDriver;
pub use job::{Attempt, JobDetails, JobSpec, RuntimeEnv, StopSignal};
pub use sdk::Activity;
pub use serve::{
    ActorOptions, Autoscaling, DeploymentDetails, DeploymentSpec, HttpSpec, ProxyLocation, ReplicaDetails,
    ServeDetails, ServeSpec,
};

/// Builds [`RayDriver`]s. Register it with the agent to manage objects of the kinds `ray/…`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RayDriverFactory;

#[async_trait]
impl DriverFactory for RayDriverFactory {
    fn name(&self) -> DriverName {
        driver::name()
    }

    fn kinds(&self) -> Vec<Kind> {
        driver::TYPES.map(kind::kind).into()
    }

    fn config_schema(&self) -> Value {
        schemars::schema_for!(RayConfig).to_value()
    }

    fn check(&self, config: &Value) -> Vec<Diagnostic> {
        match RayConfig::parse(config) {
            Ok(config) => config.check(),
            Err(wrong) => vec![wrong],
        }
    }

    async fn build(&self, build: Build) -> Result<Arc<dyn ObjectDriver>> {
        Ok(Arc::new(RayDriver::build(&build)?))
    }
}
