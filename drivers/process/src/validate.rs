//! What is wrong with a spec on this host.

use std::path::Path;

use agent_api_driver::model::{Diagnostic, ObjectSpec, ProbeAction};

use crate::sdk::probe;
use crate::sdk::spawn::DEFAULT_PATH;
use crate::spec::{ProcessSpec, Stdin};

/// What is wrong with a spec on this host.
pub(crate) fn validate(object: &ObjectSpec, probe_remote: bool) -> Vec<Diagnostic> {
    let spec = match ProcessSpec::parse(object) {
        Ok(spec) => spec,
        Err(e) => return vec![Diagnostic::error(e.path().unwrap_or("spec"), e.message())],
    };
    let mut found: Vec<Diagnostic> = spec
        .check()
        .into_iter()
        .map(|(path, message)| Diagnostic::error(path, message))
        .collect();
    if let Err((path, message)) = spec.resolve_user() {
        found.push(Diagnostic::error(path, message));
    }
    if found.is_empty() {
        // What is missing now may be made by what it depends on.
        let severity = if object.depends_on.is_empty() {
            Diagnostic::error
        } else {
            Diagnostic::warning
        };
        found.extend(
            missing(&spec)
                .into_iter()
                .map(|(path, message)| severity(path, message)),
        );
    }
    let resources = &object.resources;
    for (field, is_set) in [
        ("gpu", resources.gpu.is_some()),
        ("replicas", resources.replicas.is_some_and(|n| n != 1)),
    ] {
        if is_set {
            found.push(Diagnostic::error(
                format!("resources.{field}"),
                "a process has no such resource",
            ));
        }
    }
    if resources.priority.is_some() {
        found.push(Diagnostic::warning(
            "resources.priority",
            "has no effect on processes; use spec.nice and spec.ioprio",
        ));
    }
    if resources.pids == Some(0)
        || resources.cpu.is_some_and(|c| c.millis() == 0)
        || resources.memory.is_some_and(|m| m.get() == 0)
    {
        found.push(Diagnostic::error("resources", "a limit of 0 lets nothing run"));
    }
    let probe = object.health.as_ref().map(|health| &health.probe);
    let problem = match probe {
        Some(ProbeAction::Exec(command)) if command.first().is_none_or(String::is_empty) => {
            Some("must name a program".to_owned())
        }
        Some(ProbeAction::Tcp(address)) => probe::parse_address(address)
            .err()
            .or_else(|| local_only(address, probe_remote)),
        Some(ProbeAction::Http(url)) => match probe::parse_http(url) {
            Ok(url) => local_only(&url.address, probe_remote),
            Err(message) => Some(message),
        },
        _ => None,
    };
    found.extend(problem.map(|message| Diagnostic::error("health", message)));
    found
}

fn local_only(address: &str, remote: bool) -> Option<String> {
    (!remote && !probe::is_local(address)).then(|| {
        format!("{address} is another host; probes go to this one only, unless the driver's configuration says probe_remote = true")
    })
}

/// Files that are not there.
fn missing(spec: &ProcessSpec) -> Vec<(String, String)> {
    let mut missing = Vec::new();
    let cwd = spec.cwd.as_deref().unwrap_or(Path::new("/"));
    if !cwd.is_dir() {
        missing.push((
            "spec.cwd".to_owned(),
            format!("{} is not a directory", cwd.display()),
        ));
    }
    if let Stdin::File(path) = &spec.stdin
        && !path.exists()
    {
        missing.push((
            "spec.stdin.file".to_owned(),
            format!("{} does not exist", path.display()),
        ));
    }
    let name = spec.command.first().map_or("", String::as_str);
    let path = spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    if name.contains('/') {
        if !cwd.join(name).exists() {
            missing.push((
                "spec.command[0]".to_owned(),
                format!("command not found: {name:?}"),
            ));
        }
    } else if !path.split(':').any(|dir| cwd.join(dir).join(name).is_file()) {
        missing.push((
            "spec.command[0]".to_owned(),
            format!("command not found: {name:?} (looked in PATH {path})"),
        ));
    }
    missing
}
