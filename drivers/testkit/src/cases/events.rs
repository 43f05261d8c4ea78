//! `events`.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{ControlAction, EvidenceSource, Guid, OpId};
use agent_api_driver::{ControlRequest, DriverEvent, EventStream, ObjectState, ObjectStatus, ShutdownMode};
use futures_util::{FutureExt, StreamExt};

use crate::trial::{Stop, Trial, Verdict, ensure, needs, offered};
use crate::{Made, Sample};

/// What the stream brought so far, with revisions checked.
#[derive(Default)]
struct Seen {
    last: BTreeMap<Guid, ObjectStatus>,
    states: Vec<(Guid, ObjectState)>,
    gap: bool,
}

impl Seen {
    fn take(&mut self, event: DriverEvent) -> Verdict {
        match event {
            DriverEvent::Status(observed) => {
                let (guid, status) = (observed.guid, observed.status);
                if let Some(last) = self.last.get(&guid) {
                    let (old, new) = (last.evidence.revision, status.evidence.revision);
                    ensure!(
                        new > old,
                        "the revision of {guid} went from {old} to {new}: {last:?}, then {status:?}"
                    );
                }
                self.states.push((guid, status.state));
                self.last.insert(guid, status);
            }
            DriverEvent::Gap(_) => self.gap = true,
            DriverEvent::Health(_) => {}
        }
        Ok(())
    }

