//! The one error of all contracts.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of every contract call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the words of the wire (`code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request or a field of it is wrong; [`Error::path`] names the field where one is to blame.
    Invalid,
    /// The object, kind, lease or file does not exist.
    NotFound,
    /// An object of that name exists already.
    AlreadyExists,
    /// The state does not allow it now, or it was changed meanwhile.
    Conflict,
    /// The driver or the substrate cannot do this at all.
    Unsupported,
    /// The caller or the agent has no right to do this.
    Denied,
    /// A queue is full; nothing was taken in.
    Busy,
    /// The substrate, the bus or the agent cannot be reached or is stopping.
    Unavailable,
    /// The deadline passed while it was under way; the effect is not known.
    Timeout,
    /// The deadline had passed before it began; nothing was done.
    Expired,
    /// The state directory has no room; nothing was taken in.
    StorageFull,
    /// The real thing is gone and nobody can say how it ended.
    Lost,
    /// A fault of the agent or a driver itself.
    Internal,
}

impl ErrorKind {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Expired => "expired",
            Self::StorageFull => "storage_full",
            Self::Lost => "lost",
            Self::Internal => "internal",
        }
    }

    /// Whether the same call may succeed later without a change of the request.
    #[must_use]
    pub const fn default_retry(self) -> Retry {
        match self {
            Self::Busy | Self::Unavailable | Self::Timeout | Self::StorageFull => Retry::Later,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a call may be tried again. Set where the error is made, never guessed from its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same call will fail again.
    #[default]
    Never,
    /// The same call may succeed later.
    Later,
    /// It was tried again as often as is allowed.
    Exhausted,
}

/// What happened, to which object, in which operation, and what to do about it.
///
/// `Display` is one sentence without the source; [`source`](StdError::source) has what lies below.
#[derive(Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Error(Box<Inner>);

#[derive(Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Error")]
struct Inner {
    code: ErrorKind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default)]
    retry: Retry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    context: Vec<(String, String)>,
    #[serde(skip)]
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind with a sentence that a person can act on.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code: kind,
            message: message.into(),
            path: None,
            operation: String::new(),
            object: None,
            hint: None,
            retry: kind.default_retry(),
            retry_after_ms: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// [`ErrorKind::Invalid`] at a field path such as `spec.command[0]`.
    #[must_use]
    pub fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message).with_path(path)
    }

    /// [`ErrorKind::Internal`].
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Names the field that is to blame.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        let path = path.into();
        self.0.path = (!path.is_empty()).then_some(path);
        self
    }

    /// Names the operation, for example `apply` or `journal.append`.
    #[must_use]
    pub fn with_operation(mut self, operation: impl Into<String>) -> Self {
        self.0.operation = operation.into();
        self
    }

    /// Names the object.
    #[must_use]
    pub fn with_object(mut self, object: impl fmt::Display) -> Self {
        self.0.object = Some(object.to_string());
        self
    }

    /// What to do about it: often the next command.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// A fact that helps to find the reason. Never a secret.
    #[must_use]
    pub fn with_context(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.context.push((key.into(), value.to_string()));
        self
    }

    /// Overrides the retry class of the kind.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// When to try again at the earliest.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry = Retry::Later;
        self.0.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// What lies below.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.code
    }

    /// The sentence, without object, path and hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The field that is to blame, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.0.path.as_deref()
    }

    /// The object, where there is one.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// The operation, empty where none was named.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The facts added on the way up.
    #[must_use]
    pub fn context(&self) -> &[(String, String)] {
        &self.0.context
    }

    /// The retry class.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retry == Retry::Later
    }

    /// When to try again at the earliest, where the other side said so.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after_ms.map(Duration::from_millis)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.0.object {
            write!(f, "{object}: ")?;
        }
        if let Some(path) = &self.0.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(hint) = &self.0.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.code)?;
        if !self.0.operation.is_empty() {
            write!(f, " in {}", self.0.operation)?;
        }
        write!(f, ": {self}")?;
        for (key, value) in &self.0.context {
            write!(f, " [{key}={value}]")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

impl PartialEq for Error {
    /// Equal in what the wire shows.
    fn eq(&self, other: &Self) -> bool {
        (self.0.code, &self.0.message, &self.0.path, &self.0.object)
            == (other.0.code, &other.0.message, &other.0.path, &other.0.object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_object_field_sentence_and_hint() {
        let error = Error::invalid("spec.command", "must not be empty")
            .with_object("web")
            .with_hint("see `agent schema process`");
        insta::assert_snapshot!(error, @"web: spec.command: must not be empty (see `agent schema process`)");
        let wire = serde_json::to_value(&error).unwrap();
        insta::assert_json_snapshot!(wire, @r#"
        {
          "code": "invalid",
          "hint": "see `agent schema process`",
          "message": "must not be empty",
          "object": "web",
          "path": "spec.command",
          "retry": "never"
        }
        "#);
        assert_eq!(serde_json::from_value::<Error>(wire).unwrap(), error);
    }

    #[test]
    fn display_never_repeats_the_source() {
        let error = Error::internal("cannot read").with_source("disk on fire");
        assert_eq!(error.to_string(), "cannot read");
        assert_eq!(StdError::source(&error).unwrap().to_string(), "disk on fire");
    }
}
