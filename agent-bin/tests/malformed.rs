//! What is wrong is refused with its place and its reason, and nothing is half done.

#![cfg(all(feature = "process", feature = "simulated", feature = "bus-http"))]

mod common;

use common::Place;

#[tokio::test]
async fn wrong_objects_are_refused_whole() {
    let place = Place::with_agent().await;
    let good = "kind: process\nname: good\nspec: {command: [sleep, '600']}\n---\n";
    let big = format!(
        "kind: process\nname: big\nspec:\n  command: [sleep, '1']\n  env: {{X: {}}}\n",
        "y".repeat(10_000_000)
    );
    let cases: Vec<(&str, String)> = vec![
        ("an unknown field", "kind: process\nname: a\nlables: {}\n".into()),
        ("an unknown field of the spec", "kind: process\nname: a\nspec:\n  command: [sleep]\n  colour: red\n".into()),
        ("a kind that is almost one", "kind: proces\nname: a\n".into()),
        ("a kind of nobody", "kind: spaceship/big\nname: a\n".into()),
        ("a wrong type", "kind: process\nname: a\nspec:\n  command: sleep 1\n".into()),
        ("an empty command", "kind: process\nname: a\nspec: {command: []}\n".into()),
        ("no command", "kind: process\nname: a\n".into()),
        ("an odd name", "kind: process\nname: \"a b\"\n".into()),
        ("a name with a path", "kind: process\nname: ../../etc/passwd\n".into()),
        ("a wrong amount", "kind: process\nname: a\nresources: {memory: lots}\nspec: {command: [sleep]}\n".into()),
        ("a signal that is none", "kind: process\nname: a\nspec: {command: [sleep], stop_signal: LOUD}\n".into()),
        ("a user that is not there", "kind: process\nname: a\nspec: {command: [sleep], user: nobody-of-that-name}\n".into()),
        ("a dependency on itself", "kind: process\nname: a\ndepends_on: [{name: a}]\nspec: {command: [sleep]}\n".into()),
        (
            "a ring of dependencies",
            "kind: process\nname: a\ndepends_on: [{name: b}]\nspec: {command: [sleep]}\n---\nkind: process\nname: b\n\
             depends_on: [{name: a}]\nspec: {command: [sleep]}\n"
                .into(),
        ),
        ("not YAML", "kind: [process\n".into()),
        ("ten megabytes", big),
    ];
    let mut told = Vec::new();
    for (name, text) in &cases {
        let file = place.file("objects.yaml", &format!("{good}{text}"));
        let ended = place.agent(&["apply", "-f", &file, "--no-wait"]);
        let objects = place.agent(&["get", "-o", "name"]).well().out;
        assert_eq!(
            objects, "",
            "{name}: nothing of a file with something wrong is applied"
        );
        let err: String = place.redact(&ended.err).chars().take(1_000).collect();
        told.push(format!(
            "{name}: exit {}\n  {}",
            ended.code.unwrap(),
            err.trim_end().replace('\n', "\n  ")
        ));
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn what_the_host_refuses_is_told() {
    let place = Place::with_agent().await;
    let file = place.file(
        "a.yaml",
        "kind: process\nname: a\nspec: {command: [/no/such/program]}\n",
    );
    let missing = place.agent(&["apply", "-f", &file, "--timeout", "30s"]);
    assert_ne!(missing.code, Some(0), "{missing:?}");
    assert!(
        missing.err.contains("/no/such/program") || missing.err.contains("agent explain a"),
        "{missing:?}"
    );
    if place.phase("a") == "Failed" {
        let explained = place.agent(&["explain", "a"]).well().out;
        assert!(explained.contains("/no/such/program"), "{explained}");
        place.agent(&["delete", "a"]).well();
    }

    let script = place.file("script.sh", "#!/bin/sh\n");
    let file = place.file(
        "b.yaml",
        &format!("kind: process\nname: b\nspec: {{command: [{script}]}}\n"),
    );
    let forbidden = place.agent(&["apply", "-f", &file, "--timeout", "30s"]);
    assert_ne!(forbidden.code, Some(0), "{forbidden:?}");
    let explained = place.agent(&["explain", "b"]);
    let all = format!("{}{}", forbidden.err, explained.out).to_lowercase();
    assert!(
        all.contains("permission denied") || all.contains("not executable") || all.contains("may not"),
        "{all}"
    );
    place.agent(&["delete", "b", "--ignore-not-found"]).well();
    assert_eq!(place.agent(&["get", "-o", "name"]).well().out, "");
}

#[test]
fn wrong_commands_and_places() {
    let place = Place::new();
    let file = place.file("file", "");
    let config = place.file("agent.toml", "[log]\nfiltr = \"x\"\n");
    let bad_filter = place.file("filter.toml", "[log]\nfilter = \"info,agent=loud\"\n");
    let fine = place.file("fine.toml", "[stop]\ndeadline = \"3s\"\n");
    let objects = place.file("objects.yaml", "kind: process\nname: a\nlables: {}\n");
    let below = format!("{file}/state");
    let cases: Vec<Vec<&str>> = vec![
        vec!["get"],
        vec!["fly"],
        vec!["get", "--colour"],
        vec!["describe", "../x"],
        vec!["get", "-l", "=x"],
        vec!["resize", "a"],
        vec!["delete"],
        vec!["delete", "a", "-l", "app=x"],
        vec!["apply", "-f", "nope.yaml"],
        vec!["apply", "-f", &objects],
        vec!["run", "--apply", &objects],
        vec!["run", "--config", &config],
        vec!["run", "--config", "nope.toml"],
        vec!["--state-dir", &below, "run"],
        vec!["check", &config],
        vec!["check", &bad_filter],
        vec!["check", &fine],
        vec!["--url", "https://example.org", "get"],
        vec!["run", "--stop-deadline", "10"],
    ];
    let told: Vec<_> = cases
        .iter()
        .map(|args| {
            let ended = place.agent(args);
            let line = place.redact(&args.join(" "));
            let text = place.redact(&format!("{}{}", ended.out, ended.err));
            format!(
                "agent {line}: exit {}\n  {}",
                ended.code.unwrap(),
                text.trim_end().replace('\n', "\n  ")
            )
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
    assert!(!place.state().join("journal").exists(), "nothing was started");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    let output = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "\"$0\" completions bash | head -n 1; echo done",
            env!("CARGO_BIN_EXE_agent"),
        ])
        .env("HOME", place.dir.path())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.ends_with("done\n") && err.is_empty(), "{out} {err}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            place.agent(&["completions", shell]).well().out.contains("agent"),
            "{shell}"
        );
    }
}
