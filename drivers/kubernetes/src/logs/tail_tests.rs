use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use agent_api_driver::async_trait;
use futures_util::io::{AsyncBufRead, AsyncRead};
use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::logs::cursor::{Key, instance};

/// One run of the container.
#[derive(Clone, Default)]
struct Run {
    id: String,
    /// Times in milliseconds and texts. `kept` is the first one that was not rotated away.
    log: Vec<(i64, String)>,
    kept: usize,
    running: bool,
}

#[derive(Default)]
struct World {
    runs: Vec<Run>,
    gone: bool,
    opened: usize,
    asked: usize,
    /// Runs added between the moment a log is asked for and the answer.
    between: VecDeque<Run>,
    /// Connections that end after so many bytes.
    cut: VecDeque<usize>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<World>>);

impl Fake {
    fn run(&self, texts: &[&str], running: bool) {
        let mut world = self.0.lock();
        if let Some(last) = world.runs.last_mut() {
            last.running = false;
        }
        let run = run(world.runs.len(), texts, running);
        world.runs.push(run);
    }

    fn write(&self, text: &str) {
        let mut world = self.0.lock();
        let run = world.runs.last_mut().unwrap();
        let at = run.log.last().map_or(1_000_000, |(at, _)| at + 300);
        run.log.push((at, text.into()));
    }
}

fn run(number: usize, texts: &[&str], running: bool) -> Run {
    let begin = (i64::try_from(number).unwrap() + 1) * 1_000_000;
    Run {
        id: format!("containerd://{number:012}aaaa"),
        log: (0..)
            .map(|i| begin + i * 300)
            .zip(texts.iter().map(|t| (*t).into()))
            .collect(),
        kept: 0,
        running,
    }
}

/// A body that goes on with what is written later, or is cut off.
struct Body {
    fake: Fake,
    run: usize,
    line: usize,
    since: i64,
    follow: bool,
    left: usize,
    buffer: Vec<u8>,
}

impl AsyncRead for Body {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        unreachable!("lines read by the buffer")
    }
}

impl AsyncBufRead for Body {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(Err(io::Error::other("cut")));
        }
        if this.buffer.is_empty() {
            let world = this.fake.0.lock();
            let run = &world.runs[this.run];
            while this.buffer.is_empty() && this.line < run.log.len() {
                let (at, text) = &run.log[this.line];
                this.line += 1;
                if at / 1000 >= this.since {
                    let at = jiff::Timestamp::from_millisecond(*at).unwrap();
                    this.buffer = format!("{at} {text}\n").into_bytes();
                }
            }
            if this.buffer.is_empty() && this.follow && run.running && !world.gone {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let length = this.buffer.len().min(this.left);
        Poll::Ready(Ok(&this.buffer[..length]))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.buffer.drain(..amount);
        this.left -= amount;
    }
}

#[async_trait]
impl Kubelet for Fake {
    async fn pod(&self, _: &Source) -> Result<Option<Arc<Pod>>> {
        let mut world = self.0.lock();
        world.asked += 1;
        if world.gone {
            return Ok(None);
        }
        let mut state = json!({"waiting": {}});
        let mut id = String::new();
        let mut last = json!({});
        if let Some((now, before)) = world.runs.split_last() {
            id.clone_from(&now.id);
            state = match now.running {
                true => json!({"running": {}}),
                false => json!({"terminated": {"containerID": now.id, "exitCode": 1}}),
            };
            if let Some(before) = before.last() {
                last = json!({"terminated": {"containerID": before.id, "exitCode": 1}});
            }
        }
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [{
            "name": "c", "image": "i", "imageID": "i", "ready": true,
            "restartCount": world.runs.len().saturating_sub(1),
            "containerID": id, "state": state, "lastState": last,
        }]}))
        .unwrap();
        Ok(Some(Arc::new(Pod {
            status: Some(status),
            ..Pod::default()
        })))
    }

    async fn log(&self, _: &Source, wanted: Wanted) -> Result<Option<Lines>> {
        let mut world = self.0.lock();
        if let Some(run) = world.between.pop_front() {
            world.runs.last_mut().unwrap().running = false;
            world.runs.push(run);
        }
        world.opened += 1;
        let left = world.cut.pop_front().unwrap_or(usize::MAX);
        let Some(run) = world.runs.len().checked_sub(1 + usize::from(wanted.previous)) else {
            return Ok(None);
        };
        let body = Body {
            fake: self.clone(),
            run,
            line: world.runs[run].kept,
            since: wanted.since.unwrap_or(0),
            follow: wanted.follow,
            left,
            buffer: Vec::new(),
        };
        Ok(Some(Lines::new(Box::pin(body))))
    }
}

fn source() -> Source {
    Source {
        key: Key {
            uid: "u".into(),
            container: "c".into(),
        },
        namespace: "n".into(),
        pod: "p".into(),
    }
}

fn texts(batch: &Batch) -> Vec<String> {
    batch
        .lines
        .iter()
        .map(|(_, line, _)| String::from_utf8_lossy(line).into_owned())
        .collect()
}

/// Reads to the present end.
async fn once(fake: &Fake, place: Option<Place>) -> (Vec<String>, Option<Place>, u64) {
    let mut tail = Tail::new(source(), place);
    let (mut lines, mut lost) = (Vec::new(), 0);
    while let Some(batch) = tail.next(fake, Mode::Once, 10).await.unwrap() {
        lines.extend(texts(&batch));
        lost += batch.lost;
    }
    (lines, tail.place().cloned(), lost)
}

