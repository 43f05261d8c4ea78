//! Changes of many objects, chosen by a selector: taken apart, asked for one by one, some at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use agent_api_agent::AgentApi;
use agent_api_model::{
    BatchItem, Error, ErrorKind, ListRequest, ObjectName, ObjectView, RequestId, RequestMeta, Result,
    Selector, Target, Timestamp, Verb,
};
use futures_util::StreamExt;

use crate::audit;
use crate::change::Each;

/// The longest key of a batch: each object's key is made from it and the object's GUID.
const LONGEST_KEY: usize = 128 - 37;

/// Asks for the change of each object that is chosen. Those are accepted or refused each for itself.
pub(crate) async fn run(
    agent: &Arc<dyn AgentApi>,
    meta: &RequestMeta,
    verb: Verb,
    selector: Selector,
    each: &Each,
    concurrency: usize,
) -> Result<Vec<BatchItem>> {
    if meta.key().as_str().len() > LONGEST_KEY {
        return Err(Error::invalid(
            "id",
            format!("the id or idempotency key of a batch has at most {LONGEST_KEY} characters"),
        ));
    }
    let chosen = agent.list(&ListRequest {
        selector,
        ..ListRequest::default()
    });
    let waves = match each {
        Each::Delete(_) => waves(agent, chosen),
        Each::Control(_) => vec![chosen],
    };
    let mut items = Vec::new();
    for wave in waves {
        let asked = wave.into_iter().map(|view| one(agent, meta, verb, view, each));
        let mut done: Vec<_> = futures_util::stream::iter(asked)
            .buffer_unordered(concurrency.max(1))
            .collect()
            .await;
        items.append(&mut done);
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

async fn one(
    agent: &Arc<dyn AgentApi>,
    meta: &RequestMeta,
    verb: Verb,
    view: Arc<ObjectView>,
    each: &Each,
) -> BatchItem {
    let result = submit(agent, meta, &view, each).await;
    audit::write(meta, verb.as_str(), view.name.as_str(), result.as_ref().err());
    let (accepted, error) = match result {
        Ok(accepted) => (Some(accepted), None),
        Err(error) => (None, Some(error)),
    };
    BatchItem {
        name: view.name.clone(),
        accepted,
        error,
    }
}

async fn submit(
    agent: &Arc<dyn AgentApi>,
    meta: &RequestMeta,
    view: &ObjectView,
    each: &Each,
) -> Result<agent_api_model::Accepted> {
    if meta.deadline.is_some_and(|deadline| deadline < Timestamp::now()) {
        return Err(Error::new(
            ErrorKind::Expired,
            "the deadline passed before this object's turn",
        )
        .with_object(&view.name));
    }
    let key = RequestId::new(format!("{}:{}", meta.key(), view.guid)).map_err(Error::internal)?;
    let own = RequestMeta {
        idempotency_key: Some(key),
        ..meta.clone()
    };
    agent
        .submit(own, each.of(Target::Guid(view.guid)))
        .await
        .map(|(accepted, _)| accepted)
}

/// Objects in the order of deletion: first those that nothing chosen depends on, then what they depended on.
fn waves(agent: &Arc<dyn AgentApi>, chosen: Vec<Arc<ObjectView>>) -> Vec<Vec<Arc<ObjectView>>> {
    let names: HashSet<ObjectName> = chosen.iter().map(|view| view.name.clone()).collect();
    let mut needs: HashMap<ObjectName, Vec<ObjectName>> = HashMap::new();
    let mut dependents: HashMap<ObjectName, usize> = HashMap::new();
    for view in &chosen {
        // Gone meanwhile: it depends on nothing any more.
        let Ok(description) = agent.describe(&Target::Guid(view.guid)) else {
            continue;
        };
        for dependency in &description.spec.depends_on {
            if names.contains(&dependency.name) {
                *dependents.entry(dependency.name.clone()).or_default() += 1;
                needs
                    .entry(view.name.clone())
                    .or_default()
                    .push(dependency.name.clone());
            }
        }
    }
    let mut rest = chosen;
    let mut waves = Vec::new();
    while !rest.is_empty() {
        let (mut free, held): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|view| dependents.get(&view.name).copied().unwrap_or(0) == 0);
        rest = held;
        if free.is_empty() {
            // A cycle cannot be; were there one, the agent refuses what it must.
            free.append(&mut rest);
        }
        for view in &free {
            for name in needs.remove(&view.name).unwrap_or_default() {
                if let Some(count) = dependents.get_mut(&name) {
                    *count -= 1;
                }
            }
        }
        waves.push(free);
    }
    waves
}
