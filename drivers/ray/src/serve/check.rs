//! What is wrong with a spec in itself, whatever the cluster.

use std::collections::BTreeSet;

use agent_api_driver::model::{Diagnostic, ObjectSpec, ResourceField};
use serde_json::{Map, Value};

use super::spec::{DeploymentSpec, ServeSpec};

/// Environment variables that are the agent's mark.
pub(super) const MARKS: [&str; 3] = ["AGENT_ID", "AGENT_GUID", "AGENT_OP_ID"];

/// Settings of a deployment that have a field of their own and cannot be in `options`.
const OWN_FIELDS: [&str; 9] = [
    "name",
    "num_replicas",
    "autoscaling_config",
    "ray_actor_options",
    "user_config",
    "max_ongoing_requests",
    "graceful_shutdown_timeout_s",
    "health_check_period_s",
    "health_check_timeout_s",
];

impl ServeSpec {
    /// All that is wrong with it, with paths.
    pub(crate) fn check(&self, object: &ObjectSpec) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        check_import_path(&self.import_path, &mut found);
        if let Some(prefix) = self.route_prefix(object.name.as_str())
            && (!prefix.starts_with('/')
                || (prefix.len() > 1 && prefix.ends_with('/'))
                || prefix.contains(['{', '}', ' ', '?', '#']))
        {
            found.push(Diagnostic::error(
                "spec.route_prefix",
                "must begin with `/`, must not end with it, and has no `{`, `}`, `?`, `#` or spaces",
            ));
        }
        check_runtime_env("spec.runtime_env", &self.runtime_env, true, &mut found);
        let mut names = BTreeSet::new();
        for (i, deployment) in self.deployments.iter().enumerate() {
            let path = format!("spec.deployments[{i}]");
            if !names.insert(deployment.name.as_str()) {
                found.push(Diagnostic::error(
                    format!("{path}.name"),
                    format!("{} is named twice", deployment.name),
                ));
            }
            deployment.check(&path, self.external_scaler, &mut found);
        }
        if self.http.as_ref().is_some_and(|http| http.port == Some(0)) {
            found.push(Diagnostic::error(
                "spec.http.port",
                "must not be 0: nobody could say which it is",
            ));
        }
        self.check_resources(object, &mut found);
        found
    }

    fn check_resources(&self, object: &ObjectSpec, found: &mut Vec<Diagnostic>) {
        let wanted = &object.resources;
        for (set, field, why) in [
            (
                wanted.pids.is_some(),
                ResourceField::Pids,
                "Ray does not limit processes",
            ),
            (
                wanted.io.is_some(),
                ResourceField::Io,
                "Ray does not limit input and output",
            ),
            (
                wanted.priority.is_some(),
                ResourceField::Priority,
                "Serve knows no priorities",
            ),
        ] {
            if set {
                found.push(Diagnostic::error(format!("resources.{field}"), why));
            }
        }
        let given = [
            (wanted.replicas.is_some(), ResourceField::Replicas),
            (wanted.cpu.is_some(), ResourceField::Cpu),
            (wanted.memory.is_some(), ResourceField::Memory),
            (wanted.gpu.is_some(), ResourceField::Gpu),
        ];
        let Some(main) = self.main() else {
            for (_, field) in given.iter().filter(|(set, _)| *set) {
                found.push(Diagnostic::error(
                    format!("resources.{field}"),
                    "which deployment is it for? Name it in `spec.main`",
                ));
            }
            return;
        };
        if wanted.replicas.is_some() && self.deployment(main).is_some_and(|d| d.autoscaling.is_some()) {
            found.push(Diagnostic::error(
                "resources.replicas",
                format!("Serve chooses the number of replicas of {main} itself, by its `autoscaling`"),
            ));
        }
        if wanted.replicas == Some(0) && !self.external_scaler {
            found.push(Diagnostic::error(
                "resources.replicas",
                "Serve goes down to 0 only with `external_scaler: true`",
            ));
        }
    }
}

