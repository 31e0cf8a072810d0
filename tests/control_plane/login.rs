//! A Redis that wants a password, a user, a database or TLS: what servers and agents of ours need,
//! and what they tell.
#![allow(clippy::unwrap_used)]

use crate::nanoctrl::fixture::Fixture;
use serde_json::json;
use slimerpc::control::{Control, ControlError, NanoCtrl, Registration};
use slimerpc::nanoctrl::Config;
use support::Redis;

fn named(alias: &str) -> Registration {
    Registration {
        alias: Some(alias.to_owned()),
        address: "127.0.0.1".to_owned(),
        ..Registration::default()
    }
}

/// A server whose URL has `login` before the host and `path` after the port.
fn server(prepare: impl FnOnce(&Redis), login: &str, path: &str) -> Fixture {
    Fixture::with(|redis| {
        prepare(redis);
        Config::with_redis(format!("redis://{login}127.0.0.1:{}{path}", redis.port))
    })
}

fn agent(server: &Fixture) -> NanoCtrl {
    NanoCtrl::new(&format!("http://{}", server.address()), "").unwrap()
}

/// Registers an agent that logs in by `url`, publishes and looks up.
async fn works(server: &Fixture, url: &str) -> Result<(), ControlError> {
    let agent = agent(server).redis(url)?;
    agent.register(named("a")).await?;
    agent.publish("ring", json!(1)).await?;
    agent.heartbeat().await?;
    assert_eq!(agent.lookup("a", "ring").await?, Some(json!(1)));
    let shown = format!("{agent:?}");
    assert!(!shown.contains("hunter"), "{shown}");
    agent.clean_up().await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn a_password_is_given_with_the_address_that_nanoctrl_names_or_with_ones_own() {
    let server = server(
        |redis| redis.run::<()>(&["CONFIG", "SET", "requirepass", "hunter2/@"]),
        ":hunter2%2F%40@",
        "",
    );
    let port = server.redis.port;
    runtime().block_on(async {
        let error = agent(&server).register(named("a")).await.unwrap_err();
        assert!(matches!(error, ControlError::RedisLogin { .. }), "{error}");
        assert!(error.to_string().contains("SLIME_RPC_REDIS_URL"), "{error}");
        let error = works(&server, "redis://:hunter3@").await.unwrap_err();
        assert!(matches!(error, ControlError::RedisLogin { .. }), "{error}");
        assert!(!error.to_string().contains("hunter"), "{error}");
        works(&server, "redis://:hunter2%2F%40@").await.unwrap();
        let whole = format!("redis://:hunter2%2F%40@localhost:{port}");
        works(&server, &whole).await.unwrap();
    });
}

#[test]
fn a_user_of_redis_and_a_database_are_honoured() {
    let prepare = |redis: &Redis| {
        redis.run::<()>(&[
            "ACL", "SETUSER", "agents", "on", ">hunter2", "~*", "&*", "+@all",
        ]);
        redis.run::<()>(&[
            "ACL",
            "SETUSER",
            "default",
            "resetpass",
            "-@all",
            "+info",
            "+keys",
            "+acl",
        ]);
    };
    let server = server(prepare, "agents:hunter2@", "/3");
    runtime().block_on(async {
        let agent = agent(&server).redis("redis://agents:hunter2@/3").unwrap();
        agent.register(named("a")).await.unwrap();
        agent.publish("ring", json!(1)).await.unwrap();
        let client = format!("redis://agents:hunter2@127.0.0.1:{}", server.redis.port);
        let client = redis::Client::open(client).unwrap();
        let keyspace: String = redis::cmd("INFO")
            .arg("keyspace")
            .query(&mut client.get_connection().unwrap())
            .unwrap();
        assert!(
            keyspace.contains("db3:keys=") && !keyspace.contains("db0"),
            "{keyspace}"
        );
        agent.clean_up().await.unwrap();
        works(&server, "redis://agents:hunter2@/3").await.unwrap();
        let error = works(&server, "redis://agents:hunter3@/3")
            .await
            .unwrap_err();
        assert!(matches!(error, ControlError::RedisLogin { .. }), "{error}");
    });
}

#[test]
fn an_address_of_ones_own_is_used_whatever_nanoctrl_names() {
    let server = Fixture::with(|redis| Config::with_redis(redis.url()).advertise("198.51.100.1:1"));
    let own = server.redis.url();
    runtime().block_on(works(&server, &own)).unwrap();
    let nobody = format!("redis://:hunter2@127.0.0.1:{}", support::free_port());
    let error = runtime().block_on(works(&server, &nobody)).unwrap_err();
    assert!(
        matches!(error, ControlError::RedisUnreachable { .. }),
        "{error}"
    );
    let told = error.to_string();
    assert!(
        told.contains("the setting `redis`") && !told.contains("hunter"),
        "{told}"
    );
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn tls_without_its_feature_is_refused_by_name() {
    let agent = NanoCtrl::new("h:1", "").unwrap();
    let error = agent.redis("rediss://h").unwrap_err();
    assert!(error.to_string().contains("feature `tls`"), "{error}");
    let config = Config::with_redis("rediss://:hunter2@127.0.0.1:1");
    let error = slimerpc::nanoctrl::Server::start(config)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("feature `tls`") && !error.contains("hunter"),
        "{error}"
    );
}

/// A server of the names alone: it names a Redis, and registers everybody.
fn naming(redis: &Redis) -> support::fake_http::FakeHttp {
    let answer = format!(
        r#"{{"name":"a","redis_address":"127.0.0.1:{}"}}"#,
        redis.port
    );
    support::fake_http::FakeHttp::registering(answer.leak())
}

#[tokio::test]
async fn what_a_user_of_redis_may_not_do_is_said_at_the_start_by_name() {
    let redis = Redis::start();
    let user = |rules: &[&str]| {
        let words = ["ACL", "SETUSER", "u", "reset", "on", ">pw", "~*"];
        redis.run::<()>(&[&words, rules].concat());
    };
    let server = naming(&redis);
    let agent = || {
        let agent = NanoCtrl::new(&server.url(), "").unwrap();
        agent.redis("redis://u:pw@").unwrap()
    };
    user(&["&*", "+@all", "-xread", "-blpop"]);
    let error = agent().register(named("a")).await.unwrap_err();
    assert!(matches!(error, ControlError::RedisUnfit { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("XREAD (") && text.contains("BLPOP ("),
        "{text}"
    );
    assert!(!text.contains("XREVRANGE"), "{text}");
    assert!(server.paths().contains(&"/cleanup".to_owned()));
    // Those who follow no services do without channels.
    user(&["resetchannels", "+@all"]);
    agent().register(named("a")).await.unwrap();
    let left: Vec<_> = redis.keys();
    assert_eq!(left, Vec::<String>::new(), "the probe leaves nothing");

    redis.run::<()>(&["ACL", "SETUSER", "u", "-srandmember"]);
    let url = format!("redis://u:pw@127.0.0.1:{}", redis.port);
    let error = slimerpc::nanoctrl::Server::start(Config::with_redis(url)).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("SRANDMEMBER ("), "{text}");
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let redis = Redis::start_with(&["--cluster-enabled", "yes", "--dir", folder]);
    redis.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let server = naming(&redis);
    let agent = NanoCtrl::new(&server.url(), "").unwrap();
    let error = agent.register(named("a")).await.unwrap_err();
    assert!(matches!(error, ControlError::RedisUnfit { .. }), "{error}");
    assert!(error.to_string().contains("Redis Cluster"), "{error}");
    let error = slimerpc::nanoctrl::Server::start(Config::with_redis(redis.url())).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("Redis Cluster"), "{text}");
}
