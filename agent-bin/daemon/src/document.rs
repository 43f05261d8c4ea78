//! Documents a person wrote, with the line of each value: YAML, and JSON as a part of it.

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value};

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// One value of a document and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its line, from 1; 0 where it is not known.
    pub line: u64,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, u64, Node)>),
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; 0 where it is not known.
    pub line: u64,
    /// The field, for example `spec.command[0]`; empty where no single one is to blame.
    pub path: String,
    /// One sentence.
    pub message: String,
}

impl Node {
    /// All documents of a text; empty ones are left out.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, Problem> {
        // Only `true` and `false` are booleans: `no` is a country, and `y` a name.
        let options = serde_saphyr::options! {
            strict_booleans: true,
            budget: serde_saphyr::budget! {
                max_documents: 200_000,
                max_events: 20_000_000,
                max_nodes: 10_000_000,
            },
        };
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| Problem {
            line: error.location().map_or(0, |at| at.line()),
            path: String::new(),
            message: plain(&error.without_snippet().to_string()),
        })
    }

    /// A TOML document.
    pub fn parse_toml(text: &str) -> Result<Self, Problem> {
        let line = |offset: usize| {
            1 + text.as_bytes()[..offset.min(text.len())]
                .iter()
                .filter(|b| **b == b'\n')
                .count() as u64
        };
        let table = toml::de::DeTable::parse(text).map_err(|error| Problem {
            line: error.span().map_or(0, |span| line(span.start)),
            path: String::new(),
            message: first_line(error.message()),
        })?;
        Ok(Self {
            line: 1,
            body: toml_table(table.get_ref(), &line),
        })
    }

    /// An empty map.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            line: 0,
            body: Body::Map(Vec::new()),
        }
    }

    /// The value without its lines.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.body {
            Body::Scalar(value) => value.clone(),
            Body::List(items) => items.iter().map(Self::to_value).collect(),
            Body::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, _, value)| (key.clone(), value.to_value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The items of a list; the node itself where it is none.
    #[must_use]
    pub fn into_items(self) -> Vec<Self> {
        match self.body {
            Body::List(items) => items,
            _ => vec![self],
        }
    }

    /// The line of the value at a path such as `spec.command[0]`, or of the nearest value around it.
    #[must_use]
    pub fn line_of(&self, path: &str) -> u64 {
        let mut node = self;
        let mut line = self.line;
        for step in steps(path) {
            let next = match (&node.body, &step) {
                (Body::Map(entries), Step::Key(key)) => entries
                    .iter()
                    .find(|(name, ..)| name == key)
                    .map(|(_, at, value)| (*at, value)),
                (Body::List(items), Step::Index(index)) => items.get(*index).map(|item| (item.line, item)),
                _ => None,
            };
            match next {
                Some((at, value)) => {
                    node = value;
                    if at != 0 {
                        line = at;
                    }
                }
                None => break,
            }
        }
        line
    }

    /// Reads the value as a type; the problem names field and line.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_path_to_error::deserialize(self.to_value()).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            Problem {
                line: self.line_of(&path),
                message: plain(&error.into_inner().to_string()),
                path,
            }
        })
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line != 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

fn toml_table(table: &toml::de::DeTable<'_>, line: &impl Fn(usize) -> u64) -> Body {
    let entries = table.iter().map(|(key, value)| {
        (
            key.get_ref().to_string(),
            line(key.span().start),
            toml_value(value, line),
        )
    });
    Body::Map(entries.collect())
}

fn toml_value(value: &toml::Spanned<toml::de::DeValue<'_>>, line: &impl Fn(usize) -> u64) -> Node {
    use toml::de::DeValue;
    let body = match value.get_ref() {
        DeValue::String(text) => Body::Scalar(text.to_string().into()),
        DeValue::Boolean(value) => Body::Scalar((*value).into()),
        DeValue::Integer(number) => {
            Body::Scalar(match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => number.into(),
                Err(_) => number.to_string().into(),
            })
        }
        DeValue::Float(number) => Body::Scalar(
            number
                .as_str()
                .parse::<f64>()
                .ok()
                .and_then(Number::from_f64)
                .map_or_else(|| number.to_string().into(), Value::Number),
        ),
        DeValue::Datetime(at) => Body::Scalar(at.to_string().into()),
        DeValue::Array(items) => Body::List(items.iter().map(|item| toml_value(item, line)).collect()),
        DeValue::Table(table) => toml_table(table, line),
    };
    Node {
        line: line(value.span().start),
        body,
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, mut rest) = part.split_once('[').map_or((part, ""), |(key, rest)| (key, rest));
        if !key.is_empty() {
            steps.push(Step::Key(key));
        }
        while let Some((index, after)) = rest.split_once(']') {
            if let Ok(index) = index.parse() {
                steps.push(Step::Index(index));
            }
            rest = after.trim_start_matches('[');
        }
    }
    steps
}