impl DeploymentSpec {
    fn check(&self, path: &str, external_scaler: bool, found: &mut Vec<Diagnostic>) {
        let mut say = |field: &str, message: String| {
            found.push(Diagnostic::error(format!("{path}.{field}"), message));
        };
        if self.num_replicas == Some(0) {
            say("num_replicas", "must be at least 1".into());
        }
        if self.max_ongoing_requests == Some(0) {
            say("max_ongoing_requests", "must be at least 1".into());
        }
        if let Some(scaling) = &self.autoscaling {
            let min = scaling.min_replicas.unwrap_or(1);
            let initial = scaling.initial_replicas.unwrap_or(min);
            if self.num_replicas.is_some() {
                say(
                    "num_replicas",
                    "cannot be given with `autoscaling`, which chooses it".into(),
                );
            }
            if external_scaler {
                say(
                    "autoscaling",
                    "cannot be given with `external_scaler`: one of them chooses".into(),
                );
            }
            if scaling.max_replicas == 0 || !(min..=scaling.max_replicas).contains(&initial) {
                say(
                    "autoscaling",
                    "must have min_replicas ≤ initial_replicas ≤ max_replicas, and max_replicas above 0"
                        .into(),
                );
            }
            if scaling
                .target_ongoing_requests
                .is_some_and(|target| !(target > 0.0 && target.is_finite()))
            {
                say("autoscaling.target_ongoing_requests", "must be above 0".into());
            }
        }
        if let Some(options) = &self.ray_actor_options {
            let amounts = [("num_cpus", options.num_cpus), ("num_gpus", options.num_gpus)];
            for (field, amount) in amounts {
                if amount.is_some_and(|amount| !(amount >= 0.0 && amount.is_finite())) {
                    say(
                        &format!("ray_actor_options.{field}"),
                        "must not be negative".into(),
                    );
                }
            }
            for (name, amount) in &options.resources {
                if !(*amount >= 0.0 && amount.is_finite())
                    || matches!(name.as_str(), "CPU" | "GPU" | "memory")
                {
                    say(
                        &format!("ray_actor_options.resources.{name}"),
                        "must not be negative, and CPU, GPU and memory have fields of their own".into(),
                    );
                }
            }
        }
        for name in self
            .options
            .keys()
            .filter(|name| OWN_FIELDS.contains(&name.as_str()))
        {
            say(
                &format!("options.{name}"),
                "has a field of its own, or is what `autoscaling` writes".into(),
            );
        }
        if let Some(options) = &self.ray_actor_options {
            let path = format!("{path}.ray_actor_options.runtime_env");
            check_runtime_env(&path, &options.runtime_env, false, found);
        }
    }
}

/// Serve's own rule, so that it is said before anything is sent.
fn check_import_path(path: &str, found: &mut Vec<Diagnostic>) {
    let whole = |parts: Vec<&str>| parts.len() == 2 && parts.iter().all(|part| !part.is_empty());
    let fine = if path.contains(':') {
        whole(path.split(':').collect())
    } else {
        path.rsplit_once('.')
            .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty())
    };
    if !fine || path.contains(char::is_whitespace) {
        found.push(Diagnostic::error(
            "spec.import_path",
            "must be of the form `module.sub:name`",
        ));
    }
}

/// What Ray takes at first and fails on later.
fn check_runtime_env(path: &str, env: &Map<String, Value>, local: bool, found: &mut Vec<Diagnostic>) {
    match env.get("env_vars") {
        None => {}
        Some(Value::Object(vars)) => {
            for (name, value) in vars {
                if !value.is_string() {
                    found.push(Diagnostic::error(
                        format!("{path}.env_vars.{name}"),
                        "must be a text",
                    ));
                }
                if MARKS.contains(&name.as_str()) {
                    found.push(Diagnostic::error(
                        format!("{path}.env_vars.{name}"),
                        "is set by the agent: it is the mark by which the application is found again",
                    ));
                }
            }
        }
        Some(_) => found.push(Diagnostic::error(
            format!("{path}.env_vars"),
            "must be a map of texts",
        )),
    }
    match env.get("working_dir") {
        None => {}
        Some(Value::String(dir)) if is_address(dir) => {}
        Some(Value::String(dir)) if local && std::path::Path::new(dir).is_absolute() => {}
        Some(_) => found.push(Diagnostic::error(
            format!("{path}.working_dir"),
            if local {
                "must be an absolute path of this host, or an address such as gcs://… or https://…"
            } else {
                "must be an address such as gcs://… or https://…"
            },
        )),
    }
    if let Some(modules) = env.get("py_modules") {
        let addresses = modules
            .as_array()
            .is_some_and(|list| list.iter().all(|item| item.as_str().is_some_and(is_address)));
        if !addresses {
            found.push(Diagnostic::error(
                format!("{path}.py_modules"),
                "must be a list of addresses such as gcs://… or https://…",
            ));
        }
    }
}

