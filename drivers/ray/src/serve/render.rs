//! What is sent to Serve for a spec, the mark in it, and what of it tells one from another.

use std::fmt::Write as _;

use agent_api_driver::Mark;
use agent_api_driver::model::{ObjectSpec, ResourceField, Resources};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::check::MARKS;
use super::spec::{ActorOptions, Autoscaling, DeploymentSpec, HttpSpec, ProxyLocation, ServeSpec};

/// The configuration of an application in Serve's form.
pub(super) type Config = Map<String, Value>;

/// What Serve is to run, without the mark. `working_dir` is the address of the package, where the spec names a local directory.
pub(super) fn render(spec: &ServeSpec, object: &ObjectSpec, name: &str, working_dir: Option<&str>) -> Config {
    let mut config = Config::new();
    config.insert("name".into(), json!(name));
    config.insert("route_prefix".into(), json!(spec.route_prefix(name)));
    config.insert("import_path".into(), json!(spec.import_path));
    let mut env = spec.runtime_env.clone();
    if let Some(address) = working_dir {
        env.insert("working_dir".into(), json!(address));
    }
    config.insert("runtime_env".into(), Value::Object(env));
    if !spec.args.is_empty() {
        config.insert("args".into(), Value::Object(spec.args.clone()));
    }
    let main = spec.main();
    let mut deployments: Vec<Value> = spec
        .deployments
        .iter()
        .map(|d| deployment(d, (Some(d.name.as_str()) == main).then_some(&object.resources)))
        .collect();
    if let Some(main) = main
        && spec.deployment(main).is_none()
        && has_any(&object.resources)
    {
        let bare = DeploymentSpec {
            name: main.to_owned(),
            ..DeploymentSpec::default()
        };
        deployments.push(deployment(&bare, Some(&object.resources)));
    }
    if !deployments.is_empty() {
        config.insert("deployments".into(), Value::Array(deployments));
    }
    if spec.external_scaler {
        config.insert("external_scaler_enabled".into(), json!(true));
    }
    config
}

fn has_any(resources: &Resources) -> bool {
    resources.replicas.is_some()
        || resources.cpu.is_some()
        || resources.memory.is_some()
        || resources.gpu.is_some()
}

/// Settings of a deployment; `resources` of the object go before its own.
fn deployment(spec: &DeploymentSpec, resources: Option<&Resources>) -> Value {
    let mut map = spec.options.clone();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    set("name", Some(json!(spec.name)));
    // Serve takes 0 only from its scale call.
    let wanted = resources
        .and_then(|resources| resources.replicas)
        .map(|n| n.max(1));
    set("num_replicas", wanted.or(spec.num_replicas).map(|n| json!(n)));
    if let Some(scaling) = &spec.autoscaling {
        set("num_replicas", Some(json!("auto")));
        set("autoscaling_config", Some(autoscaling(scaling)));
    }
    set(
        "ray_actor_options",
        actor_options(spec.ray_actor_options.as_ref(), resources),
    );
    set("user_config", spec.user_config.clone().map(Value::Object));
    set(
        "max_ongoing_requests",
        spec.max_ongoing_requests.map(|n| json!(n)),
    );
    for (key, duration) in [
        ("graceful_shutdown_timeout_s", spec.graceful_shutdown_timeout),
        ("health_check_period_s", spec.health_check_period),
        ("health_check_timeout_s", spec.health_check_timeout),
    ] {
        set(key, duration.map(|d| json!(d.as_secs_f64())));
    }
    Value::Object(map)
}

fn autoscaling(scaling: &Autoscaling) -> Value {
    let mut map = Map::new();
    map.insert("max_replicas".into(), json!(scaling.max_replicas));
    for (key, value) in [
        ("min_replicas", scaling.min_replicas.map(|n| json!(n))),
        ("initial_replicas", scaling.initial_replicas.map(|n| json!(n))),
        (
            "target_ongoing_requests",
            scaling.target_ongoing_requests.map(|n| json!(n)),
        ),
        (
            "upscale_delay_s",
            scaling.upscale_delay.map(|d| json!(d.as_secs_f64())),
        ),
        (
            "downscale_delay_s",
            scaling.downscale_delay.map(|d| json!(d.as_secs_f64())),
        ),
    ] {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    }
    Value::Object(map)
}

