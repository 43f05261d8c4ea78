//! What a child sees: descriptors, environment, signals, limits, priority, user.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use serde_json::json;

use crate::fixture::{Fixture, is_root, text_of};

async fn output(f: &Fixture, spec: serde_json::Value) -> String {
    let object = f.create(spec).await;
    let text = text_of(f.log(&object, "stdout.log"), |t| t.ends_with("end\n")).await;
    text.strip_suffix("end\n").unwrap().to_owned()
}

fn sh(script: &str) -> serde_json::Value {
    json!({"command": ["/bin/sh", "-c", format!("{script}; echo end")]})
}

#[tokio::test]
async fn a_child_has_three_descriptors_and_no_more() {
    let f = Fixture::new().await;
    // One that the agent leaks: neither close-on-exec nor ours.
    let leaked = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let object = f.create(json!({"command": ["sleep", "1000"]})).await;
    let dir = format!("/proc/{}/fd", object.pid());
    let look = || -> BTreeMap<i32, String> {
        let entries = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap());
        entries
            .filter_map(|e| {
                Some((
                    e.file_name().to_str()?.parse().ok()?,
                    std::fs::read_link(e.path()).ok()?.display().to_string(),
                ))
            })
            .collect()
    };
    // The loader of a program that just begins has a library open for a moment.
    let fds = crate::fixture::until("it has 0, 1 and 2 only", || {
        Some(look()).filter(|fds| fds.keys().eq(&[0, 1, 2]))
    })
    .await;
    assert!(!fds.contains_key(&leaked.as_raw_fd()));
    assert_eq!(fds[&0], "/dev/null");
    assert!(
        fds[&1].ends_with("stdout.log") && fds[&2].ends_with("stderr.log"),
        "{fds:?}"
    );
    f.finish().await;
}

#[tokio::test]
async fn the_environment_is_what_the_spec_gives_and_the_mark() {
    let f = Fixture::new().await;
    let object = f
        .create(json!({"command": ["/usr/bin/env"], "env": {"A": "1 2\n3"}}))
        .await;
    let text = text_of(f.log(&object, "stdout.log"), |t| t.contains("PATH=")).await;
    let keys: Vec<&str> = text
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(key, _)| key)
        .collect();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["A", "AGENT_GUID", "AGENT_ID", "AGENT_OP_ID", "PATH"]);
    assert!(
        text.contains(&format!("AGENT_GUID={}", object.guid))
            && text.contains(&format!("AGENT_ID={}", f.agent))
    );
    f.finish().await;
}

#[tokio::test]
async fn signals_are_as_the_kernel_made_them() {
    let f = Fixture::new().await;
    let text = output(
        &f,
        json!({"command": ["/bin/sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status; echo end"]}),
    )
    .await;
    for line in text.lines() {
        let (key, mask) = line.split_once(':').unwrap();
        assert_eq!(u64::from_str_radix(mask.trim(), 16).unwrap(), 0, "{key}");
    }
    assert_eq!(text.lines().count(), 2);
    f.finish().await;
}

#[tokio::test]
async fn it_has_a_session_of_its_own() {
    let f = Fixture::new().await;
    let text = output(&f, sh("cut -d' ' -f1,5,6 /proc/$$/stat")).await;
    let ids: Vec<&str> = text.split_whitespace().collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{text}");
    f.finish().await;
}

#[tokio::test]
async fn limits_umask_nice_and_scores_are_set() {
    let f = Fixture::new().await;
    let mut spec = sh(
        "umask; pwd; cut -d' ' -f19 /proc/self/stat; cat /proc/$$/oom_score_adj; ulimit -n; ulimit -Hn; ulimit -c; \
         grep -i '^Max core' /proc/$$/limits",
    );
    spec["umask"] = json!("027");
    spec["cwd"] = json!("/usr");
    spec["nice"] = json!(7);
    spec["oom_score_adj"] = json!(321);
    spec["rlimits"] = json!({"nofile": {"soft": 77, "hard": 99}, "core": 0});
    spec["ioprio"] = json!({"class": "idle"});
    let text = output(&f, spec).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..7],
        ["0027", "/usr", "7", "321", "77", "99", "0"],
        "{text}"
    );
    f.finish().await;
}

#[tokio::test]
async fn defaults_do_not_come_from_the_agent() {
    let f = Fixture::new().await;
    let text = output(&f, sh("umask; pwd; cat /proc/$$/oom_score_adj")).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["0022", "/"]);
    // Only root may lower it.
    assert!(lines[2] == "0" || !is_root(), "{text}");
    f.finish().await;
}

#[tokio::test]
async fn it_reads_the_file_it_is_given() {
    let f = Fixture::new().await;
    let input = f.dir.path().join("input");
    std::fs::write(&input, "given\n").unwrap();
    let mut spec = sh("cat");
    spec["stdin"] = json!({"file": input.to_str().unwrap()});
    assert_eq!(output(&f, spec).await, "given\n");
    assert_eq!(output(&f, sh("cat")).await, "");
    f.finish().await;
}

#[tokio::test]
async fn another_user_is_for_root_only() {
    let f = Fixture::new().await;
    let mut spec = sh("id -u; id -g; id -G; echo $HOME");
    let other = rustix::process::geteuid().as_raw() + 12_345;
    spec["user"] = json!(other.to_string());
    spec["env"] = json!({"HOME": "/somewhere"});
    if is_root() {
        assert_eq!(
            output(&f, spec).await,
            format!("{other}\n{other}\n{other}\n/somewhere\n")
        );
    } else {
        let error = f.create_spec(crate::fixture::object(spec)).await.err().unwrap();
        assert_eq!(error.path(), Some("spec.user"));
        assert!(error.message().contains("only root"), "{error}");
    }
    f.finish().await;
}

#[tokio::test]
async fn arguments_never_meet_a_shell() {
    let f = Fixture::new().await;
    let hostile = "$(touch /tmp/never); `id` && \"'\n*";
    let text = output(
        &f,
        json!({"command": ["/bin/sh", "-c", "printf '%s' \"$1\"; echo; echo end", "x", hostile]}),
    )
    .await;
    assert_eq!(text, format!("{hostile}\n"));
    f.finish().await;
}
