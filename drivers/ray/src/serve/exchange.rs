//! Changing one application where Serve takes only all of them at once.
//!
//! A PUT replaces everything, and has no condition that would refuse it where someone else wrote meanwhile. So all changes of this agent
//! on one cluster go through one lock, each reads first, sends back what others have as it was read, and reads again:
//!
//! - What was deployed from Python has no configuration to send back. A PUT that does not name it leaves it, so it is not named.
//! - What is being deleted is not named: that would bring it back.
//! - Where another writer's PUT came after ours and took ours away, ours is sent again, some times, and then it is a conflict.
//! - Where another writer's PUT came between our two calls (some milliseconds), ours takes it back. What it changed cannot be known
//!   then; what it added shows as being deleted, and is said in the log.

use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{Error, ErrorKind};
use serde_json::Value;
use tokio::time::Instant;

use super::render::{Config, mark_of};
use crate::head::Head;
use crate::sdk::{Application, ApplicationStatus, ServeConfig, ServeInstance, Source};

/// How often ours is sent again where another writer takes it away.
const TRIES: usize = 3;

/// What is to become of one application.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    /// It is as it should be: nothing is sent.
    Keep,
    /// It is to be this.
    Set(Config),
    /// It is not to be there.
    Remove,
}

/// How Serve is started where it does not run.
pub(super) type Start = (Option<&'static str>, Value);

/// Brings the application `name` to what `wish` says of what is there, and returns all of Serve as it is then.
pub(super) async fn exchange(
    head: &Head,
    lock: &tokio::sync::Mutex<()>,
    name: &str,
    start: &Start,
    deadline: Instant,
    wish: impl Fn(&ServeInstance) -> Result<Wish> + Send,
) -> Result<ServeInstance> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let Ok(_guard) = tokio::time::timeout_at(deadline, lock.lock()).await else {
        return Err(Error::new(
            ErrorKind::Timeout,
            "another change of Serve's applications took all of the time; nothing was sent",
        ));
    };
    for _ in 0..TRIES {
        let before = head.client.serve(left()).await?;
        let wish = wish(&before)?;
        let Some(body) = body(&before, name, &wish, start)? else {
            return Ok(before);
        };
        head.client.put_serve(&body, left()).await?;
        head.touch();
        let after = head.client.serve(left()).await?;
        warn_of_lost(head, name, &before, &after);
        if is_done(&after, name, &wish) {
            return Ok(after);
        }
        tracing::warn!(
            cluster = head.name,
            application = name,
            "another writer replaced Serve's applications"
        );
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "another writer keeps replacing the Serve applications of {}: {name} was sent {TRIES} times",
            head.name
        ),
    )
    .with_hint(
        "only one program should write Serve's applications, or all should send back those of the others",
    ))
}

/// What is sent; none where nothing is.
fn body(before: &ServeInstance, name: &str, wish: &Wish, start: &Start) -> Result<Option<ServeConfig>> {
    let ours = match wish {
        Wish::Keep => return Ok(None),
        Wish::Set(config) => Some(config.clone()),
        Wish::Remove => None,
    };
    let mut applications = Vec::new();
    for (other, app) in before.applications.iter().filter(|(other, _)| *other != name) {
        applications.extend(kept(other, app)?);
    }
    applications.extend(ours);
    let mut body = ServeConfig {
        target_capacity: before.target_capacity,
        applications,
        ..ServeConfig::default()
    };
    if !before.is_up() {
        body.proxy_location = start.0;
        body.http_options = Some(start.1.clone());
    }
    Ok(Some(body))
}

/// What is sent back of another application; none where it is not to be named.
fn kept(name: &str, app: &Application) -> Result<Option<Config>> {
    if app.status == ApplicationStatus::Deleting || app.source == Source::Imperative {
        return Ok(None);
    }
    match (&app.deployed_app_config, app.source) {
        (Some(config), _) => Ok(Some(config.clone())),
        // It would be deleted by a PUT without it.
        (None, Source::Declarative) => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "Serve does not show the configuration of the application {name}, which a change would delete"
            ),
        )
        .retry_after(Duration::from_secs(1))),
        // An older cluster, which does not say: what has no configuration came from Python.
        (None, _) => Ok(None),
    }
}

/// Whether the application is what was wished for.
fn is_done(after: &ServeInstance, name: &str, wish: &Wish) -> bool {
    let app = after.applications.get(name);
    match wish {
        Wish::Keep => true,
        Wish::Remove => app.is_none_or(|app| app.status == ApplicationStatus::Deleting),
        // The mark tells ours from another of that name; Serve may write the rest in its own way.
        Wish::Set(config) => app
            .and_then(|app| app.deployed_app_config.as_ref())
            .is_some_and(|found| mark_of(found) == mark_of(config)),
    }
}

/// Says which applications our PUT took away from another writer.
fn warn_of_lost(head: &Head, name: &str, before: &ServeInstance, after: &ServeInstance) {
    let lost = lost(name, before, after);
    if !lost.is_empty() {
        tracing::error!(
            cluster = head.name,
            applications = lost.join(", "),
            "applications that another writer deployed at the same moment were deleted by this agent's change: deploy them again"
        );
    }
}

