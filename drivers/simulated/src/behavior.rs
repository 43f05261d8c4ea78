//! A spec made ready to act on, shared by all objects that have the same one.

use std::time::Duration;

use agent_api_driver::model::{
    Enforcement, Error, ErrorKind, LimitStatus, ResourceField, Resources, Result, Retry,
};

use crate::draw::Draw;
use crate::spec::{FailureSpec, LogSpec, Operation, SimulatedSpec};

/// What draws are for; each has its own sequence.
pub(crate) mod purpose {
    pub(crate) const LIFETIME: u64 = 100;
    pub(crate) const CRASH: u64 = 101;
    pub(crate) const EVENT: u64 = 102;
    pub(crate) const GARBAGE: u64 = 103;
    pub(crate) const PROBE: u64 = 104;
    pub(crate) const STRANGER: u64 = 105;
    pub(crate) const METRICS: u64 = 106;
}

#[derive(Debug)]
pub(crate) struct Behavior {
    pub(crate) spec: SimulatedSpec,
    pub(crate) resources: Resources,
    pub(crate) limits: Vec<LimitStatus>,
    /// Spec and resources as text: two behaviours are the same where this is.
    pub(crate) text: String,
    faults: Vec<(Operation, Faults)>,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    latency: Option<crate::Distribution>,
    fail: Option<FailureSpec>,
    hang: f64,
    panic: f64,
}

/// How one call goes.
#[derive(Debug)]
pub(crate) struct Fate {
    operation: Operation,
    pub(crate) hang: bool,
    pub(crate) panic: bool,
    pub(crate) latency: Duration,
    pub(crate) fail: Option<FailureSpec>,
}

/// How a change of behaviour is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    InPlace,
    Restart,
    Recreate,
}

impl Behavior {
    /// From a spec with the defaults in it already.
    pub(crate) fn new(spec: SimulatedSpec, resources: Resources) -> Self {
        let text = serde_json::to_string(&(&spec, &resources)).expect("strings, numbers and maps by strings");
        let faults = Operation::NAMES
            .iter()
            .filter(|(_, operation)| {
                !matches!(operation, Operation::All | Operation::Apply | Operation::Control)
            })
            .filter_map(|(_, operation)| Some((*operation, Faults::of(&spec, *operation)?)))
            .collect();
        let limits = limits(&resources, spec.limits.unwrap_or(Enforcement::Enforced));
        Self {
            spec,
            resources,
            limits,
            text,
            faults,
        }
    }

    fn faults(&self, operation: Operation) -> Option<&Faults> {
        self.faults
            .iter()
            .find(|(of, _)| *of == operation)
            .map(|(_, faults)| faults)
    }

    /// Whether calls of this operation do anything but succeed at once.
    pub(crate) fn disturbs(&self, operation: Operation) -> bool {
        self.faults(operation).is_some()
    }

    /// How the call goes that is decided by this draw.
    pub(crate) fn fate(&self, operation: Operation, key: u64, number: u32) -> Fate {
        let mut fate = Fate {
            operation,
            hang: false,
            panic: false,
            latency: Duration::ZERO,
            fail: None,
        };
        if let Some(faults) = self.faults(operation) {
            let mut draw = Draw::new(key, operation as u64, number);
            fate.hang = draw.happens(faults.hang);
            fate.panic = draw.happens(faults.panic);
            let fails = draw.happens(faults.fail.as_ref().map_or(0.0, |fail| fail.rate.0));
            fate.fail = faults.fail.clone().filter(|_| fails);
            fate.latency = faults
                .latency
                .map_or(Duration::ZERO, |latency| draw.duration(&latency));
        }
        fate
    }

