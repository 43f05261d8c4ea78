//! Deploying applications.

use std::path::PathBuf;
use std::time::Duration;

use agent_api_driver::model::{Diagnostic, Error, ErrorKind, Guid, ObjectSpec, OpId, Plan, PlanAction};
use agent_api_driver::{Applied, ApplyRequest, DeleteRequest, Mark, Result};
use tokio::time::Instant;

use super::check::is_address;
use super::exchange::{Wish, exchange};
use super::handle::{ServeHandle, limits_of};
use super::render::{self, Config, digest, mark_of, render, start_options, with_mark};
use super::spec::{ActorOptions, ServeSpec};
use super::{ServeKind, ServeRecord, TYPE};
use crate::head::{Capacity, Head};
use crate::records::Durability;
use crate::sdk::{ApplicationStatus, Package, ServeInstance};

/// How old the list of nodes may be for saying what no node can give.
const NODES_AGE: Duration = Duration::from_secs(10);

/// What one deployment of an application asks for.
pub(super) struct Deploy<'a> {
    pub(super) guid: Guid,
    pub(super) op_id: OpId,
    pub(super) object: &'a ObjectSpec,
    /// What it is called on the cluster: the name it was made with.
    pub(super) name: &'a str,
    /// Its replicas are replaced in any case.
    pub(super) restart: bool,
    pub(super) deadline: Instant,
}

impl ServeKind {
    pub(super) async fn apply_one(&self, request: ApplyRequest<'_>) -> Result<Applied> {
        let deadline = Instant::now() + request.deadline;
        let spec = self.read_spec(request.spec)?;
        let head = self.shared.head(spec.cluster.as_deref())?;
        let old = request.handle.map(ServeHandle::read).transpose()?;
        let mut name = request.spec.name.as_str();
        if let Some(old) = &old {
            if old.cluster == head.name {
                name = &old.application;
            } else {
                self.delete_one(DeleteRequest {
                    guid: request.guid,
                    op_id: request.op_id,
                    handle: request.handle,
                    grace: None,
                    orphan: false,
                    deadline: request.deadline / 2,
                })
                .await?;
            }
        }
        self.deploy(Deploy {
            guid: request.guid,
            op_id: request.op_id,
            object: request.spec,
            name,
            restart: false,
            deadline,
        })
        .await
    }

    /// The spec, where nothing is wrong with it.
    pub(super) fn read_spec(&self, object: &ObjectSpec) -> Result<ServeSpec> {
        let spec = ServeSpec::parse(&object.spec)?;
        match spec.check(object).into_iter().next() {
            Some(wrong) => Err(Error::invalid(wrong.path, wrong.message)),
            None => Ok(spec),
        }
    }

