//! A server of the lab for one test, and the ends of a bus on it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_api_bus_in::{BusCaller, Incoming, RequestHandler, Response};
use agent_api_bus_out::Message;
use agent_api_model::{AgentId, Envelope, Error, ErrorKind, Reply, StageTimes, Timestamp, Topic};
use agent_bus_nats::{
    CallTarget, ConnectConfig, Layout, NatsBus, NatsCaller, NatsConfig, SetupConfig, setup,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

/// How long a condition may take to come true on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A server with a name of its own; taken down with its data when dropped.
pub(crate) struct Lab {
    name: String,
    env: HashMap<String, String>,
}

impl Lab {
    /// One server, with the streams of the bus and the queue of agent `a1`.
    pub(crate) async fn up() -> Self {
        let lab = Self::bare(&[]).await;
        lab.set_up().await;
        lab
    }

    /// Three servers, with the streams of the bus on all of them.
    pub(crate) async fn cluster() -> Self {
        let lab = Self::begin("up-cluster", &[], &[]).await;
        lab.set_up_with(3).await;
        lab
    }

    /// One server without any stream.
    pub(crate) async fn bare(options: &[&str]) -> Self {
        Self::with_env(options, &[]).await
    }

    /// The same, with something in the environment of the script.
    pub(crate) async fn with_env(options: &[&str], env: &[(&str, &str)]) -> Self {
        Self::begin("up", options, env).await
    }

    async fn begin(up: &str, options: &[&str], env: &[(&str, &str)]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bus-nats-{}-{number}", std::process::id());
        let mut lab = Self {
            name,
            env: HashMap::new(),
        };
        let mut arguments = vec![up, "--fresh"];
        arguments.extend(options);
        let mut up = script(&lab.name, &arguments);
        up.envs(env.iter().copied());
        let up = finish(up, "up").await;
        lab.env = String::from_utf8(up.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        lab
    }

    /// A command of the lab's script for this server.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        finish(script(&self.name, arguments), &arguments.join(" ")).await
    }

    pub(crate) async fn set_up(&self) {
        self.set_up_with(1).await;
    }

    async fn set_up_with(&self, replicas: usize) {
        let mut config = SetupConfig::new(Layout::default(), vec![agent("a1")]);
        config.apply = true;
        config.replicas = replicas;
        setup(self.connect("setup"), &config).await.unwrap();
    }

    /// What the lab tells of this server.
    pub(crate) fn env(&self, name: &str) -> &str {
        self.env
            .get(name)
            .unwrap_or_else(|| panic!("the lab does not tell {name}"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.env(name).into()
    }

    pub(crate) fn connect(&self, name: &str) -> ConnectConfig {
        let mut config = ConnectConfig::new(self.env("NATS_URL"), name);
        config.ping = Duration::from_secs(1);
        config.backoff_max = Duration::from_secs(1);
        config
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = script(&self.name, &["down"]).output();
        if !std::thread::panicking() {
            let down = down.expect("dev/lab/nats can be run");
            assert!(down.status.success(), "the lab's server could not be taken down");
        }
    }
}

fn script(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../dev/lab/nats"));
    command.args(arguments).args(["--name", name]);
    command
}

async fn finish(mut command: Command, shown: &str) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output().expect("dev/lab/nats can be run"))
        .await
        .unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`dev/lab/nats {shown}` failed: {why}");
    output
}

pub(crate) fn agent(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}

/// The bus of agent `a1`, not open yet.
pub(crate) fn bus(lab: &Lab) -> NatsBus {
    NatsBus::new(NatsConfig::new(lab.connect("agent a1"), agent("a1")))
}

/// A caller of agent `a1`.
pub(crate) async fn caller(lab: &Lab) -> NatsCaller {
    let target = CallTarget::Agent(agent("a1"));
    NatsCaller::connect(lab.connect("caller"), Layout::default(), target)
        .await
        .unwrap()
}

/// Notes the requests and answers each id always alike; the first `refusals` are answered `Busy`.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) seen: Mutex<Vec<Incoming>>,
    pub(crate) refusals: AtomicU32,
}

impl Notes {
    pub(crate) fn ids(&self) -> Vec<String> {
        self.seen
            .lock()
            .iter()
            .map(|incoming| incoming.id.clone().unwrap_or_default())
            .collect()
    }
}

#[async_trait]
impl RequestHandler for Notes {
    async fn handle(&self, incoming: Incoming) -> Response {
        let refuse = self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refuse.is_ok() {
            let reply = Reply {
                id: None,
                ok: None,
                error: Some(Error::new(ErrorKind::Busy, "not now")),
                stages: StageTimes::default(),
            };
            return Response::One {
                error: Some(ErrorKind::Busy),
                body: serde_json::to_vec(&reply).unwrap().into(),
            };
        }
        let body = format!("\"{}\"", incoming.id.clone().unwrap_or_default());
        self.seen.lock().push(incoming);
        Response::One {
            error: None,
            body: body.into(),
        }
    }
}

pub(crate) fn request(verb: &str, id: &str) -> Incoming {
    Incoming {
        verb: verb.into(),
        id: Some(id.into()),
        ..Incoming::default()
    }
}

/// The body of an answer without an error.
pub(crate) async fn answered(caller: &NatsCaller, request: Incoming) -> Bytes {
    match caller.call(request, PATIENCE).await {
        Ok(Response::One { error: None, body }) => body,
        Ok(_) => panic!("another kind of answer was expected"),
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) fn message(topic: &str, id: &str, subject: Option<&str>) -> Message {
    Message {
        topic: Topic::new(topic).unwrap(),
        envelope: Envelope {
            id: id.into(),
            source: "/agents/a1".into(),
            event_type: "agent.test".into(),
            subject: subject.map(str::to_owned),
            time: Timestamp::from_micros(1_790_000_000_000_000),
            content_type: Envelope::JSON,
            traceparent: None,
            data: Bytes::from_static(b"{}"),
        },
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < end, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A plain client of the server, past the bus.
pub(crate) async fn client(lab: &Lab) -> async_nats::Client {
    async_nats::connect(lab.env("NATS_URL")).await.unwrap()
}
