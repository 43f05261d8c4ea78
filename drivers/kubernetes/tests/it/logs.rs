//! Logs of pods on the lab's cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{ErrorKind, Guid, LogRecord, LogStream, ObjectSpec, Signal, TelemetryBatch};
use agent_api_driver::{
    CollectRequest, CollectTarget, LogChunk, LogReadRequest, LogStreamOut, ObjectState, Target,
};
use futures_util::StreamExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Object, PATIENCE, World, shell};

async fn open(world: &World, object: &Object, request: LogReadRequest) -> LogStreamOut {
    let target = Target {
        guid: object.guid,
        handle: &object.handle,
    };
    world.driver.logs().unwrap().read(target, request).await.unwrap()
}

fn only(stream: LogStream) -> LogReadRequest {
    LogReadRequest {
        streams: vec![stream],
        ..LogReadRequest::default()
    }
}

fn lines(chunks: &[LogChunk]) -> Vec<String> {
    let all = chunks.iter().flat_map(|chunk| &chunk.lines);
    all.map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

async fn once(world: &World, object: &Object, request: LogReadRequest) -> Vec<LogChunk> {
    let stream = open(world, object, request).await;
    let chunks = timeout(PATIENCE, stream.map(Result::unwrap).collect()).await;
    chunks.expect("a read without follow ends")
}

async fn from(world: &World, object: &Object, cursor: Option<String>) -> Vec<LogChunk> {
    let request = LogReadRequest {
        cursor,
        ..only(LogStream::Stdout)
    };
    once(world, object, request).await
}

/// A pod whose container writes numbered lines, dies after each `each` of them and is started again by the node.
fn restarting(world: &World, name: &str, each: u32, runs: u32) -> ObjectSpec {
    let script = format!(
        "n=$(cat /tmp/n 2>/dev/null || echo 0); echo $((n+1)) > /tmp/n; i=0; \
         while [ $i -lt {each} ]; do echo run $n line $i; i=$((i+1)); done; [ $n -lt {} ] && exit 1; sleep 100000",
        runs - 1
    );
    // The file must outlive the container: a manifest has volumes.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1, "restartPolicy": "Always",
            "volumes": [{"name": "t", "emptyDir": {}}],
            "containers": [{
                "name": "c", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                "command": ["sh", "-c", script], "volumeMounts": [{"name": "t", "mountPath": "/tmp"}],
            }],
        },
    });
    world.spec("manifest", name, json!({"objects": [pod]}))
}

#[tokio::test]
async fn a_follower_brings_each_line_once_over_restarts_of_the_container() {
    let world = World::new().await;
    let object = world.make(&restarting(&world, "crashes", 50, 3)).await;
    let expected: Vec<String> = (0..3)
        .flat_map(|n| (0..50).map(move |i| format!("run {n} line {i}")))
        .collect();
    let request = LogReadRequest {
        follow: true,
        ..only(LogStream::Stdout)
    };
    let mut stream = open(&world, &object, request).await;
    let mut chunks = Vec::new();
    let all = async {
        while lines(&chunks).len() < expected.len() {
            let chunk = stream.next().await.unwrap().unwrap();
            assert_eq!(chunk.lost_bytes, 0);
            chunks.push(chunk);
        }
    };
    timeout(PATIENCE * 2, all).await.expect("all lines of three runs");
    assert_eq!(lines(&chunks), expected);
    // From any cursor the rest that is still kept comes, no line twice.
    let last = chunks.last().unwrap().cursor.clone();
    assert_eq!(
        lines(&from(&world, &object, Some(last)).await),
        Vec::<String>::new()
    );
    let early = lines(&from(&world, &object, Some(chunks[0].cursor.clone())).await);
    let mut distinct = early.clone();
    distinct.dedup();
    assert_eq!(early, distinct);
    assert!(
        expected.ends_with(&early[early.len().saturating_sub(50)..]),
        "{early:?}"
    );
    world.delete(object.guid, Some(&object.handle)).await.unwrap();
    let rest = async { while stream.next().await.is_some() {} };
    timeout(PATIENCE, rest)
        .await
        .expect("the follower ends with its object");
    world.end().await;
}

