//! The spec of kind `ray/job`, as a person writes it, and what it means.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::{
    Diagnostic, Enforcement, Error, LimitStatus, ObjectSpec, ResourceField, Resources,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::quote;
use crate::head::Capacity;

/// The longest entrypoint, and the longest runtime environment and metadata together, in bytes: what Linux lets a program be started
/// with. Ray takes longer ones and lets the job fail.
const MAX_TEXT: usize = 120 * 1024;
/// Metadata of these names is the driver's own.
pub(crate) const MARKS: [&str; 4] = ["agent_id", "agent_guid", "agent_op_id", "agent_attempt"];

/// A program that runs on a Ray cluster until it ends: a Ray job.
///
/// What it may use is in `resources`: `cpu`, `gpu` and `memory` are set aside for its first process as long as it runs. With none of them,
/// and neither `custom_resources` nor `label_selector`, it runs on the head node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The cluster, by its name in the driver's configuration; not needed where there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The program and its arguments. No shell reads them: each word reaches the program as it is. It is found by the `PATH` of the
    /// cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Instead of `command`: the id of a job that is there already, submitted by somebody else. The agent looks after it from then on,
    /// and stops it when the object is deleted. It is not started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// What the program finds on the node.
    #[serde(default, skip_serializing_if = "RuntimeEnv::is_default")]
    pub runtime_env: RuntimeEnv,
    /// Amounts of the cluster's own resources (`--resources` of its nodes) that are set aside for its first process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_resources: BTreeMap<String, f64>,
    /// Labels that its node must have, in Ray's notation: `value`, `!value`, `in(a,b)`, `!in(a,b)`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_selector: BTreeMap<String, String>,
    /// Shown by Ray beside the job. Names that begin with `agent_` are the agent's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The signal that asks it to end; `TERM` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<StopSignal>,
    /// How long it may then take before it is killed, in whole seconds; Ray's own 3 s by default. A grace that a request names has no
    /// effect: Ray takes it only with the job.
    #[serde(
        default,
        with = "crate::text_duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub stop_grace: Option<Duration>,
}

/// What a program finds on its node, in Ray's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuntimeEnv {
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// The directory it starts in: an absolute path on the agent's host (a directory or a `.zip` file), which is packed and uploaded
    /// once for each content, or a URI that the cluster can fetch (`https://`, `s3://`, `gcs://` …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Python modules beside it, each as `working_dir`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub py_modules: Vec<String>,
    /// Python packages that are installed first, as lines of a requirements file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pip: Vec<String>,
    /// The same, installed by `uv`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uv: Vec<String>,
}

impl RuntimeEnv {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A signal that Ray can ask a job to end with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// `SIGTERM`.
    #[default]
    #[serde(alias = "SIGTERM")]
    Term,
    /// `SIGINT`, which reaches Python as `KeyboardInterrupt`.
    #[serde(alias = "SIGINT")]
    Int,
}

impl StopSignal {
    /// As Ray and `kill -l` write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
        }
    }
}

impl JobSpec {
    /// Reads the driver's part of an object.
    pub(crate) fn parse(object: &ObjectSpec) -> Result<Self> {
        let value = match &object.spec {
            Value::Null => json!({}),
            // A list would be taken for the fields in their order.
            Value::Object(_) => object.spec.clone(),
            _ => return Err(Error::invalid("spec", "must be a map")),
        };
        serde_json::from_value(value).map_err(|e| Error::invalid("spec", e.to_string()))
    }

