//! What commands print.

mod describe;
mod metrics;
mod objects;
mod table;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::args::OutputFormat;
use crate::failure::Outcome;

pub(crate) use describe::{describe, drivers, explain, indented, info, methods};
pub(crate) use metrics::telemetry_lines;
pub(crate) use objects::{age, note, object_table, phase_style};
pub(crate) use table::{Style, Table};

/// Standard output and how to write to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// The form of results.
    pub(crate) format: OutputFormat,
    /// Whether to write colours.
    pub(crate) colours: bool,
}

impl Output {
    /// By the options, the terminal and `NO_COLOR`.
    pub(crate) fn new(format: OutputFormat, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            format,
            colours: terminal && wanted && !no_color,
        }
    }

    /// Writes a text as it is.
    pub(crate) fn text(&self, text: &str) -> Outcome<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    /// Writes a line.
    pub(crate) fn line(&self, line: &str) -> Outcome<()> {
        self.text(&format!("{line}\n"))
    }

    /// Writes a table.
    pub(crate) fn table(&self, table: &Table) -> Outcome<()> {
        self.text(&table.render(self.colours))
    }

    /// Writes one result as JSON or YAML, by the format.
    pub(crate) fn value(&self, value: &impl Serialize) -> Outcome<()> {
        let text = match self.format {
            OutputFormat::Yaml => yaml(value),
            _ => format!("{}\n", json(value)),
        };
        self.text(&text)
    }

    /// Writes one of many results: a line of JSON, or a document of YAML.
    pub(crate) fn item(&self, value: &impl Serialize) -> Outcome<()> {
        let text = match self.format {
            OutputFormat::Yaml => format!("---\n{}", yaml(value)),
            _ => format!("{}\n", serde_json::to_string(value).unwrap_or_default()),
        };
        self.text(&text)
    }
}

/// Pretty JSON. What the model's types hold can always be written.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// YAML with a line end.
pub(crate) fn yaml(value: &impl Serialize) -> String {
    // By way of JSON, so that both show the same.
    let value = serde_json::to_value(value).unwrap_or_default();
    let mut text = serde_saphyr::to_string(&value).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
