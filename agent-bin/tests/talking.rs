//! Commands that one talks with, and methods of single kinds: `exec -i`, `exec -it`, `call`.

#![cfg(all(feature = "process", feature = "simulated", feature = "bus-http"))]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use common::{PATIENCE, Place, alive, until};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const SLEEPER: &str = "kind: process\nname: sleeper\nspec: {command: [sleep, '1000'], env: {COLOR: blue}}\n";

async fn with_sleeper() -> Place {
    let place = Place::with_agent().await;
    let file = place.file("sleeper.yaml", SLEEPER);
    place.agent(&["apply", "-f", &file]).well();
    place
}

/// What a program writes, as it comes.
struct Heard {
    pieces: Receiver<Vec<u8>>,
    text: String,
}

impl Heard {
    /// Listens on a thread that ends with the other side.
    fn on(mut from: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            pieces,
            text: String::new(),
        }
    }

    /// Waits until this was written.
    #[track_caller]
    fn until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            match self.pieces.recv_timeout(PATIENCE) {
                Ok(piece) => self.text += &String::from_utf8_lossy(&piece),
                Err(RecvTimeoutError::Timeout) => panic!("{wanted:?} not in time, but {:?}", self.text),
                Err(RecvTimeoutError::Disconnected) => panic!("{wanted:?} never, but {:?}", self.text),
            }
        }
    }
}

async fn code(child: &mut Child) -> Option<i32> {
    until("the command has ended", || child.try_wait().unwrap())
        .await
        .code()
}

/// A terminal with the program on it.
struct Screen {
    ours: std::fs::File,
    theirs: OwnedFd,
    child: Child,
    heard: Heard,
}

impl Screen {
    fn open(place: &Place, args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let ours = std::fs::File::from(ours);
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let screen_size = size(80, 24);
        tcsetwinsize(&ours, screen_size).unwrap();
        let child = place
            .command(args)
            .env("TERM", "vt100")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self {
            heard: Heard::on(ours.try_clone().unwrap()),
            ours,
            theirs,
            child,
        }
    }

