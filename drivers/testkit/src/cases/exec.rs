//! `exec`.

use std::collections::BTreeMap;

use agent_api_driver::model::{Error, ErrorKind, ExitStatus, TerminalSize};
use agent_api_driver::{ExecInput, ExecOutput, ExecRequest, ExecStream, InputStream, Target};
use futures_util::{StreamExt, stream};

use crate::trial::{Stop, Trial, Verdict, ensure, ensure_matches, needs, offered};
use crate::{ExecSample, Made, Sample};

fn command(trial: &Trial<'_>, sample: ExecSample<'_>) -> Verdict<ExecRequest> {
    needs(trial.capabilities()?.exec, "run commands")?;
    let command = offered(trial.subject.exec_sample(sample), &format!("command {sample:?}"))?;
    Ok(ExecRequest {
        command,
        env: BTreeMap::new(),
        timeout: trial.patience() * 2,
        terminal: None,
    })
}

async fn open(
    trial: &Trial<'_>,
    object: &Made,
    request: ExecRequest,
    input: Vec<&'static str>,
) -> Verdict<Result<ExecStream, Error>> {
    let driver = trial.driver();
    let exec = driver
        .exec()
        .ok_or_else(|| Stop::Failed("capabilities name exec, there is none".into()))?;
    let input: InputStream = Box::pin(stream::iter(
        input
            .into_iter()
            .map(|text| ExecInput::Stdin(text.as_bytes().to_vec().into())),
    ));
    Ok(exec
        .exec(
            Target {
                guid: object.guid,
                handle: &object.handle,
            },
            request,
            input,
        )
        .await)
}

struct Output {
    stdout: String,
    stderr: String,
    exit: ExitStatus,
}

/// All of the output; fails where `Exit` is not the one last item.
async fn run(
    trial: &Trial<'_>,
    object: &Made,
    request: ExecRequest,
    input: Vec<&'static str>,
) -> Verdict<Output> {
    let mut stream = open(trial, object, request, input).await??;
    let all = async {
        let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), None);
        while let Some(item) = stream.next().await {
            ensure!(exit.is_none(), "after Exit came {item:?}");
            match item? {
                ExecOutput::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                ExecOutput::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                ExecOutput::Exit(status) => exit = Some(status),
            }
        }
        let exit = exit.ok_or_else(|| Stop::Failed("the stream ended without Exit".into()))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output {
            stdout: text(stdout),
            stderr: text(stderr),
            exit,
        })
    };
    trial.in_time("the command", trial.patience() * 2, all).await?
}

pub(super) async fn exit_is_the_last_item_after_all_output(trial: &Trial<'_>) -> Verdict {
    let request = command(trial, ExecSample::WritesBoth)?;
    let object = trial.running(Sample::LongRunning).await?;
    let output = run(trial, &object, request, Vec::new()).await?;
    ensure!(
        output.stdout.trim_end() == "out",
        "standard output: {:?}",
        output.stdout
    );
    ensure!(
        output.stderr.trim_end() == "err",
        "standard error: {:?}",
        output.stderr
    );
    ensure!(output.exit.code == Some(3), "ended with 3: {:?}", output.exit);
    Ok(())
}

pub(super) async fn standard_input_is_passed_on_and_closed(trial: &Trial<'_>) -> Verdict {
    let request = command(trial, ExecSample::Copies)?;
    let object = trial.running(Sample::LongRunning).await?;
    let output = run(trial, &object, request, vec!["one\n", "two\n"]).await?;
    ensure!(
        output.stdout == "one\ntwo\n",
        "standard output: {:?}",
        output.stdout
    );
    ensure!(output.exit.is_success(), "{:?}", output.exit);
    Ok(())
}

pub(super) async fn the_environment_of_the_request_is_set(trial: &Trial<'_>) -> Verdict {
    let mut request = command(trial, ExecSample::PrintsVariable("CONFORMANCE"))?;
    request.env.insert("CONFORMANCE".into(), "a value; $HOME".into());
    let object = trial.running(Sample::LongRunning).await?;
    let output = run(trial, &object, request, Vec::new()).await?;
    ensure!(
        output.stdout.trim_end() == "a value; $HOME",
        "standard output: {:?}",
        output.stdout
    );
    Ok(())
}