#[tokio::test(start_paused = true)]
async fn each_line_once_over_restarts() {
    let fake = Fake::default();
    assert_eq!(once(&fake, None).await, (vec![], None, 0));
    fake.run(&["a1", "a2"], true);
    let (lines, place, _) = once(&fake, None).await;
    assert_eq!(lines, ["a1", "a2"]);
    assert_eq!(once(&fake, place.clone()).await.0, Vec::<String>::new());
    // It writes more, ends and is started again: the rest of the run before comes first.
    fake.write("a3");
    fake.run(&["b1"], true);
    let (lines, place, lost) = once(&fake, place).await;
    assert_eq!((lines, lost), (vec!["a3".into(), "b1".into()], 0));
    // It ends; nothing is new. Then the next run.
    fake.0.lock().runs.last_mut().unwrap().running = false;
    let (lines, place, lost) = once(&fake, place).await;
    assert_eq!((lines.len(), lost, place.as_ref().unwrap().done), (0, 0, true));
    fake.run(&["c1"], true);
    let (lines, place, lost) = once(&fake, place).await;
    assert_eq!((lines, lost), (vec!["c1".into()], 0));
    // Two runs later what lies between is gone, and that is told.
    fake.run(&["d1"], true);
    fake.run(&["e1"], true);
    fake.run(&["f1"], true);
    let (lines, _, lost) = once(&fake, place).await;
    assert_eq!((lines, lost), (vec!["e1".into(), "f1".into()], SOME));
    // Without a place: all that is kept.
    assert_eq!(once(&fake, None).await.0, ["e1", "f1"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_a_log_is_opened_loses_nothing() {
    let fake = Fake::default();
    fake.run(&["a1"], true);
    let (_, place, _) = once(&fake, None).await;
    fake.write("a2");
    fake.0.lock().between.push_back(run(1, &["b1"], true));
    let (lines, _, lost) = once(&fake, place).await;
    assert_eq!((lines, lost), (vec!["a2".into(), "b1".into()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_told_and_the_rest_comes() {
    let fake = Fake::default();
    fake.run(&["a0", "a1", "a2"], true);
    let (_, place, _) = once(&fake, None).await;
    for i in 3..20 {
        fake.write(&format!("a{i}"));
    }
    fake.0.lock().runs[0].kept = 15;
    let (lines, place, lost) = once(&fake, place).await;
    assert_eq!((lines, lost), ((15..20).map(|i| format!("a{i}")).collect(), SOME));
    let (lines, _, lost) = once(&fake, place).await;
    assert_eq!((lines.len(), lost), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_follower_goes_on_after_cuts_restarts_and_waits() {
    let fake = Fake::default();
    let all: Vec<String> = (0..40).map(|i| format!("line {i}")).collect();
    fake.run(&[], true);
    // Each connection is cut somewhere else, also in the middle of a line.
    fake.0.lock().cut.extend([0, 10, 45, 130, 200, 33, 500, 77]);
    let writer = {
        let (fake, all) = (fake.clone(), all.clone());
        async move {
            for (i, line) in all.iter().enumerate() {
                if i % 10 == 9 {
                    fake.run(&[line], true);
                } else {
                    fake.write(line);
                }
                sleep(Duration::from_secs(30)).await;
            }
            fake.0.lock().gone = true;
        }
    };
    let reader = async {
        let mut tail = Tail::new(source(), None);
        let mut lines = Vec::new();
        while let Some(batch) = tail.next(&fake, Mode::Follow, 1000).await.unwrap() {
            assert_eq!(batch.lost, 0);
            lines.extend(texts(&batch));
        }
        lines
    };
    // A real clock turns while the fake body is polled.
    let (lines, ()) = tokio::join!(reader, async {
        tokio::select! {
            () = writer => {}
            () = async { loop { tokio::task::yield_now().await; tokio::time::advance(Duration::from_millis(50)).await; } } => {}
        }
    });
    assert_eq!(lines, all);
}

#[test]
fn a_run_that_was_followed_to_its_end_is_not_lost() {
    let place = Place {
        instance: "a".into(),
        restarts: 0,
        ..Place::default()
    };
    // The next run has ended too, and waits to be started again.
    let runs = Runs {
        current: Some("b".into()),
        previous: None,
        running: false,
        restarts: 1,
    };
    let lost = |followed| next(Some(&place), &runs, followed).unwrap().lost;
    assert!(!lost(true) && lost(false));
    let later = Runs {
        restarts: 2,
        ..runs.clone()
    };
    assert!(next(Some(&place), &later, true).unwrap().lost);
}

#[test]
fn names_of_runs() {
    assert_eq!(
        instance("containerd://987b3780e93f5d4d").as_deref(),
        Some("987b3780e93f")
    );
    assert_eq!(instance(""), None);
    let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"containerStatuses": [{
        "name": "b", "image": "i", "imageID": "i", "ready": false, "restartCount": 1,
        "containerID": "containerd://be1297d9e07653be",
        "lastState": {"terminated": {"containerID": "containerd://be1297d9e07653be", "exitCode": 3}},
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }]}}))
    .unwrap();
    let runs = Runs::of(&pod, "b");
    assert_eq!(
        (
            runs.current.as_deref(),
            runs.previous,
            runs.running,
            runs.restarts
        ),
        (Some("be1297d9e076"), None, false, 0)
    );
    assert_eq!(Runs::of(&pod, "other"), Runs::default());
}
