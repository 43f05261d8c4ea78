//! Commands in a container of an object, with or without a terminal.
//!
//! A command runs in the first container that is ready of the object's pods, oldest pod first: in the container that
//! the spec names, else in the first one. Server versions are met by offering both `v5.channel.k8s.io` and
//! `v4.channel.k8s.io`. What Kubernetes itself cannot do is made up for by a constant script (see [`script`]) where
//! the container has a shell:
//!
//! | | with a shell | without |
//! | --- | --- | --- |
//! | caller leaves, or timeout | the command and its process group are killed | it lives on, which the `Timeout` says |
//! | input ends on a server before 1.30 | the command's input ends (input then goes byte by byte: about 1 MB/s) | it stays open |
//! | size of a terminal | set before the command starts, by `stty` where there is one | soon after it has started |
//! | input ends in a terminal | `^D` is typed | `^D` is typed |
//! | environment of the request | by `env` of the container | by `env` of the container |

mod channel;
mod kill;
mod script;
mod session;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, Guid, Result};
use agent_api_driver::{ExecRequest, ExecStream, InputStream, Target};
use futures_util::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use tokio::time::{Instant, timeout_at};

use self::kill::Reaper;
use self::script::Input;
use self::session::{Link, Session, Start, Started};
use crate::handle::HandleData;
use crate::kinds::KubeKind;
use crate::pods;
use crate::sdk::Cluster;
use crate::shared::Shared;

/// Without a shell: how long a command is given to turn out not to exist.
const SETTLE: Duration = Duration::from_millis(500);

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// The container that commands and signals go to.
pub(crate) async fn container(shared: &Shared, guid: Guid, data: &HandleData) -> Result<Container> {
    let pods = pods::of(shared, guid, data).await?;
    choose(&pods, data.container.as_deref()).ok_or_else(|| {
        Error::new(ErrorKind::Conflict, "no container of it runs")
            .with_object(guid)
            .with_hint("`describe` shows its pods and what they wait for")
    })
}

fn choose(pods: &[Arc<Pod>], wanted: Option<&str>) -> Option<Container> {
    let runs = |pod: &Arc<Pod>| {
        let name = match wanted {
            Some(name) => name.to_owned(),
            None => pod.spec.as_ref()?.containers.first()?.name.clone(),
        };
        let found = !pods::is_leaving(pod) && pods::runs(pod, &name);
        let container = Container {
            namespace: pod.metadata.namespace.clone()?,
            pod: pod.metadata.name.clone()?,
            container: name,
        };
        found.then_some((pods::is_ready(pod), container))
    };
    let running: Vec<_> = pods.iter().filter_map(runs).collect();
    let first_ready = running.iter().position(|(ready, _)| *ready).unwrap_or(0);
    running
        .into_iter()
        .nth(first_ready)
        .map(|(_, container)| container)
}

/// Starts words in a container.
async fn connect(
    cluster: &Arc<Cluster>,
    container: &Container,
    words: &[String],
    input: Input,
) -> Result<Link> {
    let terminal = matches!(input, Input::Terminal(_));
    let params = AttachParams {
        container: Some(container.container.clone()),
        stdin: input != Input::Empty,
        stdout: true,
        stderr: !terminal,
        tty: terminal,
        ..AttachParams::default()
    };
    let path = format!("/api/v1/namespaces/{}/pods", container.namespace);
    let request = kube::core::Request::new(path)
        .exec(&container.pod, words.iter().cloned(), &params)
        .map_err(|e| Error::invalid("command", format!("the command cannot be sent: {e}")))?;
    let client = cluster.client();
    let call = cluster.call_typed::<Pod, _>(
        "exec in",
        Some(&container.namespace),
        &container.pod,
        client.connect(request),
    );
    let connection = call.await?;
    let closes = connection.supports_stream_close();
    let socket: Pin<Box<dyn session::Socket>> = Box::pin(connection.into_stream());
    Ok(Link { socket, closes })
}

