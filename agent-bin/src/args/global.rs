//! Options of every command.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Directory of the agent's journal, logs and socket [default: /var/lib/agent for root, else
    /// $XDG_STATE_HOME/agent or ~/.local/state/agent]
    #[arg(
        long,
        global = true,
        env = "AGENT_STATE_DIR",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub(crate) state_dir: Option<PathBuf>,

    /// Socket of the agent to talk to [default: agent.sock in the state directory]
    #[arg(
        long,
        global = true,
        env = "AGENT_SOCKET",
        hide_env_values = true,
        value_name = "PATH"
    )]
    pub(crate) socket: Option<PathBuf>,

    /// Address of the agent to talk to, such as http://127.0.0.1:7700; needs a token
    #[arg(
        long,
        global = true,
        env = "AGENT_URL",
        hide_env_values = true,
        value_name = "URL",
        conflicts_with = "socket"
    )]
    pub(crate) url: Option<String>,

    /// File with the token for --url
    #[arg(
        long,
        global = true,
        env = "AGENT_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// How results are printed
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: OutputFormat,

    /// No colours, also on a terminal
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// As JSON; lists are arrays, streams are one value per line
    Json,
    /// As YAML; streams are one document per value
    Yaml,
    /// Names only, one per line
    Name,
}

impl OutputFormat {
    /// Whether results are for people.
    pub(crate) const fn is_human(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}
