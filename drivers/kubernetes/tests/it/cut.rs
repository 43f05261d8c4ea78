//! Connections that are cut, servers that go away and come back: nothing is lost, and nothing is said twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{DriverState, Guid};
use agent_api_driver::{ObjectState, ObjectStatus};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::eyes::Eyes;
use crate::lab::lab;
use crate::support::{Object, World};

/// What stands between the driver and the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Open,
    /// Nothing goes through; connections stay.
    Held,
    /// Connections are cut and refused.
    Cut,
}

struct Proxy {
    line: watch::Sender<Line>,
    kubeconfig: PathBuf,
    _dir: tempfile::TempDir,
    accepts: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

impl Proxy {
    /// Before the server of this kubeconfig.
    async fn new(kubeconfig: &Path) -> Self {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let server = text
            .lines()
            .find_map(|line| line.trim().trim_start_matches("- ").strip_prefix("server:"))
            .map(|url| url.trim().trim_matches('"').to_owned())
            .expect("a kubeconfig has a server");
        let address = server
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("https://{}", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("kubeconfig");
        std::fs::write(&copy, text.replace(&server, &own)).unwrap();
        let line = watch::Sender::new(Line::Open);
        let state = line.subscribe();
        let accepts = tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                if *state.borrow() == Line::Cut {
                    continue;
                }
                tokio::spawn(connect(inner, address.clone(), state.clone()));
            }
        });
        Self {
            line,
            kubeconfig: copy,
            _dir: dir,
            accepts,
        }
    }

    fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Cuts all connections; new ones are let through.
    fn cut_once(&self) {
        self.set(Line::Cut);
        self.set(Line::Open);
    }
}

async fn connect(inner: TcpStream, address: String, mut state: watch::Receiver<Line>) {
    let Ok(outer) = TcpStream::connect(address).await else {
        return;
    };
    let (inner_read, inner_write) = inner.into_split();
    let (outer_read, outer_write) = outer.into_split();
    state.borrow_and_update();
    let mut cuts = state.clone();
    tokio::select! {
        () = pass(inner_read, outer_write, state.clone()) => {}
        () = pass(outer_read, inner_write, state) => {}
        // Also one that was over before it was looked at.
        () = async { while cuts.changed().await.is_ok() && *cuts.borrow_and_update() == Line::Held {} } => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Line>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if state.wait_for(|line| *line != Line::Held).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Deployments without pods: whether they are paused is anybody's to change, and is seen.
async fn make_all(world: &World, count: usize) -> Vec<Object> {
    let mut made = Vec::new();
    for i in 0..count {
        let name = format!("d-{i}");
        let labels = json!({"app": name});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "localhost/busybox:1"}]}}},
        });
        let spec = world.spec("manifest", &name, json!({"objects": [deployment]}));
        made.push(world.make(&spec).await);
    }
    made
}

async fn pause(world: &World, name: &str, paused: bool) {
    world
        .patch("apps/v1", "Deployment", name, json!({"spec": {"paused": paused}}))
        .await;
}

async fn remove(world: &World, name: &str) {
    let api = world.api("apps/v1", "Deployment");
    api.delete(name, &Default::default()).await.unwrap();
}

