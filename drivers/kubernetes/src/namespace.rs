//! What must be there before other things: namespaces, and the types of custom resources.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ObjectMeta, PostParams};
use tokio::time::{Instant, sleep};

use crate::handle::ObjectRef;
use crate::sdk::Cluster;
use crate::shared::Shared;
use crate::target::Target;

/// Between two looks at a new type.
const PAUSE: Duration = Duration::from_millis(50);

impl Shared {
    /// Makes the namespace of a place. It bears no mark: it stays when the object goes, and others may use it.
    pub(crate) async fn make_namespace(&self, cluster: &Arc<Cluster>, place: &ObjectRef) -> Result<()> {
        let name = place.namespace.as_deref().unwrap_or_default();
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let params = PostParams {
            field_manager: Some(cluster.manager().to_owned()),
            ..PostParams::default()
        };
        let api: Api<Namespace> = Api::all(cluster.client());
        match cluster
            .call_typed::<Namespace, _>("create", None, name, api.create(&params, &namespace))
            .await
        {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the type that a definition defines can be used.
    pub(crate) async fn until_served(
        &self,
        target: &Target<'_>,
        definition: &DynamicObject,
        until: Instant,
    ) -> Result<()> {
        let mut definition = definition.clone();
        loop {
            let is = |condition: &str| {
                definition.data["status"]["conditions"]
                    .as_array()
                    .is_some_and(|all| {
                        all.iter()
                            .any(|one| one["type"] == condition && one["status"] == "True")
                    })
            };
            if is("Established") && is("NamesAccepted") {
                break;
            }
            if Instant::now() + PAUSE >= until {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{} is not established yet", target.place),
                ));
            }
            sleep(PAUSE).await;
            definition = target.get().await?.ok_or_else(|| {
                Error::new(
                    ErrorKind::Conflict,
                    format!("{} was deleted meanwhile", target.place),
                )
            })?;
        }
        let spec = &definition.data["spec"];
        let group = spec["group"].as_str().unwrap_or_default();
        for version in spec["versions"].as_array().into_iter().flatten() {
            let version = version["name"].as_str().unwrap_or_default();
            target.cluster.forget_group(&format!("{group}/{version}"));
        }
        Ok(())
    }
}
