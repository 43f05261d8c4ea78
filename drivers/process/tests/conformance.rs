//! The conformance suite with real processes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_api_driver::model::{Cpu, Kind, ObjectName, ObjectSpec, ProbeAction, Resources};
use agent_api_driver::{DriverFactory, Handle, ObjectStatus, async_trait};
use agent_driver_process::ProcessDriverFactory;
use agent_driver_testkit::{
    ExecSample, LogShape, Made, Place, ProbeSample, Refused, Rotation, Sample, Subject,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Lines of logs that are to be rotated away are at least so long.
const LONG_LINE: usize = 4096;

#[derive(Default)]
struct Process {
    /// Processes that are nobody's object.
    strangers: Mutex<Vec<Child>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        for stranger in self.strangers.get_mut().unwrap() {
            stranger.kill().unwrap();
            stranger.wait().unwrap();
        }
    }
}

fn spec(spec: Value) -> ObjectSpec {
    ObjectSpec {
        spec,
        ..ObjectSpec::new(Kind::new("process").unwrap(), ObjectName::new("sample").unwrap())
    }
}

fn sh(script: &str) -> ObjectSpec {
    spec(json!({"command": ["/bin/sh", "-c", script]}))
}

fn stat(pid: i64) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    Some((fields[0].chars().next()?, fields[19].parse().ok()?))
}

fn runs(handle: &Handle) -> bool {
    let start = handle.data["start_ticks"].as_u64();
    stat(handle.data["pid"].as_i64().unwrap())
        .is_some_and(|(state, ticks)| Some(ticks) == start && !"ZX".contains(state))
}

fn kill(handle: &Handle) -> bool {
    let pid = i32::try_from(handle.data["pid"].as_i64().unwrap()).unwrap();
    runs(handle) && kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).is_ok()
}

/// Living processes with this text in one of their files.
fn with_text(file: &str, text: &str) -> Vec<i64> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        std::fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
            && stat(*pid).is_some_and(|(state, _)| !"ZX".contains(state))
    })
    .collect()
}

#[async_trait]
impl Subject for Process {
    fn factory(&self) -> Arc<dyn DriverFactory> {
        Arc::new(ProcessDriverFactory)
    }

    fn kind(&self) -> Kind {
        Kind::new("process").unwrap()
    }

    fn config(&self) -> Value {
        json!({"log_max_size": "64Ki", "log_keep": 7})
    }

    fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
        Some(match sample {
            Sample::LongRunning => spec(json!({"command": ["sleep", "100000"]})),
            Sample::Stubborn => spec(json!({"command": ["sleep", "100000"], "stop_signal": "WINCH"})),
            Sample::Ends { after, code } => sh(&format!("sleep {}; exit {code}", after.as_secs_f64())),
            Sample::CannotBeMade => spec(json!({"command": ["/etc/passwd"]})),
            Sample::ChangedInPlace => spec(json!({"command": ["sleep", "100000"], "stop_grace": "7s"})),
            Sample::ChangedByRestart => {
                spec(json!({"command": ["sleep", "100000"], "env": {"CHANGED": "1"}}))
            }
            Sample::ChangedByRecreate | Sample::ChangedInfeasibly => return None,
        })
    }

    fn identity(&self, handle: &Handle, _: &ObjectStatus) -> Value {
        json!([
            handle.data["boot_id"],
            handle.data["pid"],
            handle.data["start_ticks"]
        ])
    }

    fn refused_by_schema(&self) -> Vec<Value> {
        vec![
            json!({}),
            json!(["true"]),
            json!({"command": "true"}),
            json!({"command": ["true"], "shell": true}),
            json!({"command": ["true"], "nice": "low"}),
        ]
    }

    fn refused_by_validate(&self) -> Vec<Refused> {
        [
            (json!({"command": [""]}), "spec.command"),
            (json!({"command": ["true", "a\0b"]}), "spec.command[1]"),
            (json!({"command": ["no-such-program"]}), "spec.command[0]"),
            (json!({"command": ["true"], "cwd": "relative"}), "spec.cwd"),
            (json!({"command": ["true"], "user": "no-such-user"}), "spec.user"),
            (
                json!({"command": ["true"], "rlimits": {"no-such": 1}}),
                "spec.rlimits.no-such",
            ),
        ]
        .map(|(value, path)| Refused {
            spec: spec(value),
            path: path.to_owned(),
        })
        .into()
    }

    fn log_line(&self, n: u64, shape: &LogShape) -> Vec<u8> {
        let mut line = format!("line {n}").into_bytes();
        let long = if shape.rotation == Rotation::Lost {
            LONG_LINE
        } else {
            0
        };
        line.resize(line.len().max(shape.line_bytes).max(long), b'.');
        line
    }

    fn log_sample(&self, shape: &LogShape) -> Option<ObjectSpec> {
        let long = self.log_line(0, shape).len();
        let pause = if shape.pace.is_zero() {
            String::new()
        } else {
            format!("system(\"sleep {}\");", shape.pace.as_secs_f64())
        };
        let end = if shape.terminated { "1" } else { "n < last" };
        let width = if long > "line 0".len() { long } else { 0 };
        let program = format!(
            "BEGIN {{ dots = \".\"; while (length(dots) < {width}) dots = dots dots; last = {} - 1; for (n = 0; n <= last; n++) {{ {pause} line = \"line \" n; \
             printf \"%s%s%s\", line, substr(dots, 1, {width} - length(line)), ({end}) ? \"\\n\" : \"\"; fflush(); }} }}",
            shape.lines
        );
        let after = if shape.ends { "" } else { "exec sleep 100000" };
        let script = format!("awk '{program}'; {after}");
        Some(sh(&script))
    }

    fn exec_sample(&self, sample: ExecSample<'_>) -> Option<Vec<String>> {
        let words: Vec<&str> = match sample {
            ExecSample::Copies => vec!["cat"],
            ExecSample::WritesBoth => vec!["/bin/sh", "-c", "printf out; printf err >&2; exit 3"],
            ExecSample::PrintsVariable(name) => {
                vec!["/bin/sh", "-c", "eval \"printf %s \\\"\\$$1\\\"\"", "sh", name]
            }
            ExecSample::Marked(mark) => vec![
                "/bin/sh",
                "-c",
                "/bin/sh -c 'sleep 100000; :' \"$0\" & wait",
                mark,
            ],
            ExecSample::Missing => vec!["no-such-command"],
            ExecSample::Terminal => vec![
                "/bin/sh",
                "-c",
                "test -t 0 || exit 1; set -- $(stty size); echo \"$2\"",
            ],
        };
        Some(words.into_iter().map(String::from).collect())
    }

    async fn exec_runs(&self, _: &Place, mark: &str) -> Option<bool> {
        Some(!with_text("cmdline", mark).is_empty())
    }

    fn probe_sample(&self, sample: ProbeSample) -> Option<(ObjectSpec, ProbeAction)> {
        let command: &[&str] = match sample {
            ProbeSample::Healthy => &["true"],
            ProbeSample::Unhealthy => &["false"],
            ProbeSample::Hangs => &["sleep", "100000"],
        };
        let action = ProbeAction::Exec(command.iter().map(|s| (*s).to_owned()).collect());
        Some((self.sample(Sample::LongRunning)?, action))
    }

    fn resize_sample(&self) -> Option<Resources> {
        Some(Resources {
            cpu: Some(Cpu::from_millis(500)),
            pids: Some(100),
            ..Resources::default()
        })
    }

    fn crash_steps(&self) -> usize {
        40
    }

    async fn runs(&self, _: &Place, object: &Made) -> Option<bool> {
        Some(runs(&object.handle))
    }

    async fn end_outside(&self, _: &Place, object: &Made) -> bool {
        let killed = kill(&object.handle);
        while killed && runs(&object.handle) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        killed
    }

    async fn remove_orphan(&self, place: &Place, object: &Made) -> bool {
        let killed = kill(&object.handle);
        while killed && runs(&object.handle) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for dir in object.handle.data["cgroups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|dir| dir.as_str())
        {
            std::fs::remove_dir(dir).unwrap();
        }
        let logs = place.state_dir().join("logs").join(object.guid.to_string());
        killed && std::fs::remove_dir_all(logs).is_ok()
    }

    async fn foreign(&self, _: &Place, object: &Made) -> Option<Handle> {
        let start = object.handle.data["start_ticks"].as_u64()?;
        // Start times have the resolution of a tick.
        let stranger = loop {
            let mut stranger = Command::new("sleep")
                .arg("100000")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            if stat(i64::from(stranger.id()))?.1 != start {
                break stranger;
            }
            stranger.kill().ok()?;
            stranger.wait().ok()?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let mut handle = object.handle.clone();
        handle.data["pid"] = json!(stranger.id());
        self.strangers.lock().unwrap().push(stranger);
        Some(handle)
    }

    async fn foreign_untouched(&self, _: &Place, handle: &Handle) -> bool {
        stat(handle.data["pid"].as_i64().unwrap()).is_some_and(|(state, _)| !"ZXTt".contains(state))
    }

    async fn leftovers(&self, place: &Place) -> Vec<String> {
        let mark = format!("AGENT_ID={}\0", place.agent());
        let mut left: Vec<String> = with_text("environ", &mark)
            .into_iter()
            .map(|pid| format!("process {pid} bears the mark"))
            .collect();
        let entries = |dir: &Path| {
            std::fs::read_dir(dir)
                .map(|e| e.filter_map(Result::ok).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        left.extend(
            entries(&place.state_dir().join("logs"))
                .iter()
                .map(|e| format!("log files {}", e.path().display())),
        );
        // Our directories in each hierarchy, where the agent's own group is the root.
        let name = format!("agent-{}", place.agent());
        for hierarchy in entries(Path::new("/sys/fs/cgroup")) {
            for dir in entries(&hierarchy.path().join(&name)) {
                if dir.path().is_dir() {
                    left.push(format!("cgroup {}", dir.path().display()));
                }
            }
        }
        left
    }
}

agent_driver_testkit::conformance!(Process::default());
agent_driver_testkit::conformance_with_chaos!(under_chaos, Process::default(), 1);
