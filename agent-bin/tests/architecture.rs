//! The arrows of the house: which crate may know which. Read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

/// The crates of the workspace and the ones of it that they depend on (not for tests).
type Graph = BTreeMap<String, BTreeSet<String>>;

/// For each crate what it may depend on of the workspace.
///
/// `agent-api-*` stands for the contracts alone: never the server or the client.
const ARROWS: &[(&str, &[&str])] = &[
    // Contracts.
    ("agent-api-model", &[]),
    ("agent-api-driver", &["agent-api-model"]),
    ("agent-api-manager", &["agent-api-driver", "agent-api-model"]),
    ("agent-api-collector", &["agent-api-driver", "agent-api-model"]),
    ("agent-api-reporter", &["agent-api-model"]),
    ("agent-api-bus-in", &["agent-api-model"]),
    ("agent-api-bus-out", &["agent-api-model"]),
    ("agent-api-agent", &["agent-api-model"]),
    ("agent-api", CONTRACTS),
    // Around the agent.
    (
        "agent-api-server",
        &["agent-api-agent", "agent-api-bus-in", "agent-api-model"],
    ),
    (
        "agent-api-client",
        &["agent-api-bus-in", "agent-api-bus-out", "agent-api-model"],
    ),
    // The agent.
    ("agent-core-journal", &[]),
    (
        "agent-manager",
        &[
            "agent-api-manager",
            "agent-api-driver",
            "agent-api-model",
            "agent-core-journal",
        ],
    ),
    (
        "agent-collector",
        &[
            "agent-api-collector",
            "agent-api-driver",
            "agent-api-reporter",
            "agent-api-model",
            "agent-collector-worker",
        ],
    ),
    (
        "agent-collector-worker",
        &["agent-api-driver", "agent-api-reporter", "agent-api-model"],
    ),
    (
        "agent-reporter",
        &[
            "agent-api-reporter",
            "agent-api-bus-out",
            "agent-api-model",
            "agent-reporter-worker",
            "agent-reporter-rpc-client",
        ],
    ),
    (
        "agent-reporter-worker",
        &[
            "agent-api-reporter",
            "agent-api-bus-out",
            "agent-api-model",
            "agent-reporter-rpc-client",
            "agent-core-journal",
        ],
    ),
    (
        "agent-reporter-rpc-client",
        &["agent-api-bus-out", "agent-api-model"],
    ),
    (
        "agent-core",
        &["agent-api", "agent-manager", "agent-collector", "agent-reporter"],
    ),
    // Drivers.
    ("agent-driver-kubernetes", OBJECT_DRIVER),
    ("agent-driver-process", OBJECT_DRIVER),
    ("agent-driver-ray", OBJECT_DRIVER),
    ("agent-driver-simulated", OBJECT_DRIVER),
    ("agent-driver-testkit", OBJECT_DRIVER),
    ("agent-bus-memory", BUS_DRIVER),
    (
        "agent-bus-http",
        &[
            "agent-api-bus-in",
            "agent-api-bus-out",
            "agent-api-model",
            "agent-bus-memory",
        ],
    ),
    (
        "agent-bus-nats",
        &[
            "agent-api-bus-in",
            "agent-api-bus-out",
            "agent-api-model",
            "agent-bus-memory",
        ],
    ),
    (
        "agent-drivers",
        &[
            "agent-api-driver",
            "agent-api-bus-in",
            "agent-api-bus-out",
            "agent-driver-kubernetes",
            "agent-driver-process",
            "agent-driver-ray",
            "agent-driver-simulated",
            "agent-bus-memory",
            "agent-bus-http",
        ],
    ),
    // The program.
    (
        "agent-bin-daemon",
        &[
            "agent-core",
            "agent-api-server",
            "agent-api-agent",
            "agent-api-bus-in",
            "agent-api-bus-out",
            "agent-api-driver",
            "agent-api-model",
        ],
    ),
    (
        "agent-bin",
        &[
            "agent-bin-daemon",
            "agent-drivers",
            "agent-api-client",
            "agent-api-agent",
            "agent-api-bus-out",
            "agent-api-model",
        ],
    ),
];

