//! The console over HTTP: who gets in, what browsers are told, and the stream. The pages themselves
//! are tested in a browser, by tests/console.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::nanoctrl::fixture::Fixture;
use crate::nanoctrl::http::{self, Answer};
use serde_json::{Value, json};
use slimerpc::nanoctrl::Config;

const TOKEN: &str = "hunter2-hunter2";

/// How long a stream may take to tell what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn locked() -> Fixture {
    Fixture::with(|redis| Config::with_redis(redis.url()).token(TOKEN))
}

/// Asks with these lines of header besides.
fn ask(fixture: &Fixture, method: &str, path: &str, header: &str, body: &str) -> Answer {
    let mut stream = http::connect(fixture.address());
    let host = if header.contains("Host: ") {
        ""
    } else {
        "Host: test\r\n"
    };
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\n{host}{header}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    http::receive(&mut BufReader::new(stream), method)
}

fn get(fixture: &Fixture, path: &str, header: &str) -> Answer {
    ask(fixture, "GET", path, header, "")
}

fn log_in(fixture: &Fixture, token: &str) -> Answer {
    let header = "Content-Type: application/x-www-form-urlencoded\r\n";
    ask(
        fixture,
        "POST",
        "/console/login",
        header,
        &format!("token={token}"),
    )
}

/// The header that brings the cookie which was set.
fn cookie(answer: &Answer) -> String {
    let cookie = answer.header("set-cookie").unwrap();
    format!("Cookie: other=1; {}\r\n", cookie.split(';').next().unwrap())
}

fn is_login_page(answer: &Answer) -> bool {
    answer.header("content-type") == Some("text/html; charset=utf-8")
        && answer.body.contains(r#"name="token""#)
}

/// The stream of a console that is open.
struct Stream {
    reader: BufReader<TcpStream>,
    text: String,
}

impl Stream {
    fn open(server: SocketAddr, header: &str) -> Self {
        Self::over(http::connect(server), header)
    }

    fn over(mut stream: TcpStream, header: &str) -> Self {
        let request = format!("GET /console/events HTTP/1.1\r\nHost: test\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.contains("content-type: text/event-stream\r\n"),
            "{head}"
        );
        Self {
            reader,
            text: String::new(),
        }
    }

    /// The next event and its data; `None` at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let found = field("event: ").zip(field("data: "));
                let found = found.map(|(name, data)| (name.to_owned(), serde_json::from_str(data)));
                self.text = rest.to_owned();
                if let Some((name, data)) = found {
                    return Some((name, data.unwrap()));
                }
                continue;
            }
            let mut length = String::new();
            self.reader.read_line(&mut length).unwrap();
            let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
            if length == 0 {
                return None;
            }
            let mut chunk = vec![0; length + 2];
            self.reader.read_exact(&mut chunk).unwrap();
            self.text += std::str::from_utf8(&chunk[..length]).unwrap();
        }
    }

    /// Reads on until an event that is wanted.
    fn until(&mut self, is_wanted: impl Fn(&str, &Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            // A stream tells something every second, so a read alone never gives up.
            assert!(
                start.elapsed() < PATIENCE,
                "it was not told in {PATIENCE:?}"
            );
            let (name, data) = self.next().expect("the stream goes on");
            if is_wanted(&name, &data) {
                return data;
            }
        }
    }
}

/// The agent with this alias in what a stream has told.
fn agent<'a>(data: &'a Value, alias: &str) -> Option<&'a Value> {
    let mut agents = data["agents"].as_array()?.iter();
    agents.find(|agent| agent["alias"] == alias)
}

/// A connection from another address of this host.
fn connect_from(from: &str, server: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(from.parse().unwrap()).unwrap();
        socket.connect(server).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let patience = Some(Duration::from_secs(15));
    stream.set_read_timeout(patience).unwrap();
    stream
}

fn record(alias: &str, reported_at_ms: u128, more: Value) -> String {
    let mut record = json!({
        "schema_version": 1, "peer_id": alias, "host": "node-1", "reported_at_ms": reported_at_ms as u64,
        "slimerpc": {"version": "0.1.0", "period_ms": 1000},
    });
    for (name, value) in more.as_object().unwrap() {
        record["slimerpc"][name] = value.clone();
    }
    record.to_string()
}

fn now_ms() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_millis()
}