/// Waits until the marked command runs, or runs no more.
async fn until_runs(trial: &Trial<'_>, mark: &str, wanted: bool) -> Verdict {
    let what = if wanted {
        "the command runs"
    } else {
        "the command runs no more"
    };
    trial
        .until(what, async || {
            let runs = offered(
                trial.subject.exec_runs(&trial.place, mark).await,
                "hook `exec_runs`",
            )?;
            Ok(if runs == wanted {
                Ok(())
            } else {
                Err(format!("runs: {runs}"))
            })
        })
        .await
}

fn mark(trial: &Trial<'_>) -> String {
    format!("marked-{}", trial.place.agent())
}

pub(super) async fn dropping_the_stream_kills_the_command(trial: &Trial<'_>) -> Verdict {
    let mark = mark(trial);
    let request = command(trial, ExecSample::Marked(&mark))?;
    let object = trial.running(Sample::LongRunning).await?;
    let stream = open(trial, &object, request, Vec::new()).await??;
    until_runs(trial, &mark, true).await?;
    drop(stream);
    until_runs(trial, &mark, false).await
}

pub(super) async fn the_timeout_kills_the_command(trial: &Trial<'_>) -> Verdict {
    let mark = mark(trial);
    let mut request = command(trial, ExecSample::Marked(&mark))?;
    request.timeout = trial.patience() / 50;
    let object = trial.running(Sample::LongRunning).await?;
    let mut stream = open(trial, &object, request, Vec::new()).await??;
    let all = async {
        let mut last = None;
        while let Some(item) = stream.next().await {
            last = Some(item);
        }
        last
    };
    let last = trial
        .in_time("a command with a timeout", trial.patience(), all)
        .await?;
    ensure_matches!(&last, Some(Err(error)) if error.kind() == ErrorKind::Timeout, "the last item");
    match until_runs(trial, &mark, false).await {
        Err(Stop::NotApplicable(_)) => Ok(()),
        verdict => verdict,
    }
}

const SIZE: TerminalSize = TerminalSize {
    columns: 123,
    rows: 45,
};

pub(super) async fn a_terminal_has_the_size_that_was_asked_for(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.terminal, "give a command a terminal")?;
    let mut request = command(trial, ExecSample::Terminal)?;
    request.terminal = Some(SIZE);
    let object = trial.running(Sample::LongRunning).await?;
    let output = run(trial, &object, request, Vec::new()).await?;
    ensure!(output.exit.is_success(), "{:?}: {:?}", output.exit, output.stdout);
    ensure!(
        output.stdout.trim() == SIZE.columns.to_string(),
        "{} columns were asked for, the command says {:?}",
        SIZE.columns,
        output.stdout
    );
    ensure!(
        output.stderr.is_empty(),
        "with a terminal all output is standard output: {:?}",
        output.stderr
    );
    Ok(())
}

pub(super) async fn a_terminal_that_cannot_be_given_is_unsupported(trial: &Trial<'_>) -> Verdict {
    let mut request = command(trial, ExecSample::Copies)?;
    if trial.capabilities()?.terminal {
        return Err(Stop::NotApplicable("the driver can give a terminal".into()));
    }
    request.terminal = Some(SIZE);
    let object = trial.running(Sample::LongRunning).await?;
    let answer = open(trial, &object, request, Vec::new())
        .await?
        .map(|_| "a stream");
    ensure_matches!(&answer, Err(error) if error.kind() == ErrorKind::Unsupported, "a command with a terminal");
    Ok(())
}

pub(super) async fn a_command_that_does_not_exist_is_not_found(trial: &Trial<'_>) -> Verdict {
    let request = command(trial, ExecSample::Missing)?;
    let object = trial.running(Sample::LongRunning).await?;
    let answer = open(trial, &object, request, Vec::new())
        .await?
        .map(|_| "a stream");
    ensure_matches!(&answer, Err(error) if error.kind() == ErrorKind::NotFound, "a command that does not exist");
    Ok(())
}

pub(super) async fn an_object_that_does_not_run_is_a_conflict(trial: &Trial<'_>) -> Verdict {
    let request = command(trial, ExecSample::Copies)?;
    let object = trial.ended(0).await?;
    let answer = open(trial, &object, request, Vec::new())
        .await?
        .map(|_| "a stream");
    ensure_matches!(&answer, Err(error) if error.kind() == ErrorKind::Conflict, "a command in what has ended");
    Ok(())
}
