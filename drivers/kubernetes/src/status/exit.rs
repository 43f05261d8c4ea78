//! How pods and Jobs ended.

use agent_api_driver::model::{ExitStatus, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use serde_json::Value;

use super::Fields;

/// A time of the cluster; none where it is not one.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// How a pod ended, by its fields: its own reason (`Evicted`), else its first container that failed, else the last
/// one that ended.
pub(crate) fn of_pod_fields(seen: &Fields<'_>) -> ExitStatus {
    let failed = seen.text("/status/phase") == "Failed";
    let ends: Vec<&Value> = ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .flat_map(|path| seen.list(path))
        .filter_map(|status| status.pointer("/state/terminated"))
        .collect();
    let code = |end: &&&Value| end.get("exitCode").and_then(Value::as_i64).unwrap_or(0);
    let chosen = ends
        .iter()
        .find(|end| failed && code(end) != 0)
        .or_else(|| ends.last());
    let text = |end: &&Value, key: &str| {
        end.get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let own = [seen.text("/status/reason"), seen.text("/status/message")];
    let own = own
        .into_iter()
        .filter(|t| !t.is_empty())
        .collect::<Vec<_>>()
        .join(": ");
    let container = chosen.and_then(|end| {
        plain(
            text(end, "reason").as_deref().unwrap_or(""),
            text(end, "message").as_deref(),
        )
    });
    ExitStatus {
        code: chosen
            .and_then(|end| end.get("exitCode")?.as_i64())
            .and_then(|code| i32::try_from(code).ok()),
        signal: None,
        reason: Some(own).filter(|own| !own.is_empty()).or(container),
        at: chosen.and_then(|end| time(end.get("finishedAt")?.as_str()?)),
    }
}

/// How a pod ended, where one of its containers failed: for what made the pod.
pub(crate) fn of_failed_pod(pod: &Pod) -> Option<ExitStatus> {
    let status = pod.status.as_ref()?;
    let end = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .flat_map(|container| {
            [container.state.as_ref(), container.last_state.as_ref()]
                .into_iter()
                .flatten()
                .find_map(|state| state.terminated.as_ref())
        })
        .find(|end| end.exit_code != 0)?;
    Some(of_container(end))
}

fn of_container(end: &ContainerStateTerminated) -> ExitStatus {
    ExitStatus {
        code: Some(end.exit_code),
        signal: None,
        reason: plain(end.reason.as_deref().unwrap_or(""), end.message.as_deref()),
        at: end
            .finished_at
            .as_ref()
            .map(|at| Timestamp::from_micros(at.0.as_microsecond())),
    }
}

/// `Completed` and `Error` say no more than the code does.
fn plain(reason: &str, message: Option<&str>) -> Option<String> {
    match (reason, message) {
        ("" | "Completed" | "Error", message) => message.map(str::to_owned),
        (reason, Some(message)) => Some(format!("{reason}: {message}")),
        (reason, None) => Some(reason.to_owned()),
    }
}
