//! A real Ray cluster for the tests of one binary: started once, ended with the process.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

/// The token in the path of event export.
pub(crate) const EVENT_TOKEN: &str = "lab-events-0123456789";

/// A cluster of its own.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) address: String,
    relay: Option<Arc<Relay>>,
}

/// What a cluster is started with.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    pub(crate) durable: bool,
    pub(crate) token: Option<&'static str>,
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../dev/lab/ray")
}

impl Lab {
    /// Starts a cluster. Fails the test where it cannot be: a test that was not run must not look like one that passed.
    pub(crate) fn start(name: &str, setup: Setup) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let relay = Relay::start();
        // Ends the cluster when this process has ended, however it ends.
        let watched = Command::new("setsid")
            .args([
                "--fork",
                "sh",
                "-c",
                "while kill -0 \"$1\" 2>/dev/null; do sleep 1; done; exec \"$0\" down",
            ])
            .arg(script())
            .arg(std::process::id().to_string())
            .env("AGENT_LAB_RAY_NAME", &name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("the cluster's end is looked after");
        assert!(watched.success(), "{watched}");
        let mut lab = Self {
            name,
            address: String::new(),
            relay: Some(relay),
        };
        let out = lab.run_with(&["up"], setup);
        lab.address = out
            .lines()
            .find_map(|line| line.strip_prefix("export RAY_ADDRESS="))
            .unwrap_or_else(|| panic!("dev/lab/ray up says no address: {out}"))
            .to_owned();
        lab
    }

    /// Runs the script for this cluster.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.run_with(args, Setup::default())
    }

    fn run_with(&self, args: &[&str], setup: Setup) -> String {
        let mut command = Command::new(script());
        command.args(args).env("AGENT_LAB_RAY_NAME", &self.name);
        if let Some(relay) = &self.relay {
            let url = format!("http://127.0.0.1:{}/{EVENT_TOKEN}", relay.port);
            command.env("AGENT_LAB_RAY_EVENTS", url);
            command.env("AGENT_LAB_RAY_ENV", "RAY_ray_events_report_interval_ms=100");
        }
        if setup.durable {
            command.env("AGENT_LAB_RAY_DURABLE", "1");
        }
        if let Some(token) = setup.token {
            command.env("AGENT_LAB_RAY_TOKEN", token);
        }
        let output = command.output().expect("dev/lab/ray can be run");
        assert!(
            output.status.success(),
            "dev/lab/ray {args:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A port that gets the events of this cluster, for a listener of a driver.
    pub(crate) fn event_port(&self) -> u16 {
        let relay = self.relay.as_ref().expect("set at the start");
        let port = free_port();
        relay.ports.lock().unwrap().push(port);
        port
    }

    /// A call past the driver, with the answer as JSON; null where it is not 200.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, text) = http(&self.address, method, path, body);
        if status == 200 {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        } else {
            Value::Null
        }
    }

    /// A job past the driver; null where there is none.
    pub(crate) fn job(&self, id: &str) -> Value {
        self.call("GET", &format!("/api/jobs/{id}"), &Value::Null)
    }

    /// Waits until a job has one of these statuses, past the driver.
    pub(crate) fn until_job(&self, id: &str, wanted: &[&str]) {
        for _ in 0..600 {
            let job = self.job(id);
            if wanted.iter().any(|status| job["status"] == *status) {
                return;
            }
            pause();
        }
        panic!("job {id} is {}, wanted {wanted:?}", self.job(id));
    }
}

/// A short wait between two looks at the cluster from a thread of a test.
pub(crate) fn pause() {
    let (_keep, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(Duration::from_millis(100));
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// One HTTP call: status and body.
pub(crate) fn http(address: &str, method: &str, path: &str, body: &Value) -> (u16, String) {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("the cluster can be reached");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let text = String::from_utf8_lossy(&all);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, body.to_owned())
}

/// Passes the events of a cluster on to the listeners of the drivers of all tests: Ray posts to one address only.
struct Relay {
    port: u16,
    ports: Mutex<Vec<u16>>,
}

impl Relay {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            ports: Mutex::default(),
        });
        let shared = Arc::clone(&relay);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        relay
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        loop {
            let mut length = 0;
            let mut first = true;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let line = line.trim().to_ascii_lowercase();
                if line.is_empty() && !first {
                    break;
                }
                first = false;
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let ports = self.ports.lock().unwrap().clone();
            for port in ports {
                // Nobody listens any more, or not yet: events are hints.
                if let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)) {
                    let _ = write!(
                        to,
                        "POST /{EVENT_TOKEN} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = to.write_all(&body);
                    let _ = to.set_read_timeout(Some(Duration::from_secs(2)));
                    let _ = to.read(&mut [0; 64]);
                }
            }
            if stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .is_err()
            {
                return;
            }
        }
    }
}

/// The configuration of a driver for this cluster; `more` goes into the cluster's part.
pub(crate) fn config(lab: &Lab, more: &Value) -> Value {
    let mut cluster = json!({"address": lab.address});
    if let (Some(cluster), Some(more)) = (cluster.as_object_mut(), more.as_object()) {
        cluster.extend(more.clone());
    }
    json!({"clusters": {"default": cluster}})
}

/// The cluster that all tests of a binary share.
pub(crate) fn shared(name: &'static str) -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| Lab::start(name, Setup::default()))
}
