//! TCP and HTTP probes, and where they may go.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The parts of an `http://` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    /// As in the `Host` header.
    pub authority: String,
    /// `host:port`, to connect to.
    pub address: String,
    pub path: String,
}

/// Takes an address apart. The error is a sentence.
pub(crate) fn parse_http(url: &str) -> Result<HttpUrl, String> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(format!(
            "{url:?} is not an http:// address (https is not probed: use an exec probe)"
        ));
    };
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let path = match path.split('#').next().unwrap_or_default() {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    if authority.is_empty() || authority.contains('@') || url.bytes().any(|b| b <= b' ' || b == 127) {
        return Err(format!(
            "{url:?} is not an http:// address of the form http://host:port/path"
        ));
    }
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let address = if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    parse_address(&address)?;
    Ok(HttpUrl {
        authority: authority.to_owned(),
        address,
        path,
    })
}

/// `host:port`, checked. The error is a sentence.
pub(crate) fn parse_address(address: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{address:?} is not of the form host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(wrong)?;
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

/// Whether the address is on this host.
pub(crate) fn is_local(address: &str) -> bool {
    parse_address(address).is_ok_and(|(host, _)| {
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address)
        .await
        .map_err(|e| format!("cannot connect to {address}: {e}"))
}

/// A connection can be made within the time.
pub(crate) async fn tcp(address: &str, limit: Duration) -> Result<(), String> {
    match timeout(limit, connect(address)).await {
        Ok(result) => result.map(drop),
        Err(_) => Err(format!("no connection to {address} within {limit:?}")),
    }
}

/// A GET is answered with 200 to 399 within the time.
pub(crate) async fn http(url: &HttpUrl, limit: Duration) -> Result<(), String> {
    match timeout(limit, status_of(url)).await {
        Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
        Ok(Ok(status)) => Err(format!("{} answered {status}", url.address)),
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(format!("no answer from {} within {limit:?}", url.address)),
    }
}

async fn status_of(url: &HttpUrl) -> Result<u16, String> {
    const STATUS_LINE: usize = 512;
    let mut stream = connect(&url.address).await?;
    let HttpUrl { authority, path, .. } = url;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: agent-probe\r\nConnection: close\r\n\r\n"
    );
    let failed = |e: std::io::Error| format!("{}: {e}", url.address);
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::with_capacity(STATUS_LINE);
    while answer.len() < STATUS_LINE && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
            break;
        }
    }
    parse_status(&answer).ok_or_else(|| format!("{} does not speak HTTP", url.address))
}

fn parse_status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|status| status.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let url = parse_http("http://127.0.0.1:8080/health?x=1#top").unwrap();
        assert_eq!(
            (url.address.as_str(), url.path.as_str()),
            ("127.0.0.1:8080", "/health?x=1")
        );
        assert_eq!(parse_http("http://localhost").unwrap().address, "localhost:80");
        assert_eq!(parse_http("http://[::1]:81?a").unwrap().path, "/?a");
        for bad in [
            "",
            "https://x",
            "http://",
            "http://a b/",
            "http://u@h/",
            "http://h:0/",
            "http://h/\r\nX: y",
        ] {
            assert!(parse_http(bad).is_err(), "{bad:?}");
        }
        assert!(is_local("127.0.0.1:1") && is_local("[::1]:1") && is_local("localhost:1"));
        assert!(!is_local("10.0.0.1:1") && !is_local("127.0.0.1.evil.org:1"));
    }

    #[test]
    fn status_lines() {
        assert_eq!(parse_status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(parse_status(b"HTTP/1.0 200\n"), Some(200));
        for bad in [&b""[..], b"SSH-2.0", b"HTTP/1.1", b"HTTP/1.1 20", b"\xff\xfe"] {
            assert_eq!(parse_status(bad), None);
        }
    }
}
