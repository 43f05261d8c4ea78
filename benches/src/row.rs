//! The rows of the results file, and how they are shown.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// One row: what was measured, beside what the unavoidable costs in the same run.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured, for example `create_accepted_p50`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit: `ms`, `KiB`, `tasks`.
    pub unit: &'static str,
    /// The same work done by a bare program in this run; none where there is no such thing.
    pub floor: Option<f64>,
    /// Value ÷ floor.
    pub ratio: Option<f64>,
    /// How many times it was done.
    pub samples: u64,
}

impl Row {
    /// A row with a floor.
    pub fn new(
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        floor: Option<f64>,
        samples: u64,
    ) -> Self {
        let ratio = floor.filter(|floor| *floor > 0.0).map(|floor| value / floor);
        Self {
            name: name.into(),
            value,
            unit,
            floor,
            ratio,
            samples,
        }
    }
}

/// Durations of one kind, in a histogram.
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("these bounds are valid"))
    }

    /// One more.
    pub fn record(&mut self, took: Duration) {
        self.0
            .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// A quantile in milliseconds.
    pub fn millis(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e6
    }

    /// Rows for p50 and p99 beside the floor's.
    pub fn rows(&self, name: &str, floor: Option<&Times>) -> Vec<Row> {
        [("p50", 0.5), ("p99", 0.99)]
            .into_iter()
            .map(|(suffix, q)| {
                Row::new(
                    format!("{name}_{suffix}"),
                    self.millis(q),
                    "ms",
                    floor.map(|f| f.millis(q)),
                    self.0.len(),
                )
            })
            .collect()
    }
}

/// Writes the results file.
pub fn write(rows: &[Row], path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(rows)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Prints the rows as a table.
pub fn print(rows: &[Row]) {
    println!(
        "{:<34} {:>12} {:<6} {:>12} {:>8} {:>8}",
        "what", "value", "unit", "floor", "ratio", "samples"
    );
    for row in rows {
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        println!(
            "{:<34} {:>12.3} {:<6} {:>12} {:>8} {:>8}",
            row.name,
            row.value,
            row.unit,
            number(row.floor, 3),
            number(row.ratio, 2),
            row.samples
        );
    }
}
