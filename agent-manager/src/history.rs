//! The last transitions of an object, in little memory.

use agent_api_model::{Cause, OpId, Phase, RequestId, Timestamp, Transition, Verb};

/// The last transitions of an object, oldest first.
#[derive(Default)]
pub(crate) struct History(Vec<Step>);

struct Step {
    at: Timestamp,
    from: Option<Phase>,
    to: Option<Phase>,
    cause: Small,
}

/// The common causes in place, the rest on the heap: an idle object has seen only these.
enum Small {
    Request(Verb, RequestId),
    Done(Verb, OpId),
    Other(Box<Cause>),
}

impl History {
    /// Adds one, and forgets the oldest beyond `keep`.
    pub(crate) fn push(&mut self, step: Transition, keep: usize) {
        if keep == 0 {
            return;
        }
        if self.0.len() >= keep {
            self.0.drain(..=self.0.len() - keep);
        }
        let cause = match step.cause {
            Cause::Request { verb, request_id } => Small::Request(verb, request_id),
            Cause::Done { verb, op_id } => Small::Done(verb, op_id),
            other => Small::Other(Box::new(other)),
        };
        if self.0.capacity() == 0 {
            self.0.reserve_exact(2);
        }
        self.0.push(Step {
            at: step.at,
            from: step.from,
            to: step.to,
            cause,
        });
    }

    /// All of them.
    pub(crate) fn transitions(&self) -> Vec<Transition> {
        self.0
            .iter()
            .map(|step| Transition {
                at: step.at,
                from: step.from,
                to: step.to,
                cause: match &step.cause {
                    Small::Request(verb, request_id) => Cause::Request {
                        verb: *verb,
                        request_id: request_id.clone(),
                    },
                    Small::Done(verb, op_id) => Cause::Done {
                        verb: *verb,
                        op_id: *op_id,
                    },
                    Small::Other(cause) => (**cause).clone(),
                },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_in_little_memory() {
        assert!(size_of::<Step>() <= 40, "{}", size_of::<Step>());
        let mut history = History::default();
        for n in 0..20 {
            history.push(
                Transition {
                    at: Timestamp::from_micros(n),
                    from: None,
                    to: Some(Phase::Pending),
                    cause: Cause::Done {
                        verb: Verb::Create,
                        op_id: OpId::generate(),
                    },
                },
                3,
            );
        }
        let at: Vec<_> = history
            .transitions()
            .iter()
            .map(|step| step.at.as_micros())
            .collect();
        assert_eq!(at, [17, 18, 19]);
    }
}
