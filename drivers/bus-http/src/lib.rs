//! Bus driver over HTTP: a Unix socket, and a loopback port when asked.
