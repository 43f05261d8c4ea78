//! Measures the agent beside the floor of the same work, in one run.

mod births;
mod floor;
mod load;
mod row;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use crate::load::Bench;

/// Measures the agent beside the floor of the same work, in one run.
#[derive(Parser)]
struct Args {
    /// The agent's binary.
    #[arg(long)]
    agent: PathBuf,
    /// Where the results go, as JSON.
    #[arg(long)]
    out: PathBuf,
    /// Fewer samples: minutes become seconds.
    #[arg(long)]
    quick: bool,
    /// Only shapes whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let kid = std::env::current_exe()?.with_file_name("kid");
    anyhow::ensure!(
        kid.exists(),
        "{} is missing: build the package agent-benches",
        kid.display()
    );
    let parent = args.out.parent().context("--out needs a folder")?;
    std::fs::create_dir_all(parent)?;
    let dir = tempfile::Builder::new().prefix("run-").tempdir_in(parent)?;
    let bench = Bench {
        agent: args.agent.canonicalize().context("--agent")?,
        kid: kid.canonicalize()?,
        dir: dir.path().canonicalize()?,
        quick: args.quick,
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut rows = Vec::new();
    macro_rules! shapes {
        ($($name:ident),* $(,)?) => {$(
            if args.only.as_deref().is_none_or(|only| stringify!($name).contains(only)) {
                eprintln!("{} …", stringify!($name));
                rows.extend(runtime.block_on(load::$name(&bench)).context(stringify!($name))?);
            }
        )*};
    }
    shapes!(
        describe,
        create_accepted,
        create_running,
        created_and_stopped,
        exit_to_event,
        killed_to_running,
        list,
        idle_objects
    );
    #[cfg(feature = "kubernetes")]
    shapes!(
        kubernetes_create,
        kubernetes_ready,
        kubernetes_change,
        kubernetes_bulk
    );
    anyhow::ensure!(!rows.is_empty(), "no shape has that name");

    row::write(&rows, &args.out)?;
    row::print(&rows);
    println!("written to {}", args.out.display());
    Ok(())
}
