//! The `agent` program: starts an agent, and talks to one.

mod args;
mod commands;
mod connect;
mod failure;
mod files;
mod live;
mod output;
mod parts;
mod stdin;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                // Nobody is left to tell where even this cannot be written.
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr().lock(),
                    format!("error: {failure}\n").as_bytes(),
                );
            }
            ExitCode::from(failure.code)
        }
    }
}
