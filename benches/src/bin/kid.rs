//! The object of the benches: tells its birth on a datagram socket and then waits for its end.
//!
//! `kid SOCKET NAME`. With the socket `-` it tells nobody.

use std::os::unix::net::UnixDatagram;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (socket, name) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    if socket != "-" {
        UnixDatagram::unbound()?.send_to(name.as_bytes(), socket)?;
    }
    loop {
        std::thread::park();
    }
}
