//! Limits of a running pod, changed in place by the `resize` subresource, which servers have by default from 1.33 on.

use agent_api_driver::model::{Error, ErrorKind, Resources};
use agent_api_driver::{Applied, ControlRequest, Result};
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::{Workload, is_unchanged, unsupported};
use crate::handle::HandleData;
use crate::kinds::KubeKind;
use crate::shared::Shared;

/// The subresource.
pub(super) const RESIZE: &str = "resize";

impl Shared {
    pub(super) async fn resize(
        &self,
        request: &ControlRequest<'_>,
        data: HandleData,
        workloads: &[Workload<'_>],
        resources: &Resources,
    ) -> Result<Applied> {
        let one = match workloads {
            [one] if one.kind() == "Pod" => one,
            // Its pods are replaced one after the other.
            _ if data.kind == KubeKind::Deployment => return self.reapply(request, &data).await,
            [one] if data.kind == KubeKind::Job => {
                return Err(unsupported(format!(
                    "the limits of a {} cannot be changed while it runs",
                    one.kind()
                ))
                .with_hint("update `resources`, which makes it anew"));
            }
            _ => return Err(unsupported("only a pod can be resized while it runs")),
        };
        let cluster = one.target.cluster;
        if !one.target.resource.has(RESIZE) {
            let version = cluster.server_version().await?;
            return Err(unsupported(format!(
                "the server {}.{} cannot resize pods while they run (1.33 and later can)",
                version.major, version.minor
            ))
            .with_hint("update `resources`, which makes the pod anew"));
        }
        if is_unchanged(resources) {
            return self.changed(data, request, std::slice::from_ref(&one.live));
        }
        let container = data
            .container
            .as_deref()
            .or_else(|| one.spec()["containers"][0]["name"].as_str())
            .ok_or_else(|| Error::new(ErrorKind::Conflict, "the pod has no container"))?;
        let mut limits = serde_json::Map::new();
        if let Some(cpu) = resources.cpu {
            limits.insert("cpu".into(), json!(cpu.to_string()));
        }
        if let Some(memory) = resources.memory {
            limits.insert("memory".into(), json!(memory.to_string()));
        }
        let body = json!({
            "metadata": {"uid": one.uid()},
            "spec": {"containers": [{"name": container, "resources": {"limits": limits, "requests": limits}}]},
        });
        let place = &one.target.place;
        let params = PatchParams {
            field_manager: Some(cluster.manager().to_owned()),
            ..PatchParams::default()
        };
        let api = cluster.api(&one.target.resource, place.namespace.as_deref());
        let patch = Patch::Strategic(&body);
        let call = api.patch_subresource(RESIZE, &place.name, &params, &patch);
        let mut live: DynamicObject = cluster
            .call(
                "resize",
                &one.target.resource,
                place.namespace.as_deref(),
                &place.name,
                call,
            )
            .await?;
        live.types
            .get_or_insert_with(|| crate::target::types(&one.target.resource));
        self.changed(data, request, &[live])
    }
}
