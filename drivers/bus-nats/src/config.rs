//! What a connection and a bus are told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_api_model::{Error, Kind, Result};

/// Who the connection says it is. Files are read at each connect, so that rotated ones are picked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody.
    #[default]
    None,
    /// A user and the file with the password.
    Password {
        /// The user.
        user: String,
        /// The file with the password.
        file: PathBuf,
    },
    /// The file with a token.
    Token {
        /// The file.
        file: PathBuf,
    },
    /// The file with the seed of a user's nkey.
    Nkey {
        /// The file.
        file: PathBuf,
    },
    /// A credentials file: a user JWT and its seed. Renewed before it expires, where the file has a newer one by then.
    Creds {
        /// The file.
        file: PathBuf,
    },
}

/// How the connection is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Whether a connection without TLS is refused.
    pub required: bool,
    /// The authority to trust, in PEM; those of the system without it.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key, in PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Where the servers are and how to reach them.
#[derive(Clone, Debug)]
pub struct ConnectConfig {
    /// The servers, such as `nats://127.0.0.1:4222` or `tls://nats-1:4222`; never with credentials in them.
    pub servers: Vec<String>,
    /// What the server shows of this connection, for example `agent a1`.
    pub name: String,
    /// The first word of the subjects that replies come to; `_INBOX_<name>` where the permissions say so.
    pub inbox: String,
    /// Who it says it is.
    pub credentials: Credentials,
    /// Encryption.
    pub tls: TlsConfig,
    /// How often the server is asked whether it is there; 5 s by default. It counts as gone after three.
    pub ping: Duration,
    /// The longest wait between two tries to connect; 20 s by default.
    pub backoff_max: Duration,
    /// How long the server may take to acknowledge; 5 s by default.
    pub ack_timeout: Duration,
    /// The JetStream domain, where it is not the server's own.
    pub domain: Option<String>,
}

impl ConnectConfig {
    /// A connection to these servers: one address or several with commas between them.
    #[must_use]
    pub fn new(servers: &str, name: impl Into<String>) -> Self {
        Self {
            servers: servers
                .split(',')
                .map(|server| server.trim().to_owned())
                .filter(|server| !server.is_empty())
                .collect(),
            name: name.into(),
            inbox: "_INBOX".into(),
            credentials: Credentials::None,
            tls: TlsConfig::default(),
            ping: Duration::from_secs(5),
            backoff_max: Duration::from_secs(20),
            ack_timeout: Duration::from_secs(5),
            domain: None,
        }
    }

    /// What is wrong with it, without connecting.
    ///
    /// # Errors
    ///
    /// `Invalid` with the field.
    pub fn check(&self) -> Result<()> {
        if self.servers.is_empty() {
            return Err(Error::invalid(
                "servers",
                "names no server, such as nats://127.0.0.1:4222",
            ));
        }
        for (n, server) in self.servers.iter().enumerate() {
            let path = format!("servers[{n}]");
            // The address itself is not shown: it may hold a password.
            if server.contains('@') {
                return Err(Error::invalid(path, "has credentials in it, which NATS ignores")
                    .with_hint("name a file in `credentials`"));
            }
            server
                .parse::<async_nats::ServerAddr>()
                .map_err(|_| Error::invalid(path, "is not an address such as nats://127.0.0.1:4222"))?;
        }
        let plain = |word: &str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        // One word, so that fast ingest finds its replies, and permissions can name it.
        if !plain(&self.inbox) {
            return Err(Error::invalid(
                "inbox",
                "must be one word of letters, digits, `_` and `-`",
            ));
        }
        if self.ping < Duration::from_millis(100) {
            return Err(Error::invalid("ping", "must be at least 100ms"));
        }
        Ok(())
    }

    /// The servers, for showing.
    pub(crate) fn shown(&self) -> String {
        self.servers.join(", ")
    }
}

/// The bounds of a bus.
#[derive(Clone, Debug)]
pub struct NatsLimits {
    /// Requests being answered at once; 1,024 by default. More are answered `Busy`.
    pub requests: usize,
    /// Long replies at once; 256 by default. More are answered `Busy`.
    pub streams: usize,
    /// Queued commands being handled at once; 64 by default.
    pub queued: usize,
    /// How long a long reply may be silent before something empty is sent; 10 s by default. Either end counts as gone
    /// after four of them.
    pub keep_alive: Duration,
}

impl Default for NatsLimits {
    fn default() -> Self {
        Self {
            requests: 1_024,
            streams: 256,
            queued: 64,
            keep_alive: Duration::from_secs(10),
        }
    }
}

/// Whether the agent takes a request that asks for these labels.
type Accepts = dyn Fn(&BTreeMap<String, String>) -> bool + Send + Sync;

/// Which requests for any agent this one takes.
#[derive(Clone)]
pub struct Placement {
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// Whether this agent has the labels that a request asks for.
    pub accepts: Arc<Accepts>,
}

impl Placement {
    /// Takes requests of these kinds where the agent has all labels that they ask for.
    #[must_use]
    pub fn new(kinds: Vec<Kind>, labels: BTreeMap<String, String>) -> Self {
        Self {
            kinds,
            accepts: Arc::new(move |wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value))),
        }
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_and_never_shows_a_password() {
        assert_eq!(
            ConnectConfig::new("nats://h1:4222, nats://h2:4222", "a1").servers,
            ["nats://h1:4222", "nats://h2:4222"]
        );
        assert!(ConnectConfig::new("nats://127.0.0.1:4222", "a1").check().is_ok());
        let error = ConnectConfig::new("nats://me:secret@127.0.0.1", "a1")
            .check()
            .unwrap_err();
        assert_eq!(error.path(), Some("servers[0]"));
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        assert!(ConnectConfig::new("", "a1").check().is_err());
        assert!(ConnectConfig::new("http://127.0.0.1", "a1").check().is_err());
        let mut config = ConnectConfig::new("nats://127.0.0.1", "a1");
        config.inbox = "_INBOX.a1".into();
        assert_eq!(config.check().unwrap_err().path(), Some("inbox"));
    }
}
