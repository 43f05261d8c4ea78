//! Bus driver over HTTP: a Unix socket, and a loopback port when asked.
//!
//! [`HttpBus`] is the agent's end: requests and replies as resources (`POST /v1/objects`), streams as one JSON value a
//! line, topics as server-sent events, the OpenAPI document at `/openapi.json`. [`HttpCaller`] is the other end, for
//! `agent-api-client`. The wire is described in `docs/api.md`.
//!
//! **Who may ask.** On the Unix socket the kernel says who asks: the agent's own user and root may do everything,
//! others nothing, and the socket's mode keeps them out before that. On the loopback port the caller shows a token
//! from a file that only its owner may read; a `Host` that is not of this machine is refused, so that a page in a
//! browser cannot reach the port by a name of its own. No other address than loopback is ever listened on.
//!
//! **Tasks and bounds.** One task per listener and one per connection, all joined by `close`; a request is answered on
//! its connection's task, without a hop. Connections, header, body, streams, idle time and the time that a reader may
//! stall a write are bounded by [`HttpLimits`]. Topics are the ring of `agent-bus-memory`: a reader costs a cursor.

mod body;
mod bus;
mod caller;
mod config;
mod connection;
mod events;
mod io;
mod listen;
mod openapi;
mod reply;
mod request;
mod route;
mod service;
mod token;
mod wire;

pub use bus::HttpBus;
pub use caller::HttpCaller;
pub use config::{HttpConfig, HttpLimits, HttpState};
pub use openapi::document as openapi;
pub use token::read_token;