fn actor_options(given: Option<&ActorOptions>, resources: Option<&Resources>) -> Option<Value> {
    let mut options = given.cloned().unwrap_or_default();
    if let Some(resources) = resources {
        if let Some(cpu) = resources.cpu {
            options.num_cpus = Some(cpu.millis() as f64 / 1000.0);
        }
        if let Some(memory) = resources.memory {
            options.memory = Some(memory.get());
        }
        options.num_gpus = resources.gpu.or(options.num_gpus);
    }
    (options != ActorOptions::default() || given.is_some()).then(|| json!(options))
}

/// How Serve is started where it does not run.
pub(super) fn start_options(http: Option<&HttpSpec>) -> (Option<&'static str>, Value) {
    let http = http.cloned().unwrap_or_default();
    (
        http.location.map(ProxyLocation::as_str),
        json!({
            // Serve's own default is all addresses, which nobody asked for.
            "host": http.host.unwrap_or_else(|| "127.0.0.1".to_owned()),
            "port": http.port.unwrap_or(8000),
        }),
    )
}

/// The configuration with the mark in it, where all its processes bear it.
pub(super) fn with_mark(mut config: Config, mark: &Mark) -> Config {
    let env = config.entry("runtime_env").or_insert_with(|| json!({}));
    if let Value::Object(env) = env {
        let vars = env.entry("env_vars").or_insert_with(|| json!({}));
        if let Value::Object(vars) = vars {
            let values = [
                mark.agent.to_string(),
                mark.guid.to_string(),
                mark.op_id.to_string(),
            ];
            for (name, value) in MARKS.into_iter().zip(values) {
                vars.insert(name.into(), json!(value));
            }
        }
    }
    config
}

/// The mark in a configuration, where there is one.
pub(super) fn mark_of(config: &Config) -> Option<Mark> {
    let vars = config.get("runtime_env")?.get("env_vars")?;
    let text = |name: &str| vars.get(name).and_then(Value::as_str);
    Some(Mark {
        agent: agent_api_driver::model::AgentId::new(text("AGENT_ID")?).ok()?,
        guid: text("AGENT_GUID")?.parse().ok()?,
        op_id: text("AGENT_OP_ID")?.parse().ok()?,
    })
}

