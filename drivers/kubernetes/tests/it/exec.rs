//! Commands in containers of the lab's cluster, whose server speaks `v4.channel.k8s.io`.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, ExitStatus, TerminalSize};
use agent_api_driver::{ExecInput, ExecOutput, ExecRequest, ExecStream, InputStream, ObjectState, Target};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Object, PATIENCE, World};

fn request(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::new(),
        timeout: PATIENCE,
        terminal: None,
    }
}

fn input(pieces: Vec<ExecInput>) -> InputStream {
    // Not all at once: input that has ended before the command began would be none.
    Box::pin(stream::iter(pieces).then(|piece| async {
        sleep(Duration::from_millis(20)).await;
        piece
    }))
}

fn text(text: &str) -> ExecInput {
    ExecInput::Stdin(text.as_bytes().to_vec().into())
}

async fn open(
    world: &World,
    pod: &Object,
    request: ExecRequest,
    input: InputStream,
) -> Result<ExecStream, Error> {
    let target = Target {
        guid: pod.guid,
        handle: &pod.handle,
    };
    world.driver.exec().unwrap().exec(target, request, input).await
}

struct Output {
    stdout: String,
    stderr: String,
    exit: Result<ExitStatus, Error>,
}

async fn all(mut stream: ExecStream) -> Output {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = timeout(PATIENCE, async {
        let mut exit = None;
        while let Some(item) = stream.next().await {
            assert!(exit.is_none(), "{item:?} after the end");
            match item {
                Ok(ExecOutput::Stdout(piece)) => stdout.extend_from_slice(&piece),
                Ok(ExecOutput::Stderr(piece)) => stderr.extend_from_slice(&piece),
                Ok(ExecOutput::Exit(status)) => exit = Some(Ok(status)),
                Err(error) => exit = Some(Err(error)),
            }
        }
        exit.unwrap()
    })
    .await
    .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output {
        stdout: text(stdout),
        stderr: text(stderr),
        exit,
    }
}

async fn run(world: &World, pod: &Object, request: ExecRequest, pieces: Vec<ExecInput>) -> Output {
    let input = if pieces.is_empty() {
        Box::pin(stream::empty())
    } else {
        input(pieces)
    };
    all(open(world, pod, request, input).await.unwrap()).await
}

async fn pod(world: &World) -> Object {
    let pod = world.make(&world.sleeper("pod", "one")).await;
    world.until(&pod, ObjectState::Running).await;
    pod
}

