//! Reading a body strictly, whatever its bytes.

use agent_api_model::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;

/// How much of a message is shown of hostile input.
const SHOWN: usize = 400;
/// How alike two words must be for one to be suggested for the other.
const ALIKE: f64 = 0.8;

/// What a body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Its bytes; 1 MiB by default.
    pub bytes: usize,
    /// How deep lists and maps nest; 64 by default.
    pub depth: usize,
    /// How many values it has; 65,536 by default, so that small JSON never becomes large memory.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            depth: 64,
            values: 65_536,
        }
    }
}

impl Limits {
    fn check(self, body: &[u8]) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        if body.len() > self.bytes {
            return refuse(format!(
                "the body has {} bytes; the limit is {}",
                body.len(),
                self.bytes
            ));
        }
        let (mut depth, mut values, mut in_text, mut escaped) = (0_usize, 0_usize, false, false);
        for byte in body {
            if in_text {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => in_text = true,
                b'[' | b'{' => {
                    depth += 1;
                    values += 1;
                    if depth > self.depth {
                        return refuse(format!("the body nests deeper than {}", self.depth));
                    }
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' => values += 1,
                _ => {}
            }
        }
        if values > self.values {
            return refuse(format!("the body has more than {} values", self.values));
        }
        Ok(())
    }
}

/// Reads a JSON body. An empty one is read as `{}`.
///
/// # Errors
///
/// `Invalid`, with the path of the field to blame and, where a name is not known, the one that may have been meant.
pub fn decode<T: DeserializeOwned>(body: &[u8], limits: Limits) -> Result<T> {
    limits.check(body)?;
    let body = match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => b"{}",
        // A list would be read as the fields of a struct in their order.
        Some(b'[') => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the body is a list; a JSON object is wanted",
            ));
        }
        Some(_) => body,
    };
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        invalid(&path, error.inner())
    })?;
    reader.end().map_err(|error| invalid("", &error))?;
    Ok(value)
}

fn invalid(path: &str, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    if !error.is_data() {
        return Error::new(
            ErrorKind::Invalid,
            format!("the body is not JSON: {}", cut(&text)),
        );
    }
    // The path says where; line and column mean nothing to who did not write the text by hand.
    let message = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
    let path = if path == "." { "" } else { path };
    let error = Error::invalid(cut(path), cut(message));
    match suggestion(message) {
        Some(meant) => error.with_hint(format!("did you mean `{meant}`?")),
        None => error,
    }
}

/// The known name that is most like the unknown one, from serde's `unknown field \`x\`, expected one of \`a\`, \`b\``.
fn suggestion(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    alike(unknown, names)
}

/// The name that is most like a word, where one is alike at all.
pub(crate) fn alike<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing takes time by length; nobody meant a name that long.
    if word.len() > 64 {
        return None;
    }
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn cut(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.into();
    }
    let mut shown: String = text.chars().take(SHOWN).collect();
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use agent_api_model::ObjectSpec;
    use serde_json::Value;

    use super::*;

    fn message(body: &str) -> String {
        decode::<ObjectSpec>(body.as_bytes(), Limits::default())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn says_where_and_what_was_meant() {
        assert_eq!(
            message(r#"{"kind":"process","name":"a","labls":{}}"#)
                .split(" (")
                .last(),
            Some("did you mean `labels`?)")
        );
        let error = decode::<ObjectSpec>(
            br#"{"kind":"process","name":"a","depends_on":[{"name":7}]}"#,
            Limits::default(),
        )
        .unwrap_err();
        assert_eq!(error.path(), Some("depends_on[0].name"));
    }

    #[test]
    fn bounds_hold() {
        let limits = Limits::default();
        let nested =
            |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth)).into_bytes();
        assert!(decode::<Value>(&nested(64), limits).is_ok());
        let error = decode::<Value>(&nested(65), limits).unwrap_err();
        assert!(error.to_string().contains("deeper than 64"), "{error}");
        let deep = decode::<Value>(&nested(100_000), limits).unwrap_err();
        assert!(deep.to_string().contains("deeper"), "{deep}");

        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(70_000));
        assert!(
            decode::<Value>(many.as_bytes(), limits)
                .unwrap_err()
                .to_string()
                .contains("values")
        );
        assert!(decode::<Value>(&vec![b' '; 2 << 20], limits).is_err());
        // Brackets in text are text.
        let text = format!("{:?}", "[{\\\"".repeat(1_000));
        assert!(decode::<Value>(text.as_bytes(), limits).is_ok());
    }

    #[test]
    fn what_follows_the_value_is_refused() {
        assert!(decode::<Value>(b"{} x", Limits::default()).is_err());
        assert!(decode::<Value>(b"{}{}", Limits::default()).is_err());
        assert!(decode::<Value>(b"  ", Limits::default()).is_ok());
    }

    #[test]
    fn a_hostile_name_is_cut() {
        let long = message(&format!(r#"{{"{}":1}}"#, "x".repeat(100_000)));
        assert!(long.len() < 3_000, "{}", long.len());
    }
}
