//! A running daemon: signals, watchdog, and the ordered end.

use std::sync::Arc;
use std::time::Duration;

use agent_api_agent::AgentApi;
use agent_core::{Agent, StopMode, StopReport};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::bus::Bus;
use crate::config::{Config, StopObjects};
use crate::reload::Reloader;
use crate::{exit, systemd};

/// What buses may take to close once the agent has stopped.
const CLOSE: Duration = Duration::from_secs(1);
/// What the loops may take to turn at most before the watchdog is no longer fed; they turn once a second.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);

/// A running agent with its buses. [`run`](Self::run) ends it.
pub struct Daemon {
    agent: Agent,
    buses: Vec<Bus>,
    reloader: Arc<Reloader>,
    drained: watch::Receiver<bool>,
}

/// The signals that a daemon listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

enum Event {
    Stop(&'static str),
    Reload,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.hang_up.recv() => Event::Reload,
        }
    }
}

impl Daemon {
    pub(crate) fn new(
        agent: Agent,
        buses: Vec<Bus>,
        reloader: Arc<Reloader>,
        drained: watch::Receiver<bool>,
    ) -> Self {
        Self {
            agent,
            buses,
            reloader,
            drained,
        }
    }

    /// The agent as requests see it.
    #[must_use]
    pub fn api(&self) -> Arc<dyn AgentApi> {
        crate::assemble::api(&self.agent)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Config {
        self.reloader.current()
    }

    pub(crate) fn tell_ready(&self) {
        let recovery = self.agent.recovery();
        let status = format!("{} objects, {} adopted", recovery.objects, recovery.adopted);
        tracing::info!(
            agent = %self.agent.id(),
            pid = std::process::id(),
            state_dir = %self.agent.state_dir().display(),
            objects = recovery.objects,
            adopted = recovery.adopted,
            "ready"
        );
        systemd::ready(&status);
    }

    /// Runs until a signal, a drain request or a message on `stop`, then ends the agent in order. Returns the exit code.
    ///
    /// SIGHUP reads the configuration again. While it stops, a second signal or message forces.
    pub async fn run(self, mut stop: watch::Receiver<u32>) -> u8 {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "cannot listen to signals");
                self.stop_agent(Duration::from_secs(1)).await;
                return exit::FAILED;
            }
        };
        let mut watchdog = Watchdog::new();
        let mut drained = self.drained.clone();
        let reason = loop {
            tokio::select! {
                event = signals.next() => match event {
                    Event::Stop(reason) => break reason,
                    Event::Reload => self.reload(),
                },
                Ok(_) = drained.wait_for(|drained| *drained) => break "drained",
                Ok(()) = stop.changed() => break "asked to stop",
                () = watchdog.due() => watchdog.feed(&self.agent),
            }
        };
        let config = self.config();
        tracing::info!(reason, deadline = ?config.stop.deadline, "stopping");
        systemd::stopping();
        let mut forced = false;
        let report = {
            let ending = self.stop_agent(config.stop.deadline);
            tokio::pin!(ending);
            loop {
                tokio::select! {
                    report = &mut ending => break report,
                    event = signals.next() => if let Event::Stop(reason) = event {
                        tracing::warn!(reason, "forced: nothing is waited for any more");
                        forced = true;
                        self.agent.force_stop();
                    },
                    Ok(()) = stop.changed() => {
                        tracing::warn!("forced: nothing is waited for any more");
                        forced = true;
                        self.agent.force_stop();
                    }
                    () = watchdog.due() => systemd::alive(),
                }
            }
        };
        for line in report.aborted.iter().chain(&report.problems) {
            tracing::warn!(line, "did not end as it should");
        }
        tracing::info!(took = ?report.took, not_begun = report.not_begun, clean = report.is_clean(), "stopped");
        if forced || !report.is_clean() {
            exit::FAILED
        } else {
            exit::OK
        }
    }

    /// Ends the agent, then the buses. A little longer than the deadline at most.
    async fn stop_agent(&self, deadline: Duration) -> StopReport {
        let began = Instant::now();
        let mode = match self.config().stop.objects {
            StopObjects::Leave => StopMode::LeaveRunning,
            StopObjects::Stop => StopMode::StopObjects,
        };
        let mut report = self.agent.stop(mode, deadline).await;
        for bus in &self.buses {
            if let Err(error) = bus.bus_in.close(CLOSE).await {
                report.problems.push(error.to_string());
            }
        }
        report.took = began.elapsed();
        report
    }

    fn reload(&self) {
        systemd::reloading();
        match self.reloader.reload() {
            Ok(changes) if changes.is_empty() => tracing::info!("configuration read again: nothing changed"),
            Ok(changes) => {
                for change in changes {
                    tracing::info!(change, "configuration read again");
                }
            }
            Err(error) => tracing::error!(%error, "configuration read again and refused: the old one stays"),
        }
        systemd::ready("configuration read again");
    }
}

/// Feeds the service manager's watchdog as long as the loops that do the work turn.
struct Watchdog {
    interval: Option<tokio::time::Interval>,
    patience: Duration,
}

impl Watchdog {
    fn new() -> Self {
        let time = systemd::watchdog();
        let interval = time.map(|time| {
            let mut interval = tokio::time::interval(time / 3);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self {
            interval,
            patience: time.unwrap_or_default().max(LEAST_PATIENCE),
        }
    }

    async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    fn feed(&self, agent: &Agent) {
        match agent.liveness(self.patience) {
            Ok(()) => systemd::alive(),
            Err(silent) => tracing::error!(?silent, "the watchdog is not fed: loops do not turn"),
        }
    }
}
