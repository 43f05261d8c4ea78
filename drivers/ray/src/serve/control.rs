//! Control verbs of applications.

use agent_api_driver::model::{ControlAction, Error, ErrorKind, ObjectSpec};
use agent_api_driver::{Applied, ControlRequest, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ServeKind;
use super::apply::Deploy;
use super::handle::ServeHandle;
use super::render::mark_of;
use super::spec::ServeSpec;
use crate::sdk::ApplicationStatus;

/// The method that scales any deployment.
pub(super) const SCALE_DEPLOYMENT: &str = "scale_deployment";

/// The arguments of `scale_deployment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScaleDeployment {
    /// The deployment's name.
    #[schemars(length(min = 1))]
    pub(super) deployment: String,
    /// How many replicas.
    #[schemars(range(min = 1))]
    pub(super) replicas: u32,
}

impl ServeKind {
    pub(super) async fn control_one(&self, request: ControlRequest<'_>) -> Result<Applied> {
        let deadline = Instant::now() + request.deadline;
        let name = ServeHandle::read(request.handle)?.application;
        let deploy = |object, restart| Deploy {
            guid: request.guid,
            op_id: request.op_id,
            object,
            name: &name,
            restart,
            deadline,
        };
        match request.action {
            ControlAction::Restart { .. } => {
                self.must_be_there(&request, false).await?;
                self.deploy(deploy(request.spec, true)).await
            }
            ControlAction::Scale { .. } | ControlAction::Resize { .. } => {
                self.must_be_there(&request, true).await?;
                let spec = ServeSpec::parse(&request.spec.spec)?;
                if let Some(wrong) = spec.check(request.spec).into_iter().next() {
                    // The spec was fine before the action's numbers came in.
                    return Err(Error::new(ErrorKind::Conflict, wrong.message).with_path(wrong.path));
                }
                self.deploy(deploy(request.spec, false)).await
            }
            ControlAction::Call { method, arguments } if method == SCALE_DEPLOYMENT => {
                let arguments: ScaleDeployment = serde_json::from_value(arguments.clone())
                    .map_err(|e| Error::invalid("arguments", e.to_string()))?;
                self.must_be_there(&request, true).await?;
                let object = scaled(request.spec, &arguments)?;
                let applied = self.deploy(deploy(&object, false)).await?;
                Ok(Applied {
                    spec: Some(object),
                    ..applied
                })
            }
            ControlAction::Call { method, .. } => Err(Error::new(
                ErrorKind::Unsupported,
                format!("Serve applications have no method {method:?}; they have {SCALE_DEPLOYMENT}"),
            )),
            ControlAction::Pause {} | ControlAction::Resume {} => Err(Error::new(
                ErrorKind::Unsupported,
                "Serve cannot hold an application still",
            )
            .with_hint("with `external_scaler: true` it can be scaled to 0")),
            ControlAction::Signal { .. } => Err(Error::new(
                ErrorKind::Unsupported,
                "Ray passes no signals to the replicas of an application",
            )),
            other => Err(Error::new(
                ErrorKind::Unsupported,
                format!("Serve applications cannot {}", other.verb().as_str()),
            )),
        }
    }

    /// Refuses what is gone or not ours, and, where it has to work, what could not be deployed.
    async fn must_be_there(&self, request: &ControlRequest<'_>, alive: bool) -> Result<()> {
        let handle = ServeHandle::read(request.handle)?;
        let head = self.head_of(&handle)?;
        let instance = head.client.serve(request.deadline).await?;
        let app = instance
            .applications
            .get(&handle.application)
            .filter(|app| app.status != ApplicationStatus::Deleting)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "the application is not there any more"))?;
        let mark = app.deployed_app_config.as_ref().and_then(mark_of);
        if handle.guid != request.guid
            || !self.is_ours(mark.as_ref(), request.guid)
            || self.is_orphan(request.guid).await
        {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the application {} is not this object's", handle.application),
            ));
        }
        if alive && app.status == ApplicationStatus::DeployFailed {
            return Err(Error::new(ErrorKind::Conflict, "it could not be deployed")
                .with_hint("restart tries it again"));
        }
        Ok(())
    }
}

/// The spec with this number of replicas of a deployment.
fn scaled(object: &ObjectSpec, arguments: &ScaleDeployment) -> Result<ObjectSpec> {
    let spec = ServeSpec::parse(&object.spec)?;
    let mut object = object.clone();
    if spec.main() == Some(&arguments.deployment) {
        object.resources.replicas = Some(arguments.replicas);
    } else {
        let missing = || {
            let known: Vec<_> = spec.deployments.iter().map(|d| d.name.as_str()).collect();
            Error::invalid(
                "arguments",
                format!(
                    "the spec has no deployment {:?}; it has {}",
                    arguments.deployment,
                    known.join(", ")
                ),
            )
        };
        let at = spec
            .deployments
            .iter()
            .position(|d| d.name == arguments.deployment)
            .ok_or_else(missing)?;
        let entry = object.spec.get_mut("deployments").and_then(|all| all.get_mut(at));
        if let Some(Value::Object(entry)) = entry {
            entry.insert("num_replicas".into(), json!(arguments.replicas));
        }
    }
    let spec = ServeSpec::parse(&object.spec)?;
    if let Some(wrong) = spec.check(&object).into_iter().next() {
        return Err(Error::invalid("arguments", wrong.message));
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::tests::object;

    #[test]
    fn the_spec_changes_with_the_number_of_replicas() {
        let web = object(
            "web",
            json!({"import_path": "a:b", "main": "A", "deployments": [{"name": "A"}, {"name": "B"}, {"name": "C", "autoscaling": {"max_replicas": 2}}]}),
        );
        let to = |deployment: &str, replicas| {
            scaled(
                &web,
                &ScaleDeployment {
                    deployment: deployment.into(),
                    replicas,
                },
            )
        };
        assert_eq!(to("A", 3).unwrap().resources.replicas, Some(3));
        let b = to("B", 2).unwrap();
        assert_eq!(b.spec["deployments"][1], json!({"name": "B", "num_replicas": 2}));
        assert_eq!(b.resources.replicas, None);
        for (deployment, replicas) in [("C", 2), ("X", 1), ("A", 0), ("B", 0)] {
            let error = to(deployment, replicas).unwrap_err();
            assert_eq!(
                (error.kind(), error.path()),
                (ErrorKind::Invalid, Some("arguments")),
                "{deployment}"
            );
        }
    }
}
