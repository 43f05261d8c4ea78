//! The life of an object as a pure function: phase and trigger in, next phase and what to do out.
//!
//! Three rules hold throughout: nothing becomes `Failed` or gone without evidence; what has ended stays ended until
//! somebody starts it again; what is being deleted stays so until it is gone.

use agent_api_model::Phase;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// The driver is asked to make it, or to start it again.
    Start,
    /// The driver is asked to change or to restart what is there.
    Change,
    /// That was refused, and what is there is as before.
    ChangeRefused,
    /// The driver refuses to make it.
    StartRefused,
    /// Nobody can say whether it was made.
    Uncertain,
    /// It is being made and does not work yet.
    SeenStarting,
    /// It runs.
    SeenRunning,
    /// It is held still.
    SeenPaused,
    /// There is no evidence of what it is.
    NoEvidence,
    /// It ended and is to be started again.
    EndedRestart,
    /// It ended as it should, for good.
    EndedWell,
    /// It ended as it should not, for good.
    EndedBadly,
    /// It is to be removed.
    Delete,
    /// It is removed.
    Deleted,
}

/// What a trigger leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing changes.
    Stay,
    /// Another phase.
    To(Phase),
    /// The object is no more.
    Gone,
    /// It cannot happen in this phase: a fault of the caller.
    Illegal,
}

/// What is to be done besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing.
    Nothing,
    /// It can be collected from and probed from now on.
    Attend,
    /// It no longer can.
    Leave,
    /// It no longer can, and its next start is to be scheduled.
    StartAgain,
    /// Forget everything about it.
    Forget,
}

/// Whether telemetry can be collected in this phase. Without evidence the collection goes on: it may run.
pub(crate) fn attended(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Running | Phase::Paused | Phase::Updating | Phase::Unknown
    )
}

/// The transition function.
pub(crate) fn transition(phase: Phase, trigger: Trigger) -> (Next, Act) {
    let next = next_phase(phase, trigger);
    let act = match next {
        Next::To(Phase::Pending) => Act::StartAgain,
        Next::To(to) if attended(to) && !attended(phase) => Act::Attend,
        Next::To(to) if !attended(to) && attended(phase) => Act::Leave,
        Next::Gone => Act::Forget,
        _ => Act::Nothing,
    };
    (next, act)
}

fn next_phase(phase: Phase, trigger: Trigger) -> Next {
    use Phase::{Creating, Deleting, Failed, Paused, Pending, Running, Succeeded, Unknown, Updating};
    let moved = match (trigger, phase) {
        (Trigger::Delete, _) => Deleting,
        (Trigger::Deleted, Deleting) => return Next::Gone,
        (Trigger::Deleted, _) => return Next::Illegal,

        (Trigger::Start, Pending | Creating | Succeeded | Failed | Unknown) => Creating,
        (Trigger::Start, Running | Paused | Updating | Deleting) => return Next::Illegal,
        (Trigger::Change, Running | Paused | Updating | Unknown) => Updating,
        (Trigger::Change, Pending | Creating | Succeeded | Failed | Deleting) => return Next::Illegal,

        // An end, a delete or a loss of evidence that came in between counts more than an answer.
        (Trigger::ChangeRefused, Updating) => Running,
        (Trigger::StartRefused, Pending | Creating) => Failed,
        (Trigger::Uncertain, Creating | Updating) => Unknown,

        (Trigger::SeenStarting, Updating | Unknown) => Creating,
        (Trigger::SeenRunning, Creating | Paused | Updating | Unknown) => Running,
        (Trigger::SeenPaused, Creating | Running | Updating | Unknown) => Paused,
        (Trigger::NoEvidence, Creating | Running | Paused | Updating) => Unknown,

        (Trigger::EndedRestart, Creating | Running | Paused | Updating | Unknown) => Pending,
        (Trigger::EndedWell, Creating | Running | Paused | Updating | Unknown) => Succeeded,
        (Trigger::EndedBadly, Creating | Running | Paused | Updating | Unknown) => Failed,
        _ => return Next::Stay,
    };
    if moved == phase {
        Next::Stay
    } else {
        Next::To(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIGGERS: [Trigger; 14] = [
        Trigger::Start,
        Trigger::Change,
        Trigger::ChangeRefused,
        Trigger::StartRefused,
        Trigger::Uncertain,
        Trigger::SeenStarting,
        Trigger::SeenRunning,
        Trigger::SeenPaused,
        Trigger::NoEvidence,
        Trigger::EndedRestart,
        Trigger::EndedWell,
        Trigger::EndedBadly,
        Trigger::Delete,
        Trigger::Deleted,
    ];

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for phase in Phase::ALL {
            for trigger in TRIGGERS {
                let (next, act) = transition(phase, trigger);
                let next = match next {
                    Next::Stay => "-".to_owned(),
                    Next::To(phase) => phase.to_string(),
                    Next::Gone => "(gone)".to_owned(),
                    Next::Illegal => "illegal".to_owned(),
                };
                let act = match act {
                    Act::Nothing => String::new(),
                    act => format!("  {act:?}"),
                };
                table += format!("{phase:<10} {:<14} {next:<10}{act}", format!("{trigger:?}")).trim_end();
                table.push('\n');
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn what_has_ended_stays_ended_until_started_or_deleted() {
        for phase in [Phase::Succeeded, Phase::Failed] {
            for trigger in TRIGGERS {
                let (next, _) = transition(phase, trigger);
                match trigger {
                    Trigger::Start => assert_eq!(next, Next::To(Phase::Creating)),
                    Trigger::Delete => assert_eq!(next, Next::To(Phase::Deleting)),
                    _ => assert!(matches!(next, Next::Stay | Next::Illegal), "{phase} {trigger:?}"),
                }
            }
        }
    }

    #[test]
    fn only_evidence_of_an_end_fails_an_object() {
        for phase in Phase::ALL {
            for trigger in TRIGGERS {
                if transition(phase, trigger).0 == Next::To(Phase::Failed) {
                    assert!(matches!(trigger, Trigger::StartRefused | Trigger::EndedBadly));
                }
            }
        }
    }
}