    /// Which limit wants more than there is, in words.
    pub(crate) fn over_capacity(&self) -> Option<(&'static str, String)> {
        let (wanted, most) = (&self.resources, &self.spec.capacity);
        let over = |path, over: bool, wanted: String, most: String| {
            over.then(|| {
                (
                    path,
                    format!("{wanted} is wanted, and the simulated substrate has {most}"),
                )
            })
        };
        let of = |path, wanted: Option<u64>, most: Option<u64>, show: fn(u64) -> String| {
            wanted
                .zip(most)
                .and_then(|(wanted, most)| over(path, wanted > most, show(wanted), show(most)))
        };
        let plain = |number: u64| number.to_string();
        of(
            "resources.cpu",
            wanted.cpu.map(|cpu| cpu.millis()),
            most.cpu.map(|cpu| cpu.millis()),
            |millis| agent_api_driver::model::Cpu::from_millis(millis).to_string(),
        )
        .or_else(|| {
            of(
                "resources.memory",
                wanted.memory.map(|it| it.get()),
                most.memory.map(|it| it.get()),
                |bytes| agent_api_driver::model::ByteQuantity::new(bytes).to_string(),
            )
        })
        .or_else(|| of("resources.pids", wanted.pids, most.pids, plain))
        .or_else(|| {
            of(
                "resources.replicas",
                wanted.replicas.map(u64::from),
                most.replicas.map(u64::from),
                plain,
            )
        })
        .or_else(|| {
            wanted.gpu.zip(most.gpu).and_then(|(wanted, most)| {
                over(
                    "resources.gpu",
                    wanted > most,
                    wanted.to_string(),
                    most.to_string(),
                )
            })
        })
    }

    /// How an object that behaves so comes to behave otherwise.
    pub(crate) fn change_to(&self, next: &Self) -> Change {
        if self.text == next.text {
            return Change::None;
        }
        let (old, new) = (&self.spec, &next.spec);
        if old.seed != new.seed {
            return Change::Recreate;
        }
        let life = |spec: &SimulatedSpec| (spec.lifetime, spec.exit_code, spec.crash.clone());
        if life(old) != life(new) || self.resources.gpu != next.resources.gpu {
            return Change::Restart;
        }
        Change::InPlace
    }

    /// How long the start of this number runs, and whether it crashes then; none where it runs for ever.
    pub(crate) fn run(&self, key: u64, start: u32) -> Option<(Duration, bool)> {
        let lifetime = self
            .spec
            .lifetime
            .map(|it| (Draw::new(key, purpose::LIFETIME, start).duration(&it), false));
        let crash = self
            .spec
            .crash
            .as_ref()
            .map(|it| (Draw::new(key, purpose::CRASH, start).duration(&it.after), true));
        [lifetime, crash]
            .into_iter()
            .flatten()
            .min_by_key(|(run, _)| *run)
    }

    /// How many lines one start has written after running so many microseconds.
    pub(crate) fn lines(&self, ran: u64) -> u64 {
        let Some(logs) = &self.spec.logs else { return 0 };
        let most = logs.lines.unwrap_or(u64::MAX);
        if logs.rate == 0.0 {
            return most;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of lines; the product is not negative, and the cast saturates"
        )]
        let written = (ran as f64 / 1_000_000.0 * logs.rate) as u64;
        written.min(most)
    }

    pub(crate) fn logs(&self) -> Option<&LogSpec> {
        self.spec.logs.as_ref()
    }
}

impl Faults {
    /// None where the operation is not disturbed.
    fn of(spec: &SimulatedSpec, operation: Operation) -> Option<Self> {
        // The most particular entry first.
        let names = [Some(operation), operation.group(), Some(Operation::All)];
        let names = || names.into_iter().flatten();
        let faults = Self {
            latency: names().find_map(|name| spec.latency.get(&name).copied()),
            fail: names()
                .find_map(|name| spec.fail.get(&name))
                .map(crate::spec::Failure::full),
            hang: names().find_map(|name| spec.hang.of(name)).unwrap_or(0.0),
            panic: names().find_map(|name| spec.panic.of(name)).unwrap_or(0.0),
        };
        let some =
            faults.latency.is_some() || faults.fail.is_some() || faults.hang > 0.0 || faults.panic > 0.0;
        some.then_some(faults)
    }
}

impl Fate {
    /// What happens before the effect: a panic, a hang, the latency, a failure.
    ///
    /// # Panics
    ///
    /// Where the spec says so.
    pub(crate) async fn before(&self) -> Result<()> {
        assert!(!self.panic, "simulated panic in {}", self.operation.as_str());
        if self.hang {
            std::future::pending::<()>().await;
        }
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        match &self.fail {
            Some(fail) if !fail.after => Err(self.error(fail)),
            _ => Ok(()),
        }
    }

    /// What happens after the effect: the answer is lost.
    pub(crate) fn after(&self) -> Result<()> {
        match &self.fail {
            Some(fail) if fail.after => Err(self.error(fail)),
            _ => Ok(()),
        }
    }

