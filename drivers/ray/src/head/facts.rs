//! What is known of a head, and what its nodes can give.

use std::collections::BTreeMap;

use agent_api_driver::model::{Error, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Facts, Look};
use crate::sdk::{Node, Version};

/// A time without an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outage {
    pub since: Timestamp,
    pub reason: String,
}

impl Facts {
    pub(super) fn seen(&mut self, version: Version) -> Look {
        let was_away = self.outage.take().is_some();
        let before = self.version.replace(version.clone());
        match before {
            Some(before) if before.session_name == version.session_name => {
                if was_away {
                    self.nodes = None;
                    Look::Back
                } else {
                    Look::Same
                }
            }
            before => {
                self.nodes = None;
                // Whether the new session tells by itself is to be seen.
                self.told = None;
                Look::NewSession {
                    before: before.map(|version| version.session_name),
                }
            }
        }
    }

    pub(super) fn not_seen(&mut self, error: &Error) {
        let since = self
            .outage
            .as_ref()
            .map_or_else(Timestamp::now, |outage| outage.since);
        self.outage = Some(Outage {
            since,
            reason: error.message().to_owned(),
        });
    }
}

/// What one thing that is placed on a single node wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Capacity {
    /// Amounts by Ray's names: `CPU`, `GPU`, `memory`, custom ones.
    pub amounts: BTreeMap<String, f64>,
    /// Labels that the node must have, with these values.
    pub labels: BTreeMap<String, String>,
}

impl Capacity {
    /// Whether any node will do.
    pub(crate) fn is_empty(&self) -> bool {
        self.amounts.is_empty() && self.labels.is_empty()
    }

    /// Why no node can ever give it, with the numbers; none where one can. Dead nodes do not count.
    pub(crate) fn why_infeasible(&self, nodes: &[Node]) -> Option<String> {
        let alive = || nodes.iter().filter(|node| node.is_alive());
        let gives = |node: &Node, name: &str| node.resources_total.get(name).copied().unwrap_or(0.0);
        let fits = |node: &Node| {
            self.amounts
                .iter()
                .all(|(name, wanted)| gives(node, name) >= *wanted)
        };
        let bears = |node: &Node| {
            self.labels
                .iter()
                .all(|(key, value)| matches_label(node, key, value))
        };
        if alive().any(|node| fits(node) && bears(node)) {
            return None;
        }
        let count = alive().count();
        if !self.labels.is_empty() && !alive().any(bears) {
            let wanted: Vec<_> = self
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            return Some(format!(
                "none of {count} nodes has the labels {}",
                wanted.join(", ")
            ));
        }
        let most = |name: &str| {
            alive()
                .filter(|n| bears(n))
                .map(|n| gives(n, name))
                .fold(0.0, f64::max)
        };
        let short: Vec<_> = self
            .amounts
            .iter()
            .filter(|(name, wanted)| most(name) < **wanted)
            .map(|(name, wanted)| format!("{name} {wanted} is wanted, the largest node has {}", most(name)))
            .collect();
        if short.is_empty() {
            let wanted: Vec<_> = self
                .amounts
                .iter()
                .map(|(name, wanted)| format!("{name} {wanted}"))
                .collect();
            return Some(format!(
                "none of {count} nodes has {} together",
                wanted.join(" and ")
            ));
        }
        Some(format!("no node can give it: {}", short.join("; ")))
    }
}

/// Ray's selectors: `value`, `!value`, `in(a,b)`, `!in(a,b)`.
fn matches_label(node: &Node, key: &str, selector: &str) -> bool {
    let value = node.labels.get(key).map(String::as_str);
    let (negated, rest) = match selector.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, selector),
    };
    let found = match rest.strip_prefix("in(").and_then(|list| list.strip_suffix(')')) {
        Some(list) => list.split(',').any(|one| Some(one.trim()) == value),
        None => Some(rest) == value,
    };
    found != negated
}

#[cfg(test)]
mod tests {
    use agent_api_driver::model::ErrorKind;
    use serde_json::json;

    use super::*;

    fn version(session: &str) -> Version {
        Version {
            ray_version: "2.60.0".into(),
            session_name: session.into(),
        }
    }

    #[test]
    fn a_restart_is_told_from_an_outage() {
        let mut facts = Facts::default();
        assert!(matches!(
            facts.seen(version("a")),
            Look::NewSession { before: None }
        ));
        assert!(matches!(facts.seen(version("a")), Look::Same));
        let error = Error::new(ErrorKind::Unavailable, "refused");
        facts.not_seen(&error);
        let since = facts.outage.as_ref().unwrap().since;
        facts.not_seen(&error);
        assert_eq!(facts.outage.as_ref().unwrap().since, since, "one outage");
        assert!(matches!(facts.seen(version("a")), Look::Back));
        facts.not_seen(&error);
        match facts.seen(version("b")) {
            Look::NewSession { before } => assert_eq!(before.as_deref(), Some("a")),
            other => panic!("{other:?}"),
        }
    }

    fn node(state: &str, cpu: f64, gpu: f64, lab: &str) -> Node {
        serde_json::from_value(json!({
            "node_id": lab, "state": state, "resources_total": {"CPU": cpu, "GPU": gpu}, "labels": {"lab": lab}
        }))
        .unwrap()
    }

    fn wants(amounts: &[(&str, f64)], labels: &[(&str, &str)]) -> Capacity {
        Capacity {
            amounts: amounts.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_no_node_can_give_is_said_with_numbers() {
        let nodes = [
            node("ALIVE", 4.0, 0.0, "head"),
            node("ALIVE", 1.0, 2.0, "n1"),
            node("DEAD", 64.0, 8.0, "n2"),
        ];
        let why = |wanted: Capacity| wanted.why_infeasible(&nodes);
        assert_eq!(why(wants(&[], &[])), None);
        assert_eq!(why(wants(&[("CPU", 4.0)], &[])), None);
        assert_eq!(
            why(wants(&[("CPU", 8.0)], &[])).unwrap(),
            "no node can give it: CPU 8 is wanted, the largest node has 4"
        );
        assert_eq!(
            why(wants(&[("CPU", 2.0), ("GPU", 1.0)], &[])).unwrap(),
            "none of 2 nodes has CPU 2 and GPU 1 together"
        );
        assert_eq!(
            why(wants(&[("CPU", 2.0)], &[("lab", "n1")])).unwrap(),
            "no node can give it: CPU 2 is wanted, the largest node has 1"
        );
        assert_eq!(
            why(wants(&[], &[("lab", "n2")])).unwrap(),
            "none of 2 nodes has the labels lab=n2"
        );
        assert_eq!(why(wants(&[], &[("lab", "!head")])), None);
        assert_eq!(why(wants(&[], &[("lab", "in(n1, n7)")])), None);
        assert!(why(wants(&[], &[("lab", "!in(head,n1)")])).is_some());
    }
}
