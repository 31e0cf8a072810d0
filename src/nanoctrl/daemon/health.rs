//! Checks whether a server is up.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::control::{ClientTls, Secret};
use crate::tls::TlsError;

const TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes of an answer that are read.
const LONGEST_ANSWER: u64 = 4096;

/// Why a server cannot be said to be up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unwell {
    /// Nothing answers, or not as a server does.
    Down(String),
    /// It speaks TLS, and one of the two refuses the other's certificate.
    #[cfg_attr(not(feature = "tls"), expect(dead_code))]
    Tls(TlsError),
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(reason) => f.write_str(reason),
            Self::Tls(error) => write!(f, "{error}"),
        }
    }
}

/// Returns whether a server answers at `address`, which may refuse us.
pub(super) fn answers(address: &str) -> bool {
    let refused = |error: &TlsError| matches!(error, TlsError::Theirs(_) | TlsError::Ours(_));
    match probe(address, None) {
        Ok(_) => true,
        Err(Unwell::Tls(error)) => refused(&error),
        Err(Unwell::Down(_)) => false,
    }
}

/// Sends `GET /` to `address`, which is `host:port`, optionally after `http://` or `https://`, as
/// agents would.
/// Returns whether the server requires another token than `token`.
///
/// # Errors
/// Why the server cannot be said to be up.
pub(super) fn probe(address: &str, token: Option<&Secret>) -> Result<bool, Unwell> {
    let head = head(address, token).map_err(unwell)?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or("no answer");
    if !status.starts_with("HTTP/1.1 200") {
        return Err(Unwell::Down(status.to_owned()));
    }
    let mut fields = lines.take_while(|line| !line.is_empty());
    Ok(fields.any(|field| field.to_ascii_lowercase().starts_with("www-authenticate:")))
}

fn unwell(error: io::Error) -> Unwell {
    #[cfg(feature = "tls")]
    if let Some(of_tls) = error.get_ref() {
        let of_tls: Option<&rustls::Error> = of_tls.downcast_ref();
        if let Some(of_tls) = of_tls {
            return Unwell::Tls(of_tls.into());
        }
    }
    Unwell::Down(error.to_string())
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
    let url = ClientTls::default().or_environment().url_of(address);
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
    let authority = rest.split('/').next().unwrap_or_default();
    let stream = connect(authority)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let token = token
        .map(|token| format!("Authorization: Bearer {}\r\n", token.expose()))
        .unwrap_or_default();
    let request =
        format!("GET / HTTP/1.1\r\nHost: {authority}\r\n{token}Connection: close\r\n\r\n");
    match scheme {
        "http" => exchange(stream, &request),
        #[cfg(feature = "tls")]
        "https" => exchange(encrypted(stream, authority)?, &request),
        _ => Err(io::Error::other(format!("{scheme}:// is not understood"))),
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    match stream.take(LONGEST_ANSWER).read_to_end(&mut head) {
        // A server may close without the farewell of TLS.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        read => drop(read?),
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(feature = "tls")]
fn encrypted(stream: TcpStream, authority: &str) -> io::Result<impl Read + Write> {
    let config = ClientTls::default().or_environment().config();
    let config = config.map_err(io::Error::other)?;
    let host = super::host::without_port(authority).to_owned();
    let name = rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
    let session = rustls::ClientConnection::new(config.into(), name).map_err(io::Error::other)?;
    Ok(rustls::StreamOwned::new(session, stream))
}
