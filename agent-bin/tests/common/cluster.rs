//! Real Kubernetes clusters of the lab (`dev/lab/kubernetes`), and eyes and hands in them past the agent: kubectl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dev/lab/kubernetes");

/// A running cluster.
pub(crate) struct Cluster {
    home: PathBuf,
    /// Set where it is a control plane of the test's own, with its first port.
    own: Option<(tempfile::TempDir, u16)>,
}

impl Cluster {
    /// The machine's cluster, with a node. It is shared, and stays up.
    pub(crate) fn shared() -> Self {
        let cluster = Self {
            home: home(),
            own: None,
        };
        cluster.up();
        cluster
    }

    /// A control plane of its own, without a node: pods stay pending. It may be hurt, and goes down when dropped.
    pub(crate) fn own(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("kubernetes");
        std::fs::create_dir(&lab).unwrap();
        for part in ["bin", "images"] {
            std::os::unix::fs::symlink(home().join("kubernetes").join(part), lab.join(part)).unwrap();
        }
        let cluster = Self {
            home: dir.path().to_owned(),
            own: Some((dir, port)),
        };
        cluster.up();
        cluster
    }

    fn script(&self, command: &str) -> Output {
        let mut script = Command::new(SCRIPT);
        script.arg(command).env("AGENT_LAB_HOME", &self.home);
        if let Some((_, port)) = &self.own {
            script
                .env("AGENT_LAB_K8S_NODE", "0")
                .env("AGENT_LAB_K8S_PORT", port.to_string());
        }
        script.output().unwrap()
    }

    /// Starts what does not run.
    pub(crate) fn up(&self) {
        let up = self.script("up");
        let why = String::from_utf8_lossy(&up.stderr);
        assert!(up.status.success(), "`dev/lab/kubernetes up` failed: {why}");
    }

    /// Its kubeconfig.
    pub(crate) fn kubeconfig(&self) -> String {
        self.lab("kubeconfig").display().to_string()
    }

    fn lab(&self, path: &str) -> PathBuf {
        self.home.join("kubernetes").join(path)
    }

    /// Kills the API server as a crash would.
    pub(crate) fn kill_api_server(&self) {
        assert!(self.own.is_some(), "the shared cluster is not to be hurt");
        let text = std::fs::read_to_string(self.lab("run/apiserver.pid")).unwrap();
        let pid = text.split_whitespace().next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// Runs kubectl to its end and returns its output.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let output = Command::new(self.lab("bin/kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(args)
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {why}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kubectl finds, as JSON.
    #[track_caller]
    pub(crate) fn get(&self, args: &[&str]) -> Vec<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat());
        let mut found: Value = serde_json::from_str(&text).unwrap();
        match found["items"].take() {
            Value::Array(items) => items,
            _ => vec![found],
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.own.is_some() {
            self.script("down");
        }
    }
}

fn home() -> PathBuf {
    match std::env::var_os("AGENT_LAB_HOME") {
        Some(home) => home.into(),
        None => Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/agent-lab"),
    }
}
