//! Changing what runs: apply, pause, resume, signal, restart, resize.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{ControlAction, Error, ErrorKind, EvidenceSource, Guid, OpId, Resources};
use agent_api_driver::{Applied, ApplyRequest, ControlRequest, DriverEvent, Result};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::error;
use crate::handle::HandleData;
use crate::sdk::cgroup::Wanted;
use crate::sdk::procfs;
use crate::sdk::signal;
use crate::shared::{Shared, left};
use crate::spec::{ProcessSpec, resources, wanted};
use crate::start::Start;
use crate::stop::Pinned;
use crate::table::Entry;

/// How long a tree may take to stand still once it was told to.
const FREEZE_WAIT: Duration = Duration::from_millis(500);

impl Shared {
    /// See [`agent_api_driver::ObjectDriver::apply`].
    pub(crate) async fn apply(self: &Arc<Self>, request: ApplyRequest<'_>) -> Result<Applied> {
        self.check_open()?;
        let begun = Instant::now();
        let guid = request.guid;
        let within = |e: Error| e.with_operation("apply");
        let spec = ProcessSpec::parse(request.spec).map_err(within)?;
        let data = request.handle.map(HandleData::read).transpose().map_err(within)?;
        let wanted_resources = request.spec.resources.clone();
        if let Some(done) = self.done(guid, request.op_id) {
            return Ok(done);
        }
        if let Some(data) = &data {
            self.know(guid, data).await?;
        }
        let running = self.with(guid, |entry| {
            (
                entry.pidfd.is_some(),
                entry.data.digest == spec.restart_digest(),
                entry.data.clone(),
            )
        });
        let previous = match running {
            Some((true, true, _)) => {
                return self
                    .change(guid, request.op_id, &wanted_resources, Some(&spec))
                    .await;
            }
            Some((true, false, previous)) => {
                self.stop(guid, None, left(request.deadline, begun)).await?;
                Some(previous)
            }
            Some((false, _, previous)) => {
                // What it left behind, where no cgroup ended it with it.
                self.stop(guid, None, left(request.deadline, begun)).await?;
                Some(previous)
            }
            None => data,
        };
        let start = Start {
            guid,
            op_id: request.op_id,
            maybe_applied: request.maybe_applied,
            spec,
            resources: wanted_resources,
            previous,
        };
        match timeout(left(request.deadline, begun), self.start(start)).await {
            Ok(result) => result.map_err(within),
            Err(_) => Err(error::timeout(guid, "starting the process")),
        }
    }

    /// What an operation brought about, where it has been done already.
    fn done(&self, guid: Guid, op_id: OpId) -> Option<Applied> {
        self.with(guid, |entry| {
            (entry.last_op == op_id || entry.data.op_id == op_id).then(|| entry.applied())
        })
        .flatten()
    }

    fn with<T>(&self, guid: Guid, f: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.table.lock().objects.get_mut(&guid).map(|entry| f(entry))
    }

    /// Makes sure that what a handle refers to is in the table where it is there: after a restart without `recover`.
    async fn know(self: &Arc<Self>, guid: Guid, data: &HandleData) -> Result<()> {
        if self.with(guid, |_| ()).is_some() {
            return Ok(());
        }
        let (shared, data) = (Arc::clone(self), data.clone());
        let work = move |_: &mut crate::sdk::pool::Scratch| -> Result<()> {
            use crate::sdk::identity::Found;
            let failed = |e: std::io::Error| error::system(&e, "cannot look for the process", guid);
            match data.identity.find(&guid.to_string()).map_err(failed)? {
                Found::Alive(pidfd) => shared.adopt_found(guid, data, pidfd).map(drop).map_err(failed),
                Found::Ended(_) | Found::Stranger(_) => Ok(()),
            }
        };
        self.pool.run(work).await.map_err(error::closed)?
    }