fn is(state: ObjectState) -> impl Fn(&ObjectStatus) -> bool {
    move |status| status.state == state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_cut_and_held_loses_nothing_and_repeats_nothing() {
    let kubeconfig = tokio::task::spawn_blocking(lab).await.unwrap();
    let proxy = Proxy::new(kubeconfig).await;
    let world = World::with(json!({"kubeconfig": proxy.kubeconfig, "request_timeout": "2s"})).await;
    let mut eyes = Eyes::of(&*world.driver);
    let all = make_all(&world, 4).await;
    let guids: Vec<Guid> = all.iter().map(|object| object.guid).collect();
    eyes.until_all(&guids, "Running", is(ObjectState::Running)).await;
    let quiet = eyes.said[&guids[3]];
    for round in 0..6 {
        let paused = round % 2 == 0;
        for i in 0..3 {
            proxy.cut_once();
            pause(&world, &format!("d-{i}"), paused).await;
        }
        let state = if paused {
            ObjectState::Paused
        } else {
            ObjectState::Running
        };
        eyes.until_all(&guids[..3], "what was done", is(state)).await;
    }
    assert_eq!(eyes.said[&guids[3]], quiet, "nothing happened to it");
    assert_eq!(eyes.gaps, 0, "the server still knew the place");

    // Away for longer than one try: objects stay as they were.
    let before = eyes.said.clone();
    proxy.set(Line::Cut);
    eyes.until_health("Unavailable", |state| {
        matches!(state, DriverState::Unavailable { .. })
    })
    .await;
    pause(&world, "d-0", true).await;
    remove(&world, "d-1").await;
    eyes.drain();
    assert_eq!(eyes.said, before);
    proxy.set(Line::Open);
    eyes.until_health("Healthy", |state| *state == DriverState::Healthy)
        .await;
    eyes.until_all(&guids[..1], "the pause", is(ObjectState::Paused))
        .await;
    eyes.until_all(&guids[1..2], "the deletion", is(ObjectState::Gone))
        .await;

    // Held: connections look alive and bring nothing. A request that is not answered gives it away.
    proxy.set(Line::Held);
    pause(&world, "d-2", true).await;
    let mut out = Vec::new();
    let target = agent_api_driver::Target {
        guid: all[2].guid,
        handle: &all[2].handle,
    };
    let error = world.driver.observe(&[target], &mut out).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(
        out.is_empty(),
        "nothing is known that was not known before: {out:?}"
    );
    eyes.until_health("Unavailable", |state| {
        matches!(state, DriverState::Unavailable { .. })
    })
    .await;
    proxy.set(Line::Open);
    eyes.until_all(&guids[2..3], "the pause", is(ObjectState::Paused))
        .await;
    eyes.until_health("Healthy", |state| *state == DriverState::Healthy)
        .await;
    assert_eq!(eyes.said[&guids[3]], quiet, "nothing happened to it");
    world.end().await;
}

/// A control plane of its own, whose API server may be killed. There is no node.
struct Plane {
    home: tempfile::TempDir,
    port: u16,
}

impl Plane {
    fn start() -> Self {
        // Bring up the shared one first: it makes what is linked here.
        let installed = lab().parent().unwrap();
        let home = tempfile::tempdir().unwrap();
        let own = home.path().join("kubernetes");
        std::fs::create_dir_all(&own).unwrap();
        for part in ["bin", "images"] {
            std::os::unix::fs::symlink(installed.join(part), own.join(part)).unwrap();
        }
        let port = free_ports();
        let plane = Self { home, port };
        plane.lab("up");
        plane
    }

    fn lab(&self, command: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dev/lab/kubernetes");
        let done = Command::new(script)
            .arg(command)
            .env("AGENT_LAB_HOME", self.home.path())
            .env("AGENT_LAB_K8S_NODE", "0")
            .env("AGENT_LAB_K8S_PORT", self.port.to_string())
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "`kubernetes {command}` failed: {why}");
    }

    fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("kubernetes/kubeconfig")
    }

    fn kill_api_server(&self) {
        let file = self.home.path().join("kubernetes/run/apiserver.pid");
        let text = std::fs::read_to_string(file).unwrap();
        let pid = text.split_whitespace().next().unwrap().to_owned();
        let killed = Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dev/lab/kubernetes");
        let _down = Command::new(script)
            .arg("down")
            .env("AGENT_LAB_HOME", self.home.path())
            .env("AGENT_LAB_K8S_NODE", "0")
            .env("AGENT_LAB_K8S_PORT", self.port.to_string())
            .output();
    }
}

/// The first of ten ports that are free now.
fn free_ports() -> u16 {
    let seed = std::process::id() % 2000;
    (0..2000)
        .map(|i| 20_000 + ((seed + i) % 2000) as u16 * 10)
        .find(|first| {
            (*first..first + 10).all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
        .expect("ten free ports in a row")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_killed_and_comes_back_loses_nothing_and_repeats_nothing() {
    let plane = Arc::new(tokio::task::spawn_blocking(Plane::start).await.unwrap());
    let world = World::on(&plane.kubeconfig(), json!({"request_timeout": "5s"})).await;
    let mut eyes = Eyes::of(&*world.driver);
    let all = make_all(&world, 3).await;
    let guids: Vec<Guid> = all.iter().map(|object| object.guid).collect();
    eyes.until_all(&guids, "Running", is(ObjectState::Running)).await;
    let quiet = eyes.said[&guids[2]];
    for round in 0..2 {
        plane.kill_api_server();
        eyes.until_health("Unavailable", |state| {
            matches!(state, DriverState::Unavailable { .. })
        })
        .await;
        let (up, said) = (Arc::clone(&plane), eyes.said.clone());
        tokio::task::spawn_blocking(move || up.lab("up")).await.unwrap();
        eyes.until_health("Healthy", |state| *state == DriverState::Healthy)
            .await;
        eyes.drain();
        assert_eq!(eyes.said, said, "a restart is no news of objects");
        // Right after it, before the watches may be back.
        let paused = round == 0;
        pause(&world, "d-0", paused).await;
        let state = if paused {
            ObjectState::Paused
        } else {
            ObjectState::Running
        };
        eyes.until_all(&guids[..1], "what was done", is(state)).await;
    }
    // A new server does not know the places of its predecessor: it was listed again, and said so.
    assert!(eyes.gaps > 0);
    remove(&world, "d-1").await;
    eyes.until_all(&guids[1..2], "Gone", is(ObjectState::Gone)).await;
    assert_eq!(eyes.said[&guids[2]], quiet, "nothing happened to it");
    world
        .driver
        .shutdown(
            agent_api_driver::ShutdownMode::LeaveRunning,
            Duration::from_secs(10),
        )
        .await
        .unwrap();
}