#[tokio::test]
async fn output_input_environment_and_exit_code() {
    let world = World::new().await;
    let pod = pod(&world).await;
    let both = run(
        &world,
        &pod,
        request(&["sh", "-c", "echo out; echo err >&2; exit 3"]),
        vec![],
    )
    .await;
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(both.exit.unwrap().code, Some(3));

    // The end of input ends the command, though v4 cannot close it.
    let copied = run(
        &world,
        &pod,
        request(&["cat"]),
        vec![text("one\n"), text("two\n")],
    )
    .await;
    assert_eq!(
        (copied.stdout.as_str(), copied.exit.unwrap().code),
        ("one\ntwo\n", Some(0))
    );
    // More than fits in any buffer, every byte value among it.
    let bytes: Vec<u8> = (0..200_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let counted = run(
        &world,
        &pod,
        request(&["md5sum"]),
        vec![ExecInput::Stdin(bytes.clone().into())],
    )
    .await;
    let echoed = run(
        &world,
        &pod,
        request(&["wc", "-c"]),
        vec![ExecInput::Stdin(bytes.into())],
    )
    .await;
    assert_eq!(echoed.stdout.trim(), "200000");
    assert!(
        counted.exit.unwrap().is_success() && counted.stdout.len() > 32,
        "{}",
        counted.stdout
    );
    // A command that ends before its input does.
    let first = run(
        &world,
        &pod,
        request(&["head", "-n", "1"]),
        vec![text("one\ntwo\n"), text("three\n")],
    )
    .await;
    assert_eq!(
        (first.stdout.as_str(), first.exit.unwrap().code),
        ("one\n", Some(0))
    );
    // Without input it ends at once.
    let none = run(&world, &pod, request(&["cat"]), vec![]).await;
    assert_eq!((none.stdout.as_str(), none.exit.unwrap().code), ("", Some(0)));

    let mut set = request(&["sh", "-c", "echo \"$COLOR\""]);
    set.env.insert("COLOR".into(), "a value; $HOME".into());
    assert_eq!(run(&world, &pod, set, vec![]).await.stdout, "a value; $HOME\n");
    let words = run(&world, &pod, request(&["echo", "$HOME; exit 1", "`id`"]), vec![]).await;
    assert_eq!(words.stdout, "$HOME; exit 1 `id`\n");

    let missing = open(
        &world,
        &pod,
        request(&["no-such-program"]),
        Box::pin(stream::empty()),
    )
    .await
    .err()
    .unwrap();
    assert_eq!(
        (missing.kind(), missing.path()),
        (ErrorKind::NotFound, Some("command")),
        "{missing}"
    );
    let empty = open(&world, &pod, request(&[]), Box::pin(stream::empty()))
        .await
        .err()
        .unwrap();
    assert_eq!(
        (empty.kind(), empty.path()),
        (ErrorKind::Invalid, Some("command"))
    );
    world.end().await;
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes() {
    let world = World::new().await;
    let pod = pod(&world).await;
    let size = |columns, rows| TerminalSize { columns, rows };
    let mut shell = request(&[
        "sh",
        "-c",
        "read a; stty size; read b; stty size; read c || echo ended",
    ]);
    shell.terminal = Some(size(81, 25));
    // Each answer of the shell is waited for: the size it tells is the one of that moment.
    let pieces = vec![text("\n"), ExecInput::Resize(size(101, 31)), text("\n")];
    let input: InputStream = Box::pin(stream::iter(pieces).then(|piece| async {
        sleep(Duration::from_secs(2)).await;
        piece
    }));
    let output = all(open(&world, &pod, shell, input).await.unwrap()).await;
    let lines: Vec<&str> = output.stdout.lines().map(str::trim).collect();
    assert!(lines.contains(&"25 81") && lines.contains(&"31 101"), "{lines:?}");
    // The end of input is the end of the terminal's.
    assert!(output.stdout.contains("ended"), "{lines:?}");
    assert_eq!(output.exit.unwrap().code, Some(0));
    world.end().await;
}

/// Whether a command with this word runs in the pod.
async fn runs(world: &World, pod: &Object, word: &str) -> bool {
    let list = run(world, pod, request(&["ps", "-o", "args"]), vec![]).await;
    list.stdout
        .lines()
        .any(|line| line.contains(word) && !line.contains("sh -c"))
}

async fn until_runs(world: &World, pod: &Object, word: &str, wanted: bool) {
    let by = Instant::now() + PATIENCE;
    while runs(world, pod, word).await != wanted {
        assert!(Instant::now() < by, "{word}: still {}", !wanted);
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_command_ends_with_its_reader_and_at_its_time() {
    let world = World::new().await;
    let pod = pod(&world).await;
    // With what it started.
    let command = request(&["sh", "-c", "sleep 4711 & sleep 4712"]);
    let stream = open(&world, &pod, command, input(vec![text("x")])).await.unwrap();
    until_runs(&world, &pod, "sleep 4711", true).await;
    drop(stream);
    until_runs(&world, &pod, "sleep 4711", false).await;
    until_runs(&world, &pod, "sleep 4712", false).await;

    let mut slow = request(&["sleep", "4713"]);
    slow.timeout = Duration::from_secs(3);
    let output = run(&world, &pod, slow, vec![]).await;
    assert_eq!(output.exit.unwrap_err().kind(), ErrorKind::Timeout);
    until_runs(&world, &pod, "sleep 4713", false).await;
    world.end().await;
}

#[tokio::test]
async fn what_does_not_run_runs_no_commands() {
    let world = World::new().await;
    let pod = world
        .make(&world.spec("pod", "short", crate::support::shell("exit 0")))
        .await;
    world.until(&pod, ObjectState::Exited).await;
    let error = open(&world, &pod, request(&["true"]), Box::pin(stream::empty()))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    world.end().await;
}
