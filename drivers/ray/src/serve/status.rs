//! What an application's state in Serve means in the contract's words.

use agent_api_driver::model::{
    Condition, Enforcement, Evidence, EvidenceSource, ExitStatus, LimitStatus, ResourceField, Timestamp,
};
use agent_api_driver::{ObjectState, ObjectStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::handle::ServeHandle;
use super::render::{self, LIMITS};
use crate::error::clip;
use crate::sdk::{Application, ApplicationStatus, Deployment, ServeInstance};

/// At most so many deployments, and replicas of each, are listed; the counts are of all.
const MAX_LISTED: usize = 32;
/// The longest message that is shown: the end of it, where a traceback says what happened.
const MAX_MESSAGE: usize = 2_000;

/// The condition that says why an application does not work as it should.
const READY: &str = "Ready";

/// What is special to a Serve application.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServeDetails {
    /// The cluster, by its name in the driver's configuration.
    pub cluster: String,
    /// The application's name there.
    pub application: String,
    /// Serve's word for its state, for example `RUNNING`, `DEPLOY_FAILED`.
    pub status: String,
    /// Below which path it answers; none where it is not reached over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Where Serve listens, for example `http://10.0.0.5:8000/web`; one for each listener, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// When it was deployed the last time, by anyone: each deployment on the cluster counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployed_at: Option<Timestamp>,
    /// Its deployments; none while Serve builds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<DeploymentDetails>,
}

/// One deployment of a Serve application.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentDetails {
    /// Its name.
    pub name: String,
    /// Serve's word for its state, for example `HEALTHY`, `UPSCALING`.
    pub status: String,
    /// What Serve says of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How many replicas are wanted now.
    pub wanted: u32,
    /// How many work.
    pub running: u32,
    /// Its replicas, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaDetails>,
}

/// One replica of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaDetails {
    /// Its id.
    pub id: String,
    /// Serve's word for its state.
    pub state: String,
    /// The node it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its process there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
}

/// The status of an application that is ours, as it is in this answer; its revision is the caller's.
pub(super) fn status(handle: &ServeHandle, instance: &ServeInstance, app: &Application) -> ObjectStatus {
    let mut status = ObjectStatus::new(state(app), Evidence::now(EvidenceSource::Poll, 0));
    status.details = serde_json::to_value(details(handle, instance, app)).expect("details are plain data");
    status.limits = limits(handle, app);
    status.conditions.extend(readiness(app));
    if let Some(config) = &app.deployed_app_config
        && render::digest(config) != handle.digest
    {
        status.conditions.push(Condition::new(
            Condition::DRIFTED,
            true,
            "Changed",
            "someone else deployed another configuration of this application",
        ));
    }
    if status.state == ObjectState::Exited {
        status.exit = Some(ExitStatus {
            reason: Some(format!("Serve could not deploy it: {}", last_line(&app.message))),
            ..ExitStatus::default()
        });
    }
    status
}

fn state(app: &Application) -> ObjectState {
    match app.status {
        ApplicationStatus::Running | ApplicationStatus::Unhealthy => ObjectState::Running,
        // A change while it runs: what answered before goes on answering.
        ApplicationStatus::Deploying if all_answer(app) => ObjectState::Running,
        ApplicationStatus::Deploying | ApplicationStatus::NotStarted => ObjectState::Starting,
        // It is not tried again by itself.
        ApplicationStatus::DeployFailed => ObjectState::Exited,
        // Somebody else removes it, and that cannot be taken back.
        ApplicationStatus::Deleting => ObjectState::Gone,
        ApplicationStatus::Other => ObjectState::Unknown,
    }
}

/// Whether each deployment that is to have replicas has one that works.
fn all_answer(app: &Application) -> bool {
    !app.deployments.is_empty()
        && app
            .deployments
            .iter()
            .all(|(name, d)| wanted(app, name, d) == 0 || d.running() > 0)
}