fn lost<'a>(name: &str, before: &ServeInstance, after: &'a ServeInstance) -> Vec<&'a str> {
    after
        .applications
        .iter()
        .filter(|(other, app)| {
            *other != name
                && app.status == ApplicationStatus::Deleting
                && !before.applications.contains_key(*other)
        })
        .map(|(other, _)| other.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(value: Value) -> ServeInstance {
        serde_json::from_value(json!({"controller_info": {"node_id": "x"}, "applications": value})).unwrap()
    }

    fn names(body: &ServeConfig) -> Vec<&str> {
        body.applications
            .iter()
            .map(|app| app["name"].as_str().unwrap())
            .collect()
    }

    fn config(name: &str) -> Config {
        json!({"name": name, "import_path": "a:b"})
            .as_object()
            .unwrap()
            .clone()
    }

    fn start() -> Start {
        (Some("HeadOnly"), json!({"port": 8000}))
    }

    #[test]
    fn what_others_have_is_sent_back() {
        let before = instance(json!({
            "declared": {"status": "RUNNING", "source": "declarative", "deployed_app_config": {"name": "declared", "args": {"x": 1}}},
            "failed": {"status": "DEPLOY_FAILED", "source": "declarative", "deployed_app_config": {"name": "failed"}},
            "python": {"status": "RUNNING", "source": "imperative", "deployed_app_config": null},
            "old-python": {"status": "RUNNING"},
            "going": {"status": "DELETING", "source": "declarative", "deployed_app_config": null},
            "web": {"status": "RUNNING", "source": "declarative", "deployed_app_config": {"name": "web", "args": {"old": 1}}}
        }));
        let set = body(&before, "web", &Wish::Set(config("web")), &start())
            .unwrap()
            .unwrap();
        assert_eq!(names(&set), ["declared", "failed", "web"]);
        assert_eq!(set.applications[0]["args"], json!({"x": 1}));
        assert_eq!(set.applications[2].get("args"), None);
        assert_eq!(
            (set.proxy_location, set.http_options),
            (None, None),
            "Serve runs already"
        );
        let removed = body(&before, "web", &Wish::Remove, &start()).unwrap().unwrap();
        assert_eq!(names(&removed), ["declared", "failed"]);
        assert_eq!(body(&before, "web", &Wish::Keep, &start()).unwrap(), None);
    }

    #[test]
    fn nothing_is_sent_where_it_would_delete_what_cannot_be_sent_back() {
        let before = instance(
            json!({"other": {"status": "DEPLOYING", "source": "declarative", "deployed_app_config": null}}),
        );
        let error = body(&before, "web", &Wish::Set(config("web")), &start()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.is_retryable());
    }

    #[test]
    fn serve_is_started_as_the_spec_says_and_its_capacity_stays() {
        let set = body(
            &ServeInstance::default(),
            "web",
            &Wish::Set(config("web")),
            &start(),
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            (set.proxy_location, set.http_options),
            (Some("HeadOnly"), Some(json!({"port": 8000})))
        );
        let mut before = instance(json!({}));
        before.target_capacity = Some(50.0);
        let set = body(&before, "web", &Wish::Remove, &start()).unwrap().unwrap();
        assert_eq!(set.target_capacity, Some(50.0));
    }

    #[test]
    fn another_writer_is_seen() {
        let mark =
            |op: &str| json!({"env_vars": {"AGENT_ID": "a", "AGENT_GUID": uuid(1), "AGENT_OP_ID": op}});
        let ours = json!({"name": "web", "runtime_env": mark(&uuid(2))})
            .as_object()
            .unwrap()
            .clone();
        let wish = Wish::Set(ours.clone());
        let with =
            |config: Value| instance(json!({"web": {"status": "DEPLOYING", "deployed_app_config": config}}));
        assert!(is_done(&with(Value::Object(ours)), "web", &wish));
        assert!(!is_done(&with(json!({"name": "web"})), "web", &wish));
        assert!(!is_done(
            &with(json!({"name": "web", "runtime_env": mark(&uuid(3))})),
            "web",
            &wish
        ));
        assert!(!is_done(&instance(json!({})), "web", &wish));
        assert!(is_done(&instance(json!({})), "web", &Wish::Remove));
        assert!(is_done(
            &instance(json!({"web": {"status": "DELETING"}})),
            "web",
            &Wish::Remove
        ));
        assert!(!is_done(&with(json!({"name": "web"})), "web", &Wish::Remove));
        let before = instance(json!({"was": {"status": "DELETING"}}));
        let after = instance(
            json!({"was": {"status": "DELETING"}, "theirs": {"status": "DELETING"}, "web": {"status": "DELETING"}}),
        );
        assert_eq!(lost("web", &before, &after), ["theirs"]);
    }

    fn uuid(n: u8) -> String {
        format!("00000000-0000-7000-8000-0000000000{n:02}")
    }
}
