//! `check`.

use agent_bin_daemon::config::{ConfigError, Sources, check as check_parts, load};
use agent_bin_daemon::{exit, known, logging};

use crate::args::{CheckArgs, Global};
use crate::failure::{Failure, Outcome, printable};
use crate::output::Output;
use crate::{files, parts};

pub(super) fn check(global: &Global, args: &CheckArgs) -> Outcome {
    let output = Output::new(global.output, global.no_color);
    let sources = Sources::new(Some(args.config.clone()));
    let loaded = load(&sources).map_err(|errors| failed(&errors))?;
    let (mut errors, warnings) = check_parts(&loaded, &known(&agent_drivers::factories(), &parts::buses()));
    if let Err(message) = logging::check_filter(&loaded.config.log.filter) {
        errors.push(ConfigError {
            source: loaded.source.clone(),
            line: 0,
            path: "log.filter".into(),
            message,
        });
    }
    for warning in &warnings {
        eprintln!("warning: {}", printable(&warning.to_string()));
    }
    if !errors.is_empty() {
        return Err(failed(&errors));
    }
    if !loaded.config.apply.is_empty() {
        files::read(&loaded.config.apply)?;
    }
    if output.format.is_human() {
        output.line(&format!("{}: fine", loaded.source))?;
    } else {
        output.value(&loaded.config)?;
    }
    Ok(exit::OK)
}

/// All that is wrong, a line each.
pub(super) fn failed(errors: &[ConfigError]) -> Failure {
    let lines: Vec<_> = errors.iter().map(|error| printable(&error.to_string())).collect();
    Failure::invalid(lines.join("\n"))
}
