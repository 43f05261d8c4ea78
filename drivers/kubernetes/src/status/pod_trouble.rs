//! Why pods do not work: image, crash, scheduling, memory, eviction, configuration.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What is wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// One word, as the cluster says it: `CrashLoopBackOff`, `Unschedulable` …
    pub reason: String,
    /// One sentence, with pod and container.
    pub message: String,
    /// The more the worse: what is shown where there are several.
    pub rank: u8,
}

/// Reasons for which a container waits that are no trouble.
const ON_ITS_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The worst trouble of a pod; none where it is well or on its way.
pub(crate) fn of_pod(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let mut found = Vec::new();
    if let Some(reason) = status.reason.as_deref()
        && status.phase.as_deref() == Some("Failed")
    {
        let message = status.message.as_deref().unwrap_or("");
        found.push(Trouble {
            reason: reason.to_owned(),
            message: join(&[&format!("pod {name}"), message]),
            rank: 5,
        });
    }
    for condition in status.conditions.iter().flatten() {
        if condition.type_ == "PodScheduled" && condition.status == "False" {
            let reason = condition.reason.as_deref().unwrap_or("Unschedulable");
            // A gate that its owner put there is no trouble.
            if reason != "SchedulingGated" {
                found.push(Trouble {
                    reason: reason.to_owned(),
                    message: join(&[&format!("pod {name}"), condition.message.as_deref().unwrap_or("")]),
                    rank: 2,
                });
            }
        }
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    found.extend(containers.filter_map(|container| of_container(name, container)));
    found
        .into_iter()
        .reduce(|a, b| if b.rank > a.rank { b } else { a })
}

fn of_container(pod: &str, container: &ContainerStatus) -> Option<Trouble> {
    let place = format!("pod {pod}, container {}", container.name);
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("");
        if reason.is_empty() || ON_ITS_WAY.contains(&reason) {
            return None;
        }
        // Why it crashes says more than how long it waits.
        let (reason, before) = match last {
            Some(end) => {
                let word = end.reason.as_deref().unwrap_or("");
                let shown = if word == "OOMKilled" { word } else { reason };
                let mut text = format!("last end: code {}", end.exit_code);
                if !word.is_empty() && word != "Error" {
                    text = format!("{text} ({word})");
                }
                (shown, text)
            }
            None => (reason, String::new()),
        };
        // The back-off's length changes with each round, and would be news each time.
        let message = match waiting.reason.as_deref() {
            Some("CrashLoopBackOff") => "restarts after it failed",
            _ => waiting.message.as_deref().unwrap_or(""),
        };
        return Some(Trouble {
            reason: reason.to_owned(),
            message: join(&[&place, message, &before]),
            rank: 4,
        });
    }
    if let Some(end) = &state.terminated
        && (end.exit_code != 0 || end.reason.as_deref() == Some("OOMKilled"))
    {
        return Some(Trouble {
            reason: end.reason.clone().unwrap_or_else(|| "Error".to_owned()),
            message: join(&[
                &place,
                &format!("ended with code {}", end.exit_code),
                end.message.as_deref().unwrap_or(""),
            ]),
            rank: 3,
        });
    }
    // It runs again, and was killed for its memory before: that will happen again.
    let end = last.filter(|end| end.reason.as_deref() == Some("OOMKilled"))?;
    Some(Trouble {
        reason: "OOMKilled".to_owned(),
        message: join(&[
            &place,
            &format!("was restarted; last end: code {}", end.exit_code),
        ]),
        rank: 1,
    })
}

fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}
