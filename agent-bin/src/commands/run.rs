//! `run`: an agent in this process.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use agent_api_model::format_duration;
use agent_bin_daemon::config::{Config, Sources, default_file, load};
use agent_bin_daemon::{Setup, exit, logging, start, state_dir};
use tokio::sync::watch;

use super::apply;
use super::check::failed;
use crate::args::{Global, OutputFormat, RunArgs, WaitArgs};
use crate::failure::{Failure, Outcome, sentence};
use crate::files::FileObject;
use crate::output::Output;
use crate::{live, parts};

/// The log of an agent whose terminal shows the live table, in its state directory.
const LOG_FILE: &str = "agent.log";

pub(super) fn run(global: &Global, args: RunArgs) -> Outcome {
    let sources = sources(global, &args);
    let loaded = load(&sources).map_err(|errors| failed(&errors))?;
    let config = loaded.config.clone();
    // All that can be wrong with files is told before anything is started.
    let paths: Vec<PathBuf> = config.apply.iter().chain(&args.apply).cloned().collect();
    let objects = apply::read(&paths)?;
    let state_dir = state_dir(&config).map_err(|error| Failure::new(error.code, sentence(&error.error)))?;
    let table = std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !args.no_table;
    let log_file = (table && config.log.file.is_none()).then(|| state_dir.join(LOG_FILE));
    if let Some(file) = &log_file {
        make_dir(file.parent().unwrap_or(Path::new("/")))?;
    }
    let log = logging::init(&config.log, log_file.as_deref())
        .map_err(|error| Failure::invalid(format!("{}: {error}", loaded.source)))?;
    let setup = Setup {
        loaded,
        sources,
        drivers: agent_drivers::factories(),
        buses: parts::buses(),
        log: Some(log),
    };
    let runtime = runtime(&config)?;
    let output = Output::new(OutputFormat::Table, global.no_color);
    let ended = runtime.block_on(serve(
        setup, global, &state_dir, objects, &output, table, log_file,
    ));
    // A driver's blocking thread that hangs must not hold up the end; what matters was written before.
    runtime.shutdown_background();
    ended
}

fn sources(global: &Global, args: &RunArgs) -> Sources {
    let mut sources = Sources::new(args.config.clone().or_else(default_file));
    if let Some(dir) = &global.state_dir {
        sources = sources.with_flag("state_dir", dir.to_string_lossy().as_ref());
    }
    if let Some(port) = args.http {
        sources = sources.with_flag("buses.http.listen", format!("127.0.0.1:{port}"));
    }
    if let Some(socket) = &global.socket {
        sources = sources.with_flag("buses.http.socket", socket.to_string_lossy().as_ref());
    }
    if let Some(filter) = &args.log {
        sources = sources.with_flag("log.filter", filter.as_str());
    }
    if args.stop_objects {
        sources = sources.with_flag("stop.objects", "stop");
    }
    if let Some(deadline) = args.stop_deadline {
        sources = sources.with_flag("stop.deadline", format_duration(deadline));
    }
    sources
}

fn runtime(config: &Config) -> Outcome<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = config.core.threads.map_or(cores, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("agent-worker")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot start the runtime: {error}")))
}

/// Makes a directory for its owner alone.
fn make_dir(dir: &Path) -> Outcome<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| {
            Failure::new(
                exit::STATE_DIR,
                format!(
                    "cannot make {}: {error}\n  try: another directory with --state-dir",
                    dir.display()
                ),
            )
        })
}

async fn serve(
    setup: Setup,
    global: &Global,
    state_dir: &Path,
    objects: Vec<FileObject>,
    output: &Output,
    table: bool,
    log_file: Option<PathBuf>,
) -> Outcome {
    let daemon = start(setup)
        .await
        .map_err(|error| Failure::new(error.code, sentence(&error.error)))?;
    let (stop, stopping) = watch::channel(0_u32);
    let api = daemon.api();
    let running = tokio::spawn(daemon.run(stopping));
    let applied = apply_files(global, state_dir, &objects, output).await;
    let failed = match applied {
        Ok(()) => None,
        Err(failure) => {
            // Asked to apply, and could not: the agent does not go on as if nothing was.
            stop.send_modify(|count| *count += 1);
            Some(failure)
        }
    };
    if table && failed.is_none() {
        live::show(api, &stop, log_file.as_deref(), running_watch(&running)).await;
    } else {
        drop(api);
    }
    let code = running
        .await
        .map_err(|error| Failure::new(exit::FAILED, format!("the agent ended by a fault: {error}")))?;
    match failed {
        Some(failure) => Err(failure),
        None => Ok(code),
    }
}

/// Whether the daemon has ended, for those who only look.
fn running_watch(running: &tokio::task::JoinHandle<u8>) -> impl Fn() -> bool + Send + use<> {
    let handle = running.abort_handle();
    move || !handle.is_finished()
}

/// Applies the files through the agent's own socket: the same way as `agent apply`.
async fn apply_files(
    global: &Global,
    state_dir: &Path,
    objects: &[FileObject],
    output: &Output,
) -> Outcome<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let local = Global {
        state_dir: Some(state_dir.to_owned()),
        url: None,
        ..global.clone()
    };
    let wait = WaitArgs {
        no_wait: true,
        timeout: std::time::Duration::from_secs(60),
    };
    let code = apply::apply_objects(&local.client()?, output, objects, &wait).await?;
    if code != exit::OK {
        return Err(Failure::new(code, "not all objects could be applied"));
    }
    Ok(())
}
