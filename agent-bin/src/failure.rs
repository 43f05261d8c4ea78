//! How a command fails: a message for people and an exit code for programs.

use std::fmt;
use std::io;

use agent_api_model::{Error, ErrorKind};
use agent_bin_daemon::exit;

/// What a command returns: its exit code.
pub(crate) type Outcome<T = u8> = Result<T, Failure>;

/// Why a command ends.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// What is printed on standard error; empty where nothing is to be said.
    pub(crate) message: String,
}

impl Failure {
    /// A failure with a code and a sentence.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// An object, configuration file or field is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(exit::INVALID, message)
    }
}

/// The exit code that an error kind stands for.
pub(crate) fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid => exit::INVALID,
        ErrorKind::NotFound => exit::NOT_FOUND,
        ErrorKind::Unavailable => exit::UNREACHABLE,
        ErrorKind::Timeout | ErrorKind::Expired => exit::TIMEOUT,
        ErrorKind::Denied => exit::DENIED,
        _ => exit::FAILED,
    }
}

/// An error for people: the sentence, then what to do about it.
pub(crate) fn sentence(error: &Error) -> String {
    let mut text = String::new();
    for part in [error.object(), error.path()].into_iter().flatten() {
        text += part;
        text += ": ";
    }
    text += error.message();
    let hint = error.hint().map(str::to_owned).or_else(|| hint_for(error));
    if let Some(hint) = hint {
        text += "\n  try: ";
        text += &hint;
    }
    printable(&text)
}

/// The next command that helps, where the error itself names none.
fn hint_for(error: &Error) -> Option<String> {
    let object = error.object();
    Some(match (error.kind(), object) {
        (ErrorKind::NotFound, _) => "`agent get` lists what is there".into(),
        (ErrorKind::Conflict, Some(object)) => format!("`agent explain {object}` shows how it came to this"),
        (ErrorKind::Unsupported, _) => "`agent drivers` shows what can be done with which kind".into(),
        (ErrorKind::Busy, _) => "the same again in a moment; `agent info` shows which queue is full".into(),
        (ErrorKind::StorageFull, _) => {
            "make room in the state directory; `agent info` shows the journal".into()
        }
        (ErrorKind::Timeout, Some(object)) => {
            format!("`agent describe {object}` shows what it is waiting for")
        }
        _ => return None,
    })
}

/// Text from outside without control characters, but for line ends.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(code_of(error.kind()), sentence(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Whoever read our output has seen enough.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(exit::OK, "");
        }
        Self::new(exit::FAILED, format!("cannot write the result: {error}"))
    }
}

impl From<crate::files::FileErrors> for Failure {
    fn from(errors: crate::files::FileErrors) -> Self {
        Self::invalid(errors.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
