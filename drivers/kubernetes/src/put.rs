//! Bringing one thing in a cluster to what is wanted, whatever is there now.

use std::sync::Arc;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind, Guid, OpId};
use kube::api::DynamicObject;
use tokio::time::Instant;

use crate::apply::Wanted;
use crate::handle::Propagation;
use crate::mark;
use crate::sdk::Cluster;
use crate::shared::Shared;
use crate::target::{How, Refusal, Target};

/// How often the state of a thing may turn out to be another than was thought.
const TURNS: u32 = 8;
/// What is never removed to be made anew: what it holds would be lost with it.
const KEPT: [&str; 4] = [
    "Namespace",
    "CustomResourceDefinition",
    "PersistentVolumeClaim",
    "PersistentVolume",
];

/// What an operation wants, beside the objects.
pub(crate) struct Intent {
    pub guid: Guid,
    pub op_id: OpId,
    pub maybe_applied: bool,
    pub force: bool,
    pub repair: bool,
    pub create_namespace: bool,
    pub deletion: Propagation,
    pub runs_again: bool,
    pub until: Instant,
}

/// A thing as it is after an apply.
pub(crate) struct Made {
    pub live: DynamicObject,
    /// Whether this operation made it, and did not change what was there.
    pub new: bool,
}

/// What is in a place.
enum There {
    Nothing,
    /// Ours, by the operation that applied it last.
    Ours(Box<DynamicObject>),
    /// On its way out.
    Going(String),
    /// Not ours.
    Stranger(Box<DynamicObject>),
}

/// Whether a thing that ends has ended.
pub(crate) fn has_ended(live: &DynamicObject) -> bool {
    let status = &live.data["status"];
    match live.types.as_ref().map(|types| types.kind.as_str()) {
        Some("Pod") => matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")),
        Some("Job") => status["conditions"].as_array().is_some_and(|conditions| {
            conditions
                .iter()
                .any(|one| one["status"] == "True" && (one["type"] == "Complete" || one["type"] == "Failed"))
        }),
        _ => false,
    }
}

/// Whether a kind may be removed to be made anew.
pub(crate) fn may_be_replaced(kind: &str) -> bool {
    !KEPT.contains(&kind)
}

impl Shared {
    /// Brings one thing to what is wanted.
    pub(crate) async fn put(
        &self,
        cluster: &Arc<Cluster>,
        wanted: &Wanted,
        intent: &Intent,
        known: Option<String>,
    ) -> Result<Made> {
        let resource = self.resource(cluster, &wanted.place, true, intent.until).await?;
        let target = Target::at(cluster, resource, wanted.place.clone());
        let mut uid = known;
        let (mut force, mut create_only, mut refused) = (intent.force, true, false);
        // What ends must be looked at first: an apply would only decorate what has ended.
        let ends = matches!(wanted.place.kind.as_str(), "Pod" | "Job");
        let mut look = ends && (uid.is_some() || intent.maybe_applied);
        for _ in 0..TURNS {
            if look {
                look = false;
                match self.there(&target, intent.guid).await? {
                    // Nothing is there, and the server would not make it: not every server takes the version that
                    // stands for "must not exist".
                    There::Nothing if refused && uid.is_none() => create_only = false,
                    There::Nothing => uid = None,
                    There::Ours(live) if self.is_done(&live, intent) => {
                        return Ok(Made {
                            live: *live,
                            new: false,
                        });
                    }
                    There::Ours(live) if intent.runs_again && has_ended(&live) => {
                        self.replace(&target, &live, intent).await?;
                        uid = None;
                    }
                    There::Ours(live) => uid = live.metadata.uid.clone(),
                    There::Going(gone) => {
                        target.until_gone(&gone, intent.until).await?;
                        uid = None;
                    }
                    There::Stranger(live) if intent.force => uid = live.metadata.uid.clone(),
                    There::Stranger(_) => return Err(stranger(&target)),
                }
            }
            let how = How {
                uid: uid.as_deref(),
                create_only,
                force,
                dry_run: false,
            };
            match target.apply(&wanted.object, how).await {
                Ok(live) => {
                    if wanted.place.kind == "CustomResourceDefinition" {
                        self.until_served(&target, &live, intent.until).await?;
                    }
                    let new = uid.is_none();
                    return Ok(Made { live, new });
                }
                Err(Refusal::NotAsThought) => (look, refused) = (true, true),
                Err(Refusal::Fields(_)) if intent.repair && !force => force = true,
                Err(Refusal::NoNamespace(_)) if intent.create_namespace => {
                    self.make_namespace(cluster, &wanted.place).await?;
                }
                Err(Refusal::Immutable(fields)) => {
                    let There::Ours(live) = self.there(&target, intent.guid).await? else {
                        look = true;
                        continue;
                    };
                    if !may_be_replaced(&wanted.place.kind) {
                        return Err(kept(&target, &fields));
                    }
                    self.replace(&target, &live, intent).await?;
                    uid = None;
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(Refusal::NotAsThought.into())
    }

    /// Whether this operation has had its effect already.
    fn is_done(&self, live: &DynamicObject, intent: &Intent) -> bool {
        mark::op_id(&live.metadata) == Some(intent.op_id)
    }

    async fn there(&self, target: &Target<'_>, guid: Guid) -> Result<There> {
        let Some(live) = target.get().await? else {
            return Ok(There::Nothing);
        };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(There::Going(live.metadata.uid.clone().unwrap_or_default()));
        }
        let ours = mark::guid(&live.metadata, &self.agent) == Some(guid);
        let live = Box::new(live);
        Ok(if ours {
            There::Ours(live)
        } else {
            There::Stranger(live)
        })
    }

    /// Removes what is there, so that it can be made anew.
    async fn replace(&self, target: &Target<'_>, live: &DynamicObject, intent: &Intent) -> Result<()> {
        let uid = live.metadata.uid.as_deref().unwrap_or_default();
        // All that depends on it must be gone too: what is made anew would take it for its own.
        target.remove(uid, Propagation::Foreground, intent.until).await
    }
}

fn stranger(target: &Target<'_>) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!(
            "there is a {} already, and it is not of this object",
            target.place
        ),
    )
    .with_hint("choose another name, watch it with `kubernetes/adopted`, or take it over with `spec.force`")
}

pub(crate) fn kept(target: &Target<'_>, fields: &[String]) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "{} cannot be changed, and {} is not made anew: what it holds would be lost",
            fields.join(", "),
            target.place
        ),
    )
}
