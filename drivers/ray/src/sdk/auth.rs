//! The token that calls bear.

use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::{ClusterConfig, Secret};

/// How long a token from a file is used before the file is looked at again.
const FRESH: Duration = Duration::from_secs(5);

/// Where the token comes from.
#[derive(Debug)]
enum Source {
    Given(Secret),
    File(PathBuf),
    /// As Ray's own clients find it; sent only to a cluster that asks for it.
    Ambient,
}

/// Finds the token and reads it again when it changes.
#[derive(Debug)]
pub(crate) struct Auth {
    source: Source,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    token: Option<Secret>,
    read_at: Option<Instant>,
    /// The cluster refused a call for want of a token.
    asked: bool,
}

impl Auth {
    pub(crate) fn new(config: &ClusterConfig) -> Self {
        let source = match (&config.token, &config.token_file) {
            (Some(token), _) => Source::Given(token.clone()),
            (None, Some(file)) => Source::File(file.clone()),
            (None, None) => Source::Ambient,
        };
        Self {
            source,
            kept: Mutex::default(),
        }
    }

    /// The token, where there is one.
    pub(crate) async fn token(&self) -> Option<Secret> {
        if let Source::Given(token) = &self.source {
            return Some(token.clone());
        }
        {
            let kept = self.kept.lock();
            if matches!(self.source, Source::Ambient) && !kept.asked {
                return None;
            }
            if kept.read_at.is_some_and(|at| at.elapsed() < FRESH) {
                return kept.token.clone();
            }
        }
        let token = self.read().await;
        let mut kept = self.kept.lock();
        kept.token.clone_from(&token);
        kept.read_at = Some(Instant::now());
        token
    }

    /// The cluster refused the token. Whether there is another one to try.
    pub(crate) async fn refused(&self, used: Option<&Secret>) -> bool {
        if matches!(self.source, Source::Given(_)) {
            return false;
        }
        let token = self.read().await;
        let mut kept = self.kept.lock();
        kept.asked = true;
        kept.read_at = Some(Instant::now());
        kept.token.clone_from(&token);
        token.is_some() && token.as_ref() != used
    }

    async fn read(&self) -> Option<Secret> {
        let file = match &self.source {
            Source::Given(token) => return Some(token.clone()),
            Source::File(file) => file.clone(),
            Source::Ambient => {
                if let Some(token) = std::env::var("RAY_AUTH_TOKEN").ok().and_then(|t| trimmed(&t)) {
                    return Some(token);
                }
                match std::env::var_os("RAY_AUTH_TOKEN_PATH") {
                    Some(path) => path.into(),
                    None => PathBuf::from(std::env::var_os("HOME")?).join(".ray/auth_token"),
                }
            }
        };
        match tokio::fs::read_to_string(&file).await {
            Ok(text) => trimmed(&text),
            Err(error) => {
                if matches!(self.source, Source::File(_)) {
                    tracing::warn!(file = %file.display(), %error, "the token of a Ray cluster cannot be read");
                }
                None
            }
        }
    }
}

fn trimmed(text: &str) -> Option<Secret> {
    let text = text.trim();
    (!text.is_empty()).then(|| Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(config: ClusterConfig) -> Auth {
        Auth::new(&config)
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_the_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let auth = auth(ClusterConfig {
            token_file: Some(file.clone()),
            ..ClusterConfig::default()
        });
        let first = auth.token().await;
        assert_eq!(first, Some(Secret::new("one")));
        assert!(!auth.refused(first.as_ref()).await, "there is no other token yet");
        std::fs::write(&file, "two").unwrap();
        assert!(auth.refused(first.as_ref()).await);
        assert_eq!(auth.token().await, Some(Secret::new("two")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "one").unwrap();
        let auth = auth(ClusterConfig {
            token_file: Some(file.clone()),
            ..ClusterConfig::default()
        });
        assert_eq!(auth.token().await, Some(Secret::new("one")));
        std::fs::write(&file, "two").unwrap();
        tokio::time::advance(FRESH).await;
        assert_eq!(auth.token().await, Some(Secret::new("two")));
    }

    #[tokio::test]
    async fn a_given_token_is_used_as_it_is_and_none_is_sent_unasked() {
        let given = auth(ClusterConfig {
            token: Some(Secret::new("t")),
            ..ClusterConfig::default()
        });
        assert_eq!(given.token().await, Some(Secret::new("t")));
        assert!(!given.refused(None).await);
        assert_eq!(auth(ClusterConfig::default()).token().await, None);
    }
}
