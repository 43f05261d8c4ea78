//! Object driver for the workloads of Kubernetes clusters.
//!
//! Objects of the kinds `kubernetes/…` become Kubernetes objects by server-side apply under a field manager of the agent's
//! own, and are known by watches from then on: one per type of resource and cluster, whatever the number of objects.
//!
//! | kind | what it is |
//! | --- | --- |
//! | `kubernetes/manifest` | any objects, custom resources among them, as one object with one status ([`ManifestSpec`]) |
//! | `kubernetes/deployment`, `kubernetes/job`, `kubernetes/pod` | one container, in a few words ([`DeploymentSpec`], [`JobSpec`], [`PodSpec`]) |
//! | `kubernetes/adopted` | something that exists already: watched and controlled, never made or removed ([`AdoptedSpec`]) |
//! | `kubernetes/cluster` | a cluster, for verbs about its nodes ([`ClusterSpec`]) |
//!
//! # Parts
//!
//! - `driver`: the contract's calls, handed on. `apply`, `put`, `plan`, `delete`, `recover`, `discover`, `control`, `exec`,
//!   `logs`, `collect` do them; `target` is one thing in a cluster and the requests about it.
//! - `kinds`, `config`, `handle`, `mark`: what a person writes, what it becomes, what the manager stores, and what everything
//!   bears that the driver makes.
//! - `watch`, `status`, `events`, `observe`: what happens in the clusters, and what that means for an object.
//! - `sdk`: what stands between the driver and the kube library. Every request of the driver, watches among them, goes through
//!   one link per cluster, which counts, bounds, waits as a 429 asks, and changes credentials below those who use it.
//!
//! # What holds
//!
//! - A create is one request, and makes only what does not exist: it asks for a version that no object has, so that the server
//!   refuses where there is one. What bears another mark or none is never touched, unless `spec.force` says so.
//! - What is changed or deleted is named by its uid: another one of the same name is left alone.
//! - The operation that applied a thing last stands in its annotation: the same operation never has its effect twice, also when
//!   its answer was lost.
//! - What cannot be changed in place is removed with all that depends on it and made anew, as the plan says; what holds data
//!   (namespaces, definitions, volume claims) is not, and the plan says that it cannot be.
//! - A field that another manager has is a conflict that names it. Only a repair, which applies again what was applied
//!   before, takes back what was ours.

mod apply;
mod capabilities;
mod collect;
mod config;
mod control;
mod delete;
mod discover;
mod driver;
mod dropped;
mod error;
mod events;
mod exec;
mod factory;
mod handle;
mod kinds;
mod logs;
mod mark;
mod metrics;
#[cfg(test)]
mod mock;
mod namespace;
mod observe;
mod plan;
mod pods;
mod put;
mod recover;
mod sdk;
mod shared;
mod status;
mod target;
mod text_duration;
mod types;
mod watch;

pub use config::{ClusterConfig, KubernetesConfig};
pub use factory::KubernetesDriverFactory;
pub use handle::Propagation;
pub use kinds::{
    AdoptedSpec, ClusterSpec, ContainerSpec, DeploymentSpec, JobSpec, ManifestSpec, NodeRestart, Place,
    PodSpec, Port, Protocol, PullPolicy, SecretKey, Strategy,
};
pub use status::{EventDetails, KubernetesDetails, PodDetails, Progress, ReplicaDetails, ThingDetails};
