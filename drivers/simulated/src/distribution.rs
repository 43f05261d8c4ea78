//! Durations that vary.

use std::time::Duration;

use agent_api_driver::model::{format_duration, parse_duration};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration as people write it: `250ms`, `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "A duration.", "examples": ["250ms", "1m30s"]})
    }
}

/// How long something takes: always the same, or drawn anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "write a duration such as `5ms`, `{min: 1ms, max: 20ms}`, `{mean: 5ms, deviation: 2ms}` or \
                 `{exponential: 5ms}`"
)]
pub enum Distribution {
    /// Always this long: `5ms`.
    Constant(Span),
    /// Each duration from `min` to `max` as often as any other.
    Uniform(Uniform),
    /// Around `mean`, two thirds of them within `deviation`; never less than zero.
    Normal(Normal),
    /// Often short, at times long, this long on average: waits between independent happenings.
    Exponential(Exponential),
}

/// `{min: 1ms, max: 20ms}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uniform {
    /// The shortest.
    #[serde(default)]
    pub min: Span,
    /// The longest.
    pub max: Span,
}

/// `{mean: 5ms, deviation: 2ms}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normal {
    /// The average.
    pub mean: Span,
    /// The standard deviation.
    pub deviation: Span,
}

/// `{exponential: 5ms}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exponential {
    /// The average.
    pub exponential: Span,
}

impl Distribution {
    /// Always this long.
    #[must_use]
    pub const fn constant(duration: Duration) -> Self {
        Self::Constant(Span(duration))
    }

    /// What is wrong with the numbers.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Uniform(Uniform { min, max }) if min > max => Err("`min` must not be more than `max`"),
            _ => Ok(()),
        }
    }

    /// One duration, decided by two numbers from 0 to 1 without 1.
    pub(crate) fn sample(&self, first: f64, second: f64) -> Duration {
        let seconds = match self {
            Self::Constant(Span(duration)) => return *duration,
            Self::Uniform(Uniform { min, max }) => {
                let min = min.0.as_secs_f64();
                min + first * (max.0.as_secs_f64() - min)
            }
            Self::Normal(Normal { mean, deviation }) => {
                // Box and Muller; 1 - u keeps the logarithm finite.
                let radius = (-2.0 * (1.0 - first).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * second).cos();
                mean.0.as_secs_f64() + normal * deviation.0.as_secs_f64()
            }
            Self::Exponential(Exponential { exponential }) => {
                -(1.0 - first).ln() * exponential.0.as_secs_f64()
            }
        };
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::draw::Draw;

    #[test]
    fn reads_all_forms_and_says_what_they_are() {
        for good in [
            json!("5ms"),
            json!({"min": "1ms", "max": "20ms"}),
            json!({"max": "20ms"}),
            json!({"mean": "5ms", "deviation": "2ms"}),
            json!({"exponential": "5ms"}),
        ] {
            let distribution: Distribution = serde_json::from_value(good.clone()).unwrap();
            let again = serde_json::to_value(distribution).unwrap();
            assert_eq!(
                serde_json::from_value::<Distribution>(again).unwrap(),
                distribution,
                "{good}"
            );
        }
        for bad in [
            json!(5),
            json!("soon"),
            json!({"min": "1ms"}),
            json!({"max": "1ms", "mean": "1ms"}),
        ] {
            let error = serde_json::from_value::<Distribution>(bad)
                .unwrap_err()
                .to_string();
            assert!(error.contains("write a duration such as"), "{error}");
        }
    }

    #[test]
    fn averages_are_kept() {
        let millis = |distribution: &Distribution| {
            let total: Duration = (0..10_000)
                .map(|n| Draw::new(1, 2, n).duration(distribution))
                .sum();
            total.as_secs_f64() * 1_000.0 / 10_000.0
        };
        let span = |millis| Span(Duration::from_millis(millis));
        for (distribution, mean) in [
            (Distribution::Constant(span(10)), 10.0),
            (
                Distribution::Uniform(Uniform {
                    min: span(0),
                    max: span(20),
                }),
                10.0,
            ),
            (
                Distribution::Normal(Normal {
                    mean: span(10),
                    deviation: span(2),
                }),
                10.0,
            ),
            (
                Distribution::Exponential(Exponential {
                    exponential: span(10),
                }),
                10.0,
            ),
        ] {
            let found = millis(&distribution);
            assert!((found - mean).abs() < 0.5, "{distribution:?}: {found}");
        }
    }
}