    /// Reads until the condition holds.
    async fn until(
        &mut self,
        trial: &Trial<'_>,
        events: &mut EventStream,
        what: &str,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Verdict {
        let read = async {
            while !holds(self) {
                let Some(event) = events.next().await else {
                    return Err(Stop::Failed("the stream ended before shutdown".into()));
                };
                self.take(event)?;
            }
            Ok(())
        };
        let ended = tokio::time::timeout(trial.patience(), read).await;
        ended.unwrap_or_else(|_| {
            Err(Stop::Failed(format!(
                "waited {:?} for {what}; came: {:?}",
                trial.patience(),
                self.states
            )))
        })
    }

    fn shows_end(&self, object: &Made) -> bool {
        self.gap
            || self
                .last
                .get(&object.guid)
                .is_some_and(|status| status.state == ObjectState::Exited)
    }
}

fn event_driven(trial: &Trial<'_>) -> Verdict {
    let pushed = trial.capabilities()?.status == agent_api_driver::StatusSource::Event;
    needs(pushed, "push changes of state")
}

pub(super) async fn each_change_comes_with_a_growing_revision_or_a_gap(trial: &Trial<'_>) -> Verdict {
    event_driven(trial)?;
    needs(trial.capabilities()?.ends, "let objects end by themselves")?;
    let mut events = trial.events();
    let mut seen = Seen::default();
    let mut made = Vec::new();
    for i in 0..12 {
        let after = Duration::from_millis(i * 5);
        made.push(
            trial
                .create(trial.sample(Sample::Ends { after, code: 0 })?)
                .await?,
        );
    }
    for object in &made {
        seen.until(trial, &mut events, "the end of each object", |seen| {
            seen.shows_end(object)
        })
        .await?;
    }
    if !seen.gap {
        for object in &made {
            let ends = seen
                .states
                .iter()
                .filter(|at| **at == (object.guid, ObjectState::Exited))
                .count();
            ensure!(ends == 1, "{} ended once, and {ends} events say so", object.guid);
        }
    }
    Ok(())
}

pub(super) async fn an_end_comes_with_its_exit_code(trial: &Trial<'_>) -> Verdict {
    event_driven(trial)?;
    trial.without_chaos("the one event may become a gap")?;
    needs(trial.capabilities()?.ends, "let objects end by themselves")?;
    let mut events = trial.events();
    let object = trial
        .create(trial.sample(Sample::Ends {
            after: Duration::from_millis(20),
            code: 3,
        })?)
        .await?;
    let mut seen = Seen::default();
    seen.until(trial, &mut events, "the end of the object", |seen| {
        seen.shows_end(&object)
    })
    .await?;
    ensure!(!seen.gap, "a gap for one event");
    let status = &seen.last[&object.guid];
    ensure!(
        status.exit.as_ref().and_then(|exit| exit.code) == Some(3),
        "ended with 3: {status:?}"
    );
    ensure!(
        status.evidence.source == EvidenceSource::Event,
        "an event whose evidence is no event: {status:?}"
    );
    let observed = trial.observe(object.guid, &object.handle).await?.status;
    ensure!(
        observed.evidence.revision >= status.evidence.revision,
        "observe is older than the event before it: {observed:?}, {status:?}"
    );
    Ok(())
}

pub(super) async fn an_end_from_outside_comes_too(trial: &Trial<'_>) -> Verdict {
    event_driven(trial)?;
    let mut events = trial.events();
    let object = trial.running(Sample::LongRunning).await?;
    offered(
        trial
            .subject
            .end_outside(&trial.place, &object)
            .await
            .then_some(()),
        "hook `end_outside`",
    )?;
    let mut seen = Seen::default();
    seen.until(trial, &mut events, "the end of the object", |seen| {
        seen.shows_end(&object)
    })
    .await
}

pub(super) async fn a_restart_goes_on_with_growing_revisions(trial: &Trial<'_>) -> Verdict {
    event_driven(trial)?;
    trial.without_chaos("the end of each start may become a gap")?;
    needs(trial.capabilities()?.ends, "let objects end by themselves")?;
    let mut events = trial.events();
    let mut seen = Seen::default();
    let spec = trial.sample(Sample::Ends {
        after: Duration::ZERO,
        code: 0,
    })?;
    let mut object = trial.create(spec).await?;
    for start in 1..=3 {
        let ends = |seen: &Seen| {
            seen.states
                .iter()
                .filter(|(_, state)| *state == ObjectState::Exited)
                .count()
        };
        seen.until(trial, &mut events, "an end after each start", |seen| {
            seen.gap || ends(seen) >= start
        })
        .await?;
        let applied = trial
            .apply(
                object.guid,
                OpId::generate(),
                &object.spec,
                Some(&object.handle),
                false,
            )
            .await?;
        let status = &applied.status;
        if let Some(last) = seen.last.get(&object.guid) {
            let (old, new) = (last.evidence.revision, status.evidence.revision);
            ensure!(
                new > old,
                "revision {old} at the end of start {start}, {new} at the next: {status:?}"
            );
        }
        object = trial.after(&object, applied);
    }
    Ok(())
}

pub(super) async fn a_slow_reader_gets_a_gap(trial: &Trial<'_>) -> Verdict {
    event_driven(trial)?;
    trial.without_chaos("it makes gaps of its own")?;
    let capacity = offered(trial.subject.event_capacity(), "event capacity")?;
    needs(trial.capabilities()?.pause, "pause, which makes events quickly")?;
    let mut events = trial.events();
    let object = trial.running(Sample::LongRunning).await?;
    let driver = trial.driver();
    let control = driver
        .control()
        .ok_or_else(|| Stop::Failed("there is no control extension".into()))?;
    let changes = capacity * 2 + 16;
    for change in 0..changes {
        let action = if change % 2 == 0 {
            ControlAction::Pause {}
        } else {
            ControlAction::Resume {}
        };
        let request = ControlRequest {
            guid: object.guid,
            generation: 1,
            op_id: OpId::generate(),
            maybe_applied: false,
            spec: &object.spec,
            handle: &object.handle,
            action: &action,
            deadline: trial.patience(),
        };
        control.control(request).await?;
    }
    let mut seen = Seen::default();
    seen.until(trial, &mut events, "a gap, or all changes", |seen| {
        seen.gap || seen.states.len() >= changes
    })
    .await?;
    ensure!(
        seen.gap,
        "{changes} changes without a reader came without a gap: the queue holds more than {capacity}"
    );
    ensure!(
        seen.states.len() <= capacity + 1,
        "{} events came out of a queue for {capacity}",
        seen.states.len()
    );
    // And it goes on after the gap.
    let before = seen.states.len();
    trial.delete(&object).await?;
    let next = trial.running(Sample::LongRunning).await?;
    let came = |seen: &Seen| seen.states[before..].iter().any(|(guid, _)| *guid == next.guid);
    seen.until(trial, &mut events, "events after the gap", came).await
}

pub(super) async fn the_stream_ends_only_after_shutdown(trial: &Trial<'_>) -> Verdict {
    let mut events = trial.events();
    let object = trial.running(Sample::LongRunning).await?;
    trial.delete(&object).await?;
    while let Some(event) = events.next().now_or_never() {
        ensure!(event.is_some(), "the stream ended before shutdown");
    }
    // Held on to: it is the shutdown that ends the stream, and not the last use of the driver.
    let driver = trial.driver();
    trial.shut_down(ShutdownMode::LeaveRunning).await?;
    let rest = async { while events.next().await.is_some() {} };
    trial
        .in_time("the stream of events after shutdown", trial.patience(), rest)
        .await?;
    drop(driver);
    Ok(())
}

pub(super) async fn a_dropped_stream_stops_nothing(trial: &Trial<'_>) -> Verdict {
    drop(trial.events());
    let object = trial.running(Sample::LongRunning).await?;
    trial.delete(&object).await?;
    trial.until_ended(&object).await?;
    Ok(())
}