    pub(crate) fn error(&self, fail: &FailureSpec) -> Error {
        let kind = match (fail.after, fail.retryable) {
            (true, _) => ErrorKind::Timeout,
            (false, true) => ErrorKind::Unavailable,
            (false, false) => ErrorKind::Internal,
        };
        let message = fail
            .message
            .clone()
            .unwrap_or_else(|| format!("simulated failure of {}", self.operation.as_str()));
        let retry = if fail.retryable {
            Retry::Later
        } else {
            Retry::Never
        };
        Error::new(kind, message)
            .with_operation(self.operation.as_str())
            .with_retry(retry)
            .with_hint("the object's spec asks for it in `spec.fail`")
    }
}

fn limits(resources: &Resources, enforcement: Enforcement) -> Vec<LimitStatus> {
    let by = match enforcement {
        Enforcement::Enforced => "simulated",
        Enforcement::Advisory => "simulated as advisory by the spec",
    };
    let io = resources.io.map(|io| {
        let part = |name, limit: Option<agent_api_driver::model::ByteQuantity>| {
            limit.map(|it| format!("{name}={it}"))
        };
        [part("read", io.read), part("write", io.write)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(",")
    });
    [
        (ResourceField::Cpu, resources.cpu.map(|it| it.to_string())),
        (ResourceField::Memory, resources.memory.map(|it| it.to_string())),
        (ResourceField::Pids, resources.pids.map(|it| it.to_string())),
        (ResourceField::Io, io),
        (ResourceField::Gpu, resources.gpu.map(|it| it.to_string())),
        (
            ResourceField::Replicas,
            resources.replicas.map(|it| it.to_string()),
        ),
        (
            ResourceField::Priority,
            resources.priority.map(|it| it.to_string()),
        ),
    ]
    .into_iter()
    .filter_map(|(field, value)| {
        Some(LimitStatus {
            field,
            value: value?,
            enforcement,
            by: by.into(),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn behavior(value: serde_json::Value) -> Behavior {
        Behavior::new(serde_json::from_value(value).unwrap(), Resources::default())
    }

    #[test]
    fn the_most_particular_entry_counts() {
        let behavior = behavior(json!({
            "latency": {"all": "9ms", "apply": "5ms", "create": "1ms"},
            "hang": {"control": 1.0, "pause": 0.0}
        }));
        let latency = |operation| behavior.fate(operation, 1, 0).latency.as_millis();
        assert_eq!(latency(Operation::Create), 1);
        assert_eq!(latency(Operation::Update), 5);
        assert_eq!(latency(Operation::Delete), 9);
        assert!(!behavior.fate(Operation::Pause, 1, 0).hang);
        assert!(behavior.fate(Operation::Resume, 1, 0).hang);
    }

    #[test]
    fn what_is_not_named_is_not_disturbed() {
        let behavior = behavior(json!({"latency": {"create": "1ms"}}));
        assert!(behavior.disturbs(Operation::Create));
        assert!(!behavior.disturbs(Operation::Observe));
    }

    #[test]
    fn changes_are_made_as_gently_as_can_be() {
        let old = behavior(json!({"seed": 1, "lifetime": "1s"}));
        for (next, change) in [
            (json!({"seed": 1, "lifetime": "1s"}), Change::None),
            (
                json!({"seed": 1, "lifetime": "1s", "metrics": 5}),
                Change::InPlace,
            ),
            (
                json!({"seed": 1, "lifetime": "2s", "metrics": 5}),
                Change::Restart,
            ),
            (json!({"seed": 2, "lifetime": "2s"}), Change::Recreate),
        ] {
            assert_eq!(old.change_to(&behavior(next.clone())), change, "{next}");
        }
    }

    #[test]
    fn a_crash_before_the_end_of_its_life_counts() {
        let crash = behavior(json!({"lifetime": "5s", "crash": {"after": "2s"}}));
        assert_eq!(crash.run(1, 0), Some((Duration::from_secs(2), true)));
        let lives = behavior(json!({"lifetime": "5s", "crash": {"after": "20s"}}));
        assert_eq!(lives.run(1, 0), Some((Duration::from_secs(5), false)));
        assert_eq!(behavior(json!({})).run(1, 0), None);
    }
}