/// The settings that were sent for a deployment.
fn sent<'a>(app: &'a Application, name: &str) -> Option<&'a Value> {
    let all = app.deployed_app_config.as_ref()?.get("deployments")?.as_array()?;
    all.iter()
        .find(|d| d.get("name").and_then(Value::as_str) == Some(name))
}

/// How many replicas are wanted: as was sent, because Serve's own number follows some moments later; its own where it or an external
/// scaler chooses.
fn wanted(app: &Application, name: &str, deployment: &Deployment) -> u32 {
    let scaled_outside = app
        .deployed_app_config
        .as_ref()
        .is_some_and(|config| config.get("external_scaler_enabled") == Some(&Value::Bool(true)));
    let fixed = sent(app, name)
        .and_then(|d| d.get("num_replicas"))
        .and_then(Value::as_u64);
    match fixed {
        Some(fixed) if !scaled_outside => u32::try_from(fixed).unwrap_or(u32::MAX),
        _ => deployment.target_num_replicas.unwrap_or(0),
    }
}

/// Whether all replicas that are wanted work, and no other ones are left. Serve's own word stays `RUNNING` while it scales.
pub(super) fn is_settled(app: &Application) -> bool {
    app.status == ApplicationStatus::Running
        && app.deployments.iter().all(|(name, d)| {
            let wanted = wanted(app, name, d) as usize;
            d.running() == wanted && d.replicas.len() == wanted
        })
}

fn readiness(app: &Application) -> Option<Condition> {
    let not = |reason: &str, message: String| Some(Condition::new(READY, false, reason, message));
    let troubled = || {
        let parts: Vec<String> = app
            .deployments
            .iter()
            .filter(|(_, d)| !d.message.is_empty())
            .map(|(name, d)| format!("{name}: {}", last_line(&d.message)))
            .take(MAX_LISTED)
            .collect();
        parts.join("; ")
    };
    match app.status {
        ApplicationStatus::DeployFailed => not("DeployFailed", ending(&app.message).to_owned()),
        ApplicationStatus::Unhealthy => {
            let message = troubled();
            let message = if message.is_empty() {
                ending(&app.message).to_owned()
            } else {
                message
            };
            not("Unhealthy", message)
        }
        ApplicationStatus::Deploying if app.deployments.is_empty() => {
            not("Building", "Serve builds it".to_owned())
        }
        ApplicationStatus::Deploying | ApplicationStatus::NotStarted => {
            not("Deploying", progress(app, troubled()))
        }
        ApplicationStatus::Running if !is_settled(app) => not("Scaling", progress(app, troubled())),
        _ => None,
    }
}