    /// Brings the application to its spec.
    pub(super) async fn deploy(&self, deploy: Deploy<'_>) -> Result<Applied> {
        let Deploy {
            guid,
            op_id,
            object,
            name,
            restart,
            deadline,
        } = deploy;
        let spec = self.read_spec(object)?;
        let head = self.shared.head(spec.cluster.as_deref())?;
        let left = || deadline.saturating_duration_since(Instant::now());
        let wanted = wants(&spec, object);
        if !head.config.autoscaling
            && !wanted.is_empty()
            && let Some((path, why)) = infeasible(head, &wanted).await
        {
            return Err(Error::new(ErrorKind::Conflict, why).with_path(path));
        }
        let address = self.bring_code(head, &spec, left()).await?;
        let config = render(&spec, object, name, address.as_deref());
        let orphan = self.is_orphan(guid).await;
        let mark = |op_id| Mark {
            agent: self.shared.agent.clone(),
            guid,
            op_id,
        };
        let wish = |instance: &ServeInstance| {
            let Some(app) = instance.applications.get(name) else {
                return Ok(Wish::Set(with_mark(config.clone(), &mark(op_id))));
            };
            let found = app.deployed_app_config.as_ref().and_then(mark_of);
            if app.status == ApplicationStatus::Deleting {
                return Ok(Wish::Set(with_mark(config.clone(), &mark(op_id))));
            }
            if orphan || !self.is_ours(found.as_ref(), guid) {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "there is a Serve application {name} on {} that is not this object's",
                        head.name
                    ),
                )
                .with_hint("give the object another name, or remove that application"));
            }
            let made_by = found.map_or(op_id, |mark| mark.op_id);
            // What failed is not tried again by itself; another mark makes Serve build it anew.
            let again = restart || app.status == ApplicationStatus::DeployFailed;
            let marked = with_mark(config.clone(), &mark(if again { op_id } else { made_by }));
            let same =
                |found: &Config| digest(found) == digest(&marked) && mark_of(found) == mark_of(&marked);
            if app.deployed_app_config.as_ref().is_some_and(same) {
                return Ok(Wish::Keep);
            }
            Ok(Wish::Set(marked))
        };
        if !orphan {
            let record = ServeRecord {
                cluster: head.name.clone(),
                application: name.to_owned(),
                orphan: false,
            };
            self.shared
                .records
                .write(TYPE, guid, &record, Durability::Cached)
                .await?;
        }
        let start = start_options(spec.http.as_ref());
        let mut instance = exchange(head, self.lock(head), name, &start, deadline, wish).await?;
        if spec.external_scaler
            && let (Some(replicas), Some(main)) = (object.resources.replicas, spec.main())
            && self
                .scale_outside(head, &instance, name, main, replicas, left())
                .await?
        {
            instance = head.client.serve(left()).await?;
        }
        self.deployed(guid, (name, object), &spec, head, &instance)
    }

    /// Sets the number of replicas where an external scaler may, and does so only now: 0, and what someone else has set meanwhile.
    /// Whether it changed anything; Serve refuses it while it builds the application.
    async fn scale_outside(
        &self,
        head: &Head,
        instance: &ServeInstance,
        name: &str,
        deployment: &str,
        replicas: u32,
        left: Duration,
    ) -> Result<bool> {
        let now = instance
            .applications
            .get(name)
            .and_then(|app| app.deployments.get(deployment))
            .and_then(|d| d.target_num_replicas);
        match now {
            Some(now) if now != replicas => {
                head.client.scale_serve(name, deployment, replicas, left).await?;
                head.touch();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// What an exchange brought about: a handle, and the status as it is then.
    fn deployed(
        &self,
        guid: Guid,
        (name, object): (&str, &ObjectSpec),
        spec: &ServeSpec,
        head: &Head,
        instance: &ServeInstance,
    ) -> Result<Applied> {
        let found = instance
            .applications
            .get(name)
            .and_then(|app| app.deployed_app_config.as_ref());
        let (Some(config), Some(mark)) = (found, found.and_then(mark_of)) else {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the application {name} was taken away while it was being deployed"),
            )
            .retry_after(Duration::from_secs(1)));
        };
        let handle = ServeHandle {
            cluster: head.name.clone(),
            application: name.to_owned(),
            guid,
            op_id: mark.op_id,
            digest: digest(config),
            revision: 0,
            main: spec.main().map(ToOwned::to_owned),
            limits: limits_of(object),
            external_scaler: spec.external_scaler,
        };
        let (handle, status) = self.adopt(handle, instance);
        Ok(Applied::new(handle, status))
    }

    /// Brings a local working directory to the cluster, and returns its address there.
    async fn bring_code(&self, head: &Head, spec: &ServeSpec, left: Duration) -> Result<Option<String>> {
        let local = spec
            .runtime_env
            .get("working_dir")
            .and_then(serde_json::Value::as_str)
            .filter(|dir| !is_address(dir));
        let Some(dir) = local else { return Ok(None) };
        let (path, most) = (PathBuf::from(dir), head.config.max_package.get());
        let package = tokio::task::spawn_blocking(move || Package::make(&path, most))
            .await
            .map_err(|e| Error::internal("packing a working directory failed").with_source(e))?
            .map_err(|wrong| {
                Error::new(
                    ErrorKind::Conflict,
                    format!("{}: {}", wrong.path.display(), wrong.why),
                )
                .with_path("spec.runtime_env.working_dir")
            })?;
        head.client.upload(&package, left).await?;
        Ok(Some(package.uri()))
    }

    /// What the cluster has to say of a plan; nothing where it does not answer.
    pub(super) async fn ask_cluster(&self, spec: &ServeSpec, object: &ObjectSpec, plan: &mut Plan) {
        let Ok(head) = self.shared.head(spec.cluster.as_deref()) else {
            return;
        };
        if let Some((path, why)) = infeasible(head, &wants(spec, object)).await {
            if head.config.autoscaling {
                plan.diagnostics.push(Diagnostic::warning(path, why));
            } else {
                plan.action = PlanAction::Infeasible;
                plan.reason = format!("{path}: {why}");
                return;
            }
        }
        let Some(http) = &spec.http else { return };
        let Ok(instance) = head.client.serve(head.config.read_timeout).await else {
            return;
        };
        if !instance.is_up() {
            return;
        }
        let runs = instance.http_options.unwrap_or_default();
        let (location, _) = render::start_options(Some(http));
        let differs = [
            ("host", http.host.is_some() && http.host != runs.host),
            ("port", http.port.is_some() && http.port != runs.port),
            (
                "location",
                location.is_some() && location != instance.proxy_location.as_deref(),
            ),
        ];
        for (field, _) in differs.iter().filter(|(_, differs)| *differs) {
            plan.diagnostics.push(Diagnostic::warning(
                format!("spec.http.{field}"),
                "Serve runs on this cluster already and keeps what it was started with",
            ));
        }
    }
}

