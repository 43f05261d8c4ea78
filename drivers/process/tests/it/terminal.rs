//! Commands with a terminal.

use std::collections::BTreeMap;

use agent_api_driver::model::{ExitStatus, TerminalSize};
use agent_api_driver::{ExecInput, ExecOutput, ExecRequest, ExecStream};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::fixture::{Fixture, Object, PATIENCE, is_alive, until_dead};

/// A command, what is typed, and what it has shown.
struct Screen {
    keys: Option<mpsc::Sender<ExecInput>>,
    stream: ExecStream,
    shown: String,
}

impl Screen {
    async fn open(f: &Fixture, object: &Object, script: &str) -> Self {
        let (keys, receiver) = mpsc::channel(16);
        let typed =
            futures_util::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<ExecInput>| {
                let key = receiver.recv().await?;
                Some((key, receiver))
            });
        let request = ExecRequest {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("TERM".into(), "vt100".into())]),
            timeout: PATIENCE * 2,
            terminal: Some(TerminalSize {
                columns: 80,
                rows: 24,
            }),
        };
        let exec = f.driver.exec().unwrap();
        let stream = exec
            .exec(object.target(), request, Box::pin(typed))
            .await
            .unwrap();
        Self {
            keys: Some(keys),
            stream,
            shown: String::new(),
        }
    }

    async fn send(&self, input: ExecInput) {
        self.keys.as_ref().unwrap().send(input).await.unwrap();
    }

    async fn enter(&self, text: &'static str) {
        self.send(ExecInput::Stdin(text.into())).await;
    }

    /// Reads on until this is shown.
    async fn until(&mut self, text: &str) {
        let read = async {
            while !self.shown.contains(text) {
                match self.stream.next().await.expect("more is shown").unwrap() {
                    ExecOutput::Stdout(piece) => self.shown += &String::from_utf8_lossy(&piece),
                    other => panic!("{other:?} after {:?}", self.shown),
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("shown in time");
    }

    async fn end(&mut self) -> ExitStatus {
        let read = async {
            loop {
                match self.stream.next().await.expect("an exit comes last").unwrap() {
                    ExecOutput::Stdout(piece) => self.shown += &String::from_utf8_lossy(&piece),
                    ExecOutput::Stderr(piece) => panic!("{piece:?} beside the terminal"),
                    ExecOutput::Exit(status) => return status,
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("ended in time")
    }
}

#[tokio::test]
async fn it_has_a_size_and_all_output_is_one() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let script = "test -t 0 && test -t 1 && test -t 2 || exit 9
        stty size; echo \"$TERM on stderr\" >&2; read first; stty size; echo \"<$first>\"; exec 0</dev/tty; exit 5";
    let mut screen = Screen::open(&f, &object, script).await;
    screen.until("on stderr").await;
    assert!(
        screen.shown.contains("24 80") && screen.shown.contains("vt100 on stderr"),
        "{}",
        screen.shown
    );
    let wide = TerminalSize {
        columns: 132,
        rows: 50,
    };
    screen.send(ExecInput::Resize(wide)).await;
    screen.enter("hällo\n").await;
    assert_eq!(screen.end().await.code, Some(5), "{}", screen.shown);
    assert!(
        screen.shown.contains("50 132") && screen.shown.contains("<hällo>"),
        "{}",
        screen.shown
    );
    f.finish().await;
}

#[tokio::test]
async fn keys_are_signals_and_the_end_of_the_input_is_one() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let script = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 1000; done";
    let mut screen = Screen::open(&f, &object, script).await;
    screen.until("ready").await;
    screen.enter("\x03").await;
    assert_eq!(screen.end().await.code, Some(7));
    assert!(screen.shown.contains("caught"), "{}", screen.shown);

    let mut screen = Screen::open(&f, &object, "echo ready; cat; echo over").await;
    screen.until("ready").await;
    screen.enter("line\n").await;
    screen.keys = None;
    assert_eq!(screen.end().await.code, Some(0));
    assert!(screen.shown.contains("over"), "{}", screen.shown);
    f.finish().await;
}

#[tokio::test]
async fn jobs_of_a_shell_are_killed_with_it() {
    let f = Fixture::new().await;
    let object = f.sh("exec sleep 1000").await;
    let script = "trap '' HUP; set -m; sleep 1000 & echo job $! shell $$ .; wait; sleep 1000";
    let mut screen = Screen::open(&f, &object, script).await;
    screen.until(" .").await;
    let pids: Vec<i32> = screen
        .shown
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(pids.len(), 2, "{}", screen.shown);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    drop(screen);
    for pid in pids {
        until_dead(pid).await;
    }
    assert!(is_alive(object.pid()), "the object itself goes on");
    f.finish().await;
}