/// See [`agent_api_driver::Exec::exec`].
pub(crate) async fn exec(
    shared: &Arc<Shared>,
    target: Target<'_>,
    request: ExecRequest,
    mut input: InputStream,
) -> Result<ExecStream> {
    shared.open("exec")?;
    let guid = target.guid;
    let data = HandleData::read(target.handle)?;
    if data.kind == KubeKind::Cluster {
        return Err(
            Error::new(ErrorKind::Unsupported, "a cluster runs no commands; its pods do").with_object(guid),
        );
    }
    let words = script::words(&request.command, &request.env)?;
    let program = request.command[0].clone();
    let deadline = Instant::now() + request.timeout;
    let container = container(shared, guid, &data).await?;
    let cluster = Arc::clone(shared.cluster_of(&data)?);
    // Input that has ended already needs no way to be ended.
    let first = input.next().now_or_never();
    let kind = match (&request.terminal, &first) {
        (Some(size), _) => Input::Terminal(*size),
        (None, Some(None)) => Input::Empty,
        (None, _) => Input::Stream,
    };
    let mut before: Vec<_> = first.flatten().into_iter().collect();
    if let Some(size) = request.terminal {
        before.insert(0, agent_api_driver::ExecInput::Resize(size));
    }
    let input: InputStream = Box::pin(stream::iter(before).chain(input));
    let reaper = Arc::new(Reaper {
        shared: Arc::clone(shared),
        cluster: Arc::clone(&cluster),
        container: container.clone(),
    });
    let start = |wrapped| Start {
        input: kind,
        wrapped,
        deadline,
    };
    let opening = async {
        let script = script::wrapped(&program, words.clone(), kind);
        let link = connect(&cluster, &container, &script, kind).await?;
        let mut session = Session::new(link, &start(true), Arc::clone(&reaper));
        if let Started::Yes = session.started().await? {
            session.feed(input);
            return Ok(session);
        }
        let link = connect(&cluster, &container, &words, kind).await?;
        let mut session = Session::new(link, &start(false), reaper);
        session.settled(SETTLE).await?;
        session.feed(input);
        Ok(session)
    };
    let session = match timeout_at(deadline, opening).await {
        Ok(session) => session.map_err(|error: Error| error.with_object(guid))?,
        Err(_) => {
            let message = "the command was not started in time";
            return Err(Error::new(ErrorKind::Timeout, message).with_object(guid));
        }
    };
    Ok(Box::pin(stream::unfold(session, |mut session| async move {
        let item = session.next().await?;
        Some((item, session))
    })))
}

/// Sends a signal, by number, to the first process of the object's container. That needs a shell in the container.
pub(crate) async fn signal(shared: &Arc<Shared>, guid: Guid, data: &HandleData, number: i32) -> Result<()> {
    let container = container(shared, guid, data).await?;
    let cluster = Arc::clone(shared.cluster_of(data)?);
    let (code, said) = kill::run(shared, &cluster, &container, script::signal(number, 1))
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(
                ErrorKind::Unsupported,
                format!(
                    "container {} has no shell, by which signals are sent",
                    container.container
                ),
            ),
            _ => error,
        })?;
    match code {
        0 => Ok(()),
        // The signal ended the container, and the command with it.
        137 | 143 => Ok(()),
        code => Err(Error::new(
            ErrorKind::Conflict,
            format!("the signal was not sent: kill ended with code {code}: {said}"),
        )
        .with_object(guid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: &str, running: &[&str], leaving: bool) -> Arc<Pod> {
        let statuses: Vec<_> = running
            .iter()
            .map(|name| json!({"name": name, "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": {"running": {}}}))
            .collect();
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}], "containerStatuses": statuses},
        });
        if leaving {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn commands_go_to_the_first_pod_that_is_ready() {
        let chosen =
            |pods: &[Arc<Pod>], wanted| choose(pods, wanted).map(|c| format!("{}/{}", c.pod, c.container));
        let pods = [
            pod("leaving", "True", &["a", "b"], true),
            pod("waits", "False", &[], false),
            pod("starts", "False", &["a", "b"], false),
            pod("ready", "True", &["a"], false),
        ];
        assert_eq!(chosen(&pods, None).as_deref(), Some("ready/a"));
        assert_eq!(chosen(&pods[..3], None).as_deref(), Some("starts/a"));
        assert_eq!(chosen(&pods, Some("b")).as_deref(), Some("starts/b"));
        assert_eq!(chosen(&pods, Some("c")), None);
        assert_eq!(chosen(&pods[..2], None), None);
    }
}