    fn enter(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.ours, size(columns, rows)).unwrap();
        // The kernel tells whoever has the terminal as its controlling one; the program here has it only open.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.theirs).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    async fn until_raw(&self) {
        until("the terminal is raw", || self.is_raw().then_some(())).await;
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[tokio::test]
async fn input_is_passed_on_as_it_comes() {
    let place = with_sleeper().await;
    let mut child = place
        .command(&[
            "exec",
            "-i",
            "sleeper",
            "--",
            "/bin/sh",
            "-c",
            "echo ready $COLOR; while read line; do echo \"<$line>\"; done; echo over >&2; exit 4",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = Heard::on(child.stdout.take().unwrap());
    let mut err = Heard::on(child.stderr.take().unwrap());
    let mut keys = child.stdin.take().unwrap();
    out.until("ready blue\n");
    for word in ["one", "zwei €", "three"] {
        writeln!(keys, "{word}").unwrap();
        out.until(&format!("<{word}>\n"));
    }
    drop(keys);
    err.until("over\n");
    assert_eq!(code(&mut child).await, Some(4));

    // More than fits in any queue on the way, and no text.
    let much: String = (0..400_000).map(|n| format!("{n}\n")).collect();
    let counted = place.agent_with_input(&["exec", "-i", "sleeper", "--", "sha256sum"], &much);
    let file = place.dir.path().join("input");
    let wanted = std::process::Command::new("sha256sum")
        .stdin(std::fs::File::open(file).unwrap())
        .output();
    assert_eq!(counted.well().out.into_bytes(), wanted.unwrap().stdout);

    // A command that reads nothing ends all the same.
    let ended = place.agent_with_input(&["exec", "-i", "sleeper", "--", "/bin/sh", "-c", "exit 6"], &much);
    assert_eq!(ended.code, Some(6), "{ended:?}");
}

#[tokio::test]
async fn a_shell_has_the_terminal() {
    let place = with_sleeper().await;
    let mut screen = Screen::open(&place, &["exec", "-it", "sleeper", "--", "/bin/sh"]);
    screen.until_raw().await;
    screen.enter("PS1=; stty size; echo term $TERM color $COLOR\r");
    screen.heard.until("24 80");
    screen.heard.until("term vt100 color blue\r\n");
    screen.resize(132, 50);
    let end = tokio::time::Instant::now() + PATIENCE;
    while !screen.heard.text.contains("50 132") {
        assert!(tokio::time::Instant::now() < end, "{}", screen.heard.text);
        screen.enter("stty size; echo as''ked\r");
        screen.heard.until("asked\r\n");
        screen.heard.text = screen.heard.text.replace("asked\r\n", "");
    }
    // Said by the job itself: it has the terminal by then.
    screen.enter("sh -c 'echo begun; exec sleep 1000'\r");
    screen.heard.until("begun\r\n");
    screen.enter("\x03");
    screen.enter("echo co''de $?\r");
    screen.heard.until("code 130\r\n");
    screen.enter("exit 11\r");
    assert_eq!(code(&mut screen.child).await, Some(11), "{}", screen.heard.text);
    assert!(!screen.is_raw(), "the terminal is as it was");
}

#[tokio::test]
async fn the_terminal_is_given_back_however_it_ends() {
    let place = with_sleeper().await;
    let script = "echo pid $$ .; sleep 1000";
    for (signal, wanted) in [
        (rustix::process::Signal::TERM, 143),
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::HUP, 129),
    ] {
        let mut screen = Screen::open(&place, &["exec", "-it", "sleeper", "--", "/bin/sh", "-c", script]);
        screen.until_raw().await;
        screen.heard.until(" .\r\n");
        let remote: i64 = screen
            .heard
            .text
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        assert!(alive(remote));
        let pid = rustix::process::Pid::from_child(&screen.child);
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(code(&mut screen.child).await, Some(wanted));
        assert!(!screen.is_raw(), "after {signal:?}");
        until("the command is killed", || (!alive(remote)).then_some(())).await;
    }
    let mut screen = Screen::open(
        &place,
        &[
            "exec",
            "-it",
            "--timeout",
            "1s",
            "sleeper",
            "--",
            "/bin/sh",
            "-c",
            script,
        ],
    );
    screen.heard.until("error: ");
    assert_eq!(code(&mut screen.child).await, Some(8), "{}", screen.heard.text);
    assert!(!screen.is_raw(), "after an error");
    let info = place.agent(&["info", "-o", "json"]).well().json();
    assert_eq!(info["queues"]["exec.sessions"]["length"], 0);
}

#[tokio::test]
async fn what_cannot_be_done_is_said_first() {
    let place = with_sleeper().await;
    let simulated = place.file("simulated.yaml", "kind: simulated\nname: model\n");
    place.agent(&["apply", "-f", &simulated]).well();
    for (args, code, said) in [
        (
            &["exec", "-it", "sleeper", "--", "sh"][..],
            2,
            "is not a terminal",
        ),
        (
            &["exec", "-t", "-o", "json", "sleeper", "--", "sh"],
            2,
            "do not go together",
        ),
        (
            &["exec", "-t", "model", "--", "sh"],
            1,
            "cannot be given a terminal",
        ),
        (&["call", "sleeper", "rollback"], 1, "cannot call"),
        (&["call", "nobody", "rollback"], 7, "no such object"),
        (
            &["call", "sleeper", "Roll-Back"],
            3,
            "is not the name of a method",
        ),
        (&["call", "sleeper"], 2, "METHOD is missing"),
        (
            &["call", "-l", "kind=process", "rollback", "revision=3"],
            1,
            "cannot call",
        ),
    ] {
        let ended = place.agent(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.err.contains(said), "{args:?}: {ended:?}");
    }
}
