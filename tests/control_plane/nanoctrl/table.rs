//! The table of requests in `requests.txt`, and how an entry is played.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;
use serde_json::json;

use super::fixture::Fixture;
use super::http::{self, Answer};

/// An entry: an optional request, and questions to Redis.
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    request: Vec<String>,
    answer: Vec<String>,
    answer_begins: Option<String>,
    events: Vec<String>,
    redis: Vec<(String, String)>,
}

pub fn parse(table: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in table.lines().filter(|line| !line.is_empty()) {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.to_owned();
        if mark == "##" {
            cases.push(Case {
                name: rest,
                ..Case::default()
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            continue;
        };
        match mark {
            ">" => case.request.push(rest),
            "<" => case.answer.push(rest),
            "<~" => case.answer_begins = Some(rest),
            "!" => case.events.push(rest),
            "$" => case.redis.push((rest, String::new())),
            "=" => case.redis.last_mut().expect("a command").1 = rest,
            _ => panic!("{}: what is `{line}`?", case.name),
        }
    }
    cases
}

/// Plays entries against a server.
pub struct Player<'a> {
    fixture: &'a Fixture,
    redis: redis::Connection,
    route: String,
}

impl<'a> Player<'a> {
    pub fn new(fixture: &'a Fixture) -> Self {
        Self {
            fixture,
            redis: fixture.redis.connect(),
            route: own_address(),
        }
    }

    pub fn play(&mut self, case: &Case) {
        let mut listener = self.fixture.redis.connect();
        let patience = Some(Duration::from_secs(5));
        listener.set_read_timeout(patience).unwrap();
        let mut events = listener.as_pubsub();
        events.psubscribe("*").unwrap();

        self.play_request(case);

        redis::cmd("PUBLISH")
            .arg("end")
            .arg("")
            .exec(&mut self.redis)
            .unwrap();
        let mut seen = Vec::new();
        loop {
            let event = events.get_message().unwrap();
            if event.get_channel_name() == "end" {
                break;
            }
            let payload: String = event.get_payload().unwrap();
            seen.push(mask(&format!("{} {payload}", event.get_channel_name())));
        }
        assert_eq!(seen, case.events, "{}", case.name);

        for (command, expected) in &case.redis {
            let seen = self.ask(command);
            assert_eq!(seen, *expected, "{}: {command}", case.name);
        }
    }

    fn play_request(&self, case: &Case) {
        let Some(line) = case.request.first() else {
            return;
        };
        let mut words = line.splitn(3, ' ');
        let method = words.next().expect("a method");
        let path = words.next().expect("a path");
        let content_type = match words.next() {
            None => Some("application/json"),
            Some("-") => None,
            named => named,
        };
        let body = case.request.get(1).map_or("", String::as_str);
        let address = self.fixture.address();
        let answer = http::request(address, method, path, content_type, body.as_bytes());
        self.check(case, method, &answer);
    }

    fn check(&self, case: &Case, method: &str, answer: &Answer) {
        let mut head = answer.status.to_string();
        if let Some(content_type) = answer.header("content-type") {
            head += &format!(" {content_type}");
        }
        if let Some(allow) = answer.header("allow") {
            head += &format!(" allow: {allow}");
        }
        assert_eq!(head, case.answer[0], "{}: {}", case.name, answer.body);
        if let Some(beginning) = &case.answer_begins {
            assert!(
                answer.body.starts_with(beginning),
                "{}: {}",
                case.name,
                answer.body
            );
            return;
        }
        let port = self.fixture.redis.port.to_string();
        let expected = case.answer.get(1).map_or("", String::as_str);
        let expected = expected
            .replace("PORT", &port)
            .replace("ROUTE", &self.route);
        assert_eq!(answer.body, expected, "{}", case.name);
        if method == "HEAD" {
            let length = answer.header("content-length").map(str::parse);
            assert!(matches!(length, Some(Ok(1_usize..))), "{}", case.name);
        }
    }

    /// The answer of Redis as JSON, without what changes from run to run.
    fn ask(&mut self, command: &str) -> String {
        let mut words = command.split(' ');
        let name = words.next().expect("a command");
        let mut cmd = redis::cmd(name);
        words.for_each(|word| {
            cmd.arg(word);
        });
        let mut answer = to_json(cmd.query(&mut self.redis).unwrap());
        match (name, &mut answer) {
            ("HGETALL", serde_json::Value::Array(fields)) => {
                let pairs = fields.chunks(2);
                answer = pairs
                    .map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].clone()))
                    .collect();
            }
            ("KEYS", serde_json::Value::Array(keys)) => {
                // The original has no indexes.
                keys.retain(|key| !key.to_string().starts_with("\"nanoctrl/"));
                keys.sort_by_key(|key| key.to_string());
            }
            ("TTL", serde_json::Value::Number(ttl)) if ttl.as_i64() > Some(50) => {
                answer = json!(60);
            }
            _ => {}
        }
        mask(&answer.to_string())
    }
}

fn to_json(value: Value) -> serde_json::Value {
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Int(number) => json!(number),
        Value::BulkString(text) => json!(String::from_utf8(text).unwrap()),
        Value::SimpleString(text) => json!(text),
        Value::Okay => json!("OK"),
        Value::Array(values) => values.into_iter().map(to_json).collect(),
        other => panic!("{other:?}"),
    }
}

/// `text` with the present time, and what is made from it, replaced by names.
fn mask(text: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut masked = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        masked += &rest[..start];
        rest = &rest[start..];
        let number = take_digits(&mut rest);
        let value: u128 = number.parse().unwrap_or_default();
        if now.as_secs().abs_diff(value as u64) < 100 {
            masked += "NOW";
            if let Some(mut fraction) = rest.strip_prefix('.') {
                take_digits(&mut fraction);
                rest = fraction;
                masked += ".F";
            }
        } else if now.as_millis().abs_diff(value) < 100_000 {
            rest = rest.strip_prefix('-').expect("the id of a message");
            take_digits(&mut rest);
            masked += "ID";
        } else {
            masked += number;
        }
    }
    masked + rest
}

fn take_digits<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    digits
}

/// Our address as the internet sees it, else loopback.
pub fn own_address() -> String {
    let found = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("8.8.8.8:9")?;
        socket.local_addr()
    };
    found().map_or("127.0.0.1".to_owned(), |address: std::net::SocketAddr| {
        address.ip().to_string()
    })
}