/// Whether it is an address and not a path.
pub(super) fn is_address(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !scheme.contains('/'))
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::{Cpu, Resources};
    use serde_json::json;

    use super::*;
    use crate::serve::tests::object;

    fn paths(spec: Value, resources: Resources) -> Vec<String> {
        let mut object = object("web", spec);
        object.resources = resources;
        ServeSpec::parse(&object.spec)
            .unwrap()
            .check(&object)
            .into_iter()
            .map(|d| d.path)
            .collect()
    }

    #[test]
    fn a_plain_spec_is_fine() {
        let spec = json!({
            "import_path": "app.main:app", "runtime_env": {"working_dir": "/srv/app", "env_vars": {"A": "1"}},
            "deployments": [{"name": "D", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}, "options": {"max_queued_requests": 5}}]
        });
        let resources = Resources {
            replicas: Some(3),
            cpu: Some(Cpu::from_millis(500)),
            ..Resources::default()
        };
        assert_eq!(paths(spec, resources), Vec::<String>::new());
    }

    #[test]
    fn wrong_fields_are_named() {
        let none = Resources::default;
        for import_path in ["app", ":app", "app:", "a:b:c", ".app", "a b:c"] {
            assert_eq!(
                paths(json!({"import_path": import_path}), none()),
                ["spec.import_path"]
            );
        }
        for prefix in ["x", "/x/", "/{x}"] {
            let spec = json!({"import_path": "a:b", "route_prefix": prefix});
            assert_eq!(paths(spec, none()), ["spec.route_prefix"]);
        }
        assert!(paths(json!({"import_path": "a:b", "route_prefix": null}), none()).is_empty());
        let env = json!({"import_path": "a:b", "runtime_env": {"working_dir": "here", "env_vars": {"A": 1, "AGENT_GUID": "x"}, "py_modules": ["x"]}});
        assert_eq!(
            paths(env, none()),
            [
                "spec.runtime_env.env_vars.A",
                "spec.runtime_env.env_vars.AGENT_GUID",
                "spec.runtime_env.working_dir",
                "spec.runtime_env.py_modules"
            ]
        );
        let deployments = json!({"import_path": "a:b", "external_scaler": true, "deployments": [
            {"name": "A", "num_replicas": 0, "autoscaling": {"min_replicas": 3, "max_replicas": 2}},
            {"name": "A", "options": {"num_replicas": 1}, "ray_actor_options": {"num_cpus": -1, "resources": {"CPU": 1}}}
        ]});
        assert_eq!(
            paths(deployments, none()),
            [
                "spec.deployments[0].num_replicas",
                "spec.deployments[0].num_replicas",
                "spec.deployments[0].autoscaling",
                "spec.deployments[0].autoscaling",
                "spec.deployments[1].name",
                "spec.deployments[1].ray_actor_options.num_cpus",
                "spec.deployments[1].ray_actor_options.resources.CPU",
                "spec.deployments[1].options.num_replicas"
            ]
        );
    }

    #[test]
    fn resources_are_those_of_the_main_deployment() {
        let replicas = |n| Resources {
            replicas: Some(n),
            ..Resources::default()
        };
        let two = json!({"import_path": "a:b", "deployments": [{"name": "A"}, {"name": "B"}]});
        assert_eq!(paths(two, replicas(2)), ["resources.replicas"]);
        let named = json!({"import_path": "a:b", "main": "B", "deployments": [{"name": "A"}, {"name": "B"}]});
        assert!(paths(named, replicas(2)).is_empty());
        let scaled =
            json!({"import_path": "a:b", "deployments": [{"name": "A", "autoscaling": {"max_replicas": 2}}]});
        assert_eq!(paths(scaled, replicas(2)), ["resources.replicas"]);
        assert_eq!(
            paths(json!({"import_path": "a:b", "main": "A"}), replicas(0)),
            ["resources.replicas"]
        );
        assert!(
            paths(
                json!({"import_path": "a:b", "main": "A", "external_scaler": true}),
                replicas(0)
            )
            .is_empty()
        );
        let pids = Resources {
            pids: Some(5),
            ..Resources::default()
        };
        assert_eq!(paths(json!({"import_path": "a:b"}), pids), ["resources.pids"]);
    }
}
