//! What a run found.

use std::collections::BTreeMap;
use std::fmt;

/// How one case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The driver behaves so.
    Passed,
    /// It does not; one sentence says what was seen.
    Failed(String),
    /// The driver cannot do this, or the subject has no sample or hook for it; one sentence says which.
    NotApplicable(String),
}

/// One case of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The method or capability it belongs to.
    pub group: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The line of the contract.
    pub behavior: &'static str,
    /// How it went.
    pub outcome: Outcome,
}

/// How all cases went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One row for each case, in the order of the contract.
    pub rows: Vec<Row>,
}

/// Cases of one group by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Not applicable.
    pub not_applicable: usize,
}

impl Report {
    /// Whether no case failed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| matches!(row.outcome, Outcome::Failed(_)))
    }

    /// The counts of each group.
    #[must_use]
    pub fn groups(&self) -> BTreeMap<&'static str, Count> {
        let mut groups = BTreeMap::<_, Count>::new();
        for row in &self.rows {
            let count = groups.entry(row.group).or_default();
            match row.outcome {
                Outcome::Passed => count.passed += 1,
                Outcome::Failed(_) => count.failed += 1,
                Outcome::NotApplicable(_) => count.not_applicable += 1,
            }
        }
        groups
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let (word, why) = match &row.outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Failed(why) => ("FAILED", why.as_str()),
                Outcome::NotApplicable(why) => ("not applicable", why.as_str()),
            };
            let gap = if why.is_empty() { "" } else { ": " };
            writeln!(f, "{}::{} {word}{gap}{why}", row.group, row.name)?;
        }
        for (group, count) in self.groups() {
            writeln!(
                f,
                "{group}: {} passed, {} failed, {} not applicable",
                count.passed, count.failed, count.not_applicable
            )?;
        }
        Ok(())
    }
}