/// What tells one configuration from another: all that the spec decides, whatever the order of its keys, and neither the mark nor what
/// Serve adds of its own.
pub(super) fn digest(config: &Config) -> String {
    let mut plain = config.clone();
    // Serve sets it on all applications, where it was PUT for Serve as a whole.
    plain.remove("logging_config");
    if let Some(Value::Object(env)) = plain.get_mut("runtime_env")
        && let Some(Value::Object(vars)) = env.get_mut("env_vars")
    {
        vars.retain(|name, _| !MARKS.contains(&name.as_str()));
        if vars.is_empty() {
            env.remove("env_vars");
        }
    }
    let mut text = String::new();
    write_sorted(&Value::Object(plain), &mut text);
    let mut out = String::new();
    for byte in &Sha256::digest(text.as_bytes())[..16] {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// JSON with sorted keys and all numbers as fractions: Serve writes 5 back as 5.0 where it wants one.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                let _ = write!(out, "{}:", Value::String(key.clone()));
                write_sorted(&map[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_sorted(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Number(number) => {
            let _ = write!(out, "{:?}", number.as_f64().unwrap_or(f64::NAN));
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// The limits of an object and what holds them, as far as they are known without the cluster.
pub(super) const LIMITS: [(ResourceField, &str); 4] = [
    (ResourceField::Replicas, "Serve's controller"),
    (
        ResourceField::Cpu,
        "set aside by Ray's scheduler for each replica; nothing holds it to that",
    ),
    (
        ResourceField::Memory,
        "set aside by Ray's scheduler for each replica; nothing holds it to that",
    ),
    (
        ResourceField::Gpu,
        "set aside by Ray's scheduler for each replica; it sees no other accelerators",
    ),
];

#[cfg(test)]
mod tests {
    use agent_api_driver::model::{AgentId, ByteQuantity, Cpu, Guid, OpId};

    use super::*;
    use crate::serve::tests::object;

    fn rendered(spec: Value, resources: Resources) -> Config {
        let mut object = object("web", spec);
        object.resources = resources;
        render(&ServeSpec::parse(&object.spec).unwrap(), &object, "web", None)
    }

    #[test]
    fn a_spec_becomes_serves_form() {
        let spec = json!({
            "import_path": "app:build", "runtime_env": {"env_vars": {"A": "1"}, "pip": ["x"]}, "args": {"word": "hi"},
            "external_scaler": true, "main": "B",
            "deployments": [
                {"name": "A", "autoscaling": {"min_replicas": 1, "max_replicas": 4, "upscale_delay": "500ms"}, "user_config": {"k": 1},
                 "options": {"max_queued_requests": 9}},
                {"name": "B", "num_replicas": 2, "graceful_shutdown_timeout": "5s", "ray_actor_options": {"num_cpus": 1.0, "resources": {"lab": 0.1}}}
            ]
        });
        let resources = Resources {
            replicas: Some(0),
            cpu: Some(Cpu::from_millis(250)),
            memory: Some(ByteQuantity::new(1 << 20)),
            ..Resources::default()
        };
        assert_eq!(
            Value::Object(rendered(spec, resources)),
            json!({
                "name": "web", "route_prefix": "/web", "import_path": "app:build",
                "runtime_env": {"env_vars": {"A": "1"}, "pip": ["x"]}, "args": {"word": "hi"}, "external_scaler_enabled": true,
                "deployments": [
                    {"name": "A", "num_replicas": "auto", "user_config": {"k": 1}, "max_queued_requests": 9,
                     "autoscaling_config": {"min_replicas": 1, "max_replicas": 4, "upscale_delay_s": 0.5}},
                    {"name": "B", "num_replicas": 1, "graceful_shutdown_timeout_s": 5.0,
                     "ray_actor_options": {"num_cpus": 0.25, "memory": 1 << 20, "resources": {"lab": 0.1}}}
                ]
            })
        );
        let bare = rendered(
            json!({"import_path": "app:build", "main": "M", "route_prefix": null}),
            Resources {
                replicas: Some(3),
                ..Resources::default()
            },
        );
        assert_eq!(
            Value::Object(bare),
            json!({"name": "web", "route_prefix": null, "import_path": "app:build", "runtime_env": {}, "deployments": [{"name": "M", "num_replicas": 3}]})
        );
    }

    #[test]
    fn the_mark_is_found_again_and_is_no_difference() {
        let mark = Mark {
            agent: AgentId::new("a1").unwrap(),
            guid: Guid::generate(),
            op_id: OpId::generate(),
        };
        let plain = rendered(json!({"import_path": "a:b"}), Resources::default());
        assert_eq!(mark_of(&plain), None);
        let marked = with_mark(plain.clone(), &mark);
        assert_eq!(mark_of(&marked), Some(mark.clone()));
        assert_eq!(digest(&marked), digest(&plain));
        let with_vars = rendered(
            json!({"import_path": "a:b", "runtime_env": {"env_vars": {"A": "1"}}}),
            Resources::default(),
        );
        assert_ne!(digest(&with_vars), digest(&plain));
        assert_eq!(digest(&with_mark(with_vars.clone(), &mark)), digest(&with_vars));
    }

    #[test]
    fn what_serve_writes_otherwise_is_no_difference() {
        let of = |value: Value| digest(value.as_object().unwrap());
        assert_eq!(
            of(json!({"name": "a", "x": {"b": 5, "a": [1, 2]}})),
            of(json!({"x": {"a": [1.0, 2], "b": 5.0}, "name": "a", "logging_config": {"encoding": "TEXT"}}))
        );
        assert_ne!(of(json!({"x": [1, 2]})), of(json!({"x": [2, 1]})));
        assert_ne!(of(json!({"x": "1"})), of(json!({"x": 1})));
    }

    #[test]
    fn serve_is_started_on_this_host_only() {
        let (location, http) = start_options(None);
        assert_eq!(
            (location, http),
            (None, json!({"host": "127.0.0.1", "port": 8000}))
        );
        let given = HttpSpec {
            host: Some("10.0.0.5".into()),
            port: Some(80),
            location: Some(ProxyLocation::HeadOnly),
        };
        let (location, http) = start_options(Some(&given));
        assert_eq!(
            (location, http),
            (Some("HeadOnly"), json!({"host": "10.0.0.5", "port": 80}))
        );
    }
}
