//! The commands.

mod agent;
mod apply;
mod call;
mod check;
mod control;
mod delete;
mod events;
mod exec;
mod get;
mod logs;
mod monitor;
mod run;
mod settle;
mod talk;

use agent_api_client::Client;
use clap::CommandFactory as _;

use crate::args::{Cli, Command, Global};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// What every command that talks to an agent needs.
struct Context {
    client: Client,
    output: Output,
}

impl Context {
    fn new(global: &Global) -> Outcome<Self> {
        Ok(Self {
            client: global.client()?,
            output: Output::new(global.output, global.no_color),
        })
    }
}

/// Does what the command line says. Returns the exit code.
pub(crate) fn run(cli: Cli) -> Outcome {
    let global = cli.global;
    match cli.command {
        Command::Run(args) => run::run(&global, args),
        Command::Check(args) => check::check(&global, &args),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "agent", &mut script);
            Output::new(global.output, true).text(&String::from_utf8_lossy(&script))?;
            Ok(0)
        }
        command => {
            // One thread is enough for one caller.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::new(1, format!("cannot start: {error}")))?;
            runtime.block_on(ask(&global, command))
        }
    }
}

async fn ask(global: &Global, command: Command) -> Outcome {
    // Files are read before anything is asked, so that their errors need no agent.
    match command {
        Command::Apply(args) => apply::apply(global, &args).await,
        Command::Plan(args) => apply::plan(global, &args).await,
        Command::Delete(args) => delete::delete(global, &args).await,
        Command::Get(args) => get::get(&Context::new(global)?, &args).await,
        Command::Describe(args) => get::describe(&Context::new(global)?, &args.name).await,
        Command::Explain(args) => get::explain(&Context::new(global)?, &args.name).await,
        Command::Pause(args) => control::pause(global, &args).await,
        Command::Resume(args) => control::resume(global, &args).await,
        Command::Restart(args) => control::restart(global, &args).await,
        Command::Signal(args) => control::signal(global, &args).await,
        Command::Resize(args) => control::resize(global, &args).await,
        Command::Scale(args) => control::scale(global, &args).await,
        Command::Call(args) => call::call(global, &args).await,
        Command::Logs(args) => logs::logs(&Context::new(global)?, &args).await,
        Command::Events(args) => events::events(&Context::new(global)?, &args).await,
        Command::Monitor(args) => monitor::monitor(&Context::new(global)?, &args).await,
        Command::Exec(args) => exec::exec(&Context::new(global)?, args).await,
        Command::Drivers => agent::drivers(&Context::new(global)?).await,
        Command::Schema(args) => agent::schema(&Context::new(global)?, &args.kind).await,
        Command::Info => agent::info(&Context::new(global)?).await,
        Command::Health => agent::health(&Context::new(global)?).await,
        Command::Drain(args) => agent::drain(&Context::new(global)?, args.deadline).await,
        Command::Reload => agent::reload(&Context::new(global)?).await,
        Command::Run(_) | Command::Check(_) | Command::Completions(_) => Ok(0),
    }
}