#[tokio::test]
async fn cursors_survive_the_driver_and_tails_are_the_last_lines() {
    let mut world = World::new().await;
    let script =
        "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; printf 'no end'; sleep 0.1; exit 0";
    let object = world.make(&world.spec("pod", "writes", shell(script))).await;
    world.until(&object, ObjectState::Exited).await;
    let expected: Vec<String> = (0..500)
        .map(|i| format!("line {i}"))
        .chain(["no end".to_owned()])
        .collect();
    let chunks = from(&world, &object, None).await;
    assert_eq!(lines(&chunks), expected);
    for (tail, first) in [(0, 501), (1, 500), (7, 494), (1000, 0)] {
        let request = LogReadRequest {
            tail: Some(tail),
            ..only(LogStream::Stdout)
        };
        let chunks = once(&world, &object, request).await;
        assert_eq!(lines(&chunks), expected[first..], "tail {tail}");
        if let Some(chunk) = chunks.first() {
            let rest = lines(&from(&world, &object, Some(chunk.cursor.clone())).await);
            assert_eq!(
                rest,
                expected[first + chunk.lines.len()..],
                "after the first of tail {tail}"
            );
        }
    }
    world.restart().await;
    world
        .driver
        .recover(&[Target {
            guid: object.guid,
            handle: &object.handle,
        }])
        .await
        .unwrap();
    let mut read = 0;
    for chunk in &chunks {
        read += chunk.lines.len();
        let rest = lines(&from(&world, &object, Some(chunk.cursor.clone())).await);
        assert_eq!(rest, expected[read..]);
    }
    let target = Target {
        guid: object.guid,
        handle: &object.handle,
    };
    let request = LogReadRequest {
        cursor: Some("nonsense".into()),
        ..LogReadRequest::default()
    };
    let error = world
        .driver
        .logs()
        .unwrap()
        .read(target, request)
        .await
        .err()
        .unwrap();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Invalid, Some("cursor")));
    world.end().await;
}

#[tokio::test]
async fn long_lines_come_in_pieces_without_the_kubelets_times() {
    let world = World::new().await;
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo after; sleep 100000";
    let object = world.make(&world.spec("pod", "long", shell(script))).await;
    world.until(&object, ObjectState::Running).await;
    let by = Instant::now() + PATIENCE;
    let got = loop {
        let got = lines(&from(&world, &object, None).await);
        if got.last().is_some_and(|line| line == "after") {
            break got;
        }
        assert!(Instant::now() < by, "{} lines", got.len());
        sleep(Duration::from_millis(200)).await;
    };
    let (after, long) = got.split_last().unwrap();
    assert_eq!(after, "after");
    assert!(long.len() > 1 && long.iter().all(|piece| piece.len() <= 64 * 1024));
    assert_eq!(long.concat(), "x".repeat(100_000));
    world.end().await;
}

#[tokio::test]
async fn pods_come_and_go_under_a_follower_and_their_names_are_told() {
    let world = World::new().await;
    let script = "echo begins on $HOSTNAME; trap 'exit 0' TERM; sleep 100000 & wait";
    let mut spec = world.spec("deployment", "web", shell(script));
    spec.resources.replicas = Some(2);
    let object = world.make(&spec).await;
    world.until(&object, ObjectState::Running).await;
    let request = LogReadRequest {
        follow: true,
        ..LogReadRequest::default()
    };
    let mut stream = open(&world, &object, request).await;
    let first = world
        .api("v1", "Pod")
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    let mut chunks = Vec::new();
    let mut deleted = false;
    let all = async {
        loop {
            let begun = |chunks: &[LogChunk]| {
                lines(chunks)
                    .iter()
                    .filter(|l| l.starts_with("begins on"))
                    .count()
            };
            if begun(&chunks) == 2 && !deleted {
                deleted = true;
                let name = first[0].metadata.name.clone().unwrap();
                world
                    .api("v1", "Pod")
                    .delete(&name, &DeleteParams::default())
                    .await
                    .unwrap();
            }
            if begun(&chunks) == 3 {
                return;
            }
            chunks.push(stream.next().await.unwrap().unwrap());
        }
    };
    timeout(PATIENCE, all).await.expect("the lines of three pods");
    let mut source = String::new();
    for chunk in &chunks {
        for line in lines(std::slice::from_ref(chunk)) {
            match chunk.stream {
                LogStream::System if line.starts_with("pod ") => source = line,
                LogStream::System => {}
                _ => {
                    let host = line.rsplit(' ').next().unwrap();
                    assert_eq!(source, format!("pod {host}, container main"));
                }
            }
        }
    }
    let system: Vec<LogChunk> = chunks
        .into_iter()
        .filter(|chunk| chunk.stream == LogStream::System)
        .collect();
    let events = lines(&system);
    assert!(
        events.iter().any(|line| line.contains("Scheduled Pod/web-")),
        "{events:?}"
    );
    world.end().await;
}

