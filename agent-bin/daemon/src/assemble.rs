//! Putting an agent together, in order: state lock, journal, drivers, recovery, reporter, collector, shards; then the
//! buses; then it is ready.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_api_agent::AgentApi;
use agent_api_bus_in::RequestHandler;
use agent_api_driver::DriverFactory;
use agent_api_model::{BusInfo, Error, ErrorKind, QueueInfo};
use agent_api_server::{Server, ServerConfig};
use agent_core::Agent;
use serde_json::Value;
use tokio::sync::watch;

use crate::bus::{Bus, BusBuild, BusFactory};
use crate::config::{Config, ConfigError, Known, Loaded, Sources, check, part_config};
use crate::daemon::Daemon;
use crate::exit;
use crate::logging::LogHandle;
use crate::metrics::Metrics;
use crate::paths;
use crate::reload::Reloader;

/// What a daemon is made of.
pub struct Setup {
    /// The configuration.
    pub loaded: Loaded,
    /// Where it came from: read again by a reload.
    pub sources: Sources,
    /// The drivers that the binary knows.
    pub drivers: Vec<Arc<dyn DriverFactory>>,
    /// The buses that the binary knows.
    pub buses: Vec<BusFactory>,
    /// The log, where its filter can be changed by a reload.
    pub log: Option<LogHandle>,
}

/// Why an agent did not start.
#[derive(Debug)]
pub struct StartError {
    /// The exit code.
    pub code: u8,
    /// What is wrong and what to do, for people.
    pub error: Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

/// The drivers and buses of a binary, as a configuration may name them.
#[must_use]
pub fn known(drivers: &[Arc<dyn DriverFactory>], buses: &[BusFactory]) -> Vec<Known<'static>> {
    let drivers = drivers.iter().map(|factory| {
        let factory = Arc::clone(factory);
        Known {
            section: "drivers",
            name: factory.name().to_string(),
            missing_feature: factory.missing_feature(),
            schema: factory.config_schema(),
            check: Box::new(move |config| factory.check(config)),
        }
    });
    let buses = buses.iter().map(|bus| {
        let check = bus.check;
        Known {
            section: "buses",
            name: bus.name.to_owned(),
            missing_feature: bus.missing_feature,
            schema: bus.config_schema.clone(),
            check: Box::new(check),
        }
    });
    drivers.chain(buses).collect()
}

/// The state directory of a configuration.
pub fn state_dir(config: &Config) -> Result<PathBuf, StartError> {
    config
        .state_dir
        .clone()
        .or_else(paths::default_state_dir)
        .ok_or_else(|| StartError {
            code: exit::STATE_DIR,
            error: Error::invalid("state_dir", "there is no home directory to keep state in")
                .with_hint("name one with --state-dir or AGENT_STATE_DIR"),
        })
}

/// Starts an agent on the present runtime. Returns when it is ready.
///
/// # Errors
///
/// With the exit code that stands for the reason. What was started before is ended.
pub async fn start(setup: Setup) -> Result<Daemon, StartError> {
    let Setup {
        loaded,
        sources,
        drivers,
        buses,
        log,
    } = setup;
    let (errors, warnings) = check(&loaded, &known(&drivers, &buses));
    for warning in &warnings {
        tracing::warn!(%warning, "configuration");
    }
    if let Some(first) = errors.first() {
        return Err(wrong_config(first, errors.len() - 1));
    }
    let config = &loaded.config;
    let state_dir = state_dir(config)?;
    let metrics = Metrics::install();

    let opened = build_buses(config, &state_dir, &buses)?;
    let (drained, drain) = watch::channel(false);
    let reloader = {
        let drivers = drivers.clone();
        Arc::new(Reloader::new(sources, config.clone(), log, move || {
            known(&drivers, &buses)
        }))
    };
    let mut builder = Agent::builder()
        .agent_id(config.agent.name.clone().unwrap_or_else(paths::host_name))
        .state_dir(&state_dir)
        .heartbeat_interval(config.core.heartbeat)
        .recovery_timeout(config.core.recovery)
        .on_drain(move || {
            // Nobody listens any more where the daemon is stopping already.
            let _ = drained.send(true);
        })
        .on_reload({
            let reloader = Arc::clone(&reloader);
            move || std::future::ready(reloader.reload())
        });
    if let Some(shards) = config.core.shards {
        builder = builder.shards(shards);
    }
    if let Some(bus) = opened.iter().find_map(|bus| bus.bus_out.clone()) {
        builder = builder.bus_out(bus);
    }
    for factory in drivers {
        let entry = config
            .drivers
            .get(factory.name().as_str())
            .unwrap_or(&Value::Null);
        if *entry != Value::Bool(false) {
            builder = builder.driver(factory, part_config(entry));
        }
    }
    let agent = builder.build().await.map_err(not_built)?;
    reloader.attach(agent.clone());

    let server = Arc::new(Server::new(
        Arc::new(agent.clone()),
        ServerConfig {
            metrics: Some(Arc::new(move || metrics.render())),
            ..ServerConfig::default()
        },
    ));
    let buses = match open(&agent, &server, opened).await {
        Ok(buses) => buses,
        Err(error) => {
            let config = reloader.current();
            agent
                .stop(agent_core::StopMode::LeaveRunning, config.stop.deadline)
                .await;
            return Err(error);
        }
    };
    extend_info(&agent, &server, &buses);
    let daemon = Daemon::new(agent, buses, reloader, drain);
    daemon.tell_ready();
    Ok(daemon)
}

