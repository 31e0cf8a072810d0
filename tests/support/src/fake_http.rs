//! An HTTP server that answers what a test tells it to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What to answer to a path: the status line's code and the body; `None` for no answer at all.
type Answer = dyn Fn(&str) -> Option<(u16, Vec<u8>)> + Send + Sync;

/// Answers every request by a function of its path. Its thread ends with the test process.
#[derive(Debug)]
pub struct FakeHttp {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    paths: Arc<Mutex<Vec<String>>>,
}

impl FakeHttp {
    /// Starts one that answers like this; `None` for no answer at all.
    pub fn start(answer: impl Fn(&str) -> Option<(u16, Vec<u8>)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let paths = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer): (_, Arc<Answer>) = (Arc::clone(&paths), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { port, paths }
    }

    /// Answers every registration with this JSON, and everything else with `{"status":"ok"}`.
    pub fn registering(answer: &'static str) -> Self {
        Self::start(move |path| {
            let body = match path {
                "/start_peer_agent" => answer,
                _ => r#"{"status":"ok"}"#,
            };
            Some((200, body.into()))
        })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The paths asked for so far.
    pub fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }
}

/// Serves one connection until the client closes it; errors are the client's business.
fn serve(stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &Answer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let path = read_request(&mut reader)?;
        seen.lock().unwrap().push(path.clone());
        let Some((status, body)) = answer(&path) else {
            thread::park();
            continue;
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        writer.write_all(head.as_bytes()).ok()?;
        writer.write_all(&body).ok()?;
    }
}

/// Reads a request and gives its path.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split_whitespace().nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(path)
}
