//! Options of single commands.

use std::path::PathBuf;
use std::time::Duration;

use agent_api_model::{ByteQuantity, Cpu, LogStream, Phase, Selector, Signal, Target, parse_duration};
use clap::Args;

/// `run`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent run --apply examples/quickstart.yaml
  agent run --config /etc/agent/agent.toml --http 7700
  agent run --state-dir /tmp/try --stop-objects

Ctrl-C or SIGTERM ends it in order, within the deadline; a second one forces.
Objects go on and are adopted at the next start, unless --stop-objects is given.
SIGHUP reads the configuration again. On a terminal it shows a live table; its
log then goes to agent.log in the state directory.")]
pub(crate) struct RunArgs {
    /// Object files or directories to apply once the agent is ready
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) apply: Vec<PathBuf>,
    /// Configuration file, TOML or YAML [default: agent.toml or agent.yaml in /etc/agent for root, else in
    /// $XDG_CONFIG_HOME/agent or ~/.config/agent, where there is one]
    #[arg(long, env = "AGENT_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Listen on this port of 127.0.0.1 too; callers need the token in http-token in the state directory
    #[arg(long, value_name = "PORT")]
    pub(crate) http: Option<u16>,
    /// Stop the objects when the agent ends, instead of leaving them running
    #[arg(long)]
    pub(crate) stop_objects: bool,
    /// How long the ordered end may take
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) stop_deadline: Option<Duration>,
    /// What to log, for example debug or info,agent_core=debug
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// No live table, also on a terminal
    #[arg(long)]
    pub(crate) no_table: bool,
}

/// How long to wait for the effect.
#[derive(Clone, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Return as soon as it is accepted
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Wait no longer than this; the exit code is then 8
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// `apply`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent apply -f web.yaml
  agent apply -f objects/ --no-wait
  generate-objects | agent apply -f -

All objects are checked before the first is applied: with one that is wrong, none is.")]
pub(crate) struct ApplyArgs {
    /// Object file or directory, or - for standard input; YAML or JSON, several documents allowed
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// `plan`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent plan -f web.yaml
  agent plan -f web.yaml -o json

Changes nothing.")]
pub(crate) struct PlanArgs {
    /// Object file or directory, or - for standard input
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `get`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent get
  agent get web db -o wide
  agent get -l app=shop,tier!=db --phase failed
  agent get -w
  agent get -o json | jq '.[].details.pid'")]
pub(crate) struct GetArgs {
    /// Names or GUIDs; all objects where none is given
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<Target>,
    /// Only objects with these labels, for example app=web,tier!=db,env,!old; `kind` stands for the kind
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "names")]
    pub(crate) selector: Option<Selector>,
    /// Only objects in this phase
    #[arg(long, value_name = "PHASE")]
    pub(crate) phase: Option<Phase>,
    /// Go on and show what changes
    #[arg(long, short)]
    pub(crate) watch: bool,
}

/// One object.
#[derive(Clone, Debug, Args)]
pub(crate) struct NameArgs {
    /// Name or GUID of the object
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
}

/// Objects by name or by selector.
#[derive(Clone, Debug, Args)]
pub(crate) struct Targets {
    /// Names or GUIDs of objects
    #[arg(value_name = "NAME", required_unless_present_any = ["selector", "files"])]
    pub(crate) names: Vec<Target>,
    /// All objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "names")]
    pub(crate) selector: Option<Selector>,
    /// The objects of these files
    #[arg(long = "file", short = 'f', value_name = "FILE", conflicts_with_all = ["names", "selector"])]
    pub(crate) files: Vec<PathBuf>,
}

/// `delete`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent delete web
  agent delete -l app=shop --grace 30s
  agent delete -f examples/quickstart.yaml
  agent delete web --orphan      forget it and leave the real thing running
  agent delete web --forget      its driver does not answer: forget it without asking")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// How long they may take to end by themselves before they are ended
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) grace: Option<Duration>,
    /// Forget them, and leave the real things running
    #[arg(long)]
    pub(crate) orphan: bool,
    /// Forget them without asking their driver; the real things may go on
    #[arg(long, conflicts_with_all = ["orphan", "grace"])]
    pub(crate) forget: bool,
    /// Delete what depends on them too, first
    #[arg(long)]
    pub(crate) cascade: bool,
    /// Objects that are not there are no error
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// `pause`, `resume`
#[derive(Clone, Debug, Args)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    pub(crate) targets: Targets,
}

/// `restart`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  agent restart web\n  agent restart -l app=shop --grace 5s")]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// How long they may take to end by themselves before they are ended
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) grace: Option<Duration>,
}

/// `signal`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  agent signal HUP web\n  agent signal SIGUSR1 -l app=shop")]
pub(crate) struct SignalArgs {
    /// The signal: HUP, SIGHUP or 1
    #[arg(value_name = "SIGNAL")]
    pub(crate) signal: String,
    #[command(flatten)]
    pub(crate) targets: Targets,
}

/// `resize`
#[derive(Clone, Debug, Args)]
#[command(
    group = clap::ArgGroup::new("limits").multiple(true).required(true),
    after_help = "Examples:\n  agent resize web --memory 256Mi --cpu 500m\n  agent resize -l app=shop --pids 64"
)]
pub(crate) struct ResizeArgs {
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// Processor time in cores: 500m, 2
    #[arg(long, value_name = "AMOUNT", group = "limits")]
    pub(crate) cpu: Option<Cpu>,
    /// Memory: 256Mi, 1G
    #[arg(long, value_name = "BYTES", group = "limits")]
    pub(crate) memory: Option<ByteQuantity>,
    /// Number of processes and threads
    #[arg(long, value_name = "NUMBER", group = "limits")]
    pub(crate) pids: Option<u64>,
    /// Bytes read per second: 10Mi
    #[arg(long, value_name = "BYTES", group = "limits")]
    pub(crate) io_read: Option<ByteQuantity>,
    /// Bytes written per second
    #[arg(long, value_name = "BYTES", group = "limits")]
    pub(crate) io_write: Option<ByteQuantity>,
    /// Importance against others: higher goes first
    #[arg(long, value_name = "NUMBER", group = "limits", allow_negative_numbers = true)]
    pub(crate) priority: Option<i32>,
}

