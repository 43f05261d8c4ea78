//! Waiting until many objects are as wanted, over one watch, with progress.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use agent_api_client::Client;
use agent_api_model::{
    Error, ErrorKind, Generation, Guid, ObjectName, ObjectView, Phase, Timestamp, WatchEvent, WatchRequest,
};
use agent_bin_daemon::exit;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::{Outcome, sentence};
use crate::output::note;

/// How long to wait before looking again after the agent went away.
const PAUSE: Duration = Duration::from_millis(200);

/// What an object is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It works with this generation, or has done its work.
    Settled(Generation),
    /// It is gone.
    Gone,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Wait(String),
    Done(String),
    Failed(String),
}

/// Objects that are waited for.
pub(super) struct Waiting {
    objects: BTreeMap<Guid, (ObjectName, Wanted, String)>,
    total: usize,
    failed: usize,
    bar: ProgressBar,
    quiet: bool,
}

impl Waiting {
    /// Waits for these objects. `quiet` says nothing of what ends well.
    pub(super) fn new(objects: impl IntoIterator<Item = (Guid, ObjectName, Wanted)>, quiet: bool) -> Self {
        let objects: BTreeMap<_, _> = objects
            .into_iter()
            .map(|(guid, name, wanted)| (guid, (name, wanted, "accepted".to_owned())))
            .collect();
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(objects.len() as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            total: objects.len(),
            objects,
            failed: 0,
            bar,
            quiet,
        }
    }

    /// Waits for all of them, at most so long. The exit code says whether all are as wanted.
    pub(super) async fn wait(mut self, client: &Client, timeout: Duration) -> Outcome {
        if self.objects.is_empty() {
            return Ok(exit::OK);
        }
        let result = tokio::time::timeout(timeout, self.watch(client)).await;
        self.bar.finish_and_clear();
        match result {
            Ok(Ok(())) if self.failed == 0 => Ok(exit::OK),
            Ok(Ok(())) => Ok(exit::FAILED),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                for (name, _, last) in self.objects.values().take(20) {
                    eprintln!("{name}: still {last}");
                }
                let left = self.objects.len();
                eprintln!(
                    "error: {left} of {} not there after {}\n  try: `agent explain NAME`, or a longer --timeout",
                    self.total,
                    agent_api_model::format_duration(timeout)
                );
                Ok(exit::TIMEOUT)
            }
        }
    }

    async fn watch(&mut self, client: &Client) -> Result<(), Error> {
        let mut patience = 0;
        while !self.objects.is_empty() {
            match self.follow(client).await {
                Ok(()) => {}
                // The agent is being restarted, or has no room: look again, for as long as the caller waits.
                Err(error) if error.is_retryable() || error.kind() == ErrorKind::Unavailable => {
                    patience += 1;
                    if patience == 1 {
                        self.say(&format!("waiting for the agent: {}", sentence(&error)));
                    }
                }
                Err(error) => return Err(error),
            }
            if !self.objects.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn follow(&mut self, client: &Client) -> Result<(), Error> {
        let mut events = client.watch(&WatchRequest::default()).await?;
        let mut seen = std::collections::BTreeSet::new();
        let mut synced = false;
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Changed(view) => {
                    if !synced {
                        seen.insert(view.guid);
                    }
                    self.changed(&view);
                }
                WatchEvent::Deleted { guid, .. } => self.gone(guid),
                WatchEvent::Synced => {
                    synced = true;
                    let missing: Vec<_> = self
                        .objects
                        .keys()
                        .filter(|guid| !seen.contains(guid))
                        .copied()
                        .collect();
                    for guid in missing {
                        self.gone(guid);
                    }
                }
                WatchEvent::Gap { .. } => {
                    synced = false;
                    seen.clear();
                }
            }
            if self.objects.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn changed(&mut self, view: &ObjectView) {
        let Some((_, wanted, _)) = self.objects.get(&view.guid) else {
            return;
        };
        match judge(view, *wanted) {
            Verdict::Wait(state) => {
                if let Some((_, _, last)) = self.objects.get_mut(&view.guid) {
                    *last = state;
                }
                self.progress();
            }
            Verdict::Done(state) => self.done(view.guid, &state, false),
            Verdict::Failed(state) => self.done(view.guid, &state, true),
        }
    }

    fn gone(&mut self, guid: Guid) {
        match self.objects.get(&guid) {
            Some((_, Wanted::Gone, _)) => self.done(guid, "gone", false),
            Some(_) => self.done(guid, "deleted meanwhile", true),
            None => {}
        }
    }

    fn done(&mut self, guid: Guid, state: &str, failed: bool) {
        let Some((name, ..)) = self.objects.remove(&guid) else {
            return;
        };
        self.failed += usize::from(failed);
        if failed {
            self.say(&format!(
                "error: {name} is {state}\n  try: `agent explain {name}`, `agent logs {name}`"
            ));
        } else if !self.quiet {
            self.say(&format!("{name} is {state}"));
        }
        self.progress();
    }

    fn progress(&self) {
        self.bar.set_position((self.total - self.objects.len()) as u64);
        let mut waiting: Vec<_> = self
            .objects
            .values()
            .take(3)
            .map(|(name, _, state)| format!("{name} {state}"))
            .collect();
        if self.objects.len() > 3 {
            waiting.push("…".into());
        }
        self.bar.set_message(waiting.join(", "));
        self.bar.tick();
    }

    fn say(&self, line: &str) {
        self.bar
            .suspend(|| eprintln!("{}", crate::failure::printable(line)));
    }
}

fn judge(view: &ObjectView, wanted: Wanted) -> Verdict {
    let state = match note(view, Timestamp::now()) {
        Some(note) => format!("{} ({note})", view.phase),
        None => view.phase.to_string(),
    };
    let Wanted::Settled(generation) = wanted else {
        return Verdict::Wait(state);
    };
    let applied = view.observed_generation >= generation;
    let crashing = view
        .conditions
        .iter()
        .any(|condition| condition.kind == "BackOff" && condition.status);
    match view.phase {
        Phase::Running | Phase::Paused if applied => Verdict::Done(state),
        Phase::Succeeded => Verdict::Done(state),
        Phase::Failed => Verdict::Failed(state),
        // It was started as wanted and ended; its restart policy has it now.
        Phase::Pending if applied && crashing => Verdict::Done(state),
        _ => Verdict::Wait(state),
    }
}
