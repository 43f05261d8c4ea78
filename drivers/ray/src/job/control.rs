//! Control verbs.

use agent_api_driver::model::{ControlAction, Error, ErrorKind, EvidenceSource};
use agent_api_driver::{Applied, ControlRequest, Result};

use super::data::{JobHandle, RecordState};
use super::state::Sight;
use super::{JobKind, is_ours};
use crate::sdk::JobInfo;

/// What a signal does to a Ray job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Nothing: whether it is there, or to go on where nothing is held.
    Nothing,
    /// Ray's stop: the job's stop signal, then `KILL` after its grace.
    Stop,
    /// Ray has no way to send it.
    Unknown,
}

/// Names of signals on Linux by number, without `SIG`.
const SIGNALS: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// What a signal means for a job with this stop signal; an error where it is no signal.
fn meaning(text: &str, stop_signal: &str) -> Result<Meaning> {
    let unknown = || {
        Error::invalid(
            "signal",
            format!("{text:?} is not a signal; write for example TERM, SIGTERM or 15"),
        )
    };
    if text == "0" {
        return Ok(Meaning::Nothing);
    }
    let name = match text.parse::<usize>() {
        Ok(number) if !text.starts_with('+') => SIGNALS.get(number).copied().filter(|name| !name.is_empty()),
        _ => {
            let short = text.strip_prefix("SIG").unwrap_or(text);
            SIGNALS
                .into_iter()
                .find(|name| !name.is_empty() && *name == short)
        }
    }
    .ok_or_else(unknown)?;
    Ok(match name {
        "CONT" => Meaning::Nothing,
        "KILL" => Meaning::Stop,
        name if stop_signal == format!("SIG{name}") => Meaning::Stop,
        _ => Meaning::Unknown,
    })
}

fn unsupported(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, why)
}

impl JobKind {
    /// See [`agent_api_driver::Control::control`].
    pub(super) async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        match request.action {
            ControlAction::Pause {} | ControlAction::Resume {} => {
                Err(unsupported("Ray cannot hold a job still"))
            }
            ControlAction::Scale { .. } => Err(unsupported("a Ray job has no copies")),
            ControlAction::Resize { .. } => Err(unsupported(
                "Ray sets resources aside with the submission only; change the spec, and the job is submitted anew",
            )),
            ControlAction::Call { method, .. } => {
                Err(unsupported(&format!("a Ray job has no method {method:?}")))
            }
            ControlAction::Restart { .. } => self.restart(request).await,
            ControlAction::Signal { signal } => {
                let handle = JobHandle::read(request.handle)?;
                self.signal(&request, handle, signal).await
            }
            other => Err(unsupported(&format!("a Ray job cannot {}", other.verb()))),
        }
    }

    async fn signal(
        &self,
        request: &ControlRequest<'_>,
        mut handle: JobHandle,
        signal: &str,
    ) -> Result<Applied> {
        let meaning = meaning(signal, handle.stop_signal.name())?;
        let info = self.there(request, &handle).await?;
        if info.status.is_final() {
            return Err(Error::new(ErrorKind::Conflict, "the job has ended"));
        }
        let head = self.head_of(&handle)?;
        match meaning {
            Meaning::Nothing => {}
            Meaning::Stop => {
                head.client.stop_job(&handle.id, request.deadline).await?;
                // A job that is pending does not end by it: the wish is kept, also over a restart of the agent.
                handle.stop = true;
            }
            Meaning::Unknown => {
                return Err(unsupported(&format!(
                    "Ray sends a job no signal but its stop signal, which is {}",
                    handle.stop_signal.name()
                )));
            }
        }
        let applied = self.enter(&head, handle.clone(), Some(&info));
        if handle.stop {
            self.wish_to_stop(&handle);
            let status = self.learn(handle.guid, &handle.id, &Sight::Job(&info), EvidenceSource::Poll);
            return Ok(Applied::new(handle.write(), status.unwrap_or(applied.status)));
        }
        Ok(applied)
    }

    /// The job as the head shows it, where it is this object's.
    async fn there(&self, request: &ControlRequest<'_>, handle: &JobHandle) -> Result<JobInfo> {
        if handle.guid != request.guid {
            return Err(Self::not_found("the handle is of another object"));
        }
        let record = self.record(handle.guid).await?;
        if record
            .as_ref()
            .is_some_and(|record| record.state != RecordState::Submitted)
        {
            return Err(Self::not_found("it was deleted"));
        }
        let head = self.head_of(handle)?;
        match head.client.job(&handle.id, request.deadline).await? {
            Some(info) if is_ours(&info, handle) => Ok(info),
            Some(_) => Err(Self::not_found("the job of this id is not this object's")),
            // Its record on the head was deleted some time after its end.
            None => record
                .and_then(|record| record.ended)
                .ok_or_else(|| Self::not_found("the head knows no job of this id")),
        }
    }

    async fn restart(&self, request: ControlRequest<'_>) -> Result<Applied> {
        let before = JobHandle::read(request.handle)?;
        if before.guid != request.guid {
            return Err(Self::not_found("the handle is of another object"));
        }
        let record = self.record(request.guid).await?;
        if record
            .as_ref()
            .is_some_and(|record| record.state != RecordState::Submitted)
        {
            return Err(Self::not_found("it was deleted"));
        }
        let wanted = self.wanted(
            request.guid,
            request.op_id,
            request.spec,
            request.maybe_applied,
            request.deadline,
        )?;
        if record
            .as_ref()
            .is_some_and(|record| record.handle.op_id == request.op_id)
        {
            // This operation submitted before, or was about to.
            return self.submit(&wanted, None, None).await;
        }
        if before.adopted {
            return Err(unsupported(
                "a job that was adopted is not started again; give its command to an object of its own",
            ));
        }
        let head = self.head_of(&before)?;
        let info = head.client.job(&before.id, wanted.left()).await?;
        match &info {
            Some(info) if !is_ours(info, &before) => {
                return Err(Self::not_found("the job of this id is not this object's"));
            }
            None if record.is_none() => return Err(Self::not_found("the head knows no job of this id")),
            _ => {}
        }
        self.next(&wanted, before, info).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_ray_can_do() {
        for text in ["0", "18", "CONT", "SIGCONT"] {
            assert_eq!(meaning(text, "SIGTERM").unwrap(), Meaning::Nothing, "{text}");
        }
        for text in ["15", "TERM", "SIGTERM", "9", "KILL"] {
            assert_eq!(meaning(text, "SIGTERM").unwrap(), Meaning::Stop, "{text}");
        }
        assert_eq!(meaning("INT", "SIGINT").unwrap(), Meaning::Stop);
        for text in ["INT", "HUP", "USR1", "STOP"] {
            assert_eq!(meaning(text, "SIGTERM").unwrap(), Meaning::Unknown, "{text}");
        }
        for text in [
            "",
            "SIGNOTHING",
            "-1",
            "4711",
            "SIGSIGHUP",
            "TERM; true",
            "sig term",
            "+15",
            "SIG",
        ] {
            assert_eq!(
                meaning(text, "SIGTERM").unwrap_err().path(),
                Some("signal"),
                "{text}"
            );
        }
    }
}
