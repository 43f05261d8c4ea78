//! The command line.

mod commands;
mod global;

use clap::{Parser, Subcommand};

pub(crate) use commands::{
    ApplyArgs, CallArgs, CheckArgs, CompletionsArgs, ControlArgs, DeleteArgs, DrainArgs, EventsArgs,
    ExecArgs, GetArgs, LogsArgs, MonitorArgs, NameArgs, PlanArgs, ResizeArgs, RestartArgs, RunArgs,
    ScaleArgs, SchemaArgs, SignalArgs, Targets, WaitArgs,
};
pub(crate) use global::{Global, OutputFormat};

/// Manages processes, containers, clusters and more through one set of verbs.
#[derive(Debug, Parser)]
#[command(
    name = "agent",
    version,
    propagate_version = false,
    max_term_width = 110,
    disable_help_subcommand = true,
    after_help = "\
Start here:
  agent run --apply examples/quickstart.yaml   start an agent and give it something to do
  agent get                                    see what it manages, from a second terminal
  agent describe NAME                          see one object in full

Exit codes:
  0  all is well                        5  address to listen on in use or not allowed
  1  refused, failed, or forced to end  6  no agent can be reached
  2  wrong command line                 7  object, kind or lease not there
  3  wrong configuration or object file 8  not done in the time given
  4  state directory locked or unusable 9  not allowed
  `agent exec` ends with the command's own code."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start an agent in this terminal
    Run(RunArgs),
    /// Create or update the objects of files
    Apply(ApplyArgs),
    /// Show what `apply` would do
    Plan(PlanArgs),
    /// List objects
    Get(GetArgs),
    /// Show one object in full: state, evidence, resources, spec
    #[command(after_help = "Examples:\n  agent describe web\n  agent describe web -o json")]
    Describe(NameArgs),
    /// Show the chain of events that led an object where it is
    #[command(after_help = "Examples:\n  agent explain web")]
    Explain(NameArgs),
    /// Delete objects and free their resources
    Delete(DeleteArgs),
    /// Hold objects still
    #[command(after_help = "Examples:\n  agent pause web\n  agent pause -l app=shop")]
    Pause(ControlArgs),
    /// Let paused objects go on
    #[command(after_help = "Examples:\n  agent resume web\n  agent resume -l app=shop")]
    Resume(ControlArgs),
    /// Stop and start objects
    Restart(RestartArgs),
    /// Send a signal to objects
    Signal(SignalArgs),
    /// Change what running objects may use
    Resize(ResizeArgs),
    /// Change the number of copies of objects
    Scale(ScaleArgs),
    /// Call a method that only objects of one kind have
    Call(CallArgs),
    /// Show an object's output
    Logs(LogsArgs),
    /// Show what happens to objects
    Events(EventsArgs),
    /// Show metrics and other telemetry of objects as it comes
    Monitor(MonitorArgs),
    /// Run a command in an object's context
    Exec(ExecArgs),
    /// Show the drivers and what can be done with their kinds
    #[command(after_help = "Examples:\n  agent drivers\n  agent drivers -o wide")]
    Drivers,
    /// Show the JSON Schema of the objects of a kind
    Schema(SchemaArgs),
    /// Show what the agent says of itself: tasks, queues, journal, buses, drivers
    #[command(after_help = "Examples:\n  agent info\n  agent info -o json")]
    Info,
    /// Show whether the agent can work; the exit code is 1 where it cannot
    #[command(after_help = "Examples:\n  agent health && echo fine")]
    Health,
    /// Let the agent finish what is under way and end
    Drain(DrainArgs),
    /// Let the agent read its configuration again and apply the difference
    #[command(after_help = "Examples:\n  agent reload")]
    Reload,
    /// Check a configuration file without starting anything
    Check(CheckArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_of_every_command() {
        let mut command = Cli::command().term_width(100);
        command.build();
        insta::assert_snapshot!("help", command.render_long_help());
        for sub in command.get_subcommands_mut() {
            let name = format!("help-{}", sub.get_name());
            insta::assert_snapshot!(name, sub.render_long_help());
        }
    }
}