/// What a parser says, in words for whoever wrote the document.
pub(crate) fn plain(text: &str) -> String {
    let text = first_line(text);
    // The place is told beside the message.
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(before, _)| before);
    let text = text
        .split_once(", set DuplicateKeyPolicy")
        .map_or(text, |(before, _)| before);
    if let Some((is, must)) = text
        .strip_prefix("invalid type: ")
        .and_then(|rest| rest.split_once(", expected "))
    {
        let must = match must {
            "a sequence" => "a list",
            "a string" => "text: put it in quotes, and give durations a unit, such as 10s",
            "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => "a whole number",
            "f64" => "a number",
            must if must.starts_with("struct ") => "a map",
            must => must,
        };
        let (what, rest) = is.split_once(' ').unwrap_or((is, ""));
        let what = match what {
            "sequence" => "a list",
            "map" => "a map",
            "unit" => return format!("is empty; must be {must}"),
            "string" => "the text",
            "integer" | "floating" => "the number",
            other => other,
        };
        let rest = rest.strip_prefix("point ").unwrap_or(rest);
        let is = format!("{what} {rest}");
        let is = is.trim_end();
        return format!("is {is}; must be {must}");
    }
    if let Some(field) = text.strip_prefix("missing field ") {
        return format!("the field {field} is missing");
    }
    text.to_owned()
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(400).collect();
    cut.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Body>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            body: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map, a list or a plain value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Body, E> {
        Ok(Body::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Body, E> {
        Ok(Body::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Body, D::Error> {
        Body::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Body, E> {
        Ok(Body::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Body, E> {
        Ok(Body::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Body, E> {
        Ok(Body::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Body, E> {
        Number::from_f64(value)
            .map(|number| Body::Scalar(Value::Number(number)))
            .ok_or_else(|| E::custom(format!("{value} is not a finite number")))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Body, E> {
        Ok(Body::Scalar(value.into()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Body, E> {
        Ok(Body::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Body, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Body::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<serde_saphyr::Spanned<String>, Node>()? {
            entries.push((key.value, key.referenced.line(), value));
        }
        Ok(Body::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_line_of_every_value() {
        let text = "a: 1\nb:\n  c: [x, y]\n  d:\n    - e: 1\n    - e: two\n---\n{\"z\": null, \"y\": 1.5}\n";
        let nodes = Node::parse_all(text).unwrap();
        assert_eq!(nodes.len(), 2);
        assert_eq!(
            nodes[0].to_value(),
            serde_json::json!({"a": 1, "b": {"c": ["x", "y"], "d": [{"e": 1}, {"e": "two"}]}})
        );
        for (path, line) in [
            ("a", 1),
            ("b", 2),
            ("b.c[1]", 3),
            ("b.d[1].e", 6),
            ("b.d[1].nope", 6),
            ("", 1),
        ] {
            assert_eq!(nodes[0].line_of(path), line, "{path:?}");
        }
        assert_eq!(nodes[1].line_of("y"), 8);
    }

    #[test]
    fn problems_have_a_line() {
        let problem = Node::parse_all("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(problem.line >= 2, "{problem:?}");
        let problem = Node::parse_all("a: 1\na: 2\n").unwrap_err();
        assert!(problem.to_string().contains('a'), "{problem}");
    }

    #[test]
    fn reading_names_the_field() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Outer {
            #[serde(rename = "inner")]
            _inner: Inner,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            #[serde(rename = "number")]
            _number: u8,
        }
        let node = &Node::parse_all("inner:\n  number: many\n").unwrap()[0];
        let problem = node.read::<Outer>().unwrap_err();
        assert_eq!((problem.line, problem.path.as_str()), (2, "inner.number"));
    }
}
