//! The way to an agent.
#![cfg_attr(
    not(feature = "bus-http"),
    allow(dead_code, reason = "without a bus there is no way")
)]

use std::net::SocketAddr;
use std::path::PathBuf;

use agent_bin_daemon::{exit, paths};

use crate::args::Global;
use crate::failure::{Failure, Outcome};

impl Global {
    /// The state directory, as asked for or by default.
    pub(crate) fn state_dir(&self) -> Outcome<PathBuf> {
        self.state_dir
            .clone()
            .or_else(paths::default_state_dir)
            .ok_or_else(|| {
                Failure::new(
                    exit::STATE_DIR,
                    "there is no home directory to keep state in\n  try: --state-dir DIR, or AGENT_STATE_DIR",
                )
            })
    }

    #[cfg(feature = "bus-http")]
    pub(crate) fn caller(&self) -> Outcome<agent_drivers::bus_http::HttpCaller> {
        use agent_drivers::bus_http::{HttpCaller, read_token};

        let Some(url) = &self.url else {
            let socket = match &self.socket {
                Some(socket) => socket.clone(),
                None => paths::socket(&self.state_dir()?),
            };
            return Ok(HttpCaller::unix(socket));
        };
        let address = address(url)?;
        let token_file = match &self.token_file {
            Some(file) => file.clone(),
            None => self.state_dir()?.join(agent_drivers::TOKEN_FILE),
        };
        Ok(HttpCaller::tcp(address, &read_token(&token_file)?)?)
    }

    /// A client of the agent that is asked for. Connects with its first request.
    #[cfg(feature = "bus-http")]
    pub(crate) fn client(&self) -> Outcome<agent_api_client::Client> {
        let caller = std::sync::Arc::new(self.caller()?);
        Ok(agent_api_client::Client::new(caller.clone(), Some(caller)))
    }

    /// Without the feature there is no way to an agent.
    #[cfg(not(feature = "bus-http"))]
    pub(crate) fn client(&self) -> Outcome<agent_api_client::Client> {
        Err(Failure::new(
            exit::UNREACHABLE,
            "this program was built without a way to reach an agent\n  try: a build with `--features bus-http`",
        ))
    }
}

/// The address of a URL such as `http://127.0.0.1:7700`.
fn address(url: &str) -> Outcome<SocketAddr> {
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let rest = rest
        .strip_prefix("localhost:")
        .map_or_else(|| rest.to_owned(), |port| format!("127.0.0.1:{port}"));
    rest.parse().map_err(|_| {
        Failure::new(
            exit::USAGE,
            format!("--url: {url:?} is not an address; write for example http://127.0.0.1:7700"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_loopback_addresses() {
        for good in [
            "http://127.0.0.1:7700",
            "127.0.0.1:7700/",
            "http://localhost:7700",
            "http://[::1]:7700",
        ] {
            assert_eq!(address(good).unwrap().port(), 7700, "{good}");
        }
        for bad in ["https://127.0.0.1:7700", "http://example.org", "7700", ""] {
            assert_eq!(address(bad).unwrap_err().code, exit::USAGE, "{bad}");
        }
    }
}
