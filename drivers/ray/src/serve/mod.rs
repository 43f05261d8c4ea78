//! The kind `ray/serve`: Serve applications, each an object.
//!
//! An application bears the object's name and, in the environment of its processes, the mark; what has the name and not the mark is
//! somebody else's and is left alone. Serve changes all that a spec can say in place, so the operation in the mark stays the one that made
//! the application, until a restart is asked for: another mark is another runtime environment, for which Serve replaces all replicas.

mod apply;
mod change;
mod check;
mod control;
mod delete;
mod exchange;
mod file;
mod handle;
mod logs;
mod look;
mod render;
mod spec;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{
    Diagnostic, Enforcement, Error, ErrorKind, Guid, ObjectSpec, Plan, PlanAction, ResourceField, Signal,
    TelemetryBatch,
};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, CollectRequest, ControlRequest, DeleteRequest, Deleted, Handle,
    KindSchema, LimitCapability, LogReadRequest, LogStreamOut, Mark, Method, Observed, PlanRequest,
    Recovered, Result, StatusSource, Target, async_trait,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::head::{Head, Hint, Look};
use crate::kind::KindDriver;
use crate::metrics::Source;
use crate::shared::Shared;
use handle::ServeHandle;
use look::Entry;

pub use spec::{ActorOptions, Autoscaling, DeploymentSpec, HttpSpec, ProxyLocation, ServeSpec};
pub use status::{DeploymentDetails, ReplicaDetails, ServeDetails};

/// The last part of the kind.
pub(crate) const TYPE: &str = "serve";
/// How long a change of Serve may take: code is imported and processes are started on the cluster.
const OPERATION: Duration = Duration::from_secs(60);

/// Manages Serve applications.
pub(crate) struct ServeKind {
    shared: Arc<Shared>,
    schema: KindSchema,
    capabilities: Capabilities,
    /// One for each cluster: changes of Serve go one after the other.
    locks: BTreeMap<String, tokio::sync::Mutex<()>>,
    /// The objects of this run of the agent.
    table: Mutex<HashMap<Guid, Entry>>,
    /// Objects that were left running by a delete; read from the records once.
    orphans: OnceCell<Mutex<HashSet<Guid>>>,
    /// Where logs were collected to, by object and file, so that what follows costs little.
    anchors: Mutex<HashMap<(Guid, String), file::Anchor>>,
}

/// What the driver keeps of an application.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ServeRecord {
    cluster: String,
    application: String,
    /// It was left running by a delete; its mark stays, because taking it away would replace its replicas.
    orphan: bool,
}

impl ServeKind {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            schema: KindSchema {
                spec: schemars::schema_for!(ServeSpec).to_value(),
                status: schemars::schema_for!(ServeDetails).to_value(),
            },
            capabilities: capabilities(),
            locks: shared
                .heads
                .keys()
                .map(|name| (name.clone(), tokio::sync::Mutex::default()))
                .collect(),
            table: Mutex::default(),
            orphans: OnceCell::new(),
            anchors: Mutex::default(),
            shared,
        }
    }

    fn lock(&self, head: &Head) -> &tokio::sync::Mutex<()> {
        self.locks.get(&head.name).expect("there is one for each head")
    }

    /// The head that a handle names.
    fn head_of(&self, handle: &ServeHandle) -> Result<&Arc<Head>> {
        self.head_named(&handle.cluster)
    }

    fn head_named(&self, cluster: &str) -> Result<&Arc<Head>> {
        self.shared.heads.get(cluster).ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                format!("the Ray cluster {cluster:?} is no longer in the driver's configuration"),
            )
        })
    }

    /// Whether a mark is that of this object.
    fn is_ours(&self, mark: Option<&Mark>, guid: Guid) -> bool {
        mark.is_some_and(|mark| mark.agent == self.shared.agent && mark.guid == guid)
    }

    async fn orphans(&self) -> &Mutex<HashSet<Guid>> {
        self.orphans
            .get_or_init(|| async {
                let all = self.shared.records.all::<ServeRecord>(TYPE).await;
                Mutex::new(
                    all.into_iter()
                        .filter(|(_, record)| record.orphan)
                        .map(|(guid, _)| guid)
                        .collect(),
                )
            })
            .await
    }

    /// Whether an object was left running by a delete.
    async fn is_orphan(&self, guid: Guid) -> bool {
        self.orphans().await.lock().contains(&guid)
    }
}

fn capabilities() -> Capabilities {
    let mut can = Capabilities::default();
    can.restart = true;
    can.scale = true;
    can.resize = true;
    can.logs = true;
    can.metrics = true;
    can.orphan = true;
    can.adoptable = true;
    can.discoverable = true;
    can.status = StatusSource::Event;
    can.batch_size = 1_000;
    can.operation_timeout = OPERATION;
    can.limits = render::LIMITS
        .map(|(field, by)| LimitCapability {
            field,
            enforcement: if field == ResourceField::Replicas {
                Enforcement::Enforced
            } else {
                Enforcement::Advisory
            },
            by: by.to_owned(),
            live: true,
        })
        .into();
    can.fields = change::FIELDS.map(|(path, mode)| (path.to_owned(), mode)).into();
    can.methods = BTreeMap::from([(
        control::SCALE_DEPLOYMENT.to_owned(),
        Method {
            summary: "Sets the number of replicas of any of its deployments; the spec changes with it."
                .to_owned(),
            arguments: schemars::schema_for!(control::ScaleDeployment).to_value(),
        },
    )]);
    can
}