/// What one replica of each deployment wants of one node, with the field that says so.
fn wants(spec: &ServeSpec, object: &ObjectSpec) -> Vec<(String, Capacity)> {
    let mut all = Vec::new();
    for (i, deployment) in spec.deployments.iter().enumerate() {
        let is_main = spec.main() == Some(deployment.name.as_str());
        let mut options = deployment.ray_actor_options.clone().unwrap_or_default();
        if is_main {
            override_amounts(&mut options, object);
        }
        let capacity = capacity(&options);
        if capacity != Capacity::default() {
            all.push((format!("spec.deployments[{i}].ray_actor_options"), capacity));
        }
    }
    if let Some(main) = spec.main()
        && spec.deployment(main).is_none()
    {
        let mut options = ActorOptions::default();
        override_amounts(&mut options, object);
        let capacity = capacity(&options);
        if capacity != Capacity::default() {
            all.push(("resources".to_owned(), capacity));
        }
    }
    all
}

fn override_amounts(options: &mut ActorOptions, object: &ObjectSpec) {
    let wanted = &object.resources;
    options.num_cpus = wanted
        .cpu
        .map(|cpu| cpu.millis() as f64 / 1000.0)
        .or(options.num_cpus);
    options.num_gpus = wanted.gpu.or(options.num_gpus);
    options.memory = wanted.memory.map(|memory| memory.get()).or(options.memory);
}

fn capacity(options: &ActorOptions) -> Capacity {
    let mut amounts = options.resources.clone();
    for (name, amount) in [
        ("CPU", options.num_cpus),
        ("GPU", options.num_gpus),
        ("memory", options.memory.map(|bytes| bytes as f64)),
    ] {
        if let Some(amount) = amount.filter(|amount| *amount > 0.0) {
            amounts.insert(name.to_owned(), amount);
        }
    }
    Capacity {
        amounts,
        labels: options.label_selector.clone(),
    }
}

/// What no node of the cluster can ever give, with its field; none where the cluster does not say.
async fn infeasible(head: &Head, wanted: &[(String, Capacity)]) -> Option<(String, String)> {
    if wanted.is_empty() {
        return None;
    }
    let nodes = head.nodes(NODES_AGE).await.ok()?;
    wanted
        .iter()
        .find_map(|(path, capacity)| Some((path.clone(), capacity.why_infeasible(&nodes)?)))
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::Cpu;
    use serde_json::json;

    use super::*;
    use crate::serve::tests::object;

    #[test]
    fn each_replica_wants_what_its_deployment_says() {
        let mut web = object(
            "web",
            json!({"import_path": "a:b", "main": "A", "deployments": [
                {"name": "A", "ray_actor_options": {"num_cpus": 8, "num_gpus": 0, "label_selector": {"lab": "n1"}}},
                {"name": "B", "ray_actor_options": {"memory": 1024, "resources": {"lab": 0.5}}},
                {"name": "C"}
            ]}),
        );
        web.resources.cpu = Some(Cpu::from_millis(500));
        let wanted = wants(&ServeSpec::parse(&web.spec).unwrap(), &web);
        assert_eq!(wanted.len(), 2);
        assert_eq!(wanted[0].0, "spec.deployments[0].ray_actor_options");
        assert_eq!(wanted[0].1.amounts, [("CPU".to_owned(), 0.5)].into());
        assert_eq!(wanted[0].1.labels, [("lab".to_owned(), "n1".to_owned())].into());
        assert_eq!(
            wanted[1].1.amounts,
            [("lab".to_owned(), 0.5), ("memory".to_owned(), 1024.0)].into()
        );
        web.spec = json!({"import_path": "a:b", "main": "M"});
        let wanted = wants(&ServeSpec::parse(&web.spec).unwrap(), &web);
        assert_eq!(wanted[0].0, "resources");
    }
}
