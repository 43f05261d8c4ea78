//! The agent's own log.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat};

/// Changes what is logged while the agent runs. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Logs by this filter from now on. The error is one sentence.
    pub fn set_filter(&self, filter: &str) -> Result<(), String> {
        let filter = parse(filter)?;
        self.filter
            .reload(filter)
            .map_err(|error| format!("cannot change the log filter: {error}"))
    }
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogHandle")
    }
}

/// Why the log could not be started.
#[derive(Debug)]
pub enum LogError {
    /// The filter cannot be read.
    Filter(String),
    /// The file cannot be opened.
    File(io::Error),
    /// Something else in this process logs already.
    Taken(TryInitError),
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filter(message) => write!(f, "log.filter: {message}"),
            Self::File(error) => write!(f, "log.file: cannot open: {error}"),
            Self::Taken(error) => write!(f, "cannot start the log: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// Checks a filter such as `info,agent_core=debug`.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

/// Starts the log of this process. `file` overrides where the configuration sends it: the live table needs the
/// terminal for itself.
pub fn init(config: &LogConfig, file: Option<&Path>) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(&config.filter).map_err(LogError::Filter)?);
    let (writer, terminal) = match file.or(config.file.as_deref()) {
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(LogError::File)?;
            (BoxMakeWriter::new(Arc::new(file)), false)
        }
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal && file.is_none(),
    };
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry
            .with(fmt::layer().json().flatten_event(true).with_writer(writer))
            .try_init()
    } else {
        registry
            .with(fmt::layer().with_ansi(colours).with_writer(writer))
            .try_init()
    };
    started.map_err(LogError::Taken)?;
    Ok(LogHandle { filter: handle })
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(filter).map_err(|error| {
        format!("{filter:?} is not a filter; write for example info or info,agent_core=debug ({error})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        assert!(check_filter("info").is_ok());
        assert!(check_filter("warn,agent_core=debug").is_ok());
        assert!(
            check_filter("info,agent_core=loud")
                .unwrap_err()
                .contains("not a filter")
        );
    }
}
