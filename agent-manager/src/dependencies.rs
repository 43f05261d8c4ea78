//! Who depends on whom, over all partitions.

use std::collections::{BTreeSet, HashMap, HashSet};

use agent_api_model::{Error, Guid, ObjectName, ObjectSpec, Result};

/// The graph of dependencies, by name: an object may be created before what it depends on. Only objects that depend
/// on something are in it.
#[derive(Default)]
pub(crate) struct Graph {
    needs: HashMap<ObjectName, Node>,
    needed_by: HashMap<ObjectName, BTreeSet<ObjectName>>,
}

struct Node {
    guid: Guid,
    names: Vec<ObjectName>,
}

impl Graph {
    /// Sets what an object depends on, unless that would close a cycle.
    pub(crate) fn set(&mut self, guid: Guid, spec: &ObjectSpec) -> Result<()> {
        let names: Vec<ObjectName> = spec.depends_on.iter().map(|needed| needed.name.clone()).collect();
        if let Some(cycle) = self.cycle(&spec.name, &names) {
            let cycle: Vec<_> = cycle.iter().map(ObjectName::as_str).collect();
            return Err(Error::invalid(
                "depends_on",
                format!("these objects would wait for each other: {}", cycle.join(" → ")),
            )
            .with_object(&spec.name)
            .with_hint("take one of these dependencies away"));
        }
        self.remove(&spec.name);
        if !names.is_empty() {
            for name in &names {
                self.needed_by
                    .entry(name.clone())
                    .or_default()
                    .insert(spec.name.clone());
            }
            self.needs.insert(spec.name.clone(), Node { guid, names });
        }
        Ok(())
    }

    /// Takes an object out; what it depended on.
    pub(crate) fn remove(&mut self, name: &ObjectName) -> Vec<ObjectName> {
        let Some(node) = self.needs.remove(name) else {
            return Vec::new();
        };
        for needed in &node.names {
            if let Some(set) = self.needed_by.get_mut(needed) {
                set.remove(name);
                if set.is_empty() {
                    self.needed_by.remove(needed);
                }
            }
        }
        node.names
    }

    /// Who depends on this one, directly, by name.
    pub(crate) fn dependents(&self, name: &ObjectName) -> Vec<(ObjectName, Guid)> {
        let Some(names) = self.needed_by.get(name) else {
            return Vec::new();
        };
        names
            .iter()
            .filter_map(|name| Some((name.clone(), self.needs.get(name)?.guid)))
            .collect()
    }

    /// The cycle that these dependencies of this object would close, beginning and ending with it.
    fn cycle(&self, name: &ObjectName, needed: &[ObjectName]) -> Option<Vec<ObjectName>> {
        // Without recursion: the chain may be as long as there are objects.
        let mut seen = HashSet::new();
        let first: Vec<ObjectName> = needed.into();
        let mut path = vec![(name.clone(), first.into_iter())];
        while let Some((_, rest)) = path.last_mut() {
            let Some(next) = rest.next() else {
                path.pop();
                continue;
            };
            if next == *name {
                let mut cycle: Vec<_> = path.into_iter().map(|(name, _)| name).collect();
                cycle.push(next);
                return Some(cycle);
            }
            if seen.insert(next.clone())
                && let Some(node) = self.needs.get(&next)
            {
                let names = node.names.clone().into_iter();
                path.push((next, names));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use agent_api_model::Kind;

    use super::*;

    fn spec(name: &str, needs: &[&str]) -> ObjectSpec {
        let mut spec = ObjectSpec::new(Kind::new("fake").unwrap(), ObjectName::new(name).unwrap());
        spec.depends_on = needs
            .iter()
            .map(|name| agent_api_model::Dependency {
                name: ObjectName::new(name).unwrap(),
                condition: Default::default(),
            })
            .collect();
        spec
    }

    fn set(graph: &mut Graph, name: &str, needs: &[&str]) -> Result<()> {
        graph.set(Guid::generate(), &spec(name, needs))
    }

    #[test]
    fn names_the_cycle() {
        let mut graph = Graph::default();
        set(&mut graph, "web", &["api"]).unwrap();
        set(&mut graph, "api", &["db", "cache"]).unwrap();
        let error = set(&mut graph, "cache", &["db", "web"]).unwrap_err();
        assert_eq!(error.path(), Some("depends_on"));
        assert!(error.message().contains("cache → web → api → cache"), "{error}");
        set(&mut graph, "cache", &["db"]).unwrap();
        graph.remove(&ObjectName::new("web").unwrap());
        set(&mut graph, "cache", &["db", "web"]).unwrap();
    }

    #[test]
    fn a_long_chain_is_no_deep_recursion() {
        let mut graph = Graph::default();
        for n in 0..100_000 {
            set(&mut graph, &format!("o{n}"), &[&format!("o{}", n + 1)]).unwrap();
        }
        assert!(set(&mut graph, "o100000", &["o0"]).is_err());
    }
}
