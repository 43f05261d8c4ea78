//! The bus suite over HTTP: on the Unix socket, and on the loopback port.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, BusIn, Incoming, RequestHandler, Response};
use agent_api_bus_out::{BusReader, DeliveryStream, StartAt};
use agent_api_model::Result;
use agent_bus_http::{HttpBus, HttpCaller, HttpConfig, read_token};
use agent_bus_memory::suite::Ends;
use async_trait::async_trait;

fn unix() -> Ends {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let bus = Arc::new(HttpBus::new(HttpConfig::socket(&socket)));
    let caller = Arc::new(HttpCaller::unix(&socket));
    Ends {
        bus_in: bus.clone(),
        bus_out: bus,
        caller: caller.clone(),
        reader: caller,
        keep: Box::new(directory),
    }
}

mod over_the_unix_socket {
    agent_bus_memory::bus_suite!(async || super::unix());
}

/// The port is not known before the bus is open.
struct LateCaller {
    bus: Arc<HttpBus>,
    token: std::path::PathBuf,
}

impl LateCaller {
    fn caller(&self) -> HttpCaller {
        let address = self.bus.port().unwrap_or_else(|| "127.0.0.1:1".parse().unwrap());
        let token = read_token(&self.token).unwrap_or_default();
        HttpCaller::tcp(address, &token).unwrap()
    }
}

#[async_trait]
impl BusCaller for LateCaller {
    async fn call(&self, request: Incoming, deadline: Duration) -> Result<Response> {
        self.caller().call(request, deadline).await
    }
}

#[async_trait]
impl BusReader for LateCaller {
    async fn subscribe(&self, pattern: &str, from: StartAt) -> Result<DeliveryStream> {
        self.caller().subscribe(pattern, from).await
    }
}

mod over_the_loopback_port {
    use super::*;

    agent_bus_memory::bus_suite!(async || {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        let config = HttpConfig {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            token_file: Some(token.clone()),
            ..HttpConfig::default()
        };
        let bus = Arc::new(HttpBus::new(config));
        let caller = Arc::new(LateCaller {
            bus: bus.clone(),
            token,
        });
        Ends {
            bus_in: bus.clone(),
            bus_out: bus,
            caller: caller.clone(),
            reader: caller,
            keep: Box::new(directory),
        }
    });
}

/// All tasks of a closed bus are joined, and its socket is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_closed_bus() {
    struct Nobody;
    #[async_trait]
    impl RequestHandler for Nobody {
        async fn handle(&self, _: Incoming) -> Response {
            std::future::pending().await
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let bus = HttpBus::new(HttpConfig::socket(&socket));
    bus.open(Arc::new(Nobody)).await.unwrap();
    let idle = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let caller = HttpCaller::unix(&socket);
    let error = caller
        .call(
            Incoming {
                verb: "info".into(),
                ..Incoming::default()
            },
            Duration::from_millis(100),
        )
        .await
        .err()
        .unwrap();
    assert!(error.is_retryable());
    bus.close(Duration::from_secs(10)).await.unwrap();
    assert_eq!(bus.tasks(), 0);
    assert!(!socket.exists());
    drop(idle);
}