type Cursors = BTreeMap<Guid, String>;

async fn collect(
    world: &World,
    object: &Object,
    cursors: &mut Cursors,
    from_start: bool,
    most: usize,
) -> TelemetryBatch {
    let mut batch = TelemetryBatch::default();
    let mut next = Vec::new();
    let cursor = cursors.get(&object.guid).cloned();
    let target = CollectTarget {
        guid: object.guid,
        handle: &object.handle,
        log_cursor: cursor.as_deref(),
        from_start,
    };
    let request = CollectRequest {
        targets: &[target],
        signals: &[Signal::Logs],
        max_log_bytes: most,
        deadline: Duration::from_secs(20),
    };
    world
        .driver
        .collect(request, &mut batch, &mut next)
        .await
        .unwrap();
    cursors.extend(next);
    batch
}

#[tokio::test]
async fn collections_bring_each_line_once_with_its_pod_and_container() {
    let mut world = World::new().await;
    let script = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; sleep 100000";
    let object = world.make(&world.spec("pod", "writes", shell(script))).await;
    world.until(&object, ObjectState::Running).await;
    let mut cursors = Cursors::new();
    let mut records: Vec<LogRecord> = Vec::new();
    let is_line = |record: &LogRecord| record.stream == LogStream::Stdout;
    let by = Instant::now() + PATIENCE;
    let mut restarted = false;
    while records.iter().filter(|r| is_line(r)).count() < 60 {
        assert!(Instant::now() < by, "{records:?}");
        let batch = collect(&world, &object, &mut cursors, true, 400).await;
        assert_eq!(batch.losses, []);
        assert!(batch.logs.iter().map(|record| record.body.len()).sum::<usize>() <= 400);
        records.extend(batch.logs);
        // Going on from the cursors alone.
        if records.len() > 20 && !restarted {
            restarted = true;
            world.restart().await;
            world
                .driver
                .recover(&[Target {
                    guid: object.guid,
                    handle: &object.handle,
                }])
                .await
                .unwrap();
            world.until(&object, ObjectState::Running).await;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let texts: Vec<String> = records
        .iter()
        .filter(|r| is_line(r))
        .map(|r| String::from_utf8_lossy(&r.body).into_owned())
        .collect();
    assert_eq!(texts, (0..60).map(|i| format!("line {i}")).collect::<Vec<_>>());
    let line = records.iter().find(|r| is_line(r)).unwrap();
    let attribute = |name: &str| {
        line.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.to_string())
    };
    assert_eq!(attribute("k8s.pod.name").as_deref(), Some("writes"));
    assert_eq!(attribute("k8s.container.name").as_deref(), Some("main"));
    assert_eq!(
        attribute("k8s.namespace.name").as_deref(),
        Some(world.namespace.as_str())
    );
    let events: Vec<String> = records
        .iter()
        .filter(|r| !is_line(r))
        .map(|r| String::from_utf8_lossy(&r.body).into_owned())
        .collect();
    assert!(
        events.iter().any(|line| line.contains("Started Pod/writes")),
        "{events:?}"
    );
    let mut distinct = events.clone();
    distinct.dedup();
    assert_eq!(events, distinct);

    // Without a cursor: only what comes from now on.
    let mut fresh = Cursors::new();
    assert_eq!(
        collect(&world, &object, &mut fresh, false, 1 << 20).await.logs,
        []
    );
    assert_eq!(
        collect(&world, &object, &mut fresh, false, 1 << 20).await.logs,
        []
    );
    world.delete(object.guid, Some(&object.handle)).await.unwrap();
    let mut gone = Cursors::new();
    assert_eq!(collect(&world, &object, &mut gone, true, 1 << 20).await.logs, []);
    assert!(gone.is_empty());
    world.end().await;
}