#[async_trait]
impl KindDriver for ServeKind {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn schema(&self) -> &KindSchema {
        &self.schema
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn validate(&self, object: &ObjectSpec) -> Vec<Diagnostic> {
        match ServeSpec::parse(&object.spec) {
            Ok(spec) => {
                let mut found = spec.check(object);
                if let Err(error) = self.shared.head(spec.cluster.as_deref()) {
                    found.push(Diagnostic::error("spec.cluster", error.message()));
                }
                found
            }
            Err(error) => vec![Diagnostic::error(error.path().unwrap_or("spec"), error.message())],
        }
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Result<Plan> {
        let spec = ServeSpec::parse(&request.next.spec)?;
        let mut plan = match request.previous {
            None => Plan::new(PlanAction::Create, Vec::new()),
            Some(previous) => change::plan(previous, request.next)?,
        };
        if plan.action != PlanAction::NoOp {
            self.ask_cluster(&spec, request.next, &mut plan).await;
        }
        Ok(plan)
    }

    async fn apply(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        self.apply_one(request).await
    }

    async fn delete(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        self.delete_one(request).await
    }

    async fn recover(&self, targets: &[Target<'_>]) -> Vec<Recovered> {
        self.recover_all(targets).await
    }

    async fn discover(&self) -> Result<Vec<(Mark, Handle)>> {
        self.discover_all().await
    }

    async fn observe(&self, targets: &[Target<'_>], out: &mut Vec<Observed>) {
        self.observe_all(targets, out).await;
    }

    async fn collect(
        &self,
        request: CollectRequest<'_>,
        out: &mut TelemetryBatch,
        cursors: &mut Vec<(Guid, String)>,
    ) {
        if request.signals.contains(&Signal::Metrics) {
            let sources = request.targets.iter().filter_map(|target| {
                let handle = ServeHandle::read(target.handle)
                    .ok()
                    .filter(|handle| handle.guid == target.guid)?;
                self.is_there(target.guid).then_some((
                    target.guid,
                    handle.cluster,
                    Source::Application(handle.application),
                ))
            });
            self.shared
                .metrics
                .collect(&self.shared, sources.collect(), request.deadline, out)
                .await;
        }
        if request.signals.contains(&Signal::Logs) {
            self.collect_logs(&request, out, cursors).await;
        }
    }

    async fn stop_all(&self, deadline: Duration) {
        self.stop_applications(deadline).await;
    }

    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        self.control_one(request).await
    }

    async fn read_logs(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        self.read(target, request).await
    }

    async fn tick(&self, head: &Arc<Head>, look: &Look) -> Duration {
        self.look_after(head, look).await
    }

    fn hint(&self, head: &Arc<Head>, hint: &Hint) {
        let name = &hint.name;
        // Replicas and the controller are actors of these names.
        if name.starts_with("SERVE_")
            && self
                .table
                .lock()
                .values()
                .any(|entry| entry.handle.cluster == head.name)
        {
            head.wake();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api_driver::model::{Guid, Kind, ObjectName, ObjectSpec, OpId};
    use serde_json::{Map, Value, json};

    use super::handle::ServeHandle;
    use crate::sdk::Application;

    /// An object of this kind.
    pub(crate) fn object(name: &str, spec: Value) -> ObjectSpec {
        ObjectSpec {
            spec,
            ..ObjectSpec::new(Kind::new("ray/serve").unwrap(), ObjectName::new(name).unwrap())
        }
    }

    /// An application `web` in this state: deployments with the replicas that are wanted, and those that are there.
    pub(crate) fn app(status: &str, deployments: &[(&str, u32, Vec<&str>)]) -> Application {
        let deployments: Map<String, Value> = deployments
            .iter()
            .map(|(name, wanted, replicas)| {
                let replicas: Vec<Value> = replicas
                    .iter()
                    .enumerate()
                    .map(|(i, state)| json!({"replica_id": format!("r{i}"), "state": state}))
                    .collect();
                (
                    (*name).to_owned(),
                    json!({"target_num_replicas": wanted, "replicas": replicas}),
                )
            })
            .collect();
        serde_json::from_value(json!({
            "status": status, "source": "declarative", "deployments": deployments,
            "deployed_app_config": {"name": "web", "import_path": "a:b"}
        }))
        .unwrap()
    }

    /// A handle that was written for this configuration.
    pub(crate) fn handle_for(name: &str, config: &Map<String, Value>) -> ServeHandle {
        ServeHandle {
            cluster: "default".into(),
            application: name.into(),
            guid: Guid::generate(),
            op_id: OpId::generate(),
            digest: super::render::digest(config),
            revision: 0,
            main: None,
            limits: Default::default(),
            external_scaler: false,
        }
    }
}
