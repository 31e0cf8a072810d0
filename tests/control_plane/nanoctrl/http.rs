//! HTTP by hand, so that what is sent and seen is exact.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

pub fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    let patience = Some(Duration::from_secs(15));
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    stream
}

/// One request on a connection of its own.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    content_type: Option<&str>,
    body: &[u8],
) -> Answer {
    let mut stream = connect(server);
    send(&mut stream, method, path, content_type, body);
    receive(&mut BufReader::new(stream), method)
}

pub fn post(server: SocketAddr, path: &str, body: &str) -> Answer {
    request(
        server,
        "POST",
        path,
        Some("application/json"),
        body.as_bytes(),
    )
}

pub fn send(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    content_type: Option<&str>,
    body: &[u8],
) {
    let content_type = content_type
        .map(|name| format!("Content-Type: {name}\r\n"))
        .unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\n{content_type}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has seen enough may have closed the connection already.
    let _ = stream.write_all(body);
}

pub fn receive(stream: &mut impl BufRead, method: &str) -> Answer {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).expect("a status line");
    let mut answer = Answer {
        status: status.parse().unwrap(),
        headers: Vec::new(),
        body: String::new(),
    };
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        let header = (name.to_ascii_lowercase(), value.to_owned());
        answer.headers.push(header);
    }
    if method != "HEAD" {
        let length = answer.header("content-length").map_or("0", |length| length);
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        answer.body = String::from_utf8(body).unwrap();
    }
    answer
}
