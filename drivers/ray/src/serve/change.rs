//! What Serve does for a change of the spec: all of it in place, with or without new replicas.

use agent_api_driver::model::{FieldChange, ObjectSpec, Plan, PlanAction};
use agent_api_driver::{FieldChangeMode, Result};
use serde_json::Value;

use super::spec::{DeploymentSpec, ServeSpec};

/// How Serve makes the changes of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// The application is on another cluster then.
    pub(super) moves: bool,
    /// The code is built anew, and all replicas are replaced.
    pub(super) rebuilds: bool,
    /// The replicas of these deployments are replaced, one after the other.
    pub(super) replaces: Vec<String>,
    /// How Serve was started is not changed by it.
    pub(super) ignored_http: bool,
}

/// Settings in `options` that make Serve build the application anew, or replace replicas.
const REBUILDING: [&str; 2] = ["request_router_config", "deployment_actors"];
const REPLACING: [&str; 5] = [
    "placement_group_bundles",
    "placement_group_strategy",
    "placement_group_bundle_label_selector",
    "max_replicas_per_node",
    "gang_scheduling_config",
];

/// How fields change, for the capabilities.
pub(super) const FIELDS: [(&str, FieldChangeMode); 12] = [
    ("spec.cluster", FieldChangeMode::Recreate),
    ("spec.import_path", FieldChangeMode::Live),
    ("spec.route_prefix", FieldChangeMode::Live),
    ("spec.runtime_env", FieldChangeMode::Live),
    ("spec.args", FieldChangeMode::Live),
    ("spec.deployments", FieldChangeMode::Live),
    ("spec.main", FieldChangeMode::Live),
    ("spec.external_scaler", FieldChangeMode::Live),
    ("resources.replicas", FieldChangeMode::Live),
    ("resources.cpu", FieldChangeMode::Live),
    ("resources.memory", FieldChangeMode::Live),
    ("resources.gpu", FieldChangeMode::Live),
];

/// What becomes of what runs.
pub(super) fn effects(old: (&ObjectSpec, &ServeSpec), new: (&ObjectSpec, &ServeSpec)) -> Effects {
    let ((old_object, old), (new_object, new)) = (old, new);
    let mut effects = Effects {
        moves: old.cluster != new.cluster,
        rebuilds: old.import_path != new.import_path
            || old.runtime_env != new.runtime_env
            || old.args != new.args
            || differing(old, new, |d| REBUILDING.map(|key| d.options.get(key).cloned())),
        replaces: Vec::new(),
        ignored_http: old.http != new.http,
    };
    let per_replica = |object: &ObjectSpec| {
        (
            object.resources.cpu,
            object.resources.memory,
            object.resources.gpu,
        )
    };
    for deployment in &new.deployments {
        let before = old.deployment(&deployment.name);
        let placed = |d: &DeploymentSpec| REPLACING.map(|key| d.options.get(key).cloned());
        let is_main = new.main() == Some(deployment.name.as_str());
        let was_main = old.main() == Some(deployment.name.as_str());
        let wants = |object: &ObjectSpec, main: bool| {
            if main {
                per_replica(object)
            } else {
                (None, None, None)
            }
        };
        let replaced = before.and_then(|d| d.ray_actor_options.as_ref())
            != deployment.ray_actor_options.as_ref()
            || before.map(placed).unwrap_or_default() != placed(deployment)
            || wants(old_object, was_main) != wants(new_object, is_main);
        if replaced {
            effects.replaces.push(deployment.name.clone());
        }
    }
    effects
}

