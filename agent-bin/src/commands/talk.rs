//! `exec -i` and `exec -t`: a command that one talks with.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use agent_api_client::Client;
use agent_api_model::{ErrorKind, ExecFrame, ExecInput, ExecInputRequest, ExecRequest};
use agent_bin_daemon::exit;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use super::exec::show;
use crate::args::ExecArgs;
use crate::failure::{Failure, Outcome};
use crate::stdin::Stdin;
use crate::terminal::{self, Raw};

/// How long a command may run where the command line says nothing.
const TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long to wait before sending again what the command had no room for.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn talk(context: &Context, args: ExecArgs) -> Outcome {
    let raw = args.terminal && args.interactive;
    if raw && !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            exit::USAGE,
            "standard input is not a terminal\n  try: -i without -t",
        ));
    }
    let failed =
        |error: std::io::Error| Failure::new(exit::FAILED, format!("cannot use the terminal: {error}"));
    // Heard from now on, so that no change of the size is missed.
    let resized = match args.terminal {
        true => Some(signal(SignalKind::window_change()).map_err(failed)?),
        false => None,
    };
    let request = ExecRequest {
        command: args.command,
        env: env(args.terminal),
        stdin: None,
        interactive: true,
        terminal: args.terminal.then(terminal::size),
        timeout: args.timeout.unwrap_or(TIMEOUT),
    };
    let mut frames = context.client.exec(&args.name, &request).await?;
    let session = match frames.next().await {
        Some(Ok(ExecFrame::Session { session })) => session,
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(_)) | None => {
            return Err(Failure::new(
                exit::FAILED,
                "the agent takes no input for commands; is it older than this program?",
            ));
        }
    };
    let mut ends = if raw {
        Some(Ends::new().map_err(failed)?)
    } else {
        None
    };
    let stdin = match args.interactive {
        true => Some(Stdin::read().map_err(failed)?),
        false => None,
    };
    let input = Input {
        client: &context.client,
        session,
        stdin,
        resized,
    };
    let _raw = if raw {
        Some(Raw::enter().map_err(failed)?)
    } else {
        None
    };
    tokio::select! {
        code = show(context, frames) => code,
        failure = input.pass_on() => Err(failure),
        number = ended(&mut ends) => Ok(128 + number),
    }
}

/// A command with this terminal is told what it understands.
fn env(terminal: bool) -> BTreeMap<String, String> {
    let term = std::env::var("TERM").ok().filter(|_| terminal);
    term.map(|term| ("TERM".to_owned(), term)).into_iter().collect()
}

/// What goes to the command.
struct Input<'a> {
    client: &'a Client,
    session: String,
    /// None where it has ended, or the command reads no more.
    stdin: Option<Stdin>,
    resized: Option<Signal>,
}

impl Input<'_> {
    /// Passes on what is typed and the sizes of the terminal, one after the other. Returns where that fails.
    async fn pass_on(mut self) -> Failure {
        loop {
            let input = tokio::select! {
                () = changed(&mut self.resized) => ExecInput::Resize { size: terminal::size() },
                piece = next(&mut self.stdin) => match piece {
                    Some(Ok(bytes)) => ExecInput::Stdin { data: STANDARD.encode(bytes) },
                    None => ExecInput::Close {},
                    Some(Err(error)) => {
                        return Failure::new(exit::FAILED, format!("cannot read standard input: {error}"));
                    }
                },
            };
            if input == (ExecInput::Close {}) {
                self.stdin = None;
            }
            let request = ExecInputRequest {
                session: self.session.clone(),
                input,
            };
            loop {
                match self.client.exec_input(&request).await {
                    Ok(()) => break,
                    Err(error) => match error.kind() {
                        ErrorKind::Busy => tokio::time::sleep(PAUSE).await,
                        // It has ended, or reads no more: what it still says is waited for.
                        ErrorKind::NotFound | ErrorKind::Conflict => {
                            self.stdin = None;
                            break;
                        }
                        _ => return error.into(),
                    },
                }
            }
        }
    }
}

async fn next(stdin: &mut Option<Stdin>) -> Option<std::io::Result<Vec<u8>>> {
    match stdin {
        Some(stdin) => stdin.next().await,
        None => std::future::pending().await,
    }
}

async fn changed(resized: &mut Option<Signal>) {
    if let Some(signal) = resized
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The signals that would end this program with the terminal in raw mode.
struct Ends([(u8, Signal); 4]);

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            (1, signal(SignalKind::hangup())?),
            (2, signal(SignalKind::interrupt())?),
            (3, signal(SignalKind::quit())?),
            (15, signal(SignalKind::terminate())?),
        ]))
    }
}

/// The number of the signal that ends this program.
async fn ended(ends: &mut Option<Ends>) -> u8 {
    let Some(Ends(signals)) = ends else {
        return std::future::pending().await;
    };
    std::future::poll_fn(|cx| {
        for (number, signal) in signals.iter_mut() {
            if signal.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(*number);
            }
        }
        std::task::Poll::Pending
    })
    .await
}
