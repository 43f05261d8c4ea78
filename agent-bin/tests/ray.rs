//! The agent and a real Ray cluster: the tour.

#![cfg(all(feature = "ray", feature = "bus-http"))]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::Place;
use serde_json::Value;

const REPO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const NAME: &str = "ray-tour";
/// How long anything may take: Ray starts a Python process for each thing it is asked for.
const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster of the lab (`dev/lab/ray`) under a name of its own. It goes down when dropped, or when this process is gone.
struct Cluster {
    name: String,
    address: String,
}

impl Cluster {
    fn start() -> Self {
        let mut cluster = Self {
            name: format!("tour-{}", std::process::id()),
            address: String::new(),
        };
        let watch = "while kill -0 \"$1\" 2>/dev/null; do sleep 1; done; exec \"$0\" down";
        let watched = cluster
            .of_lab("setsid")
            .args(["--fork", "sh", "-c", watch, &script()])
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(watched.success(), "{watched}");
        let up = cluster.of_lab(&script()).arg("up").output().unwrap();
        let why = String::from_utf8_lossy(&up.stderr);
        assert!(up.status.success(), "`dev/lab/ray up` failed: {why}");
        let out = String::from_utf8(up.stdout).unwrap();
        cluster.address = out
            .lines()
            .find_map(|line| line.strip_prefix("export RAY_ADDRESS="))
            .unwrap()
            .to_owned();
        cluster
    }

    fn of_lab(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("AGENT_LAB_RAY_NAME", &self.name);
        command
    }

    /// What the cluster itself says.
    fn ask(&self, path: &str) -> Value {
        let host = self.address.trim_start_matches("http://");
        let answer = http(host, path).expect("the cluster answers");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = self.of_lab(&script()).arg("down").status();
        assert!(
            std::thread::panicking() || down.is_ok_and(|down| down.success()),
            "the cluster is down"
        );
    }
}

fn script() -> String {
    format!("{REPO}/dev/lab/ray")
}

/// The body of an answer with status 200.
fn http(host: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.split(' ')
        .nth(1)
        .is_some_and(|status| status == "200")
        .then(|| body.to_owned())
}

async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Waits until an object is in a phase, and returns its view.
async fn until_phase(place: &Place, name: &str, phase: &str) -> Value {
    until(&format!("{name} is {phase}"), || {
        let view = place.view(name)?;
        if view["phase"] == phase {
            return Some(view);
        }
        let ended = view["phase"] == "Failed" || view["phase"] == "Succeeded";
        assert!(!ended, "{name} is not {phase}: {view:#}\n{}", place.log());
        None
    })
    .await
}

fn replicas(place: &Place) -> Option<usize> {
    let view = place.view("greeter").filter(|view| view["phase"] == "Running")?;
    let deployment = view["details"]["deployments"][0].clone();
    (deployment["running"] == deployment["wanted"])
        .then(|| deployment["replicas"].as_array().map(Vec::len))
        .flatten()
}

#[tokio::test]
async fn the_tour() {
    let cluster = Cluster::start();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut place = Place::new();
    let config = format!(
        "[agent]\nname = \"{NAME}\"\n\n[drivers.ray.clusters.default]\naddress = \"{}\"\n",
        cluster.address
    );
    let config = place.file("agent.toml", &config);
    place.set("AGENT_CONFIG", &config);
    place.start(&[]).await;
    let tour = std::fs::read_to_string(format!("{REPO}/examples/ray.yaml"))
        .unwrap()
        .replace("/path/to", REPO)
        .replace("port: 8000", &format!("port: {port}"));
    let tour = place.file("ray.yaml", &tour);
    place.agent(&["apply", "--no-wait", "-f", &tour]).well();

    let view = until_phase(&place, "lab", "Running").await;
    assert_eq!(view["details"]["nodes"]["alive"], 1, "{view:#}");
    assert!(view["details"]["version"].is_string(), "{view:#}");

    let view = until_phase(&place, "squares", "Succeeded").await;
    assert_eq!(view["exit"]["code"], 0, "{view:#}");
    assert!(view["details"]["ray_job_id"].is_string(), "{view:#}");
    let log = place.agent(&["logs", "squares"]).well().out;
    assert!(log.contains("the sum is 285"), "{log}");

    let view = until_phase(&place, "broken", "Failed").await;
    assert_eq!(view["exit"]["code"], 3, "{view:#}");
    assert_eq!(view["restarts"].as_u64().unwrap_or(0), 0, "{view:#}");
    let message = view["details"]["message"].as_str().unwrap();
    assert!(message.contains("there is no data for today"), "{message}");

    until_phase(&place, "pulse", "Running").await;
    until("the pulse beats", || {
        place
            .agent(&["logs", "pulse"])
            .well()
            .out
            .contains("beat 2")
            .then_some(())
    })
    .await;
    place.agent(&["signal", "TERM", "pulse"]).well();
    let view = until_phase(&place, "pulse", "Failed").await;
    assert_eq!(view["exit"]["signal"], "SIGTERM", "{view:#}");

    until_phase(&place, "greeter", "Running").await;
    let host = format!("127.0.0.1:{port}");
    let said = until("the application answers", || http(&host, "/greeter?name=you")).await;
    assert!(said.contains("hello you from process"), "{said}");
    place.agent(&["scale", "2", "greeter"]).well();
    until("there are two replicas", || {
        (replicas(&place) == Some(2)).then_some(())
    })
    .await;
    let mut heard = std::collections::BTreeSet::new();
    until("both replicas are heard", || {
        heard.extend(http(&host, "/greeter"));
        (heard.len() == 2).then_some(())
    })
    .await;

    place.agent(&["delete", "-f", &tour]).well();
    until("all objects are gone", || {
        let list = place.agent(&["get", "-o", "json"]);
        (list.code == Some(0) && list.json().as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    until("no application is left", || {
        let all = cluster.ask("/api/serve/applications/")["applications"].clone();
        all.as_object()
            .is_none_or(serde_json::Map::is_empty)
            .then_some(())
    })
    .await;
    until("no job of the agent is left", || {
        let jobs = cluster.ask("/api/jobs/");
        let ours = |job: &Value| job["metadata"]["agent_id"] == NAME;
        (!jobs.as_array().unwrap().iter().any(ours)).then_some(())
    })
    .await;
}
