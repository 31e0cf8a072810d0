//! Which Redis address is told to whom, by configuration and asker.

use super::*;

fn address(url: &str, config: Config) -> Result<RedisAddress, StartError> {
    RedisAddress::new(&Client::open(url).unwrap(), &config, false)
}

fn config() -> Config {
    Config::with_redis("not used here")
}

async fn told(url: &str, config: Config, agent: &str) -> String {
    let asker = Asker {
        at: agent,
        ..Asker::default()
    };
    address(url, config)
        .unwrap()
        .for_agent(asker)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_local_agent_is_told_the_address_as_it_is() {
    for agent in [
        "127.0.0.1",
        "127.0.0.1:80",
        "127.0.0.2",
        "localhost",
        "::1",
        "[::1]:80",
        "::ffff:127.0.0.1",
    ] {
        assert_eq!(
            told("redis://127.0.0.1:7000", config(), agent).await,
            "127.0.0.1:7000"
        );
        assert_eq!(
            told("redis://localhost", config(), agent).await,
            "localhost:6379"
        );
    }
}

#[tokio::test]
async fn an_agent_elsewhere_is_told_the_public_address_of_a_loopback_redis() {
    for agent in ["10.9.8.7", "localhost.example.org", "2001:db8::1", ""] {
        let config = config().public_address("198.51.100.1:7777");
        assert_eq!(
            told("redis://127.0.0.1:7000", config, agent).await,
            "198.51.100.1:7777"
        );
    }
}

#[tokio::test]
async fn an_agent_elsewhere_is_told_our_own_address_of_a_loopback_redis() {
    let own = own_address(Asker::default()).await;
    for agent in ["127.0.0.1.example.invalid", "", "no such host"] {
        assert_eq!(
            told("redis://127.0.0.1:7000", config(), agent).await,
            format!("{own}:7000")
        );
    }
}

#[tokio::test]
async fn an_advertised_address_goes_to_everybody() {
    for advertised in [
        "198.51.100.2:8888",
        "redis://198.51.100.2:8888",
        "redis://u:p@198.51.100.2:8888/3",
    ] {
        for agent in ["127.0.0.1", "10.9.8.7"] {
            let config = config()
                .advertise(advertised)
                .public_address("198.51.100.1:1");
            assert_eq!(
                told("redis://127.0.0.1:7000", config, agent).await,
                "198.51.100.2:8888"
            );
        }
    }
}

#[tokio::test]
async fn agents_are_never_told_scheme_credentials_path_or_an_ipv6_literal() {
    for url in [
        "redis://u:p@example.org:7000/2",
        "redis://example.org:7000/0?protocol=resp3",
    ] {
        assert_eq!(told(url, config(), "").await, "example.org:7000");
    }
    assert_eq!(
        told("redis://[::1]:7000", config(), "localhost").await,
        "localhost:7000"
    );
}

#[tokio::test]
async fn others_are_told_a_url_without_credentials_and_path() {
    let address = address("redis://u:p@example.org:7000/2", config()).unwrap();
    assert_eq!(address.url(None).await, "redis://example.org:7000");
}

#[tokio::test]
async fn others_are_told_the_advertised_address_without_credentials_and_path() {
    for (advertised, expected) in [
        ("198.51.100.2", "198.51.100.2"),
        ("198.51.100.2:8888", "198.51.100.2:8888"),
        ("u:p@198.51.100.2:8888/3", "198.51.100.2:8888"),
        ("u:p://w@198.51.100.2:8888", "198.51.100.2:8888"),
        ("redis://198.51.100.2", "redis://198.51.100.2"),
        (
            "rediss://u:p/w@198.51.100.2:8888/3?a=b",
            "rediss://198.51.100.2:8888",
        ),
    ] {
        let config = config().advertise(advertised);
        let address = address("redis://127.0.0.1:7000", config).unwrap();
        assert_eq!(address.url(None).await, expected);
    }
}

#[test]
fn an_error_about_an_address_does_not_tell_its_credentials() {
    let refused = address("redis://h", config().advertise("u:p/w@h:port/3"));
    let told = refused.err().expect("an error").to_string();
    assert!(told.contains("`h:port`"), "{told}");
}

#[tokio::test]
async fn a_private_redis_is_told_as_loopback_to_everybody() {
    let client = Client::open("redis://127.0.0.1:7000").unwrap();
    let config = config().public_address("198.51.100.1:7777");
    let address = RedisAddress::new(&client, &config, true).unwrap();
    let asker = Asker {
        at: "10.9.8.7",
        ..Asker::default()
    };
    assert_eq!(address.for_agent(asker).await.unwrap(), "127.0.0.1:7000");
    assert_eq!(address.url(None).await, "redis://127.0.0.1:7000");
}

#[test]
fn an_address_that_agents_could_not_parse_is_refused_at_start() {
    assert!(address("redis://h", config().advertise("[2001:db8::1")).is_err());
    assert!(address("redis://h", config().advertise("[2001:db8::1]x")).is_err());
    assert!(address("redis://h", config().advertise("h:port")).is_err());
    assert!(address("redis://h", config().public_address(":1")).is_err());
    assert!(address("redis://[2001:db8::1]:7000", config().advertise("h:1")).is_ok());
}

#[test]
fn an_advertised_host_gets_the_usual_port() {
    assert_eq!(
        plain("198.51.100.2").unwrap().to_string(),
        "198.51.100.2:6379"
    );
    assert_eq!(
        plain("[2001:db8::1]").unwrap().to_string(),
        "[2001:db8::1]:6379"
    );
}

#[tokio::test]
async fn an_ipv6_address_is_told_to_native_agents_alone() {
    let asker = |is_native| Asker {
        at: "10.9.8.7",
        is_native,
        ..Asker::default()
    };
    for (url, config) in [
        ("redis://[2001:db8::1]:7000", config()),
        ("redis://h", config().advertise("[2001:db8::1]:7000")),
        (
            "redis://127.0.0.1",
            config().public_address("redis://[2001:db8::1]:7000"),
        ),
    ] {
        let address = address(url, config).unwrap();
        let told = address.for_agent(asker(true)).await.unwrap();
        assert_eq!(told, "[2001:db8::1]:7000");
        let refused = address.for_agent(asker(false)).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("NANOCTRL_REDIS_ADVERTISE"), "{refused}");
    }
}

#[tokio::test]
async fn the_address_that_an_agent_has_reached_is_the_one_that_it_is_told() {
    let address = address("redis://127.0.0.1:7000", config()).unwrap();
    let told = |reached: &str, is_native| {
        let asker = Asker {
            at: "198.51.100.9",
            reached: Some(reached.parse().unwrap()),
            is_native,
        };
        address.for_agent(asker)
    };
    let own = own_address(Asker::default()).await;
    assert_eq!(
        told("198.51.100.3", false).await.unwrap(),
        "198.51.100.3:7000"
    );
    assert_eq!(
        told("::ffff:198.51.100.3", false).await.unwrap(),
        "198.51.100.3:7000"
    );
    assert_eq!(
        told("2001:db8::3", true).await.unwrap(),
        "[2001:db8::3]:7000"
    );
    // It came through something on this host.
    assert_eq!(
        told("127.0.0.1", true).await.unwrap(),
        format!("{own}:7000")
    );
}
