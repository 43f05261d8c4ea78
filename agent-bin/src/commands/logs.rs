//! `logs`.

use std::time::Duration;

use agent_api_model::{ErrorKind, LogFrame, LogRequest};
use agent_bin_daemon::exit;
use futures_util::StreamExt;

use super::Context;
use crate::args::{LogsArgs, OutputFormat};
use crate::failure::{Outcome, sentence};

/// How long to wait before asking an agent again that went away.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an agent may be away before following it ends.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn logs(context: &Context, args: &LogsArgs) -> Outcome {
    let mut request = LogRequest {
        cursor: None,
        tail: args.tail,
        follow: args.follow,
        streams: args.stream.clone(),
    };
    let mut away: Option<tokio::time::Instant> = None;
    loop {
        let error = match context.client.logs(&args.name, &request).await {
            Err(error) => error,
            Ok(mut frames) => loop {
                match frames.next().await {
                    None => return Ok(exit::OK),
                    Some(Err(error)) => break error,
                    Some(Ok(frame)) => {
                        away = None;
                        request.cursor = Some(frame.cursor.clone());
                        show(context, &frame)?;
                    }
                }
            },
        };
        // A follower goes on where it was once the agent is back: the object kept writing.
        let gone = error.kind() == ErrorKind::Unavailable && args.follow && request.cursor.is_some();
        if !gone || away.is_some_and(|since| since.elapsed() > PATIENCE) {
            return Err(error.into());
        }
        if away.is_none() {
            eprintln!("{}; waiting for the agent", sentence(&error));
            away = Some(tokio::time::Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn show(context: &Context, frame: &LogFrame) -> Outcome<()> {
    if matches!(context.output.format, OutputFormat::Json | OutputFormat::Yaml) {
        return context.output.item(frame);
    }
    if frame.lost_bytes > 0 {
        eprintln!(
            "({} bytes were rotated away before they could be read)",
            frame.lost_bytes
        );
    }
    let mut text = String::with_capacity(frame.lines.iter().map(|line| line.len() + 1).sum());
    for line in &frame.lines {
        text += line;
        text.push('\n');
    }
    context.output.text(&text)
}
