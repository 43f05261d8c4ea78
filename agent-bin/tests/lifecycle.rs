//! An operator's day: run, apply, get, describe, logs, pause, resume, exec, delete.

#![cfg(all(feature = "process", feature = "simulated", feature = "bus-http"))]

mod common;

use common::{Place, alive, until};

const TICKER: &str = "\
kind: process
name: ticker
labels: {app: demo}
restart: always
spec:
  command: [/bin/sh, -c, 'i=0; while :; do i=$((i+1)); echo \"tick $i\"; sleep 0.05; done']
  env: {COLOR: blue}
---
kind: process
name: job
labels: {app: demo, tier: job}
spec: {command: [/bin/sh, -c, 'echo working; exit 0']}
---
kind: process
name: after
labels: {app: demo}
depends_on: [{name: job, condition: succeeded}]
spec: {command: [sleep, '600']}
";

#[tokio::test]
async fn from_apply_to_delete() {
    let place = Place::with_agent().await;
    let file = place.file("objects.yaml", TICKER);

    let plan = place.agent(&["plan", "-f", &file]).well();
    assert!(
        plan.out.contains("ticker") && plan.out.contains("create"),
        "{plan:?}"
    );
    assert_eq!(
        place.agent(&["get", "-o", "json"]).well().json(),
        serde_json::json!([]),
        "a plan changes nothing"
    );

    let applied = place.agent(&["apply", "-f", &file]).well();
    assert_eq!(applied.out, "ticker created\njob created\nafter created\n");
    assert!(
        applied.err.contains("ticker is Running") && applied.err.contains("after is Running"),
        "{applied:?}"
    );
    assert_eq!(place.phase("job"), "Succeeded", "what depends on it runs");

    let table = place.agent(&["get"]).well().out;
    assert!(table.starts_with("NAME"), "{table}");
    assert_eq!(
        place
            .agent(&["get", "-l", "app=demo,!tier", "-o", "name"])
            .well()
            .out,
        "after\nticker\n"
    );
    let views = place
        .agent(&["get", "--phase", "succeeded", "-o", "json"])
        .well()
        .json();
    assert_eq!(views[0]["name"], "job");

    let described = place.agent(&["describe", "ticker"]).well().out;
    assert!(
        described.contains("Phase:      Running") && described.contains("COLOR: blue"),
        "{described}"
    );
    let pid = place.pid_of("ticker");
    assert!(alive(pid));

    let logs = until("ten lines are logged", || {
        let logs = place.agent(&["logs", "ticker"]).well().out;
        (logs.lines().count() >= 10).then_some(logs)
    })
    .await;
    for (i, line) in logs.lines().enumerate() {
        assert_eq!(line, format!("tick {}", i + 1));
    }
    assert_eq!(
        place
            .agent(&["logs", "--tail", "2", "ticker"])
            .well()
            .out
            .lines()
            .count(),
        2
    );

    place.agent(&["pause", "ticker"]).well();
    place.until_phase("ticker", "Paused").await;
    let lines = || place.agent(&["logs", "ticker"]).well().out.lines().count();
    let held = until("no line comes any more", || {
        let before = lines();
        (before == lines()).then_some(before)
    })
    .await;
    place.agent(&["resume", "ticker"]).well();
    place.until_phase("ticker", "Running").await;
    until("lines come again", || (lines() > held).then_some(())).await;
    assert_eq!(place.pid_of("ticker"), pid);

    let exec = place.agent(&[
        "exec",
        "ticker",
        "--",
        "/bin/sh",
        "-c",
        "echo $COLOR; echo bad >&2; exit 7",
    ]);
    assert_eq!(
        (exec.code, exec.out.as_str(), exec.err.as_str()),
        (Some(7), "blue\n", "bad\n")
    );
    let piped = place
        .agent_with_input(&["exec", "ticker", "--", "cat"], "through the pipe\n")
        .well();
    assert_eq!(piped.out, "through the pipe\n");

    let explained = place.agent(&["explain", "ticker"]).well().out;
    assert!(
        explained.contains("create requested") && explained.contains("pause"),
        "{explained}"
    );
    let events = place.agent(&["events", "-o", "json"]).well().out;
    assert!(
        events.lines().any(|line| line.contains(r#""name":"after""#)),
        "{events}"
    );

    let unchanged = place.agent(&["apply", "-f", &file]).well();
    assert_eq!(
        unchanged.out,
        "ticker unchanged\njob unchanged\nafter unchanged\n"
    );
    let changed = place.file("changed.yaml", &TICKER.replace("blue", "green"));
    let updated = place.agent(&["apply", "-f", &changed]).well();
    assert!(updated.out.starts_with("ticker updated"), "{updated:?}");
    assert_ne!(place.pid_of("ticker"), pid);
    let green = place
        .agent(&["exec", "ticker", "--", "/bin/sh", "-c", "echo $COLOR"])
        .well();
    assert_eq!(green.out, "green\n");

    let last = place.pid_of("ticker");
    let deleted = place.agent(&["delete", "-f", &file]).well();
    assert!(deleted.err.contains("ticker is gone"), "{deleted:?}");
    assert_eq!(place.agent(&["get", "-o", "name"]).well().out, "");
    assert!(!alive(last));
}

#[tokio::test]
async fn batches_by_selector_and_single_controls() {
    let place = Place::with_agent().await;
    let objects: String = (0..4)
        .map(|i| format!("---\nkind: process\nname: s{i}\nlabels: {{app: sleepers}}\nspec: {{command: [sleep, '600']}}\n"))
        .collect();
    let file = place.file("objects.yaml", &objects);
    place.agent(&["apply", "-f", &file]).well();
    assert_eq!(
        place
            .agent(&["pause", "-l", "app=sleepers"])
            .well()
            .out
            .lines()
            .count(),
        4
    );
    for i in 0..4 {
        place.until_phase(&format!("s{i}"), "Paused").await;
    }
    place.agent(&["resume", "-l", "app=sleepers"]).well();
    for i in 0..4 {
        place.until_phase(&format!("s{i}"), "Running").await;
    }
    let before = place.pid_of("s0");
    place.agent(&["restart", "s0", "--grace", "1s"]).well();
    until("it has another pid", || {
        (place.view("s0")?["details"]["pid"].as_i64()? != before).then_some(())
    })
    .await;
    place.agent(&["signal", "KILL", "s1"]).well();
    place.until_phase("s1", "Failed").await;
    let refused = place.agent(&["scale", "3", "s2"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("s2") && refused.err.contains("try:"),
        "{refused:?}"
    );
    let resized = place.agent(&["resize", "s2", "--memory", "64Mi"]).well();
    assert_eq!(resized.out, "s2 resize accepted\n");
    until("the limit is told", || {
        let view = place.view("s2")?;
        (view["resources"]["limits"][0]["value"] == "64Mi").then_some(())
    })
    .await;
    let gone = place.agent(&["delete", "-l", "app=sleepers"]).well();
    assert_eq!(gone.out.lines().count(), 4, "{gone:?}");
    let nothing = place.agent(&["pause", "-l", "app=sleepers"]).well();
    assert!(nothing.err.contains("no object matches"), "{nothing:?}");
}

#[tokio::test]
async fn run_applies_files_and_reload_applies_the_difference() {
    let mut place = Place::new();
    let file = place.file("objects.yaml", "kind: simulated\nname: a\n");
    let config = place.file(
        "agent.toml",
        "[log]\nfilter = \"info\"\n[stop]\nobjects = \"stop\"\n",
    );
    place.start(&["--apply", &file, "--config", &config]).await;
    place.until_phase("a", "Running").await;

    assert_eq!(place.agent(&["reload"]).well().out, "nothing changed\n");
    place.file(
        "agent.toml",
        "[log]\nfilter = \"debug\"\n[core]\nshards = 3\n[stop]\nobjects = \"stop\"\n",
    );
    let told = place.agent(&["reload"]).well().out;
    assert!(
        told.contains("log.filter: \"info\" -> \"debug\": applied"),
        "{told}"
    );
    assert!(
        told.contains("core.shards") && told.contains("next start"),
        "{told}"
    );
    place.file("agent.toml", "[log]\nfiltr = \"debug\"\n");
    let refused = place.agent(&["reload"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.err.contains("did you mean `filter`"), "{refused:?}");

    let drained = place.agent(&["drain"]).well();
    assert_eq!(drained.out, "drained\n");
    assert_eq!(place.ended().await, Some(0));
}

#[tokio::test]
async fn a_port_needs_the_token() {
    let mut place = Place::new();
    place.start(&["--http", "0"]).await;
    let info = place.agent(&["info", "-o", "json"]).well().json();
    let address = info["buses"][0]["address"].as_str().unwrap();
    let url = address
        .split(", ")
        .find(|part| part.starts_with("http://"))
        .unwrap()
        .to_owned();
    let asked = place.agent(&["--url", &url, "health"]).well();
    assert_eq!(asked.out, "ready\n");
    let token = place.file("wrong-token", "0123456789abcdef0123456789abcdef\n");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refused = place.agent(&["--url", &url, "--token-file", &token, "health"]);
    assert_eq!(refused.code, Some(9), "{refused:?}");
    let mut second = Place::new();
    let port = url.rsplit(':').next().unwrap();
    let taken = second.agent(&["run", "--http", port]);
    assert_eq!(taken.code, Some(5), "{taken:?}");
    assert!(taken.err.contains(port), "{taken:?}");
    second.start(&[]).await;
}