const CONTRACTS: &[&str] = &[
    "agent-api-agent",
    "agent-api-bus-in",
    "agent-api-bus-out",
    "agent-api-collector",
    "agent-api-driver",
    "agent-api-manager",
    "agent-api-model",
    "agent-api-reporter",
];
const OBJECT_DRIVER: &[&str] = &["agent-api-driver"];
const BUS_DRIVER: &[&str] = &["agent-api-bus-in", "agent-api-bus-out", "agent-api-model"];

/// Crates that may depend on anything: nothing depends on them.
const FREE: &[&str] = &["agent-benches"];
/// What a contract may not drag in: a runtime, a log, a transport.
const HEAVY: &[&str] = &[
    "tokio",
    "tokio-util",
    "hyper",
    "axum",
    "reqwest",
    "tracing-subscriber",
    "opentelemetry_sdk",
];

/// All that breaks the arrows, a sentence each.
fn violations(graph: &Graph) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut found = Vec::new();
    for (name, dependencies) in graph {
        let free = FREE.contains(&name.as_str());
        let Some(may) = allowed.get(name.as_str()) else {
            if !free {
                found.push(format!("{name} has no arrows here: add what it may depend on"));
            }
            continue;
        };
        for dependency in dependencies {
            if !may.contains(&dependency.as_str()) {
                found.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    for name in allowed.keys() {
        if !graph.contains_key(*name) {
            found.push(format!("{name} is not in the workspace"));
        }
    }
    found
}

/// Contracts that drag in what they must not, a sentence each.
fn heavy(third_parties: &Graph) -> Vec<String> {
    let contracts = CONTRACTS.iter().chain(&["agent-api"]);
    let mut found = Vec::new();
    for contract in contracts {
        for dependency in third_parties.get(*contract).into_iter().flatten() {
            if HEAVY.contains(&dependency.as_str()) {
                found.push(format!("{contract} must not depend on {dependency}"));
            }
        }
    }
    found
}

/// The workspace as it is: its own crates' arrows, and all direct dependencies.
fn workspace() -> (Graph, Graph) {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata works where cargo test does");
    let packages = metadata.workspace_packages();
    let own: BTreeSet<String> = packages.iter().map(|package| package.name.to_string()).collect();
    let mut arrows = Graph::new();
    let mut all = Graph::new();
    for package in packages {
        let names: BTreeSet<String> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == cargo_metadata::DependencyKind::Normal)
            .map(|dependency| dependency.name.clone())
            .collect();
        arrows.insert(
            package.name.to_string(),
            names.intersection(&own).cloned().collect(),
        );
        all.insert(package.name.to_string(), names);
    }
    (arrows, all)
}

#[test]
fn the_arrows_hold() {
    let (arrows, all) = workspace();
    let mut found = violations(&arrows);
    found.extend(heavy(&all));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_violation_is_found() {
    let (mut arrows, mut all) = workspace();
    arrows
        .get_mut("agent-api")
        .unwrap()
        .insert("agent-api-server".into());
    arrows
        .get_mut("agent-driver-process")
        .unwrap()
        .insert("agent-core".into());
    arrows.insert("agent-driver-new".into(), BTreeSet::new());
    arrows.remove("agent-manager");
    assert_eq!(
        violations(&arrows),
        [
            "agent-api must not depend on agent-api-server",
            "agent-driver-new has no arrows here: add what it may depend on",
            "agent-driver-process must not depend on agent-core",
            "agent-manager is not in the workspace",
        ]
    );
    all.get_mut("agent-api-driver").unwrap().insert("tokio".into());
    assert_eq!(heavy(&all), ["agent-api-driver must not depend on tokio"]);
}

#[test]
fn there_are_no_rings() {
    let (arrows, _) = workspace();
    // What is left after taking away, again and again, what depends on nothing that is left.
    let mut left = arrows;
    loop {
        let ready: Vec<String> = left
            .iter()
            .filter(|(_, dependencies)| dependencies.iter().all(|name| !left.contains_key(name)))
            .map(|(name, _)| name.clone())
            .collect();
        if ready.is_empty() {
            break;
        }
        for name in ready {
            left.remove(&name);
        }
    }
    assert!(left.is_empty(), "in a ring: {:?}", left.keys());
}
