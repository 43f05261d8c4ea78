//! What the suite does not say: sockets and their owners, tokens, limits, statuses, the document.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{BusCaller, BusIn, Incoming};
use agent_api_bus_out::{BusOut, Message};
use agent_api_model::{Envelope, ErrorKind, Timestamp, Topic};
use agent_bus_http::{HttpBus, HttpCaller, HttpConfig, HttpLimits, openapi, read_token};
use agent_bus_memory::suite::TestHandler;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

const PATIENCE: Duration = Duration::from_secs(30);

struct Place {
    directory: tempfile::TempDir,
    bus: HttpBus,
    handler: Arc<TestHandler>,
}

impl Place {
    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("state/agent.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }
}

async fn open(limits: HttpLimits, port: bool) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let mut config = HttpConfig::socket(directory.path().join("state/agent.sock"));
    if port {
        config = config.with_port(0, directory.path().join("token"));
    }
    config.limits = limits;
    let bus = HttpBus::new(config);
    let handler = Arc::new(TestHandler::default());
    bus.open(handler.clone()).await.unwrap();
    Place {
        directory,
        bus,
        handler,
    }
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), wanted: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&text).contains(wanted) {
            match stream.read(&mut piece).await {
                Ok(n) if n > 0 => text.extend_from_slice(&piece[..n]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an answer in time");
    String::from_utf8_lossy(&text).into_owned()
}

/// Sends text, and reads until the other side closes.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    // The other side may refuse before it has read all.
    let _ = stream.write_all(request.as_bytes()).await;
    read_until(&mut stream, "\u{0}never\u{0}").await
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or("nothing")
}

async fn refused_open(config: HttpConfig) -> agent_api_model::Error {
    HttpBus::new(config)
        .open(Arc::new(TestHandler::default()))
        .await
        .unwrap_err()
}

#[tokio::test]
async fn the_socket_is_its_owners() {
    let place = open(HttpLimits::default(), false).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&place.socket()), 0o600);
    assert_eq!(mode(place.socket().parent().unwrap()), 0o700);
    place.bus.close(PATIENCE).await.unwrap();
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn a_living_agent_is_not_pushed_aside_and_a_dead_ones_socket_is_replaced() {
    let place = open(HttpLimits::default(), false).await;
    let error = refused_open(HttpConfig::socket(place.socket())).await;
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(
        error.message().contains(&place.socket().display().to_string()),
        "{error}"
    );
    assert_eq!(
        status(&exchange(place.connect().await, &get("/healthz", "")).await),
        "200"
    );

    let dead = place.directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    assert!(dead.exists());
    let bus = HttpBus::new(HttpConfig::socket(&dead));
    bus.open(Arc::new(TestHandler::default())).await.unwrap();
    assert_eq!(
        status(&exchange(UnixStream::connect(&dead).await.unwrap(), &get("/healthz", "")).await),
        "200"
    );
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = refused_open(HttpConfig::socket(&file)).await;
    assert!(error.to_string().contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let long = directory.path().join("x".repeat(120));
    assert_eq!(
        refused_open(HttpConfig::socket(&long)).await.kind(),
        ErrorKind::Invalid
    );

    let under = file.join("agent.sock");
    assert!(
        refused_open(HttpConfig::socket(&under))
            .await
            .to_string()
            .contains("agent.sock")
    );

    let mut config = HttpConfig::default().with_port(0, directory.path().join("token"));
    config.listen = Some("0.0.0.0:0".parse().unwrap());
    assert_eq!(refused_open(config).await.kind(), ErrorKind::Denied);

    let config = HttpConfig {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        ..HttpConfig::default()
    };
    assert_eq!(refused_open(config).await.path(), Some("token_file"));
    assert_eq!(
        refused_open(HttpConfig::default()).await.kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn the_port_wants_the_token_and_a_host_of_this_machine() {
    let place = open(HttpLimits::default(), true).await;
    let port = place.bus.port().unwrap();
    let token = read_token(&place.directory.path().join("token")).unwrap();
    let ask = async |host: &str, authorization: &str| {
        let request =
            format!("GET /v1/info HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{authorization}\r\n");
        exchange(TcpStream::connect(port).await.unwrap(), &request).await
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let local = port.to_string();
    assert_eq!(status(&ask(&local, &bearer).await), "200");
    assert_eq!(status(&ask("localhost", &bearer).await), "200");
    let refused = ask(&local, "").await;
    assert_eq!(status(&refused), "401");
    assert!(refused.to_lowercase().contains("www-authenticate: bearer"));
    assert!(refused.contains(r#""code":"denied""#) && !refused.contains(&token));
    let half = format!("Authorization: Bearer {}\r\n", &token[..32]);
    assert_eq!(status(&ask(&local, &half).await), "401");
    assert_eq!(status(&ask(&local, "Authorization: Basic eDp5\r\n").await), "401");
    assert_eq!(status(&ask("evil.example", &bearer).await), "403");
    assert_eq!(
        place.handler.seen.requests.lock().len(),
        2,
        "no other reached the agent"
    );
    assert_eq!(place.handler.seen.requests.lock()[0].caller, "token");
}

#[tokio::test]
async fn ten_megabytes_are_refused_without_reading_them() {
    let place = open(HttpLimits::default(), false).await;
    let mut announced = place.connect().await;
    let head = "POST /v1/objects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10485760\r\n\r\n";
    announced.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut announced, "which is the limit").await;
    assert_eq!(
        status(&answer),
        "413",
        "refused before a byte of the body was sent"
    );
    assert!(answer.contains(r#""code":"invalid""#), "{answer}");

    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, "a".repeat(1 << 16));
    let chunked = format!(
        "POST /v1/objects HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(160)
    );
    assert_eq!(status(&exchange(place.connect().await, &chunked).await), "413");

    let caller = HttpCaller::unix(place.socket());
    let request = Incoming {
        verb: "create".into(),
        payload: vec![b'a'; 10 << 20].into(),
        ..Incoming::default()
    };
    match caller.call(request, PATIENCE).await {
        Ok(agent_api_bus_in::Response::One { error, .. }) => assert_eq!(error, Some(ErrorKind::Invalid)),
        Ok(_) => panic!("it is too large"),
        // The agent closed while this side was still sending.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
    }
    assert!(place.handler.seen.requests.lock().is_empty());
}

#[tokio::test]
async fn addresses_become_verbs() {
    let place = open(HttpLimits::default(), false).await;
    for (method, path, verb, object, payload) in [
        (
            "GET",
            "/v1/objects?selector=app%3Dweb&limit=5",
            "list",
            None,
            r#"{"limit":5,"selector":"app=web"}"#,
        ),
        ("GET", "/v1/objects/web", "describe", Some("web"), ""),
        (
            "DELETE",
            "/v1/objects/web?cascade&grace=5s",
            "delete",
            Some("web"),
            r#"{"cascade":true,"grace":"5s"}"#,
        ),
        ("PATCH", "/v1/objects/web", "update", Some("web"), ""),
        ("POST", "/v1/objects/web/pause", "pause", Some("web"), ""),
        ("POST", "/v1/objects/web/call", "call", Some("web"), ""),
        ("POST", "/v1/batch/restart", "restart", None, ""),
        ("POST", "/v1/batch/call", "call", None, ""),
        ("POST", "/v1/call/anything", "anything", None, ""),
        (
            "GET",
            "/v1/schema/ray/job",
            "schema",
            None,
            r#"{"kind":"ray/job"}"#,
        ),
        ("DELETE", "/v1/leases/7", "unmonitor", None, r#"{"lease":"7"}"#),
        ("GET", "/healthz", "live", None, ""),
        ("GET", "/readyz", "ready", None, ""),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = exchange(place.connect().await, &request).await;
        assert!(status(&answer).starts_with("20"), "{method} {path}: {answer}");
        let got = place.handler.seen.requests.lock().pop().unwrap();
        assert_eq!(
            (got.verb.as_str(), got.object.as_deref()),
            (verb, object),
            "{method} {path}"
        );
        assert_eq!(got.payload, payload, "{method} {path}");
        assert!(got.caller.starts_with("uid:"));
    }
    for (method, path, wanted) in [
        ("GET", "/nothing", "404"),
        ("GET", "/v1/objects/%ff", "400"),
        ("PUT", "/v1/objects", "405"),
        ("POST", "/v1/batch/create", "422"),
        ("POST", "/v1/exec/7f/input", "400"),
        ("GET", "/v1/exec/7f/input", "405"),
        ("GET", "/v1/objects?limit=1&limit=2", "400"),
        ("GET", "/v1/topics/a..b", "400"),
        ("GET", "/v1/topics/a?from=yesterday", "400"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = exchange(place.connect().await, &request).await;
        assert_eq!(status(&answer), wanted, "{method} {path}: {answer}");
        assert!(answer.contains("\"error\":{\"code\":"), "{answer}");
    }
    assert!(place.handler.seen.requests.lock().is_empty());
}

#[tokio::test]
async fn input_goes_to_the_session_of_the_address() {
    let place = open(HttpLimits::default(), false).await;
    let post = async |session: &str, body: &str| {
        let request = format!(
            "POST /v1/exec/{session}/input HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(place.connect().await, &request).await
    };
    let answer = post("7f", r#" {"type":"stdin","data":"aGkK"} "#).await;
    assert_eq!(status(&answer), "200", "{answer}");
    let answer = post("a%22%7d", r#"{"type":"close"}"#).await;
    assert_eq!(status(&answer), "200", "{answer}");
    for bad in ["", "{", "{} {}", r#"{"a":1},"session":"other""#] {
        assert_eq!(status(&post("7f", bad).await), "400", "{bad}");
    }
    let got: Vec<_> = place
        .handler
        .seen
        .requests
        .lock()
        .drain(..)
        .map(|got| {
            (
                got.verb,
                got.object,
                String::from_utf8(got.payload.to_vec()).unwrap(),
            )
        })
        .collect();
    let wanted = [
        r#"{"session":"7f","input":{"type":"stdin","data":"aGkK"}}"#,
        r#"{"session":"a\"}","input":{"type":"close"}}"#,
    ];
    assert_eq!(
        got,
        wanted.map(|payload| ("exec_input".to_owned(), None, payload.to_owned()))
    );
}

#[tokio::test]
async fn garbage_is_cut_off_and_the_next_caller_is_served() {
    let limits = HttpLimits {
        header_time: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let place = open(limits, false).await;
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    for garbage in [
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        &huge,
        "GET / HT",
    ] {
        let answer = exchange(place.connect().await, garbage).await;
        assert!(answer.is_empty() || status(&answer).starts_with('4'), "{answer}");
    }
    assert_eq!(
        status(&exchange(place.connect().await, &get("/healthz", "")).await),
        "200"
    );
    assert!(place.bus.state().cut_off >= 4, "{:?}", place.bus.state());
}

#[tokio::test]
async fn connections_and_streams_are_bounded() {
    let limits = HttpLimits {
        connections: 3,
        streams: 1,
        ..HttpLimits::default()
    };
    let place = open(limits, false).await;
    let topics = get("/v1/topics/agent.%3E", "");
    let mut first = place.connect().await;
    first.write_all(topics.as_bytes()).await.unwrap();
    assert!(
        read_until(&mut first, ": subscribed")
            .await
            .contains("text/event-stream")
    );
    assert_eq!(status(&exchange(place.connect().await, &topics).await), "429");

    let idle = [place.connect().await, place.connect().await];
    let probe = get("/healthz", "");
    let waiting = exchange(place.connect().await, &probe);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.as_mut()).await;
    assert!(early.is_err(), "no more than three are served at once");
    drop(idle);
    let answer = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("its turn comes");
    assert_eq!(status(&answer), "200");
}

#[tokio::test]
async fn a_reader_that_never_reads_is_cut_off() {
    let limits = HttpLimits {
        write_time: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let place = open(limits, false).await;
    let mut reader = place.connect().await;
    reader
        .write_all(get("/v1/topics/%3E", "").as_bytes())
        .await
        .unwrap();
    assert!(read_until(&mut reader, ": subscribed").await.contains("200 OK"));
    let message = Message {
        topic: Topic::new("agent.out.a1.log").unwrap(),
        envelope: Envelope {
            id: "1".into(),
            source: "/agents/a1".into(),
            event_type: "agent.test".into(),
            subject: None,
            time: Timestamp::EPOCH,
            content_type: Envelope::PROTOBUF,
            traceparent: None,
            data: vec![7; 100_000].into(),
        },
    };
    let end = tokio::time::Instant::now() + PATIENCE;
    while place.bus.state().cut_off == 0 {
        assert!(
            tokio::time::Instant::now() < end,
            "it is still there: {:?}",
            place.bus.state()
        );
        place.bus.publish(std::slice::from_ref(&message)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(place.bus.ring().state().readers, 0);
    assert_eq!(place.bus.state().streams, 0);
}

#[tokio::test]
async fn nobody_there_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let ask = async || {
        let request = Incoming {
            verb: "info".into(),
            ..Incoming::default()
        };
        HttpCaller::unix(&socket)
            .call(request, PATIENCE)
            .await
            .err()
            .unwrap()
    };
    let wanted = format!(
        "no agent is running at {} (start one with `agent run`)",
        socket.display()
    );
    assert_eq!(ask().await.to_string(), wanted);
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(ask().await.to_string(), wanted, "a socket that nobody listens on");
    assert!(!ask().await.is_retryable(), "a person wants to know at once");
}

/// Whether an address is one of a documented path.
fn fits(path: &str, address: &str) -> bool {
    let (path, address): (Vec<_>, Vec<_>) = (path.split('/').collect(), address.split('/').collect());
    path.len() == address.len()
        && path
            .iter()
            .zip(&address)
            .all(|(wanted, word)| wanted.starts_with('{') || wanted == word)
}

/// The document names what is served, and what is served is in the document.
#[tokio::test]
async fn the_document_is_what_is_served() {
    let place = open(HttpLimits::default(), false).await;
    let answer = exchange(place.connect().await, &get("/openapi.json", "")).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let served: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(served, openapi());
    assert_eq!(served["openapi"], "3.1.0");

    let paths = served["paths"].as_object().unwrap();
    let methods = ["GET", "POST", "PATCH", "DELETE", "PUT"];
    let mut ids = BTreeSet::new();
    for (path, operations) in paths {
        let address = path
            .replace("{name}", "web")
            .replace("/batch/{verb}", "/batch/pause")
            .replace(['{', '}'], "");
        for method in methods {
            let request =
                format!("{method} {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let mut stream = place.connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "\r\n").await;
            let documented = paths.iter().any(|(path, operations)| {
                fits(path, &address) && operations.get(method.to_lowercase()).is_some()
            });
            assert_eq!(status(&answer) != "405", documented, "{method} {address}");
            assert_ne!(status(&answer), "404", "{method} {address}");
        }
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{method} {path}: {id} is used twice");
        }
    }

    // Each reference leads somewhere.
    let text = served.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(served["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

/// `docs/openapi.json` is this document; with `UPDATE_DOCS=1` it is written anew.
#[test]
fn the_document_in_docs_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let current = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == current,
        "docs/openapi.json is old: run this test with UPDATE_DOCS=1"
    );
}
