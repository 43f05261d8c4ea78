//! The configuration of the HTTP bus.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use agent_api_driver::model::{ByteQuantity, Diagnostic, Error, Result};
use agent_bus_http::{HttpBus, HttpConfig, HttpLimits};
use agent_bus_memory::RingConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::buses::{Bus, BusBuild, BusFactory, TOKEN_FILE};

/// What can be set of the HTTP bus.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct HttpSettings {
    /// The Unix socket; `agent.sock` in the state directory by default.
    socket: Option<PathBuf>,
    /// A loopback address to listen on too, such as `127.0.0.1:7700`; none by default.
    listen: Option<SocketAddr>,
    /// The file with the token for the port; made where it is not there. `http-token` in the state directory by default.
    token_file: Option<PathBuf>,
    /// Connections at once; 512 by default.
    connections: Option<usize>,
    /// Streams and subscriptions at once; 256 by default.
    streams: Option<usize>,
    /// The largest body of a request; 1Mi by default.
    body: Option<ByteQuantity>,
}

pub(crate) fn factory() -> BusFactory {
    BusFactory {
        name: "http",
        on_by_default: true,
        missing_feature: None,
        config_schema: || schemars::schema_for!(HttpSettings).to_value(),
        check: |value| match read(value) {
            Ok(settings) => settings.check(),
            Err(diagnostic) => vec![diagnostic],
        },
        build,
    }
}

fn read(value: &Value) -> Result<HttpSettings, Diagnostic> {
    if value.is_null() {
        return Ok(HttpSettings::default());
    }
    HttpSettings::deserialize(value).map_err(|error| Diagnostic::error("", error.to_string()))
}

impl HttpSettings {
    fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if self.listen.is_some_and(|address| !address.ip().is_loopback()) {
            found.push(Diagnostic::error(
                "listen",
                "must be a loopback address, such as 127.0.0.1:7700",
            ));
        }
        for (path, number) in [("connections", self.connections), ("streams", self.streams)] {
            if number == Some(0) {
                found.push(Diagnostic::error(path, "must be at least 1"));
            }
        }
        if self.body.is_some_and(|body| body.get() < 1_024) {
            found.push(Diagnostic::error("body", "must be at least 1Ki"));
        }
        if self.token_file.is_some() && self.listen.is_none() {
            found.push(Diagnostic::warning(
                "token_file",
                "has no effect without `listen`",
            ));
        }
        found
    }
}

fn build(build: &BusBuild) -> Result<Bus> {
    let settings =
        read(&build.config).map_err(|diagnostic| Error::invalid(diagnostic.path, diagnostic.message))?;
    let defaults = HttpLimits::default();
    let limits = HttpLimits {
        connections: settings.connections.unwrap_or(defaults.connections),
        streams: settings.streams.unwrap_or(defaults.streams),
        body: settings.body.map_or(defaults.body, |body| {
            usize::try_from(body.get()).unwrap_or(usize::MAX)
        }),
        ..defaults
    };
    let token_file = settings
        .token_file
        .unwrap_or_else(|| build.state_dir.join(TOKEN_FILE));
    let config = HttpConfig {
        socket: Some(
            settings
                .socket
                .unwrap_or_else(|| build.state_dir.join("agent.sock")),
        ),
        token_file: settings.listen.is_some().then_some(token_file),
        listen: settings.listen,
        limits,
        ring: RingConfig::default(),
    };
    let bus = Arc::new(HttpBus::new(config));
    Ok(Bus {
        bus_in: bus.clone(),
        bus_out: bus,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn says_what_is_wrong() {
        let told = |value: Value| -> Vec<String> {
            (factory().check)(&value)
                .into_iter()
                .map(|diagnostic| format!("{}: {}", diagnostic.path, diagnostic.message))
                .collect()
        };
        assert!(told(Value::Null).is_empty());
        assert!(told(json!({"listen": "127.0.0.1:7700"})).is_empty());
        assert!(told(json!({"listen": "0.0.0.0:7700"}))[0].contains("loopback"));
        assert!(told(json!({"connections": 0}))[0].starts_with("connections"));
        assert!(told(json!({"listn": 1}))[0].contains("listn"));
    }
}
