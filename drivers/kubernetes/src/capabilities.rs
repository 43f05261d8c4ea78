//! What can be done with objects of each kind, on the clusters that the driver was built for.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{Enforcement, LimitStatus, ResourceField, Resources};
use agent_api_driver::{Capabilities, FieldChangeMode, LimitCapability, StatusSource};

use crate::control;
use crate::kinds::KubeKind;

/// Objects in one `observe` or `collect`.
const BATCH: usize = 1000;
/// How long an operation may take: an image may have to be pulled, pods have 30 s to end.
const OPERATION: Duration = Duration::from_secs(120);

/// What only some servers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// The limits of a running pod can be changed (1.33).
    pub pod_resize: bool,
    /// Jobs can be suspended (1.22).
    pub job_suspend: bool,
}

/// What can be done with objects of a kind.
pub(crate) fn capabilities(kind: KubeKind, features: Features, max_in_flight: usize) -> Capabilities {
    let mut can = Capabilities::default();
    can.adoptable = true;
    can.status = StatusSource::Event;
    can.batch_size = BATCH;
    can.max_in_flight = max_in_flight;
    can.operation_timeout = OPERATION;
    can.metrics = true;
    can.methods = control::methods(kind);
    if kind == KubeKind::Cluster {
        return can;
    }
    can.logs = true;
    can.exec = true;
    can.terminal = true;
    can.signal = true;
    can.restart = true;
    can.orphan = kind.owned();
    can.discoverable = kind.owned();
    match kind {
        KubeKind::Manifest | KubeKind::Adopted => {
            can.pause = true;
            can.scale = true;
            can.ends = true;
            can.limits = vec![replicas("spec.replicas of its workload")];
        }
        KubeKind::Deployment => {
            can.pause = true;
            can.scale = true;
            can.resize = true;
            can.limits = limits(false);
            can.limits.push(replicas("the deployment controller"));
            can.fields = fields(FieldChangeMode::Live);
            can.fields
                .insert("spec.namespace".to_owned(), FieldChangeMode::Recreate);
        }
        KubeKind::Job => {
            can.pause = features.job_suspend;
            can.ends = true;
            can.limits = limits(false);
            can.limits.push(replicas("the job controller"));
            can.fields = fields(FieldChangeMode::Recreate);
            for field in ["spec.retries", "spec.time_limit", "resources.replicas"] {
                can.fields.insert(field.to_owned(), FieldChangeMode::Live);
            }
        }
        KubeKind::Pod => {
            can.resize = features.pod_resize;
            can.ends = true;
            can.limits = limits(features.pod_resize);
            can.fields = fields(FieldChangeMode::Recreate);
            can.fields.insert("spec.image".to_owned(), FieldChangeMode::Live);
            let resources = match features.pod_resize {
                true => FieldChangeMode::Live,
                false => FieldChangeMode::Restart,
            };
            for field in ["cpu", "memory"] {
                can.fields.insert(format!("resources.{field}"), resources);
            }
        }
        KubeKind::Cluster => {}
    }
    can
}

fn limits(live: bool) -> Vec<LimitCapability> {
    let by = |field, by: &str| LimitCapability {
        field,
        enforcement: Enforcement::Enforced,
        by: by.to_owned(),
        live,
    };
    vec![
        by(
            ResourceField::Cpu,
            "the kubelet, as limit and request of the container",
        ),
        by(
            ResourceField::Memory,
            "the kubelet, as limit and request of the container",
        ),
        LimitCapability {
            live: false,
            ..by(ResourceField::Gpu, "the device plugin of the node")
        },
    ]
}

fn replicas(by: &str) -> LimitCapability {
    LimitCapability {
        field: ResourceField::Replicas,
        enforcement: Enforcement::Enforced,
        by: by.to_owned(),
        live: true,
    }
}

/// The limits of an object as they are held: one entry for each that its spec sets.
pub(crate) fn limit_statuses(resources: &Resources) -> Vec<LimitStatus> {
    let mut statuses = Vec::new();
    let mut say = |field, value: Option<String>, enforcement, by: &str| {
        if let Some(value) = value {
            statuses.push(LimitStatus {
                field,
                value,
                enforcement,
                by: by.to_owned(),
            });
        }
    };
    let (held, noted) = (Enforcement::Enforced, Enforcement::Advisory);
    say(
        ResourceField::Cpu,
        resources.cpu.map(|cpu| cpu.to_string()),
        held,
        "the kubelet",
    );
    say(
        ResourceField::Memory,
        resources.memory.map(|memory| memory.to_string()),
        held,
        "the kubelet",
    );
    say(
        ResourceField::Gpu,
        resources.gpu.map(|gpu| format!("{gpu:.0}")),
        held,
        "the device plugin of the node",
    );
    say(
        ResourceField::Replicas,
        resources.replicas.map(|replicas| replicas.to_string()),
        held,
        "its controller",
    );
    let priority = resources.priority.map(|priority| priority.to_string());
    say(
        ResourceField::Priority,
        priority,
        noted,
        "priorities of pods are classes of the cluster",
    );
    statuses
}

/// How the fields of the short kinds change, where nothing else is said.
fn fields(mode: FieldChangeMode) -> BTreeMap<String, FieldChangeMode> {
    let mut fields: BTreeMap<String, FieldChangeMode> = [
        "image",
        "pull_policy",
        "pull_secrets",
        "command",
        "args",
        "env",
        "secret_env",
        "workdir",
        "ports",
        "node_selector",
        "service_account",
        "user",
        "stop_grace",
        "gpu_resource",
    ]
    .into_iter()
    .map(|field| (format!("spec.{field}"), mode))
    .collect();
    // How it is changed and removed is the agent's own matter.
    for field in ["spec.force", "spec.deletion", "spec.create_namespace"] {
        fields.insert(field.to_owned(), FieldChangeMode::Live);
    }
    fields
}
