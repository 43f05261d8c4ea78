//! `exec`.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use agent_api_client::ResultStream;
use agent_api_model::{ExecFrame, ExecRequest, ExitStatus};
use agent_bin_daemon::exit;
use futures_util::StreamExt;

use super::Context;
use super::talk::talk;
use crate::args::{ExecArgs, OutputFormat};
use crate::failure::{Failure, Outcome};

/// The most that is passed on as standard input, in bytes.
const MAX_STDIN: u64 = 1 << 20;

/// How long a command may run where the command line says nothing.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn exec(context: &Context, args: ExecArgs) -> Outcome {
    if args.terminal && !context.output.format.is_human() {
        return Err(Failure::new(
            exit::USAGE,
            "what a terminal shows has no form: -t and --output do not go together",
        ));
    }
    if args.interactive || args.terminal {
        return talk(context, args).await;
    }
    let request = ExecRequest {
        command: args.command,
        env: Default::default(),
        stdin: stdin()?,
        interactive: false,
        terminal: None,
        timeout: args.timeout.unwrap_or(TIMEOUT),
    };
    show(context, context.client.exec(&args.name, &request).await?).await
}

/// Writes what a command says, and returns its exit code.
pub(super) async fn show(context: &Context, mut frames: ResultStream<ExecFrame>) -> Outcome {
    let structured = matches!(context.output.format, OutputFormat::Json | OutputFormat::Yaml);
    let mut code = None;
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        if structured {
            context.output.item(&frame)?;
        }
        match frame {
            ExecFrame::Stdout { text } if !structured => context.output.text(&text)?,
            ExecFrame::Stderr { text } if !structured => {
                std::io::stderr().lock().write_all(text.as_bytes())?
            }
            ExecFrame::Exit { status } => code = Some(code_of(&status)),
            ExecFrame::Stdout { .. } | ExecFrame::Stderr { .. } | ExecFrame::Session { .. } => {}
        }
    }
    code.ok_or_else(|| Failure::new(exit::FAILED, "the agent did not say how the command ended"))
}

/// What is piped in; nothing from a terminal.
fn stdin() -> Outcome<Option<String>> {
    let input = std::io::stdin();
    if input.is_terminal() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    input
        .lock()
        .take(MAX_STDIN + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot read standard input: {error}")))?;
    if bytes.len() as u64 > MAX_STDIN {
        return Err(Failure::new(
            exit::USAGE,
            format!("standard input has more than {MAX_STDIN} bytes"),
        ));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| Failure::new(exit::USAGE, "standard input is not UTF-8"))?;
    Ok((!text.is_empty()).then_some(text))
}

/// As a shell does: the command's own code, or 128 and the number of the signal.
fn code_of(status: &ExitStatus) -> u8 {
    if let Some(code) = status.code {
        return u8::try_from(code & 0xff).unwrap_or(exit::FAILED);
    }
    let number = status.signal.as_deref().and_then(|name| {
        let known = [
            ("SIGHUP", 1),
            ("SIGINT", 2),
            ("SIGQUIT", 3),
            ("SIGABRT", 6),
            ("SIGKILL", 9),
            ("SIGSEGV", 11),
            ("SIGPIPE", 13),
            ("SIGTERM", 15),
        ];
        known
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| number)
    });
    number.map_or(exit::FAILED, |number| 128 + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_in_a_shell() {
        assert_eq!(code_of(&ExitStatus::with_code(7)), 7);
        assert_eq!(code_of(&ExitStatus::with_signal("SIGKILL")), 137);
        assert_eq!(code_of(&ExitStatus::default()), 1);
    }
}