#[test]
fn every_answer_forbids_browsers_what_the_console_does_not_need() {
    let (open, locked) = (Fixture::new(), locked());
    for (fixture, path, status) in [
        (&open, "/console", 200),
        (&open, "/console/style.css", 200),
        (&open, "/console/console.js", 200),
        (&open, "/console/agent?alias=nobody", 404),
        (&open, "/console/nope", 404),
        (&locked, "/console", 401),
        (&locked, "/console/nope", 401),
        (&locked, "/console/console.js", 401),
        (&locked, "/console/style.css", 200),
    ] {
        let answer = get(fixture, path, "");
        assert_eq!(answer.status, status, "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        for part in [
            "script-src 'self';",
            "frame-ancestors 'none';",
            "base-uri 'none';",
            "trusted-types 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(
            !policy.contains("unsafe") && !policy.contains('*'),
            "{policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn the_console_only_reads() {
    let fixture = Fixture::new();
    for path in [
        "/console",
        "/console/events",
        "/console/agent",
        "/console/style.css",
    ] {
        let answer = http::post(fixture.address(), path, "{}");
        assert_eq!(answer.status, 405, "{path}");
        assert!(answer.header("allow").unwrap().starts_with("GET"));
    }
    assert_eq!(get(&fixture, "/console/logout", "").status, 405);
    // What is listed and has expired others remove.
    fixture.post(
        "/start_peer_agent",
        r#"{"address":"127.0.0.1","alias":"expired"}"#,
    );
    fixture.redis::<()>(&["DEL", "agent:expired"]);
    let before = fixture.redis.keys();
    let members = ["SMEMBERS", "nanoctrl/agents/"];
    Stream::open(fixture.address(), "").until(|name, _| name == "change");
    assert_eq!(fixture.redis.keys(), before);
    assert_eq!(fixture.redis::<Vec<String>>(&members), ["expired"]);
    assert_eq!(ask(&fixture, "HEAD", "/console", "", "").status, 200);
}

#[test]
fn pages_have_nothing_inline_and_name_no_other_server() {
    let fixture = Fixture::new();
    let locked = locked();
    for page in [get(&fixture, "/console", ""), get(&locked, "/console", "")] {
        let text = page.body;
        assert!(
            !text.contains("style=") && !text.contains("<style"),
            "{text}"
        );
        assert!(
            !text.contains(" onclick") && !text.contains("javascript:"),
            "{text}"
        );
        assert!(
            !text.contains("http:") && !text.contains("https:"),
            "{text}"
        );
        let scripts = text.matches("<script").count();
        assert_eq!(
            scripts,
            text.matches(r#"src="/console/"#).count() - text.matches("<img src").count()
        );
    }
}

#[test]
fn without_the_token_there_is_the_login_page_and_with_it_a_session() {
    let fixture = locked();
    for path in [
        "/console",
        "/console/",
        "/console/events",
        "/console/agent?alias=a",
    ] {
        for header in [
            "",
            "Cookie: nanoctrl=1\r\n",
            "Authorization: Basic eA==\r\n",
        ] {
            let answer = get(&fixture, path, header);
            assert_eq!(answer.status, 401, "{path} {header}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(is_login_page(&answer), "{}", answer.body);
        }
    }
    let wrong = log_in(&fixture, "hunter3");
    assert_eq!(wrong.status, 401);
    assert!(is_login_page(&wrong) && wrong.body.contains("not the token"));
    assert_eq!(wrong.header("set-cookie"), None);

    let answer = log_in(&fixture, TOKEN);
    assert_eq!(answer.status, 303);
    assert_eq!(answer.header("location"), Some("/console"));
    let set = answer.header("set-cookie").unwrap();
    for part in [
        "; HttpOnly",
        "; SameSite=Strict",
        "; Path=/console",
        "; Max-Age=43200",
    ] {
        assert!(set.contains(part), "{set}");
    }
    assert!(
        !set.contains("hunter") && !set.contains("; Secure"),
        "{set}"
    );
    let cookie = cookie(&answer);
    assert_eq!(get(&fixture, "/console", &cookie).status, 200);
    Stream::open(fixture.address(), &cookie)
        .until(|name, data| name == "hello" && data["login"] == true);
    // It opens nothing but the console.
    let header = format!("Content-Type: application/json\r\n{cookie}");
    assert_eq!(ask(&fixture, "POST", "/query", &header, "{}").status, 401);

    assert_eq!(
        ask(&fixture, "POST", "/console/logout", &cookie, "").status,
        303
    );
    assert_eq!(get(&fixture, "/console", &cookie).status, 401);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(get(&fixture, "/console", &bearer).status, 200);
    let bearer = "Authorization: Bearer wrong\r\n";
    assert_eq!(get(&fixture, "/console", bearer).status, 401);
}

#[test]
fn a_stream_ends_with_its_session_and_others_go_on() {
    let fixture = locked();
    let (first, second) = (log_in(&fixture, TOKEN), log_in(&fixture, TOKEN));
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut ended = Stream::open(fixture.address(), &cookie(&first));
    let mut others = [cookie(&second), bearer].map(|it| Stream::open(fixture.address(), &it));
    ended.until(|name, _| name == "change");
    let out = ask(&fixture, "POST", "/console/logout", &cookie(&first), "");
    assert_eq!(out.status, 303);
    let left = (0..20).find(|_| ended.next().is_none());
    assert!(left.is_some(), "it goes on without a session");
    for other in &mut others {
        for _ in 0..2 {
            other.until(|name, _| name == "change");
        }
    }
}

#[test]
fn logins_that_pages_of_strangers_send_do_not_count() {
    let fixture = locked();
    for _ in 0..20 {
        for header in [
            "Sec-Fetch-Site: cross-site\r\n",
            "Origin: http://evil.example\r\n",
            "Origin: null\r\n",
        ] {
            let answer = ask(&fixture, "POST", "/console/login", header, "token=wrong");
            assert_eq!(answer.status, 403, "{header}");
        }
    }
    let own = "Origin: http://test\r\n";
    let answer = ask(
        &fixture,
        "POST",
        "/console/login",
        own,
        &format!("token={TOKEN}"),
    );
    assert_eq!(answer.status, 303);
}

#[test]
fn who_opens_the_login_is_led_to_the_page_that_asks() {
    for fixture in [Fixture::new(), locked()] {
        let answer = get(&fixture, "/console/login", "");
        assert_eq!(answer.status, 303);
        assert_eq!(answer.header("location"), Some("/console"));
        let answer = ask(&fixture, "PUT", "/console/login", "", "");
        assert_eq!(answer.status, 405);
        assert_eq!(answer.header("allow"), Some("GET,HEAD,POST"));
    }
}

#[test]
fn a_session_ends_with_its_server() {
    let first = locked();
    let cookie = cookie(&log_in(&first, TOKEN));
    assert_eq!(get(&first, "/console", &cookie).status, 200);
    let second = locked();
    let (_, key) = cookie.rsplit_once('=').unwrap();
    let port = second.address().port();
    let header = format!("Cookie: nanoctrl-{port}={key}");
    assert_eq!(get(&second, "/console", &header).status, 401);
}

#[test]
fn who_guesses_is_slowed_after_ten_failures_and_sessions_stay() {
    let fixture = locked();
    let cookie = cookie(&log_in(&fixture, TOKEN));
    for i in 0..10 {
        let answer = match i % 2 {
            0 => log_in(&fixture, "wrong"),
            _ => get(&fixture, "/console", "Authorization: Bearer wrong\r\n"),
        };
        assert_eq!(answer.status, 401, "{i}");
    }
    let slowed = log_in(&fixture, TOKEN);
    assert_eq!(slowed.status, 429);
    assert!(slowed.header("retry-after").is_some());
    assert!(is_login_page(&slowed) && slowed.body.contains("Too many attempts"));
    assert_eq!(get(&fixture, "/console", &cookie).status, 200);
    sleep(Duration::from_millis(2100));
    assert_eq!(log_in(&fixture, TOKEN).status, 303);
}

#[test]
fn input_1_odd_logins_are_refused() {
    let fixture = locked();
    let odd = [
        "",
        "token",
        "token=",
        "tok%",
        "token=%ff%fe",
        "token=a&token=b",
        "\u{1F511}",
        "{\"token\": 1}",
    ];
    for body in odd {
        let answer = ask(&fixture, "POST", "/console/login", "", body);
        assert!(
            [401, 429].contains(&answer.status),
            "{body}: {}",
            answer.status
        );
    }
    let long = "x".repeat(20_000);
    assert_eq!(
        ask(&fixture, "POST", "/console/login", "", &long).status,
        413
    );
}

#[test]
fn a_page_of_a_stranger_that_resolved_its_name_to_us_reads_nothing() {
    let open = Fixture::new();
    for path in ["/console", "/console/events", "/console/agent?alias=a"] {
        let answer = get(&open, path, "Host: rebind.example:3000\r\n");
        assert_eq!(answer.status, 421, "{path}");
        assert!(answer.body.contains("NANOCTRL_TOKEN"), "{}", answer.body);
    }
    for host in ["127.0.0.1:3000", "localhost", "[::1]:3000", "ctrl"] {
        let header = format!("Host: {host}\r\n");
        assert_eq!(get(&open, "/console", &header).status, 200, "{host}");
    }
    let answer = get(&locked(), "/console/style.css", "Host: ctrl.example\r\n");
    assert_eq!(answer.status, 200, "with a token any name will do");
}

#[test]
fn a_console_is_told_of_agents_as_they_come_report_no_more_and_go() {
    let fixture = Fixture::new();
    fixture.post(
        "/start_peer_agent",
        r#"{"address":"127.0.0.1","alias":"silent"}"#,
    );
    let mut stream = Stream::open(fixture.address(), "");
    let data = stream.until(|name, _| name == "change");
    let silent = agent(&data, "silent").unwrap();
    assert_eq!(
        (&silent["state"], &silent["observed"]),
        (&json!("alive"), &json!(false))
    );

    let services = |at_ms: u64| {
        json!({
            "services": [{"name": "calc", "state": "up", "methods": [{"name": "add", "per_second": 7.0, "p50_us": 3.0}]}],
            "peers": [{"alias": "silent", "fabric": "tcp", "state": "alive"}],
            "events": [{"at_ms": at_ms, "kind": "joined", "subject": "silent", "text": "over tcp"}],
        })
    };
    fixture.post(
        "/start_peer_agent",
        r#"{"address":"127.0.0.1","alias":"w"}"#,
    );
    // On a busy machine a record may be old before it is read for the first time.
    let data = loop {
        let text = record("w", now_ms(), services(now_ms() as u64));
        fixture.redis::<()>(&["SET", "obs:peer:w", &text]);
        let data = stream.until(|_, data| agent(data, "w").is_some_and(|w| w["observed"] == true));
        match &agent(&data, "w").unwrap()["state"] {
            state if state == "stalled" => fixture.redis::<()>(&["DEL", "obs:peer:w"]),
            _ => break data,
        }
        stream.until(|_, data| agent(data, "w").is_some_and(|w| w["observed"] == false));
    };
    let told = agent(&data, "w").unwrap();
    assert_eq!(told["services"][0]["per_second"], 7.0);
    assert_eq!(
        told["links"][0],
        json!({"peer": "silent", "fabric": "tcp", "state": "alive"})
    );
    let events = data["events"].as_array().unwrap();
    assert!(
        events
            .iter()
            .any(|event| event["kind"] == "joined" && event["agent"] == "w"),
        "{data}"
    );
    assert!(
        agent(&data, "silent").is_none(),
        "what has not changed is not told again"
    );
    let details = get(&fixture, "/console/agent?scope=&alias=w", "").json();
    assert_eq!(
        details["record"]["slimerpc"]["services"][0]["methods"][0]["name"],
        "add"
    );

    let data = stream.until(|_, data| agent(data, "w").is_some_and(|w| w["state"] == "stalled"));
    let events = data["events"].as_array().unwrap();
    assert!(
        events
            .iter()
            .any(|event| event["kind"] == "stalled" && event["subject"] == "w"),
        "{data}"
    );

    let peers = json!({"peers": [{"alias": "w", "state": "gone", "why": "its process has ended"}]});
    fixture.redis::<()>(&["SET", "obs:peer:x", &record("x", now_ms(), peers)]);
    let data = stream.until(|_, data| agent(data, "w").is_some_and(|w| w["state"] == "gone"));
    assert_eq!(agent(&data, "w").unwrap()["why"], "its process has ended");

    fixture.redis::<()>(&["DEL", "agent:silent"]);
    stream.until(|_, data| agent(data, "silent").is_some_and(|silent| silent["state"] == "gone"));
    // A page that opens now is told of both.
    let data = Stream::open(fixture.address(), "").until(|name, _| name == "all");
    assert_eq!(agent(&data, "silent").unwrap()["state"], "gone");
}

#[test]
fn input_1_hostile_records_are_counted_and_harm_nobody() {
    let fixture = Fixture::new();
    let script = "<script>alert(1)</script>";
    let odd = json!({
        "services": [{"name": script, "methods": [{"name": "\u{2028}\n\n", "per_second": 1e308}, {"per_second": 1e308}]}],
        "events": [{"at_ms": u64::MAX, "kind": "x\ndata: 1\n\n", "subject": script, "text": "\0"}],
        "peers": vec![json!({"alias": script}); 5000],
        "period_ms": u64::MAX,
    });
    fixture.redis::<()>(&[
        "SET",
        &format!("obs:peer:{script}"),
        &record(script, now_ms(), odd),
    ]);
    let long = " ".repeat(1_100_000);
    for (key, text) in [
        ("obs:peer:long", long.as_str()),
        ("obs:peer:other", r#"{"schema_version":2}"#),
        ("obs:peer:text", "{"),
        ("obs:peer:liar", &record("somebody", now_ms(), json!({}))),
    ] {
        fixture.redis::<()>(&["SET", key, text]);
    }
    fixture.redis::<()>(&["LPUSH", "obs:peer:list", "x"]);
    let mut stream = Stream::open(fixture.address(), "");
    let data = stream.until(|name, _| name == "change");
    assert_eq!(data["skipped"], 5);
    assert_eq!(data["agents"].as_array().unwrap().len(), 1);
    let told = agent(&data, script).unwrap();
    assert_eq!(told["services"][0]["name"], script);
    assert_eq!(told["links"].as_array().unwrap().len(), 128);
    assert_eq!(told["more"], 4096 - 128);
    assert!(data["events"][0]["at_ms"].as_u64().unwrap() <= now_ms() as u64);
    let path = "/console/agent?alias=%3Cscript%3Ealert(1)%3C/script%3E";
    let details = get(&fixture, path, "");
    assert_eq!(details.header("content-type"), Some("application/json"));
    assert_eq!(details.json()["alias"], script);
    for path in [
        "/console/agent",
        "/console/agent?alias=%ff",
        "/console/agent?alias=a&alias=b",
    ] {
        let status = get(&fixture, path, "").status;
        assert!([400, 404].contains(&status), "{path}: {status}");
    }
}

#[test]
fn scopes_beyond_the_limit_and_broken_ones_are_counted_and_the_rest_is_shown() {
    let fixture = Fixture::new();
    let register = |scope: &str, alias: &str| {
        let body = json!({"address": "127.0.0.1", "alias": alias, "scope": scope});
        assert_eq!(
            fixture.post("/start_peer_agent", &body.to_string()).status,
            200
        );
    };
    register("", "unscoped");
    for scope in 0..70 {
        register(&format!("job-{scope:02}"), &format!("w{scope}"));
    }
    // An index that is no set.
    fixture.redis::<()>(&["SET", "nanoctrl/agents/job-07", "x", "XX"]);
    let reported = record("alone", now_ms(), json!({}));
    fixture.redis::<()>(&["SET", "elsewhere:obs:peer:alone", &reported]);
    let hidden = record("hidden", now_ms(), json!({}));
    fixture.redis::<()>(&["SET", "job-07:obs:peer:hidden", &hidden]);
    let long = format!("obs:peer:{}", "x".repeat(2000));
    fixture.redis::<()>(&[
        "SET",
        &long,
        &record(&"x".repeat(2000), now_ms(), json!({})),
    ]);
    fixture.redis::<()>(&["SET", "jobs:peer:nobody", "{}"]);

    let before = fixture.redis.looks_through_keys();
    assert!(before.is_empty(), "{before:?}");
    let mut stream = Stream::open(fixture.address(), "");
    let data = stream.until(|name, _| name == "change");
    // 64 of 71, of which one is broken.
    assert_eq!(data["unread_scopes"], 8, "{data}");
    assert_eq!(data["skipped"], 1);
    let of = |alias: &str| agent(&data, alias).map(|agent| agent["scope"].as_str().unwrap());
    assert_eq!(of("unscoped"), Some(""));
    assert_eq!(of("w6"), Some("job-06"));
    assert_eq!(of("alone"), Some("elsewhere"));
    for alias in ["w7", "hidden", "w69"] {
        assert_eq!(of(alias), None, "{alias}");
    }
    let looks = fixture.redis.looks_through_keys();
    let calls = looks[0].split_once("calls=").unwrap().1;
    let calls: u32 = calls.split(',').next().unwrap().parse().unwrap();
    assert!(calls <= 2, "one search a reading: {looks:?}");
}

#[test]
fn all_consoles_share_one_reader_and_none_is_left_when_they_close() {
    let fixture = Fixture::new();
    let requests_of = |period| {
        let before = fixture.redis.requests();
        sleep(period);
        fixture.redis.requests() - before
    };
    let period = Duration::from_secs(4);
    /// A reader asks less often than this in that time.
    const MOST: u64 = 40;
    let open = || {
        let mut stream = Stream::open(fixture.address(), "");
        stream.until(|name, _| name == "change" || name == "all");
        stream
    };
    let first = open();
    let of_one = requests_of(period);
    let others: Vec<_> = (0..20).map(|_| open()).collect();
    let of_many = requests_of(period);
    println!("{of_one} requests for one console, {of_many} for 21, in {period:?}");
    // A slow machine reads less often, and each of 21 readers would read at least once.
    assert!((1..MOST).contains(&of_one), "{of_one} in {period:?}");
    assert!((1..MOST).contains(&of_many), "{of_many} in {period:?}");
    drop((first, others));
    // A stream notices that its reader has gone when it is written to, twice.
    sleep(Duration::from_secs(4));
    let of_none = requests_of(period);
    // Each look counts, and there are two.
    assert!(of_none <= 4, "{of_none} requests, and nobody looks");
}

#[test]
fn streams_end_when_their_server_stops() {
    let fixture = Fixture::new();
    let mut streams = [(); 3].map(|()| Stream::open(fixture.address(), ""));
    for stream in &mut streams {
        stream.until(|name, _| name == "change" || name == "all");
    }
    let start = Instant::now();
    fixture.stop();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    for stream in &mut streams {
        while stream.next().is_some() {}
    }
}

#[test]
fn a_console_learns_that_redis_does_not_answer_and_that_it_does_again() {
    let mut fixture = Fixture::new();
    let mut stream = Stream::open(fixture.address(), "");
    stream.until(|name, _| name == "change");
    fixture.redis.stop();
    let trouble = stream.until(|name, _| name == "trouble");
    assert!(trouble.as_str().unwrap().contains("Redis"), "{trouble}");
    fixture.redis.restart();
    stream.until(|name, _| name == "change");
}

#[test]
fn a_redis_that_hung_is_read_again_soon_and_the_page_knows_that_the_server_lives() {
    let fixture = Fixture::new();
    let mut stream = Stream::open(fixture.address(), "");
    stream.until(|name, _| name == "change");
    fixture.redis.suspend();
    stream.until(|name, _| name == "tick");
    stream.until(|name, _| name == "trouble");
    sleep(Duration::from_secs(1));
    fixture.redis.resume();
    let resumed = Instant::now();
    stream.until(|name, _| name == "change");
    let took = resumed.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn there_is_room_for_so_many_consoles_and_who_has_all_gives_way_to_another_address() {
    let fixture = Fixture::new();
    let mut streams: Vec<_> = (0..64)
        .map(|_| Stream::open(fixture.address(), ""))
        .collect();
    let refused = get(&fixture, "/console/events", "");
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("close one"), "{}", refused.body);
    let other = connect_from("127.0.0.2:0", fixture.address());
    Stream::over(other, "").until(|name, _| name == "change");
    let ended = (0..20).find(|_| streams[0].next().is_none());
    assert!(ended.is_some(), "the oldest has given way");
    streams[1].until(|name, _| name == "change");
}

#[test]
fn a_console_that_does_not_read_misses_updates_and_is_then_told_all() {
    let fixture = Fixture::new();
    let mut slow = Stream::open(fixture.address(), "");
    let mut quick = Stream::open(fixture.address(), "");
    // More than the buffers of a connection hold.
    let filling = "x".repeat(250);
    for round in 0..12 {
        for agent in 0..60 {
            let alias = format!("w{agent}");
            let service = json!({"name": format!("{filling}{round}")});
            let text = record(&alias, now_ms(), json!({"services": vec![service; 128]}));
            fixture.redis::<()>(&["SET", &format!("obs:peer:{alias}"), &text]);
        }
        quick.until(|_, data| {
            agent(data, "w0")
                .is_some_and(|w| w["services"][0]["name"] == format!("{filling}{round}"))
        });
    }
    slow.until(|name, data| name == "all" && agent(data, "w59").is_some());
}