    /// Changes what can be changed while it runs: limits, and how it is stopped.
    async fn change(
        self: &Arc<Self>,
        guid: Guid,
        op_id: OpId,
        to: &Resources,
        spec: Option<&ProcessSpec>,
    ) -> Result<Applied> {
        let stop = spec.map(|s| {
            (
                s.stop_signal().as_raw(),
                s.stop_grace
                    .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            )
        });
        let before: Option<Wanted> = self.with(guid, |entry| entry.data.limits.into());
        let after = wanted(to);
        if before != Some(after) {
            let (shared, to) = (Arc::clone(self), to.clone());
            self.pool
                .run(move |_| shared.resize_now(guid, before.unwrap_or_default(), &to))
                .await
                .map_err(error::closed)??;
        }
        let changed = self.with(guid, |entry| {
            let stop_now = (entry.data.stop_signal, entry.data.stop_grace_ms);
            if let Some(stop) = stop {
                (entry.data.stop_signal, entry.data.stop_grace_ms) = stop;
            }
            entry.last_op = op_id;
            let is_change = before != Some(after) || stop.is_some_and(|stop| stop != stop_now);
            if is_change {
                entry.changed(EvidenceSource::Event);
            }
            (entry.applied(), is_change.then(|| entry.observed(guid)))
        });
        let (applied, observed) =
            changed.ok_or_else(|| error::not_found(guid, "it was deleted meanwhile"))?;
        if let Some(observed) = observed {
            self.events.send(DriverEvent::Status(observed));
        }
        Ok(applied)
    }

