//! Logs: each line once, over rotation, restarts of the object and of the agent.

use std::time::Duration;

use agent_api_driver::model::{ControlAction, ErrorKind, Signal, TelemetryBatch};
use agent_api_driver::{CollectRequest, CollectTarget, LogReadRequest};
use futures_util::StreamExt;
use serde_json::json;

use crate::fixture::{Fixture, Object, PATIENCE, text_of};

async fn read_all(
    f: &Fixture,
    object: &Object,
    request: LogReadRequest,
) -> (Vec<String>, Option<String>, u64) {
    let mut stream = f
        .driver
        .logs()
        .unwrap()
        .read(object.target(), request)
        .await
        .unwrap();
    let (mut lines, mut cursor, mut lost) = (Vec::new(), None, 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        lines.extend(
            chunk
                .lines
                .iter()
                .map(|l| String::from_utf8_lossy(l).into_owned()),
        );
        cursor = Some(chunk.cursor);
        lost += chunk.lost_bytes;
    }
    (lines, cursor, lost)
}

#[tokio::test]
async fn whole_and_tail_and_from_a_cursor() {
    let f = Fixture::new().await;
    let object = f.sh("echo a; echo b; echo c; echo x >&2; exec sleep 1000").await;
    text_of(f.log(&object, "stderr.log"), |t| t == "x\n").await;
    let (lines, cursor, lost) = read_all(&f, &object, LogReadRequest::default()).await;
    assert_eq!(
        (lines, lost),
        (vec!["a".into(), "b".into(), "c".into(), "x".to_owned()], 0)
    );
    let again = read_all(
        &f,
        &object,
        LogReadRequest {
            cursor,
            ..LogReadRequest::default()
        },
    )
    .await;
    assert_eq!(again.0, Vec::<String>::new());
    let request = LogReadRequest {
        tail: Some(2),
        streams: vec![agent_api_driver::model::LogStream::Stdout],
        ..LogReadRequest::default()
    };
    assert_eq!(read_all(&f, &object, request).await.0, ["b", "c"]);
    let wrong = LogReadRequest {
        cursor: Some("nonsense".into()),
        ..LogReadRequest::default()
    };
    let error = f
        .driver
        .logs()
        .unwrap()
        .read(object.target(), wrong)
        .await
        .err()
        .unwrap();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Invalid, Some("cursor")));
    f.finish().await;
}

#[tokio::test]
async fn a_follower_sees_each_line_once_over_a_restart_of_the_object() {
    let f = Fixture::new().await;
    let object = f.sh("echo one; exec sleep 1000").await;
    let request = LogReadRequest {
        follow: true,
        ..LogReadRequest::default()
    };
    let mut stream = f
        .driver
        .logs()
        .unwrap()
        .read(object.target(), request)
        .await
        .unwrap();
    let first = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(first.lines, ["one"]);
    f.control(
        &object,
        ControlAction::Restart {
            grace: Some(Duration::ZERO),
        },
    )
    .await
    .unwrap();
    let second = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(second.lines, ["one"]);
    f.delete(&object, Duration::ZERO).await;
    assert!(
        tokio::time::timeout(PATIENCE, stream.next())
            .await
            .unwrap()
            .is_none()
    );
    f.finish().await;
}

