//! The Prometheus text format, read as far as it is needed: one pass, no copy of what nobody asked for.
//!
//! A page of Ray is half a megabyte and more, of which some dozens of lines matter; so lines are looked at one by one as they come,
//! and only those with a wanted name are taken apart.

/// One sample without its name: its labels and its value, borrowed from the line.
pub(super) struct Sample<'a> {
    labels: &'a str,
    pub(super) value: f64,
}

impl<'a> Sample<'a> {
    /// Reads a line; none for comments, empty lines and what is no sample.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let name_end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
        let rest = &line[name_end..];
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inner) => {
                let end = end_of_labels(inner)?;
                (&inner[..end], &inner[end + 1..])
            }
            None => ("", rest),
        };
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { labels, value })
    }

    /// The name of a line's metric, without reading the rest.
    pub(super) fn name_of(line: &str) -> &str {
        let end = line
            .find(|c: char| c == '{' || c.is_ascii_whitespace())
            .unwrap_or(line.len());
        &line[..end]
    }

    /// The value of a label as it is written; the empty text where it is not there.
    pub(super) fn label(&self, wanted: &str) -> String {
        let mut rest = self.labels;
        while let Some((key, after)) = rest.split_once('=') {
            let Some(quoted) = after.trim_start().strip_prefix('"') else {
                break;
            };
            let Some(end) = end_of_quotes(quoted) else { break };
            if key.trim() == wanted {
                return unescape(&quoted[..end]);
            }
            rest = quoted[end + 1..].trim_start_matches([',', ' ']);
        }
        String::new()
    }
}

/// Where the labels end: the first `}` outside of quotes.
fn end_of_labels(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn end_of_quotes(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out
}

/// Cuts a body that comes in pieces into lines, and drops lines that never end.
#[derive(Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
    skipping: bool,
}

/// The longest line that is looked at.
const MAX_LINE: usize = 64 << 10;

impl Lines {
    /// Takes a piece and gives its whole lines to `each`.
    pub(super) fn push(&mut self, piece: &[u8], mut each: impl FnMut(&str)) {
        let mut piece = piece;
        while let Some(end) = piece.iter().position(|b| *b == b'\n') {
            let (line, after) = piece.split_at(end);
            piece = &after[1..];
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.rest.is_empty() {
                each(&String::from_utf8_lossy(line));
            } else {
                self.rest.extend_from_slice(line);
                each(&String::from_utf8_lossy(&self.rest));
                self.rest.clear();
            }
        }
        if self.skipping {
            return;
        }
        if self.rest.len() + piece.len() > MAX_LINE {
            self.rest.clear();
            self.skipping = true;
        } else {
            self.rest.extend_from_slice(piece);
        }
    }

    /// Gives what comes after the last line's end.
    pub(super) fn finish(self, mut each: impl FnMut(&str)) {
        if !self.rest.is_empty() {
            each(&String::from_utf8_lossy(&self.rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_name_labels_and_value() {
        let line = r#"ray_resources{Component="raylet",Name="a\"}b\\",State="USED",} 4.45e+02 1700000000"#;
        let sample = Sample::parse(line).unwrap();
        assert_eq!(sample.value, 445.0);
        assert_eq!(sample.label("Name"), r#"a"}b\"#);
        assert_eq!(sample.label("State"), "USED");
        assert_eq!(sample.label("ame"), "");
        assert_eq!(Sample::name_of(line), "ray_resources");
        let plain = Sample::parse("up 1").unwrap();
        assert_eq!((plain.value, plain.label("x")), (1.0, String::new()));
        assert!(Sample::parse("x NaN").unwrap().value.is_nan());
    }

    #[test]
    fn what_is_no_sample_is_passed_over() {
        for line in [
            "",
            "# HELP x y",
            "x",
            "x{a=\"b\" 1",
            "x{a=\"b\"}",
            "x{} word",
            "x{a=\"}\\",
            "{",
            "x{a=b} 1 2 3 \"",
        ] {
            let sample = Sample::parse(line);
            assert!(sample.is_none_or(|s| s.label("a").is_empty()), "{line}");
        }
    }

    #[test]
    fn lines_come_whole_however_the_body_is_cut() {
        let text = format!("one 1\n\ntwo 2\n{}\nthree 3\nlast", "x".repeat(MAX_LINE * 2));
        for size in [1, 3, 7, 4096, text.len()] {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                lines.push(piece, |line| seen.push(line.to_owned()));
            }
            lines.finish(|line| seen.push(line.to_owned()));
            seen.retain(|line| line.len() < 100);
            assert_eq!(
                seen,
                ["one 1", "", "two 2", "three 3", "last"],
                "pieces of {size}"
            );
        }
    }
}
