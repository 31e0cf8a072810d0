//! The bearer token of NanoCtrl: brought by our agents, wanted by the server, on both sides, on
//! one, or on none.
#![allow(clippy::unwrap_used)]

use std::io::{BufReader, Write};
use std::time::{Duration, Instant};

use crate::nanoctrl::fixture::Fixture;
use crate::nanoctrl::http::{self, Answer};
use slimerpc::control::{Control, ControlError, NanoCtrl, Registration};
use slimerpc::nanoctrl::{Config, Server, StartError};
use slimerpc_actors::{AgentError, PeerAgent};

const TOKEN: &str = "hunter2-hunter2";

fn locked() -> Fixture {
    Fixture::with(|redis| Config::with_redis(redis.url()).token(TOKEN))
}

/// Asks for `path` with these lines of header.
fn ask(fixture: &Fixture, method: &str, path: &str, header: &str) -> Answer {
    let mut stream = http::connect(fixture.address());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{header}Content-Length: 2\r\n\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    http::receive(&mut BufReader::new(stream), method)
}

fn bearing(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn url(fixture: &Fixture) -> String {
    format!("http://{}", fixture.address())
}

fn named(alias: &str) -> Registration {
    Registration {
        alias: Some(alias.to_owned()),
        address: "127.0.0.1".to_owned(),
        ..Registration::default()
    }
}

async fn register(agent: NanoCtrl) -> Result<String, ControlError> {
    agent.register(named("a")).await
}

#[test]
fn without_the_token_every_route_but_the_health_check_is_refused_and_says_what_to_do() {
    let fixture = locked();
    for path in ["/query", "/start_peer_agent", "/no/such/route", "//", "/?x"] {
        if path == "/?x" {
            assert_eq!(ask(&fixture, "GET", path, "").status, 200);
            continue;
        }
        for (header, says) in [
            (String::new(), "wants a bearer token"),
            (
                "Authorization: Basic aDpo\r\n".to_owned(),
                "wants a bearer token",
            ),
            (
                "Authorization: Bearer\r\n".to_owned(),
                "wants a bearer token",
            ),
            (bearing("hunter2"), "another token"),
            (bearing("hunter2-hunter3"), "another token"),
            (bearing(&"x".repeat(4000)), "another token"),
        ] {
            let answer = ask(&fixture, "POST", path, &header);
            assert_eq!(answer.status, 401, "{path} {header}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            let body = answer.json();
            assert_eq!(body["status"], "error");
            let message = body["message"].as_str().unwrap();
            assert!(
                message.contains(says) && message.contains("NANOCTRL_TOKEN"),
                "{message}"
            );
            assert!(!message.contains("hunter"), "{message}");
        }
    }
    assert_eq!(fixture.redis.keys(), Vec::<String>::new());
    assert_eq!(ask(&fixture, "POST", "/query", &bearing(TOKEN)).status, 200);
    let lower_case = format!("authorization: bearer  {TOKEN} \r\n");
    assert_eq!(ask(&fixture, "POST", "/query", &lower_case).status, 200);
}

#[test]
fn the_health_check_is_open_and_tells_who_would_be_refused_elsewhere() {
    let fixture = locked();
    let challenged = |header: &str| {
        let answer = ask(&fixture, "GET", "/", header);
        assert_eq!(answer.status, 200);
        answer.header("www-authenticate").is_some()
    };
    assert!(challenged("") && challenged(&bearing("wrong")));
    assert!(!challenged(&bearing(TOKEN)));
    let open = Fixture::new();
    assert_eq!(ask(&open, "GET", "/", "").header("www-authenticate"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_let_in_with_the_token_and_told_at_once_what_is_wrong_without() {
    let fixture = tokio::task::block_in_place(locked);
    let (url, start) = (url(&fixture), Instant::now());
    let agent = || NanoCtrl::new(&url, "").unwrap();
    let error = register(agent()).await.unwrap_err();
    assert!(
        matches!(
            error,
            ControlError::Unauthorized {
                is_given: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("NANOCTRL_TOKEN"), "{error}");
    let error = register(agent().token("wrong").unwrap()).await.unwrap_err();
    assert!(
        matches!(error, ControlError::Unauthorized { is_given: true, .. }),
        "{error}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(9),
        "refusals are not tried again"
    );

    let agent = agent().token(TOKEN).unwrap();
    assert_eq!(agent.register(named("a")).await.unwrap(), "a");
    agent.heartbeat().await.unwrap();
    assert!(!format!("{agent:?}").contains("hunter"), "{agent:?}");
    agent.clean_up().await.unwrap();
    tokio::task::block_in_place(|| drop(fixture));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_token_takes_no_notice_of_one() {
    let fixture = tokio::task::block_in_place(Fixture::new);
    let agent = NanoCtrl::new(&url(&fixture), "").unwrap();
    assert_eq!(register(agent.token(TOKEN).unwrap()).await.unwrap(), "a");
    tokio::task::block_in_place(|| drop(fixture));
}

#[tokio::test]
async fn input_1_tokens_that_no_header_can_carry_are_refused_on_both_sides() {
    for token in ["", "two words", "a\r\nb: c", "\u{1F511}"] {
        let agent = NanoCtrl::new("http://127.0.0.1:1", "").unwrap();
        let error = agent.token(token).unwrap_err();
        assert!(matches!(error, ControlError::BadSetting { .. }), "{error}");
        let config = Config::with_redis("redis://127.0.0.1:1").token(token);
        let error = Server::start(config).await.unwrap_err();
        assert!(matches!(error, StartError::Token { .. }), "{error}");
    }
}

#[test]
fn agents_take_the_token_from_their_builder() {
    let fixture = locked();
    let url = url(&fixture);
    actix::System::new().block_on(async {
        let builder = || {
            PeerAgent::builder()
                .nanoctrl(&url)
                .alias("a")
                .device("shm0")
        };
        let error = builder().token("wrong").start().await.unwrap_err();
        assert!(
            matches!(
                error,
                AgentError::Control(ControlError::Unauthorized { is_given: true, .. })
            ),
            "{error}"
        );
        let agent = builder().token(TOKEN).start().await.unwrap();
        agent.shutdown().await.unwrap();
    });
}
