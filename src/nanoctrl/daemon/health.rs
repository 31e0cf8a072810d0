//! Asking a server whether it is up.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(1);

/// `GET /` at `address`, which is `host:port`, `http://` in front allowed.
///
/// # Errors
/// Why it is not up, in words.
pub(super) fn probe(address: &str) -> Result<(), String> {
    match status_line(address) {
        Ok(line) if line.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(line) => Err(line),
        Err(error) => Err(error.to_string()),
    }
}

fn status_line(address: &str) -> io::Result<String> {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    let authority = rest.split('/').next().unwrap_or_default();
    let target = authority
        .to_socket_addrs()?
        .next()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    stream.take(256).read_to_end(&mut head)?;
    let head = String::from_utf8_lossy(&head);
    Ok(head.lines().next().unwrap_or("no answer").to_owned())
}