    fn resize_now(&self, guid: Guid, before: Wanted, to: &Resources) -> Result<()> {
        let name = guid.to_string();
        let failed = |e: std::io::Error| error::system(&e, "cannot set limits", guid);
        let Some((mut group, pid)) = self.with(guid, |e| (e.group.clone(), e.data.identity.pid)) else {
            return Err(error::not_found(guid, "it was deleted meanwhile"));
        };
        let mut members = group.members().unwrap_or_default();
        if members.is_empty() {
            members = procfs::group_members(pid).unwrap_or_default();
        }
        let applied = self
            .host
            .apply(&name, &mut group, &wanted(to), &members)
            .map_err(failed)?;
        // One that this host enforces and that was refused: back to what was.
        let refused = applied
            .iter()
            .find(|a| a.result.is_err() && self.host.enforces(a.controller).is_ok());
        if let Some(refused) = refused {
            let why = refused.result.clone().err().unwrap_or_default();
            self.host
                .apply(&name, &mut group, &before, &members)
                .map_err(failed)?;
            let dirs = group.dirs();
            self.with(guid, |entry| {
                entry.group = group;
                entry.data.cgroups = dirs;
            });
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the limit was refused, and none was changed: {why}"),
            )
            .with_object(guid)
            .with_path(format!(
                "resources.{}",
                format!("{:?}", refused.controller).to_lowercase()
            )));
        }
        let limits = Self::limit_statuses(to, &applied);
        self.with(guid, |entry| {
            entry.data.limits = wanted(to).into();
            entry.data.cgroups = group.dirs();
            entry.group = group;
            entry.limits = limits;
        });
        Ok(())
    }

    /// See [`agent_api_driver::Control::control`].
    pub(crate) async fn control(self: &Arc<Self>, request: ControlRequest<'_>) -> Result<Applied> {
        self.check_open()?;
        let begun = Instant::now();
        let guid = request.guid;
        let data = HandleData::read(request.handle)?;
        self.know(guid, &data).await?;
        if let ControlAction::Restart { grace } = request.action {
            return self.restart(&request, data, *grace, begun).await;
        }
        if matches!(request.action, ControlAction::Scale { .. }) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a process has no copies; create several objects",
            )
            .with_object(guid));
        }
        let signal = match request.action {
            ControlAction::Signal { signal } => {
                Some(parse_signal(signal).map_err(|m| Error::invalid("signal", m).with_object(guid))?)
            }
            _ => None,
        };
        if self.with(guid, |_| ()).is_none() {
            return Err(error::not_found(guid, "nothing of that handle is there"));
        }
        let Some(pinned) = self.pinned(guid) else {
            return Err(Error::new(ErrorKind::Conflict, "its process has ended")
                .with_object(guid)
                .with_hint("restart it"));
        };
        if let Some(done) = self
            .with(guid, |e| (e.last_op == request.op_id).then(|| e.applied()))
            .flatten()
        {
            return Ok(done);
        }
        let failed = |e: std::io::Error| error::system(&e, "cannot signal the process", guid);
        match request.action {
            ControlAction::Pause {} => self.pause(guid, pinned, left(request.deadline, begun)).await?,
            ControlAction::Resume {} => {
                self.thaw(&pinned).map_err(failed)?;
                self.set_paused(guid, false);
            }
            ControlAction::Signal { .. } => {
                if let Some(Some(signal)) = signal {
                    pinned.signal(signal).map_err(failed)?;
                }
            }
            ControlAction::Resize { resources: change } => {
                let merged = self
                    .with(guid, |e| merge(resources(&e.data.limits.into()), change))
                    .unwrap_or_default();
                return self.change(guid, request.op_id, &merged, None).await;
            }
            _ => {
                return Err(
                    Error::new(ErrorKind::Unsupported, "a process has no such control").with_object(guid),
                );
            }
        }
        self.with(guid, |entry| {
            entry.last_op = request.op_id;
            entry.applied()
        })
        .ok_or_else(|| error::not_found(guid, "it was deleted meanwhile"))
    }

    async fn restart(
        self: &Arc<Self>,
        request: &ControlRequest<'_>,
        data: HandleData,
        grace: Option<Duration>,
        begun: Instant,
    ) -> Result<Applied> {
        let guid = request.guid;
        if let Some(done) = self
            .with(guid, |e| (e.data.op_id == request.op_id).then(|| e.applied()))
            .flatten()
        {
            return Ok(done);
        }
        let spec = ProcessSpec::parse(request.spec)?;
        let is_there = self.with(guid, |_| ()).is_some();
        if !is_there && !self.files(guid).dir().exists() {
            return Err(error::not_found(guid, "nothing of that handle is there"));
        }
        let started_since = self.recorded(guid).is_some_and(|run| run.op_id == request.op_id);
        if !(request.maybe_applied && started_since) {
            self.stop(guid, grace, left(request.deadline, begun)).await?;
        }
        let previous = self.with(guid, |entry| entry.data.clone()).or(Some(data));
        let start = Start {
            guid,
            op_id: request.op_id,
            maybe_applied: request.maybe_applied,
            spec,
            resources: request.spec.resources.clone(),
            previous,
        };
        match timeout(left(request.deadline, begun), self.start(start)).await {
            Ok(result) => result.map_err(|e| e.with_operation("restart")),
            Err(_) => Err(error::timeout(guid, "starting the process again")),
        }
    }

    async fn pause(self: &Arc<Self>, guid: Guid, pinned: Pinned, within: Duration) -> Result<()> {
        let failed = |e: std::io::Error| error::system(&e, "cannot hold the process", guid);
        let mut group = pinned.group.clone();
        if !group.holds_tree() {
            let shared = Arc::clone(self);
            let pid = pinned.pid;
            let prepared = self.pool.run(move |_| {
                let members = procfs::group_members(pid)?;
                shared
                    .host
                    .prepare_freezer(&guid.to_string(), &mut group, &members)?;
                std::io::Result::Ok(group)
            });
            group = prepared.await.map_err(error::closed)?.map_err(failed)?;
            let kept = group.clone();
            self.with(guid, |entry| {
                entry.data.cgroups = kept.dirs();
                entry.group = kept;
            });
        }
        let by_cgroup = group.freeze(true).map_err(failed)?;
        if !by_cgroup {
            pinned.signal(Signal::STOP).map_err(failed)?;
        }
        let is_held = || match by_cgroup {
            true => group.is_frozen() != Some(false),
            // Stopped, or ended meanwhile.
            false => procfs::stat(pinned.pid).map_or(true, |stat| stat.state == b'T' || stat.is_dead()),
        };
        let begun = Instant::now();
        while !is_held() {
            if begun.elapsed() > FREEZE_WAIT.min(within) {
                group.freeze(false).map_err(failed)?;
                pinned.signal(Signal::CONT).map_err(failed)?;
                return Err(error::timeout(guid, "holding the process still"));
            }
            sleep(Duration::from_millis(1)).await;
        }
        self.set_paused(guid, true);
        Ok(())
    }

    fn set_paused(&self, guid: Guid, paused: bool) {
        let observed = self.with(guid, |entry| {
            (entry.pidfd.is_some() && entry.paused != paused).then(|| {
                entry.paused = paused;
                entry.changed(EvidenceSource::Event);
                entry.observed(guid)
            })
        });
        if let Some(observed) = observed.flatten() {
            self.events.send(DriverEvent::Status(observed));
        }
    }
}

/// `None` for signal 0, which asks only whether the process is there.
fn parse_signal(text: &str) -> std::result::Result<Option<Signal>, String> {
    if text.trim() == "0" {
        Ok(None)
    } else {
        signal::parse(text).map(Some)
    }
}

/// The limits with those of a change in their place; what is not set stays.
fn merge(mut now: Resources, change: &Resources) -> Resources {
    now.cpu = change.cpu.or(now.cpu);
    now.memory = change.memory.or(now.memory);
    now.pids = change.pids.or(now.pids);
    now.io = change.io.or(now.io);
    now
}