/// Reads by `collect` while a writer never stops and its file is rotated again and again; the agent restarts in between.
#[tokio::test]
async fn every_line_comes_once_over_rotation_and_a_restart_of_the_agent() {
    let mut f = Fixture::with(json!({"log_max_size": "64Ki", "log_keep": 40})).await;
    const LINES: usize = 60_000;
    let script = "i=0; while [ $i -lt 60000 ]; do \
        echo \"line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"; \
        i=$((i+1)); done; exec sleep 1000";
    let object = f.create(json!({"command": ["/bin/sh", "-c", script]})).await;
    let mut cursor = Some(start_cursor(&f, &object).await);
    let mut seen = 0;
    let mut restarted = false;
    let begun = tokio::time::Instant::now();
    while seen < LINES {
        assert!(begun.elapsed() < PATIENCE * 4, "only {seen} lines came");
        let targets = [CollectTarget {
            guid: object.guid,
            handle: &object.handle,
            log_cursor: cursor.as_deref(),
            from_start: false,
        }];
        let request = CollectRequest {
            targets: &targets,
            signals: &[Signal::Logs],
            max_log_bytes: 300_000,
            deadline: PATIENCE,
        };
        let (mut batch, mut cursors) = (TelemetryBatch::default(), Vec::new());
        f.driver.collect(request, &mut batch, &mut cursors).await.unwrap();
        assert_eq!(batch.losses, []);
        for record in &batch.logs {
            let text = std::str::from_utf8(&record.body).unwrap();
            assert!(
                text.starts_with(&format!("line {seen} x")),
                "wanted {seen}, got {text:?}"
            );
            seen += 1;
        }
        cursor = cursors.pop().map(|(_, cursor)| cursor).or(cursor);
        if seen > LINES / 3 && !restarted {
            restarted = true;
            f = f.restarted().await;
            f.driver.recover(&[object.target()]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(restarted);
    f.finish().await;
}

/// A cursor before the first line.
async fn start_cursor(f: &Fixture, object: &Object) -> String {
    let path = f.log(object, "stdout.log");
    text_of(path, |t| !t.is_empty()).await;
    let mut stream = f
        .driver
        .logs()
        .unwrap()
        .read(object.target(), LogReadRequest::default())
        .await
        .unwrap();
    let chunk = stream.next().await.unwrap().unwrap();
    let stdout = chunk
        .cursor
        .split(';')
        .find(|part| part.starts_with("o="))
        .unwrap();
    let file = stdout.split(':').next().unwrap();
    format!("1;{};{}:0", object.guid, file)
}

#[tokio::test]
async fn what_was_rotated_away_unread_is_counted_and_the_disk_use_is_bounded() {
    use std::os::unix::fs::MetadataExt;
    let f = Fixture::with(json!({"log_max_size": "64Ki", "log_keep": 1})).await;
    let script = "i=0; while [ $i -lt 20000 ]; do echo \"line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"; i=$((i+1)); done; \
                  echo done; exec sleep 1000";
    let object = f.create(json!({"command": ["/bin/sh", "-c", script]})).await;
    let path = f.log(&object, "stdout.log");
    text_of(path.clone(), |t| t.ends_with("done\n")).await;
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size > 500_000);
    // The check comes with the driver's tick.
    crate::fixture::until("it was rotated", || {
        (std::fs::metadata(&path).unwrap().blocks() * 512 < 300_000).then_some(())
    })
    .await;
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        size,
        "offsets do not move"
    );
    let (lines, _, lost) = read_all(&f, &object, LogReadRequest::default()).await;
    let kept: usize = lines.iter().map(|l| l.len() + 1).sum();
    assert_eq!(lost + kept as u64, size);
    assert!(lost > 300_000 && lines[0].starts_with("line ") && lines.last().unwrap() == "done");
    f.finish().await;
}

#[tokio::test]
async fn a_last_line_without_an_end_comes_when_the_object_has_ended() {
    let mut f = Fixture::new().await;
    let object = f.sh("printf 'whole\\npart'").await;
    f.wait_state(object.guid, agent_api_driver::ObjectState::Exited)
        .await;
    let (lines, cursor, _) = read_all(&f, &object, LogReadRequest::default()).await;
    assert_eq!(lines, ["whole", "part"]);
    assert_eq!(
        read_all(
            &f,
            &object,
            LogReadRequest {
                cursor,
                ..LogReadRequest::default()
            }
        )
        .await
        .0,
        Vec::<String>::new()
    );
    f.finish().await;
}

#[tokio::test]
async fn logs_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let f = Fixture::new().await;
    let object = f.sh("umask 0; echo x").await;
    for (path, mode) in [(f.log(&object, "stdout.log"), 0o600), (f.log(&object, ""), 0o700)] {
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            mode
        );
    }
    f.finish().await;
}

#[tokio::test]
async fn from_the_start_brings_the_lines_from_before_once_however_small_the_pieces() {
    let f = Fixture::new().await;
    let object = f.sh("echo one; echo two; echo three >&2; exec sleep 1000").await;
    text_of(f.log(&object, "stderr.log"), |t| t == "three\n").await;
    for (from_start, expected) in [(true, vec!["one", "three", "two"]), (false, vec![])] {
        let (mut cursor, mut lines): (Option<String>, Vec<String>) = (None, Vec::new());
        for _ in 0..6 {
            let targets = [CollectTarget {
                guid: object.guid,
                handle: &object.handle,
                log_cursor: cursor.as_deref(),
                from_start,
            }];
            let request = CollectRequest {
                targets: &targets,
                signals: &[Signal::Logs],
                // Room for one line, so that a stream is left out of the first cursor.
                max_log_bytes: 5,
                deadline: PATIENCE,
            };
            let (mut batch, mut cursors) = (TelemetryBatch::default(), Vec::new());
            f.driver.collect(request, &mut batch, &mut cursors).await.unwrap();
            assert_eq!(batch.losses, []);
            lines.extend(
                batch
                    .logs
                    .iter()
                    .map(|record| String::from_utf8(record.body.to_vec()).unwrap()),
            );
            cursor = cursors.pop().map(|(_, cursor)| cursor).or(cursor);
        }
        lines.sort();
        assert_eq!(lines, expected, "{from_start}");
    }
    f.finish().await;
}
