//! Checks whether a server is up.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::control::Secret;

const TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes of an answer that are read.
const LONGEST_ANSWER: u64 = 4096;

/// Sends `GET /` to `address`, which is `host:port`, optionally after `http://`. Returns whether
/// the server requires another token than `token`.
///
/// # Errors
/// A text that says why the server is not up.
pub(super) fn probe(address: &str, token: Option<&Secret>) -> Result<bool, String> {
    let head = head(address, token).map_err(|error| error.to_string())?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or("no answer");
    if !status.starts_with("HTTP/1.1 200") {
        return Err(status.to_owned());
    }
    let mut fields = lines.take_while(|line| !line.is_empty());
    Ok(fields.any(|field| field.to_ascii_lowercase().starts_with("www-authenticate:")))
}

/// Connects with the first of the addresses of `host:port` that answers.
fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Reads the beginning of the answer.
fn head(address: &str, token: Option<&Secret>) -> io::Result<String> {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    let authority = rest.split('/').next().unwrap_or_default();
    let mut stream = connect(authority)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let token = token
        .map(|token| format!("Authorization: Bearer {}\r\n", token.expose()))
        .unwrap_or_default();
    let request =
        format!("GET / HTTP/1.1\r\nHost: {authority}\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut head)?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}