    /// What is wrong with it that its schema lets pass, without a look at the cluster.
    pub(crate) fn check(&self, object: &ObjectSpec) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut say = |path: String, message: &str| found.push(Diagnostic::error(path, message));
        match (&self.adopt, self.command.first()) {
            (Some(_), Some(_)) => say("spec.adopt".into(), "is instead of `command`; give one of them"),
            (None, None) => say("spec.command".into(), "must name a program"),
            (None, Some(program)) if program.is_empty() => {
                say("spec.command[0]".into(), "must name a program")
            }
            (None, Some(program)) if program.starts_with('-') => {
                say(
                    "spec.command[0]".into(),
                    "must not begin with -: the shell of Ray would take it for an option",
                );
            }
            (Some(id), None) if !is_id(id) => {
                say(
                    "spec.adopt".into(),
                    "must be the submission id of a job: letters, digits, _ . -",
                );
            }
            _ => {}
        }
        for (i, word) in self.command.iter().enumerate() {
            if word.contains('\0') {
                say(format!("spec.command[{i}]"), "must not contain a zero byte");
            }
        }
        if quote::entrypoint(&self.command).len() > MAX_TEXT {
            say(
                "spec.command".into(),
                "is longer than a program can be started with (120 KiB)",
            );
        }
        for (name, value) in &self.runtime_env.env_vars {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                say(
                    format!("spec.runtime_env.env_vars[{name:?}]"),
                    "names have no =, and neither part a zero byte",
                );
            }
            if name.starts_with("RAY_JOB_STOP_") {
                say(
                    format!("spec.runtime_env.env_vars.{name}"),
                    "is set by `stop_signal` and `stop_grace`",
                );
            }
        }
        if !self.runtime_env.pip.is_empty() && !self.runtime_env.uv.is_empty() {
            say(
                "spec.runtime_env.uv".into(),
                "does not go together with `pip`; give one of them",
            );
        }
        for (path, place) in self.local_paths() {
            if !place.is_absolute() {
                say(path, "must be an absolute path or a URI");
            } else if !place.exists() {
                say(path, "does not exist on the agent's host");
            } else if place.is_file() && place.extension().is_none_or(|e| e != "zip") {
                say(path, "must be a directory or a .zip file");
            }
        }
        for (name, amount) in &self.custom_resources {
            let path = format!("spec.custom_resources.{name}");
            if matches!(name.as_str(), "CPU" | "GPU" | "memory") {
                say(path, "is set by `resources` of the object");
            } else if !amount.is_finite() || *amount <= 0.0 {
                say(path, "must be more than 0");
            } else if *amount > 1.0 && amount.fract() != 0.0 {
                say(path, "must be a whole number above 1: Ray refuses other ones");
            }
        }
        for name in self.metadata.keys() {
            if name.starts_with("agent_") {
                say(
                    format!("spec.metadata.{name}"),
                    "names that begin with agent_ are the agent's",
                );
            }
        }
        let text = serde_json::to_vec(&(&self.runtime_env, &self.metadata)).map_or(0, |text| text.len());
        if text > MAX_TEXT {
            say(
                "spec.runtime_env".into(),
                "is with `metadata` longer than a program can be started with (120 KiB)",
            );
        }
        check_resources(&object.resources, &mut found);
        found
    }

    /// What of the runtime environment is a path on the agent's host, with its field.
    pub(crate) fn local_paths(&self) -> Vec<(String, &Path)> {
        let env = &self.runtime_env;
        let dir = env
            .working_dir
            .iter()
            .map(|dir| ("spec.runtime_env.working_dir".to_owned(), dir));
        let modules = env.py_modules.iter().enumerate();
        let modules = modules.map(|(i, module)| (format!("spec.runtime_env.py_modules[{i}]"), module));
        dir.chain(modules)
            .filter(|(_, place)| is_local(place))
            .map(|(path, place)| (path, Path::new(place)))
            .collect()
    }

    /// The signal that asks it to end.
    pub(crate) fn stop_signal(&self) -> StopSignal {
        self.stop_signal.unwrap_or_default()
    }

    /// The runtime environment as Ray wants it; `uploaded` says what became of a local path.
    pub(crate) fn runtime_env(&self, uploaded: impl Fn(&str) -> String) -> Map<String, Value> {
        let env = &self.runtime_env;
        let mut variables = env.env_vars.clone();
        if let Some(signal) = self.stop_signal {
            variables.insert("RAY_JOB_STOP_SIGNAL".into(), signal.name().into());
        }
        if let Some(grace) = self.stop_grace {
            let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
            variables.insert("RAY_JOB_STOP_WAIT_TIME_S".into(), seconds.to_string());
        }
        let place = |place: &String| {
            if is_local(place) {
                uploaded(place)
            } else {
                place.clone()
            }
        };
        let mut all = Map::new();
        let mut put = |name: &str, value: Value| {
            all.insert(name.to_owned(), value);
        };
        if !variables.is_empty() {
            put("env_vars", json!(variables));
        }
        if let Some(dir) = &env.working_dir {
            put("working_dir", json!(place(dir)));
        }
        if !env.py_modules.is_empty() {
            put(
                "py_modules",
                json!(env.py_modules.iter().map(place).collect::<Vec<_>>()),
            );
        }
        if !env.pip.is_empty() {
            put("pip", json!(env.pip));
        }
        if !env.uv.is_empty() {
            put("uv", json!(env.uv));
        }
        all
    }

    /// What its first process wants of one node.
    pub(crate) fn capacity(&self, resources: &Resources) -> Capacity {
        let mut amounts = self.custom_resources.clone();
        if let Some(cpu) = resources.cpu {
            amounts.insert("CPU".into(), millis(cpu.millis()));
        }
        if let Some(gpu) = resources.gpu.filter(|gpu| *gpu > 0.0) {
            amounts.insert("GPU".into(), gpu);
        }
        if let Some(memory) = resources.memory {
            #[expect(clippy::cast_precision_loss, reason = "Ray counts memory so, too")]
            amounts.insert("memory".into(), memory.get() as f64);
        }
        Capacity {
            amounts,
            labels: self.label_selector.clone(),
        }
    }

    /// A number that is the same for specs that make the same job.
    pub(crate) fn digest(&self, resources: &Resources) -> u64 {
        let text = serde_json::to_vec(&(self, resources)).unwrap_or_default();
        // FNV-1a: stable over versions and hosts, because it is kept in handles.
        text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
    }
}

