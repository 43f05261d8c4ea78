//! A real agent in a directory of its own, and the real program to talk to it.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// How long anything may take. Only a failure takes as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a command ended with.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; none where a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ended {
    /// The same, where it ended well.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A directory with an agent in it.
pub(crate) struct Place {
    /// The directory.
    pub(crate) dir: tempfile::TempDir,
    running: Option<Child>,
    environment: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            running: None,
            environment: Vec::new(),
        }
    }

    /// Sets a variable for the agents started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A directory with a running agent.
    pub(crate) async fn with_agent() -> Self {
        let mut place = Self::new();
        place.start(&[]).await;
        place
    }

    /// The agent's state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A file in the directory.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A command to be started, with nothing on its standard input.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("AGENT_STATE_DIR", self.state())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn agent(&self, args: &[&str]) -> Ended {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Runs a command with something on its standard input.
    pub(crate) fn agent_with_input(&self, args: &[&str], input: &str) -> Ended {
        let file = self.dir.path().join("input");
        std::fs::write(&file, input).unwrap();
        let output = self
            .command(args)
            .stdin(std::fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) async fn start(&mut self, args: &[&str]) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("run.log"))
            .unwrap();
        let args: Vec<&str> = [&["run"], args].concat();
        let child = self
            .command(&args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(child);
        until("the agent is ready", || {
            if let Some(status) = self.running.as_mut().unwrap().try_wait().unwrap() {
                panic!("the agent ended with {status}:\n{}", self.log());
            }
            (self.agent(&["health"]).code == Some(0)).then_some(())
        })
        .await;
    }

    /// The agent's own log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("run.log")).unwrap_or_default()
    }

    /// The agent's process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().id()
    }

    /// Sends the agent a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the agent has ended, and returns its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let child = self.running.as_mut().unwrap();
        let status = until("the agent has ended", || child.try_wait().unwrap()).await;
        self.running = None;
        status.code()
    }

    /// Kills the agent as a crash would.
    pub(crate) async fn crash(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        assert_eq!(self.ended().await, None);
    }

    /// The view of an object, where there is one.
    pub(crate) fn view(&self, name: &str) -> Option<Value> {
        let ended = self.agent(&["describe", name, "-o", "json"]);
        (ended.code == Some(0)).then(|| ended.json())
    }

    /// The phase of an object, empty where it is not there.
    pub(crate) fn phase(&self, name: &str) -> String {
        self.view(name)
            .map_or_else(String::new, |view| view["phase"].as_str().unwrap().to_owned())
    }

    /// Waits until an object is in a phase, and returns its view.
    pub(crate) async fn until_phase(&self, name: &str, phase: &str) -> Value {
        until(&format!("{name} is {phase}"), || {
            self.view(name).filter(|view| view["phase"] == phase)
        })
        .await
    }

    /// The pid of an object's process.
    pub(crate) fn pid_of(&self, name: &str) -> i64 {
        self.view(name).unwrap()["details"]["pid"].as_i64().unwrap()
    }

    /// The text with what differs from run to run replaced.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.state().display().to_string(), "STATE")
            .replace(&self.dir.path().display().to_string(), "DIR")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.running.is_none() {
            return;
        }
        // Whatever a test left behind ends with it.
        let _ = self.agent(&[
            "delete",
            "-l",
            "kind=process",
            "--grace",
            "0s",
            "--cascade",
            "--timeout",
            "10s",
        ]);
        if let Some(child) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks again and again until there is an answer. Panics where there is none in time.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let what = what.to_owned();
    async move {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(tokio::time::Instant::now() < end, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether a process is there.
pub(crate) fn alive(pid: i64) -> bool {
    Path::new(&format!("/proc/{pid}/stat")).exists()
}