fn differing<T: PartialEq>(old: &ServeSpec, new: &ServeSpec, of: impl Fn(&DeploymentSpec) -> T) -> bool {
    let all = |spec: &ServeSpec| {
        let mut all: Vec<_> = spec.deployments.iter().map(|d| (d.name.clone(), of(d))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let empty = of(&DeploymentSpec::default());
    let set = |spec: &ServeSpec| {
        let mut all = all(spec);
        all.retain(|(_, value)| *value != empty);
        all
    };
    set(old) != set(new)
}

/// The plan of a change, without what the cluster has to say.
pub(super) fn plan(previous: &ObjectSpec, next: &ObjectSpec) -> Result<Plan> {
    let (old, new) = (ServeSpec::parse(&previous.spec)?, ServeSpec::parse(&next.spec)?);
    let json = |object: &ObjectSpec| serde_json::to_value(&object.resources).unwrap_or(Value::Null);
    let mut changes = FieldChange::between("spec", &previous.spec, &next.spec);
    changes.extend(FieldChange::between("resources", &json(previous), &json(next)));
    if old == new && previous.resources == next.resources {
        return Ok(Plan::new(PlanAction::NoOp, Vec::new()));
    }
    let effects = effects((previous, &old), (next, &new));
    if effects.moves {
        return Ok(Plan::new(PlanAction::Recreate, changes)
            .because("on another cluster it is another application: it is removed here and deployed there"));
    }
    let reason = if effects.rebuilds {
        "Serve builds the application anew and then replaces its replicas one after the other; until it is built the old ones answer"
            .to_owned()
    } else if effects.replaces.is_empty() {
        "the replicas stay".to_owned()
    } else {
        format!(
            "Serve replaces the replicas of {} one after the other",
            effects.replaces.join(", ")
        )
    };
    Ok(Plan::new(PlanAction::InPlace, changes).because(reason))
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::Cpu;
    use serde_json::json;

    use super::*;
    use crate::serve::tests::object;

    fn planned(change: impl FnOnce(&mut ObjectSpec)) -> (PlanAction, String) {
        let old = object(
            "web",
            json!({"import_path": "a:b", "deployments": [{"name": "D", "num_replicas": 1, "ray_actor_options": {"num_cpus": 1}}]}),
        );
        let mut new = old.clone();
        change(&mut new);
        let plan = plan(&old, &new).unwrap();
        (plan.action, plan.reason)
    }

    #[test]
    fn what_is_replaced_is_said() {
        assert_eq!(planned(|_| {}).0, PlanAction::NoOp);
        for (field, value, reason) in [
            ("num_replicas", json!(2), "the replicas stay"),
            ("user_config", json!({"a": 1}), "the replicas stay"),
            (
                "ray_actor_options",
                json!({"num_cpus": 2}),
                "Serve replaces the replicas of D one after the other",
            ),
            (
                "options",
                json!({"max_replicas_per_node": 1}),
                "Serve replaces the replicas of D one after the other",
            ),
        ] {
            let (action, why) = planned(|o| o.spec["deployments"][0][field] = value);
            assert_eq!((action, why.as_str()), (PlanAction::InPlace, reason), "{field}");
        }
        let (action, why) = planned(|o| o.resources.cpu = Some(Cpu::from_millis(500)));
        assert_eq!(action, PlanAction::InPlace);
        assert!(why.contains("replicas of D"), "{why}");
        for (field, value) in [
            ("import_path", json!("a:c")),
            ("args", json!({"x": 1})),
            ("runtime_env", json!({"env_vars": {"A": "1"}})),
        ] {
            let (action, why) = planned(|o| o.spec[field] = value);
            assert_eq!(action, PlanAction::InPlace);
            assert!(why.contains("builds the application anew"), "{field}: {why}");
        }
        let router = json!({"request_router_config": {"request_router_class": "x:y"}});
        assert!(
            planned(|o| o.spec["deployments"][0]["options"] = router)
                .1
                .contains("anew")
        );
        assert_eq!(
            planned(|o| o.spec["cluster"] = json!("b")).0,
            PlanAction::Recreate
        );
        assert_eq!(
            planned(|o| o.spec["route_prefix"] = json!("/x")).1,
            "the replicas stay"
        );
        // Written out, and the same all the same.
        assert_eq!(planned(|o| o.spec["args"] = json!({})).0, PlanAction::NoOp);
    }
}