fn build_buses(config: &Config, state_dir: &Path, factories: &[BusFactory]) -> Result<Vec<Bus>, StartError> {
    let mut built = Vec::new();
    for factory in factories {
        let wanted = match config.buses.get(factory.name) {
            None => factory.on_by_default && factory.missing_feature.is_none(),
            Some(entry) => *entry != Value::Bool(false),
        };
        if !wanted {
            continue;
        }
        let build = BusBuild {
            state_dir: state_dir.to_owned(),
            config: part_config(config.buses.get(factory.name).unwrap_or(&Value::Null)),
        };
        let bus = (factory.build)(&build).map_err(|error| StartError {
            code: exit::INVALID,
            error: error.with_operation("start"),
        })?;
        built.push(bus);
    }
    Ok(built)
}

/// Opens the buses one after the other; where one cannot be, those before are closed.
async fn open(agent: &Agent, server: &Arc<Server>, buses: Vec<Bus>) -> Result<Vec<Bus>, StartError> {
    let mut opened: Vec<Bus> = Vec::new();
    for bus in buses {
        let handler: Arc<dyn RequestHandler> = server.clone();
        if let Err(error) = bus.bus_in.open(handler).await {
            for bus in &opened {
                let _ = bus.bus_in.close(std::time::Duration::from_secs(1)).await;
            }
            let code = match error.kind() {
                ErrorKind::Invalid => exit::INVALID,
                _ => exit::ADDRESS,
            };
            return Err(StartError { code, error });
        }
        tracing::info!(agent = %agent.id(), bus = bus.bus_in.name(), address = bus.bus_in.address(), "listening");
        opened.push(bus);
    }
    Ok(opened)
}

/// `info` also tells of what lies around the core.
fn extend_info(agent: &Agent, server: &Arc<Server>, buses: &[Bus]) {
    let buses = buses.to_vec();
    let server = Arc::downgrade(server);
    agent.extend_info(move |info| {
        info.buses.extend(buses.iter().map(|bus| BusInfo {
            name: bus.bus_in.name().to_owned(),
            address: bus.bus_in.address(),
            connected: true,
        }));
        if let Some(server) = server.upgrade() {
            let state = server.state();
            let limits = ServerConfig::default();
            info.queues.insert(
                "server_requests".into(),
                QueueInfo {
                    length: state.requests,
                    capacity: limits.requests,
                    dropped: state.busy,
                },
            );
            info.counters
                .insert("server_requests_handled".into(), state.handled);
            info.counters
                .insert("server_requests_refused".into(), state.refused);
        }
    });
}

fn wrong_config(first: &ConfigError, more: usize) -> StartError {
    let more = if more == 0 {
        String::new()
    } else {
        format!(" (and {more} more)")
    };
    StartError {
        code: exit::INVALID,
        error: Error::new(ErrorKind::Invalid, format!("{first}{more}"))
            .with_hint("`agent check FILE` tells all of them"),
    }
}

fn not_built(error: Error) -> StartError {
    let code = match (error.path(), error.kind()) {
        (Some("state_dir"), _) | (_, ErrorKind::StorageFull | ErrorKind::Denied | ErrorKind::Conflict) => {
            exit::STATE_DIR
        }
        (_, ErrorKind::Invalid) => exit::INVALID,
        _ => exit::FAILED,
    };
    StartError { code, error }
}

/// The agent as requests see it.
pub(crate) fn api(agent: &Agent) -> Arc<dyn AgentApi> {
    Arc::new(agent.clone())
}