fn progress(app: &Application, troubled: String) -> String {
    let counts: Vec<String> = app
        .deployments
        .iter()
        .map(|(name, d)| (name, d.running(), wanted(app, name, d)))
        .filter(|(_, running, wanted)| *running != *wanted as usize)
        .map(|(name, running, wanted)| format!("{name} has {running} of {wanted} replicas"))
        .take(MAX_LISTED)
        .collect();
    [counts.join(", "), troubled]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

fn details(handle: &ServeHandle, instance: &ServeInstance, app: &Application) -> ServeDetails {
    ServeDetails {
        cluster: handle.cluster.clone(),
        application: handle.application.clone(),
        status: word(app.status),
        route: app.route_prefix.clone(),
        urls: urls(instance, app),
        deployed_at: (app.last_deployed_time_s > 0.0)
            .then(|| Timestamp::from_micros((app.last_deployed_time_s * 1e6) as i64)),
        deployments: app
            .deployments
            .iter()
            .take(MAX_LISTED)
            .map(|(name, d)| DeploymentDetails {
                name: name.clone(),
                status: d.status.clone(),
                message: ending(&d.message).to_owned(),
                wanted: wanted(app, name, d),
                running: u32::try_from(d.running()).unwrap_or(u32::MAX),
                replicas: d
                    .replicas
                    .iter()
                    .take(MAX_LISTED)
                    .map(|replica| ReplicaDetails {
                        id: replica.replica_id.clone(),
                        state: replica.state.clone(),
                        node: replica.node_id.clone(),
                        pid: replica.pid,
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn urls(instance: &ServeInstance, app: &Application) -> Vec<String> {
    let (Some(prefix), Some(port)) = (
        &app.route_prefix,
        instance.http_options.as_ref().and_then(|http| http.port),
    ) else {
        return Vec::new();
    };
    let mut urls: Vec<String> = instance
        .proxies
        .values()
        .filter(|proxy| !proxy.node_ip.is_empty())
        .map(|proxy| format!("http://{}:{port}{prefix}", proxy.node_ip))
        .collect();
    urls.sort();
    urls.dedup();
    urls.truncate(MAX_LISTED);
    urls
}

/// The limits that the spec sets, with the values in force.
fn limits(handle: &ServeHandle, app: &Application) -> Vec<LimitStatus> {
    let main = handle.main.as_deref().and_then(|main| app.deployments.get(main));
    let name = handle.main.as_deref().unwrap_or_default();
    let options = sent(app, name).and_then(|d| d.get("ray_actor_options"));
    let number = |key: &str| options.and_then(|o| o.get(key)).and_then(Value::as_f64);
    let mut limits = Vec::new();
    for (field, by) in LIMITS {
        let Some(set) = handle.limits.get(&field) else {
            continue;
        };
        let in_force = match field {
            ResourceField::Replicas => main.map(|d| wanted(app, name, d).to_string()),
            ResourceField::Cpu => number("num_cpus").map(|cores| {
                agent_api_driver::model::Cpu::from_millis((cores * 1000.0).round() as u64).to_string()
            }),
            ResourceField::Memory => number("memory")
                .map(|bytes| agent_api_driver::model::ByteQuantity::new(bytes as u64).to_string()),
            ResourceField::Gpu => number("num_gpus").map(|gpus| gpus.to_string()),
            _ => None,
        };
        limits.push(LimitStatus {
            field,
            // While Serve builds it nothing else is known than what was sent.
            value: in_force.unwrap_or_else(|| set.clone()),
            enforcement: if field == ResourceField::Replicas {
                Enforcement::Enforced
            } else {
                Enforcement::Advisory
            },
            by: by.to_owned(),
        });
    }
    limits
}

fn word(status: ApplicationStatus) -> String {
    match serde_json::to_value(status) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// The end of a long text: of a traceback it is the part that says what happened.
fn ending(text: &str) -> &str {
    let text = text.trim();
    let mut start = text.len().saturating_sub(MAX_MESSAGE);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

fn last_line(text: &str) -> &str {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    clip(line.unwrap_or("no reason was given"), 500)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::serve::tests::{app, handle_for};

    fn seen(app: &Application) -> ObjectStatus {
        let config = app.deployed_app_config.clone().unwrap_or_default();
        status(&handle_for("web", &config), &ServeInstance::default(), app)
    }

    fn condition(status: &ObjectStatus, kind: &str) -> Option<(bool, String, String)> {
        status
            .conditions
            .iter()
            .find(|c| c.kind == kind)
            .map(|c| (c.status, c.reason.clone(), c.message.clone()))
    }

    #[test]
    fn serves_words_become_states() {
        let running = [("D", 1, vec!["RUNNING"])];
        for (word, deployments, state, reason) in [
            ("RUNNING", running.to_vec(), ObjectState::Running, None),
            ("DEPLOYING", vec![], ObjectState::Starting, Some("Building")),
            (
                "DEPLOYING",
                vec![("D", 1, vec!["STARTING"])],
                ObjectState::Starting,
                Some("Deploying"),
            ),
            (
                "DEPLOYING",
                vec![("D", 2, vec!["RUNNING", "STARTING"])],
                ObjectState::Running,
                Some("Deploying"),
            ),
            (
                "UNHEALTHY",
                running.to_vec(),
                ObjectState::Running,
                Some("Unhealthy"),
            ),
            ("DEPLOY_FAILED", vec![], ObjectState::Exited, Some("DeployFailed")),
            ("DELETING", vec![], ObjectState::Gone, None),
            ("NOT_STARTED", vec![], ObjectState::Starting, Some("Deploying")),
            ("DREAMING", vec![], ObjectState::Unknown, None),
            (
                "RUNNING",
                vec![("D", 3, vec!["RUNNING", "STARTING"])],
                ObjectState::Running,
                Some("Scaling"),
            ),
            (
                "RUNNING",
                vec![("D", 0, vec!["STOPPING"])],
                ObjectState::Running,
                Some("Scaling"),
            ),
        ] {
            let seen = seen(&app(word, &deployments));
            assert_eq!(seen.state, state, "{word}");
            assert_eq!(
                condition(&seen, READY).map(|(_, reason, _)| reason).as_deref(),
                reason,
                "{word}"
            );
            assert!(condition(&seen, Condition::DRIFTED).is_none());
        }
    }

    #[test]
    fn a_failure_says_why() {
        let mut failed = app("DEPLOY_FAILED", &[]);
        failed.message = format!(
            "Deploying app 'web' failed with exception:\n{}\nRuntimeError: broken on import\n\n",
            "é".repeat(3_000)
        );
        let seen = seen(&failed);
        assert_eq!(
            seen.exit.as_ref().and_then(|e| e.reason.as_deref()),
            Some("Serve could not deploy it: RuntimeError: broken on import")
        );
        let (_, _, message) = condition(&seen, READY).unwrap();
        assert!(message.ends_with("broken on import") && message.len() <= MAX_MESSAGE);
    }

    #[test]
    fn another_configuration_is_drift() {
        let web = app("RUNNING", &[("D", 1, vec!["RUNNING"])]);
        let mut config = web.deployed_app_config.clone().unwrap();
        config.insert("import_path".into(), json!("other:app"));
        let seen = status(&handle_for("web", &config), &ServeInstance::default(), &web);
        assert_eq!(condition(&seen, Condition::DRIFTED).unwrap().1, "Changed");
    }

    #[test]
    fn limits_are_those_in_force() {
        let mut web = app("RUNNING", &[("D", 3, vec!["RUNNING"; 3])]);
        let config = web.deployed_app_config.as_mut().unwrap();
        config.insert(
            "deployments".into(),
            json!([{"name": "D", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.25}}]),
        );
        let mut handle = handle_for("web", config);
        handle.main = Some("D".into());
        handle.limits = [
            (ResourceField::Replicas, "2".to_owned()),
            (ResourceField::Cpu, "250m".to_owned()),
        ]
        .into();
        let values = |app: &Application| {
            status(&handle, &ServeInstance::default(), app)
                .limits
                .into_iter()
                .map(|l| l.value)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            values(&web),
            ["2", "250m"],
            "as was sent, though Serve has not got to it"
        );
        assert!(!is_settled(&web));
        web.deployments.get_mut("D").unwrap().replicas.pop();
        assert!(is_settled(&web));
        let config = web.deployed_app_config.as_mut().unwrap();
        config.insert("external_scaler_enabled".into(), json!(true));
        assert_eq!(values(&web), ["3", "250m"], "someone else may scale it");
        web.deployments.clear();
        assert_eq!(values(&web), ["2", "250m"], "while it is built");
    }

    #[test]
    fn details_are_bounded_and_say_where_it_answers() {
        let replicas = vec!["RUNNING"; 100];
        let mut web = app("RUNNING", &[("D", 100, replicas)]);
        web.route_prefix = Some("/web".into());
        let instance: ServeInstance = serde_json::from_value(json!({
            "http_options": {"port": 8000}, "proxies": {"b": {"node_ip": "10.0.0.2"}, "a": {"node_ip": "10.0.0.1"}}
        }))
        .unwrap();
        let details = details(&handle_for("web", &Default::default()), &instance, &web);
        assert_eq!(details.deployments[0].running, 100);
        assert_eq!(details.deployments[0].replicas.len(), MAX_LISTED);
        assert_eq!(
            details.urls,
            ["http://10.0.0.1:8000/web", "http://10.0.0.2:8000/web"]
        );
        assert!(is_settled(&web));
    }
}
