//! When an object that ended is started again, and how soon.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ExitStatus;

/// When an object that ended is started again: `restart: on-failure`, or with the back-off spelled out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    /// Whether to start again at all.
    pub policy: RestartMode,
    /// How long to wait.
    #[serde(skip_serializing_if = "Backoff::is_default")]
    pub backoff: Backoff,
    /// Exit codes after which it is not started again, whatever the policy: it has succeeded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<i32>,
    /// At most so many restarts in a row, counted anew after [`Backoff::reset`]; no bound where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// Whether an object that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// Not at all.
    #[default]
    Never,
    /// Where it did not end with code 0. An end without a known code counts as a failure.
    OnFailure,
    /// However it ended.
    Always,
}

/// The wait before restart number n (from 0) in a row: `start × factorⁿ`, at most `cap`, ± `jitter`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The first wait; `0s` restarts at once.
    #[serde(with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub start: Duration,
    /// The growth, at least 1.
    pub factor: f64,
    /// The longest wait.
    #[serde(with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub cap: Duration,
    /// A random part of the wait, 0 to 1, so that many objects do not start at the same moment.
    pub jitter: f64,
    /// After running this long the count of restarts in a row begins anew.
    #[serde(with = "crate::duration::text")]
    #[schemars(with = "String")]
    pub reset: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            start: Duration::from_millis(100),
            factor: 2.0,
            cap: Duration::from_secs(60),
            jitter: 0.1,
            reset: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// Whether all is as by default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The wait before restart `n` (from 0) in a row, with `random` (0 to 1) deciding the jitter.
    #[must_use]
    pub fn delay(&self, n: u32, random: f64) -> Duration {
        let grown = self.start.as_secs_f64() * self.factor.powi(i32::try_from(n).unwrap_or(i32::MAX));
        let capped = grown.min(self.cap.as_secs_f64());
        let spread = 1.0 + self.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        Duration::try_from_secs_f64((capped * spread).min(self.cap.as_secs_f64())).unwrap_or(self.cap)
    }

    /// What is wrong with the numbers: field and sentence.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !(self.factor >= 1.0 && self.factor.is_finite()) {
            return Err(("factor", "must be 1 or more"));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(("jitter", "must lie between 0 and 1"));
        }
        if self.cap < self.start {
            return Err(("cap", "must not be less than start"));
        }
        Ok(())
    }
}

impl RestartPolicy {
    /// Whether an object that ended so is to be started again after `restarts` in a row.
    #[must_use]
    pub fn restarts_after(&self, exit: &ExitStatus, restarts: u32) -> bool {
        if exit.code.is_some_and(|code| self.exempt.contains(&code)) {
            return false;
        }
        let wanted = match self.policy {
            RestartMode::Never => false,
            RestartMode::OnFailure => !exit.is_success(),
            RestartMode::Always => true,
        };
        wanted && self.max.is_none_or(|max| restarts < max)
    }

    /// Whether an object that ended so has done what it should.
    #[must_use]
    pub fn is_success(&self, exit: &ExitStatus) -> bool {
        exit.is_success() || exit.code.is_some_and(|code| self.exempt.contains(&code))
    }

    /// Whether all is as by default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl<'de> Deserialize<'de> for RestartPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Full {
            policy: RestartMode,
            backoff: Backoff,
            exempt: Vec<i32>,
            max: Option<u32>,
        }
        impl Default for Full {
            fn default() -> Self {
                Self {
                    policy: RestartMode::OnFailure,
                    backoff: Backoff::default(),
                    exempt: Vec::new(),
                    max: None,
                }
            }
        }
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RestartPolicy;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`never`, `on-failure`, `always`, or a map with policy, backoff, exempt and max")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RestartPolicy, E> {
                let policy = RestartMode::deserialize(serde::de::value::StrDeserializer::new(text))?;
                Ok(RestartPolicy {
                    policy,
                    ..RestartPolicy::default()
                })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RestartPolicy, A::Error> {
                let full = Full::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(RestartPolicy {
                    policy: full.policy,
                    backoff: full.backoff,
                    exempt: full.exempt,
                    max: full.max,
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_forms() {
        let short: RestartPolicy = serde_json::from_str("\"always\"").unwrap();
        assert_eq!(short.policy, RestartMode::Always);
        let long: RestartPolicy =
            serde_json::from_str(r#"{"policy":"on-failure","backoff":{"start":"5ms"},"exempt":[3],"max":2}"#)
                .unwrap();
        assert_eq!(long.backoff.start, Duration::from_millis(5));
        assert!(serde_json::from_str::<RestartPolicy>("\"sometimes\"").is_err());
        assert!(serde_json::from_str::<RestartPolicy>(r#"{"polcy":"always"}"#).is_err());
        let again: RestartPolicy = serde_json::from_value(serde_json::to_value(&long).unwrap()).unwrap();
        assert_eq!(again, long);
    }

    #[test]
    fn decides_by_exit() {
        let policy = RestartPolicy {
            policy: RestartMode::OnFailure,
            exempt: vec![3],
            max: Some(2),
            ..Default::default()
        };
        assert!(policy.restarts_after(&ExitStatus::with_code(1), 0));
        assert!(
            policy.restarts_after(&ExitStatus::default(), 1),
            "an unknown end is a failure"
        );
        assert!(!policy.restarts_after(&ExitStatus::with_code(1), 2), "max");
        assert!(!policy.restarts_after(&ExitStatus::with_code(0), 0));
        assert!(!policy.restarts_after(&ExitStatus::with_code(3), 0), "exempt");
        assert!(policy.is_success(&ExitStatus::with_code(3)));
    }

    #[test]
    fn backoff_grows_to_its_cap() {
        let backoff = Backoff {
            jitter: 0.0,
            cap: Duration::from_secs(1),
            ..Backoff::default()
        };
        assert_eq!(backoff.delay(0, 0.3), Duration::from_millis(100));
        assert_eq!(backoff.delay(2, 0.3), Duration::from_millis(400));
        assert_eq!(backoff.delay(4_000_000, 0.3), Duration::from_secs(1));
        let at_once = Backoff {
            start: Duration::ZERO,
            ..Backoff::default()
        };
        assert_eq!(at_once.delay(9, 0.9), Duration::ZERO);
    }
}