/// `scale`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  agent scale 3 workers")]
pub(crate) struct ScaleArgs {
    /// How many copies
    #[arg(value_name = "REPLICAS")]
    pub(crate) replicas: u32,
    #[command(flatten)]
    pub(crate) targets: Targets,
}

/// `call`
#[derive(Clone, Debug, Args)]
#[command(
    override_usage = "agent call [OPTIONS] <NAME> <METHOD> [KEY=VALUE]...\n       agent call [OPTIONS] --selector <SELECTOR> <METHOD> [KEY=VALUE]...",
    after_help = "\
Examples:
  agent call shop rollback
  agent call shop rollback revision=3 --wait
  agent call -l app=shop rollback --arguments '{\"revision\": 3}'

A VALUE is read as JSON where it is JSON (3, true, [1,2], '\"3\"'), else as text.
`agent describe NAME` lists the methods, `agent drivers -o json` their arguments."
)]
pub(crate) struct CallArgs {
    /// Name or GUID of the object, but for --selector; the method; its arguments
    #[arg(value_name = "NAME METHOD KEY=VALUE", required = true)]
    pub(crate) words: Vec<String>,
    /// All objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    pub(crate) selector: Option<Selector>,
    /// The arguments as JSON, a map; those of KEY=VALUE are put in it
    #[arg(long, value_name = "JSON")]
    pub(crate) arguments: Option<String>,
    /// Wait until it is done
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait no longer than this; the exit code is then 8
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration, requires = "wait")]
    pub(crate) timeout: Duration,
}

/// `logs`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent logs web
  agent logs -f --tail 10 web
  agent logs --stream stderr web")]
pub(crate) struct LogsArgs {
    /// Name or GUID of the object
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
    /// Go on with what is written later
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Begin so many lines before the end
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<u64>,
    /// Only this stream: stdout, stderr or system
    #[arg(long, value_name = "STREAM", value_parser = stream)]
    pub(crate) stream: Vec<LogStream>,
}

/// `events`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent events              what happened so far, as far as it is kept
  agent events -f           go on with what happens
  agent events -f web -o json")]
pub(crate) struct EventsArgs {
    /// Only this object
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<Target>,
    /// Go on with what happens
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// `monitor`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent monitor web
  agent monitor -l app=shop --interval 500ms --signals metrics,logs
  agent monitor web -o json | jq .

The lease is renewed as long as the command runs, and ended with it.")]
pub(crate) struct MonitorArgs {
    /// Name or GUID of the object
    #[arg(value_name = "NAME", required_unless_present = "selector")]
    pub(crate) name: Option<Target>,
    /// All objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "name")]
    pub(crate) selector: Option<Selector>,
    /// What to show: metrics, logs, traces
    #[arg(
        long,
        value_name = "SIGNALS",
        value_delimiter = ',',
        default_value = "metrics"
    )]
    pub(crate) signals: Vec<Signal>,
    /// How often
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) interval: Duration,
    /// Topic to report to; one of its own by default
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// End after so many reports
    #[arg(long, value_name = "NUMBER")]
    pub(crate) count: Option<u64>,
}

/// `exec`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent exec web -- env
  echo 'select 1' | agent exec db -- psql
  agent exec -i db -- psql < large.sql
  agent exec -it web -- sh

No shell is involved; write `-- sh -c '…'` for one. What is piped in is passed on: all of
it at once, or with -i as it comes. With -it the command has this terminal for its own:
Ctrl-C goes to it.
The exit code is the command's own; 128 + n where signal n ended it.")]
pub(crate) struct ExecArgs {
    /// Name or GUID of the object
    #[arg(value_name = "NAME")]
    pub(crate) name: Target,
    /// Pass on standard input as it comes
    #[arg(long, short = 'i')]
    pub(crate) interactive: bool,
    /// Give the command a terminal of the size of this one
    #[arg(long, short = 't')]
    pub(crate) terminal: bool,
    /// Kill the command after this time [default: 60s, 24h with -i or -t]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub(crate) command: Vec<String>,
}

/// `schema`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  agent schema process > process.schema.json")]
pub(crate) struct SchemaArgs {
    /// The kind, for example process
    #[arg(value_name = "KIND")]
    pub(crate) kind: agent_api_model::Kind,
}

/// `drain`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  agent drain --deadline 30s")]
pub(crate) struct DrainArgs {
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) deadline: Duration,
}

/// `check`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  agent check /etc/agent/agent.toml

Environment variables that `agent run` would read are checked too.
Nothing is built, opened or reached.")]
pub(crate) struct CheckArgs {
    /// Configuration file, TOML or YAML
    #[arg(value_name = "CONFIG")]
    pub(crate) config: PathBuf,
}

/// `completions`
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  agent completions bash > ~/.local/share/bash-completion/completions/agent"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

fn stream(text: &str) -> Result<LogStream, String> {
    match text {
        "stdout" => Ok(LogStream::Stdout),
        "stderr" => Ok(LogStream::Stderr),
        "system" => Ok(LogStream::System),
        _ => Err(format!("{text:?} is not a stream; use stdout, stderr or system")),
    }
}