fn check_resources(resources: &Resources, found: &mut Vec<Diagnostic>) {
    let mut say =
        |field: &str, message: &str| found.push(Diagnostic::error(format!("resources.{field}"), message));
    for (field, set) in [
        ("pids", resources.pids.is_some()),
        ("io", resources.io.is_some()),
        ("replicas", resources.replicas.is_some_and(|n| n != 1)),
    ] {
        if set {
            say(field, "a Ray job has no such resource");
        }
    }
    if resources.cpu.is_some_and(|cpu| cpu.millis() == 0) {
        say("cpu", "must be more than 0");
    }
    if resources.memory.is_some_and(|memory| memory.get() == 0) {
        say("memory", "must be more than 0");
    }
    if let Some(gpu) = resources.gpu
        && gpu > 1.0
        && gpu.fract() != 0.0
    {
        say("gpu", "must be a whole number above 1: Ray refuses other ones");
    }
    if resources.priority.is_some() {
        found.push(Diagnostic::warning(
            "resources.priority",
            "has no effect on Ray jobs",
        ));
    }
}

/// The limits of a job: what Ray sets aside for it, and holds nobody to.
pub(crate) fn limits(resources: &Resources) -> Vec<LimitStatus> {
    let values = [
        (ResourceField::Cpu, resources.cpu.map(|cpu| cpu.to_string())),
        (
            ResourceField::Memory,
            resources.memory.map(|memory| memory.to_string()),
        ),
        (ResourceField::Gpu, resources.gpu.map(|gpu| gpu.to_string())),
    ];
    values
        .into_iter()
        .filter_map(|(field, value)| {
            Some(LimitStatus {
                field,
                value: value?,
                enforcement: Enforcement::Advisory,
                by: SET_ASIDE.to_owned(),
            })
        })
        .collect()
}

/// What Ray makes of limits.
pub(crate) const SET_ASIDE: &str = "set aside by Ray's scheduler, which holds nobody to it";

