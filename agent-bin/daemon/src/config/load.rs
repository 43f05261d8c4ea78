//! Reading the configuration: a file, then the environment, then flags; the later wins.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Config;
use crate::document::{MAX_FILE_BYTES, Node, plain};
use crate::keys::{closest, unknown_keys};

/// Environment variables that begin with `AGENT_` and are not part of the configuration file.
const OTHER_VARIABLES: [&str; 5] = [
    "AGENT_CONFIG",
    "AGENT_SOCKET",
    "AGENT_URL",
    "AGENT_TOKEN_FILE",
    "AGENT_OUTPUT",
];

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, TOML or YAML by its name; none for defaults.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `AGENT_` are passed over.
    ///
    /// `AGENT_STATE_DIR` sets `state_dir`, `AGENT_LOG__FILTER` sets `log.filter`: `__` goes one level down.
    pub environment: Vec<(String, String)>,
    /// Flags: a path such as `log.filter`, and its value.
    pub flags: Vec<(String, Value)>,
}

impl Sources {
    /// A file, and the environment of this process.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .filter(|(name, _)| name.starts_with("AGENT_"))
                .collect(),
            flags: Vec::new(),
        }
    }

    /// The same with a flag.
    #[must_use]
    pub fn with_flag(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.flags.push((path.into(), value.into()));
        self
    }
}

/// A configuration and the document it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where it came from, for messages.
    pub source: String,
    pub(super) document: Node,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file or variable.
    pub source: String,
    /// The line, from 1; 0 where it is not known.
    pub line: u64,
    /// The field; empty where no single one is to blame.
    pub path: String,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line != 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The file that is read where none is named: `agent.toml`, `agent.yaml` or `agent.yml` in `/etc/agent` for root, in
/// `$XDG_CONFIG_HOME/agent` for others. None where there is none.
#[must_use]
pub fn default_file() -> Option<PathBuf> {
    let dir = crate::paths::config_dir()?;
    ["agent.toml", "agent.yaml", "agent.yml"]
        .into_iter()
        .map(|name| dir.join(name))
        .find(|path| path.is_file())
}

/// Reads the configuration. All errors that can be told at once are told at once.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
    let (source, document) = match &sources.file {
        Some(path) => (
            path.display().to_string(),
            read(path).map_err(|error| vec![error])?,
        ),
        None => ("defaults".to_owned(), Node::empty()),
    };
    let schema = Config::schema();
    let mut errors: Vec<_> = unknown_keys(&schema, &document.to_value())
        .into_iter()
        .map(|key| ConfigError {
            source: source.clone(),
            line: document.line_of(&key.path),
            message: key.sentence(),
            path: key.path,
        })
        .collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    // The file alone first, so that its errors have lines.
    let mut config: Config = document.read().map_err(|problem| {
        vec![ConfigError {
            source: source.clone(),
            line: problem.line,
            path: problem.path,
            message: problem.message,
        }]
    })?;
    for (name, text) in &sources.environment {
        match variable(&schema, name) {
            Ok(None) => {}
            Ok(Some(path)) => match with_text(&config, &path, text) {
                Ok(next) => config = next,
                Err(message) => errors.push(ConfigError {
                    source: name.clone(),
                    line: 0,
                    path,
                    message,
                }),
            },
            Err(error) => errors.push(error),
        }
    }
    for (path, value) in &sources.flags {
        match with_value(&config, path, value.clone()) {
            Ok(next) => config = next,
            Err(message) => errors.push(ConfigError {
                source: "command line".into(),
                line: 0,
                path: path.clone(),
                message,
            }),
        }
    }
    if let Err((field, message)) = config.check_ranges() {
        errors.push(ConfigError {
            source: source.clone(),
            line: document.line_of(field),
            path: field.into(),
            message: message.into(),
        });
    }
    if errors.is_empty() {
        Ok(Loaded {
            config,
            source,
            document,
        })
    } else {
        Err(errors)
    }
}

fn read(path: &Path) -> Result<Node, ConfigError> {
    let source = path.display().to_string();
    let fail = |line, message: String| ConfigError {
        source: source.clone(),
        line,
        path: String::new(),
        message,
    };
    let size = std::fs::metadata(path)
        .map_err(|error| fail(0, format!("cannot read: {error}")))?
        .len();
    if size > MAX_FILE_BYTES {
        return Err(fail(
            0,
            format!("{size} bytes; at most {MAX_FILE_BYTES} are read"),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fail(0, format!("cannot read: {error}")))?;
    let toml = path.extension().is_some_and(|extension| extension == "toml");
    if toml {
        return Node::parse_toml(&text).map_err(|problem| fail(problem.line, problem.message));
    }
    let mut documents = Node::parse_all(&text).map_err(|problem| fail(problem.line, problem.message))?;
    match documents.len() {
        0 => Ok(Node::empty()),
        1 => Ok(documents.remove(0)),
        many => Err(fail(0, format!("{many} documents; a configuration is one"))),
    }
}

/// The path a variable sets; none for variables that are not ours.
fn variable(schema: &Value, name: &str) -> Result<Option<String>, ConfigError> {
    let Some(rest) = name
        .strip_prefix("AGENT_")
        .filter(|_| !OTHER_VARIABLES.contains(&name))
    else {
        return Ok(None);
    };
    let path = rest.to_ascii_lowercase().replace("__", ".");
    let probe = path.split('.').rev().fold(Value::Null, |value, key| {
        Value::Object(Map::from_iter([(key.to_owned(), value)]))
    });
    let Some(unknown) = unknown_keys(schema, &probe).into_iter().next() else {
        return Ok(Some(path));
    };
    // Other programs have variables of this prefix too: only what has a level, or is like one of ours, is an error.
    let close = unknown.path == path && closest(&path, ["state_dir", "apply"]).is_some();
    if !rest.contains("__") && !close {
        return Ok(None);
    }
    let message = match &unknown.suggestion {
        Some(suggestion) => format!("unknown field; did you mean `{suggestion}`?"),
        None => unknown.sentence(),
    };
    Err(ConfigError {
        source: name.into(),
        line: 0,
        path: unknown.path,
        message,
    })
}

/// The configuration with one field set from text: as YAML reads it, or else as the text itself.
fn with_text(config: &Config, path: &str, text: &str) -> Result<Config, String> {
    let parsed = Node::parse_all(text)
        .ok()
        .and_then(|nodes| nodes.first().map(Node::to_value));
    let as_text = with_value(config, path, Value::from(text));
    match parsed {
        Some(value) if !value.is_string() => with_value(config, path, value).or(as_text),
        _ => as_text,
    }
}

fn with_value(config: &Config, path: &str, value: Value) -> Result<Config, String> {
    let mut whole = serde_json::to_value(config).map_err(|error| error.to_string())?;
    let mut at = &mut whole;
    for key in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = at
            .as_object_mut()
            .expect("made an object just now")
            .entry(key)
            .or_insert(Value::Null);
    }
    *at = value;
    serde_json::from_value(whole).map_err(|error| plain(&error.to_string()))
}
