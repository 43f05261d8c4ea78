//! The configuration: where it comes from, what is refused, what a reload changes.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::PathBuf;
use std::time::Duration;

use agent_api_model::Diagnostic;
use agent_bin_daemon::config::{Config, Known, Sources, check, differences, load};
use serde_json::json;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str, text: &str) -> Sources {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Sources {
            file: Some(path),
            ..Sources::default()
        }
    }

    fn told(&self, sources: &Sources) -> String {
        let text = match load(sources) {
            Ok(loaded) => {
                let (errors, warnings) = check(&loaded, &known());
                let lines = errors.iter().map(|error| format!("error {error}"));
                let lines = lines.chain(warnings.iter().map(|warning| format!("warning {warning}")));
                let lines: Vec<_> = lines.collect();
                if lines.is_empty() {
                    "fine".into()
                } else {
                    lines.join("\n")
                }
            }
            Err(errors) => errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        };
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn known() -> Vec<Known<'static>> {
    let schema = json!({"type": "object", "additionalProperties": false, "properties": {"listen": {"type": "string"}}});
    let part = |section, name: &str, missing_feature| Known {
        section,
        name: name.into(),
        missing_feature,
        schema: schema.clone(),
        check: Box::new(|config| match config.get("listen") {
            Some(listen) if listen == "bad" => vec![Diagnostic::error("listen", "is bad")],
            Some(listen) if listen == "odd" => vec![Diagnostic::warning("listen", "is odd")],
            _ => Vec::new(),
        }),
    };
    vec![
        part("drivers", "process", None),
        part("drivers", "ray", Some("ray")),
        part("buses", "http", None),
    ]
}

#[test]
fn says_file_line_and_field() {
    let place = Place::new();
    let cases = [
        ("empty", "a.toml", ""),
        (
            "all well",
            "a.toml",
            "[log]\nfilter = \"debug\"\n[buses.http]\nlisten = \"x\"\n",
        ),
        ("yaml", "a.yaml", "log:\n  filter: debug\nstop: {deadline: 3s}\n"),
        ("an unknown key", "a.toml", "[log]\nfiltr = \"debug\"\n"),
        ("an unknown table", "a.yaml", "logg:\n  filter: debug\n"),
        ("a wrong type", "a.toml", "[core]\n\nshards = \"many\"\n"),
        ("a wrong word", "a.toml", "[log]\nformat = \"xml\"\n"),
        ("a duration without a unit", "a.toml", "[stop]\ndeadline = 10\n"),
        ("out of range", "a.toml", "[core]\nshards = 0\n"),
        ("a heartbeat too fast", "a.yaml", "core: {heartbeat: 1ms}\n"),
        ("an odd name", "a.toml", "[agent]\nname = \"My Agent\"\n"),
        ("not TOML", "a.toml", "[log\n"),
        ("a key twice", "a.toml", "[log]\nfilter = \"a\"\nfilter = \"b\"\n"),
        ("not YAML", "a.yaml", "log: [\n"),
        ("two documents", "a.yaml", "log: {}\n---\nlog: {}\n"),
        ("an unknown driver", "a.toml", "[drivers.proces]\n"),
        ("a driver that is not compiled in", "a.toml", "[drivers.ray]\n"),
        ("a driver turned off", "a.toml", "[drivers]\nray = false\n"),
        ("a driver that is no map", "a.toml", "[drivers]\nprocess = 3\n"),
        (
            "an unknown key of a bus",
            "a.toml",
            "[buses.http]\nlistn = \"x\"\n",
        ),
        (
            "a wrong value of a bus",
            "a.toml",
            "[buses.http]\n\nlisten = \"bad\"\n",
        ),
        (
            "an odd value of a bus",
            "a.toml",
            "[buses.http]\nlisten = \"odd\"\n",
        ),
    ];
    let told: Vec<_> = cases
        .iter()
        .map(|(name, file, text)| {
            format!(
                "{name}:\n  {}",
                place.told(&place.file(file, text)).replace('\n', "\n  ")
            )
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
    let missing = Sources {
        file: Some(place.dir.path().join("nope.toml")),
        ..Sources::default()
    };
    assert!(place.told(&missing).contains("nope.toml: cannot read"));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let place = Place::new();
    let mut sources = place.file(
        "a.toml",
        "state_dir = \"/file\"\n[log]\nfilter = \"debug\"\n[stop]\ndeadline = \"1s\"\n",
    );
    sources.environment = [
        ("AGENT_STATE_DIR", "/environment"),
        ("AGENT_STOP__DEADLINE", "2s"),
        ("AGENT_CORE__SHARDS", "3"),
        ("AGENT_AGENT__NAME", "a1"),
        ("AGENT_BUSES__HTTP__LISTEN", "127.0.0.1:1"),
        ("AGENT_SOCKET", "/other"),
        ("AGENT_WORKFOLDER", "of another program"),
        ("HOME", "/"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    let sources = sources.with_flag("state_dir", "/flag");
    let config = load(&sources).unwrap().config;
    assert_eq!(config.state_dir, Some("/flag".into()));
    assert_eq!(config.stop.deadline, Duration::from_secs(2));
    assert_eq!(config.core.shards, Some(3));
    assert_eq!(config.agent.name.unwrap().as_str(), "a1");
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.buses["http"], json!({"listen": "127.0.0.1:1"}));
}

#[test]
fn wrong_variables_are_named() {
    let place = Place::new();
    let told = |name: &str, value: &str| {
        let sources = Sources {
            environment: vec![(name.into(), value.into())],
            ..Sources::default()
        };
        place.told(&sources)
    };
    insta::assert_snapshot!(
        [
            told("AGENT_LOG__FILTR", "debug"),
            told("AGENT_STOP__DEADLINE", "10"),
            told("AGENT_CORE__SHARDS", "many"),
            told("AGENT_STATEDIR", "/x"),
            told("AGENT_BUSES__HTTP__LISTN", "x"),
        ]
        .join("\n")
    );
}

#[test]
fn a_reload_says_what_takes_effect() {
    let read = |text: &str| {
        let place = Place::new();
        load(&place.file("a.toml", text)).unwrap().config
    };
    let before = read("[log]\nfilter = \"info\"\n[drivers.process]\ntoken = \"secret\"\n");
    let after = read(
        "[log]\nfilter = \"debug\"\n[core]\nshards = 2\nheartbeat = \"1s\"\n[drivers.process]\ntoken = \"other\"\n",
    );
    let told: Vec<_> = differences(&before, &after)
        .iter()
        .map(|change| change.sentence())
        .collect();
    insta::assert_snapshot!(told.join("\n"));
    assert!(differences(&before, &before).is_empty());
}

#[test]
fn the_schema_knows_every_field() {
    let config = Config::default();
    let value = serde_json::to_value(&config).unwrap();
    let again: Config = serde_json::from_value(value).unwrap();
    assert_eq!(again, config);
    assert!(Config::schema()["properties"]["stop"].is_object());
}