#[expect(
    clippy::cast_precision_loss,
    reason = "no cluster has 2⁵² thousandths of a core"
)]
fn millis(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

fn is_local(place: &str) -> bool {
    !place.contains("://")
}

/// Whether a text can be a submission id that calls can be made with.
pub(crate) fn is_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    !text.is_empty() && text.len() <= 200 && text.bytes().all(plain) && !text.bytes().all(|b| b == b'.')
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::{Cpu, Kind, ObjectName};

    use super::*;

    fn object(spec: Value) -> ObjectSpec {
        ObjectSpec {
            spec,
            ..ObjectSpec::new(Kind::new("ray/job").unwrap(), ObjectName::new("j").unwrap())
        }
    }

    fn wrong(spec: Value) -> Vec<String> {
        let object = object(spec);
        let found = JobSpec::parse(&object).unwrap().check(&object);
        found.into_iter().map(|d| d.path).collect()
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(wrong(json!({"command": ["true"]})), [""; 0]);
        for (spec, path) in [
            (json!({}), "spec.command"),
            (json!({"command": [""]}), "spec.command[0]"),
            (json!({"command": ["-c"]}), "spec.command[0]"),
            (json!({"command": ["a", "b\0"]}), "spec.command[1]"),
            (json!({"command": ["x".repeat(130 * 1024)]}), "spec.command"),
            (json!({"command": ["a"], "adopt": "b"}), "spec.adopt"),
            (json!({"adopt": "a/b"}), "spec.adopt"),
            (
                json!({"command": ["a"], "runtime_env": {"env_vars": {"A=B": ""}}}),
                "spec.runtime_env.env_vars[\"A=B\"]",
            ),
            (
                json!({"command": ["a"], "runtime_env": {"env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT"}}}),
                "spec.runtime_env.env_vars.RAY_JOB_STOP_SIGNAL",
            ),
            (
                json!({"command": ["a"], "runtime_env": {"working_dir": "src"}}),
                "spec.runtime_env.working_dir",
            ),
            (
                json!({"command": ["a"], "runtime_env": {"working_dir": "/no/such"}}),
                "spec.runtime_env.working_dir",
            ),
            (
                json!({"command": ["a"], "runtime_env": {"py_modules": ["/etc/passwd"]}}),
                "spec.runtime_env.py_modules[0]",
            ),
            (
                json!({"command": ["a"], "runtime_env": {"pip": ["a"], "uv": ["b"]}}),
                "spec.runtime_env.uv",
            ),
            (
                json!({"command": ["a"], "custom_resources": {"CPU": 1}}),
                "spec.custom_resources.CPU",
            ),
            (
                json!({"command": ["a"], "custom_resources": {"x": -1}}),
                "spec.custom_resources.x",
            ),
            (
                json!({"command": ["a"], "custom_resources": {"x": 1.5}}),
                "spec.custom_resources.x",
            ),
            (
                json!({"command": ["a"], "metadata": {"agent_id": "x"}}),
                "spec.metadata.agent_id",
            ),
        ] {
            assert_eq!(wrong(spec), [path]);
        }
        for spec in [
            json!({"command": "a b"}),
            json!({"command": ["a"], "env": {}}),
            json!(["a"]),
        ] {
            assert!(JobSpec::parse(&object(spec)).is_err());
        }
    }

    #[test]
    fn limits_that_ray_does_not_know_are_refused() {
        let mut object = object(json!({"command": ["a"]}));
        object.resources.pids = Some(3);
        object.resources.gpu = Some(1.5);
        let found = JobSpec::parse(&object).unwrap().check(&object);
        let paths: Vec<_> = found.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["resources.pids", "resources.gpu"]);
    }

    #[test]
    fn stop_settings_go_into_the_environment() {
        let spec = JobSpec::parse(&object(json!({
            "command": ["a"], "stop_signal": "SIGINT", "stop_grace": "1500ms",
            "runtime_env": {"env_vars": {"A": "1"}, "working_dir": "/src", "py_modules": ["s3://b/m.zip"], "pip": ["x==1"]}
        })))
        .unwrap();
        let env = spec.runtime_env(|place| format!("gcs://of{place}"));
        assert_eq!(
            Value::Object(env),
            json!({
                "env_vars": {"A": "1", "RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "2"},
                "working_dir": "gcs://of/src", "py_modules": ["s3://b/m.zip"], "pip": ["x==1"]
            })
        );
        let plain = JobSpec::parse(&object(json!({"command": ["a"]}))).unwrap();
        assert!(plain.runtime_env(|_| unreachable!()).is_empty());
    }

    #[test]
    fn what_is_wanted_of_a_node() {
        let spec = JobSpec::parse(&object(
            json!({"command": ["a"], "custom_resources": {"lab": 0.1}}),
        ))
        .unwrap();
        let resources = Resources {
            cpu: Some(Cpu::from_millis(500)),
            gpu: Some(0.0),
            ..Resources::default()
        };
        let wanted = spec.capacity(&resources);
        assert_eq!(
            wanted.amounts,
            BTreeMap::from([("CPU".into(), 0.5), ("lab".into(), 0.1)])
        );
        assert_ne!(spec.digest(&resources), spec.digest(&Resources::default()));
        assert_eq!(limits(&resources).len(), 2);
    }
}
