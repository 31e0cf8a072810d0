//! Agents with certificates, over TCP: `--features tls`.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use futures_util::{TryStreamExt, stream};
use slimerpc::channel::{ConnectError, Mismatch};
use slimerpc::tls::{CertificateProblem, TlsError};
use slimerpc_actors::{
    AgentError, Builder, FabricError, LinkType, PeerAgent, Rights, Stream, service,
};
use support::certificates::{Authority, Issued};
use support::{unique, until};
use tokio::time::timeout;

const MIB: usize = 1 << 20;

#[derive(Default)]
struct Store;

#[service]
impl Store {
    #[method]
    fn twice(&mut self, n: i64) -> i64 {
        2 * n
    }

    #[method(raw)]
    fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method(stream)]
    fn count(&mut self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to)
    }
}

fn over_tcp(alias: &str) -> Builder {
    PeerAgent::builder().alias(alias).device("tcp0")
}

fn with(builder: Builder, authority: &Authority, issued: &Issued) -> Builder {
    builder.tls(&issued.cert, &issued.key, authority.ca())
}

/// An agent with a certificate for its alias.
fn named(authority: &Authority, alias: &str) -> Builder {
    let file = alias.replace(':', "-");
    let issued = authority.issue(&file, &format!("URI:slimerpc:{alias}"));
    with(over_tcp(alias), authority, &issued)
}

#[actix::test]
async fn calls_streams_and_large_payloads_go_over_tls() {
    let authority = Authority::new();
    let [here, there] = ["driver", "worker"].map(unique);
    let worker = named(&authority, &there).start().await.unwrap();
    let driver = named(&authority, &here).start().await.unwrap();
    worker.serve(Store).await.unwrap();
    let store = driver.proxy::<Store>(&there).await.unwrap();
    assert_eq!(store.channel().unwrap().link(), Some(LinkType::Tcp));
    assert_eq!(store.twice(4).await, Ok(8));
    let items: Vec<u64> = store.count(1000).try_collect().await.unwrap();
    assert_eq!(items, (0..1000).collect::<Vec<_>>());
    let sent: Vec<u8> = (0..16 * MIB).map(|at| (at * 7 / 3) as u8).collect();
    for len in [0, 1, 40_000, MIB + 1, 16 * MIB] {
        let back = store.echo(&sent[..len]).await.unwrap();
        assert!(back == sent[..len], "{len} bytes");
    }
    let many: Vec<_> = (0..16).map(|n| store.twice(n)).collect();
    for (n, reply) in (0..).zip(many) {
        assert_eq!(reply.await, Ok(2 * n));
    }
    // One-sided, too.
    let buffer = worker.allocate(MIB, Rights::ReadWrite).unwrap();
    buffer.write(0, &sent[..MIB]).unwrap();
    let remote = driver.attach(&buffer.handle()).await.unwrap();
    assert!(remote.read(0, MIB).await.unwrap()[..] == sent[..MIB]);
}

/// The error of a proxy to the other agent.
async fn refused(driver: Builder, worker: Builder) -> AgentError {
    let worker = worker.start().await.unwrap();
    let driver = driver.start().await.unwrap();
    worker.serve(Store).await.unwrap();
    driver.proxy::<Store>(worker.alias()).await.unwrap_err()
}

fn of_tls(error: AgentError) -> TlsError {
    match error {
        AgentError::Connect(ConnectError::Fabric(FabricError::Tls { error, .. })) => error,
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn a_caller_is_told_which_certificate_is_refused_and_why() {
    use CertificateProblem::{Expired, UnknownAuthority};
    let (authority, stranger) = (Authority::new(), Authority::new());
    // Either end may dial, and refuse.
    for _ in 0..4 {
        let names = || ["driver", "worker"].map(unique);
        let [here, there] = names();
        let uri = format!("URI:slimerpc:{there}");
        let expired = with(
            over_tcp(&there),
            &authority,
            &authority.issue_expired("old", &uri),
        );
        let error = of_tls(refused(named(&authority, &here), expired).await);
        assert_eq!(error, TlsError::Theirs(Expired));

        let [here, there] = names();
        let uri = format!("URI:slimerpc:{here}");
        let expired = with(
            over_tcp(&here),
            &authority,
            &authority.issue_expired("old", &uri),
        );
        let error = of_tls(refused(expired, named(&authority, &there)).await);
        assert_eq!(error, TlsError::Ours(Expired));

        let [here, there] = names();
        let uri = format!("URI:slimerpc:{there}");
        let strange = with(
            over_tcp(&there),
            &authority,
            &stranger.issue("strange", &uri),
        );
        let error = of_tls(refused(named(&authority, &here), strange).await);
        assert_eq!(error, TlsError::Theirs(UnknownAuthority));

        let [here, there] = names();
        // An agent does not start with the certificate of another, but may be given it later.
        let worker = named(&authority, &there).start().await.unwrap();
        worker.serve(Store).await.unwrap();
        let other = authority.issue("other", "URI:slimerpc:x");
        let file = |end| authority.at(format!("{}.{end}", there.replace(':', "-")));
        fs::copy(&other.key, file("key")).unwrap();
        fs::copy(&other.cert, file("crt")).unwrap();
        let driver = named(&authority, &here).start().await.unwrap();
        let error = driver.proxy::<Store>(&there).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("slimerpc:x") && text.contains(&there),
            "{text}"
        );
    }
}

#[actix::test]
async fn one_agent_with_certificates_and_one_without_are_told_before_they_connect() {
    let authority = Authority::new();
    for ours in [true, false] {
        let [here, there] = ["driver", "worker"].map(unique);
        let (driver, worker) = match ours {
            true => (named(&authority, &here), over_tcp(&there)),
            false => (over_tcp(&here), named(&authority, &there)),
        };
        let error = refused(driver, worker).await;
        assert!(error.to_string().contains("SLIME_RPC_TLS_CERT"), "{error}");
        match error {
            AgentError::Refused { mismatch, .. } => assert_eq!(mismatch, Mismatch::Tls { ours }),
            other => panic!("{other:?}"),
        }
    }
}

#[actix::test]
async fn files_that_are_replaced_count_for_new_connections_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let [here, there] = ["driver", "worker"].map(unique);
    let all = "URI:slimerpc:*";
    let files = [(&here, "here"), (&there, "there")].map(|(alias, file)| {
        let issued = old.issue(file, all);
        // Each has the authority's file for itself.
        let ca = old.at(format!("{file}.ca"));
        fs::copy(old.ca(), &ca).unwrap();
        (
            over_tcp(alias).tls(&issued.cert, &issued.key, &ca),
            issued,
            ca,
        )
    });
    let [(driver, ..), (worker, ..)] = &files;
    let worker = worker.clone().start().await.unwrap();
    let driver = driver.clone().start().await.unwrap();
    worker.serve(Store).await.unwrap();
    let before = driver.proxy::<Store>(&there).await.unwrap();
    assert_eq!(before.twice(1).await, Ok(2));
    let renew = |(_, issued, ca): &(Builder, Issued, std::path::PathBuf)| {
        let made = new.issue("renewed", all);
        fs::copy(&made.cert, &issued.cert).unwrap();
        fs::copy(&made.key, &issued.key).unwrap();
        fs::copy(new.ca(), ca).unwrap();
    };
    renew(&files[1]);
    let error = of_tls(driver.proxy::<Store>(&there).await.unwrap_err());
    let [ours, theirs] = [TlsError::Ours, TlsError::Theirs]
        .map(|refused| refused(CertificateProblem::UnknownAuthority));
    assert!(error == ours || error == theirs, "{error}");
    renew(&files[0]);
    let after = driver.proxy::<Store>(&there).await.unwrap();
    assert_eq!(after.twice(2).await, Ok(4));
    // What was connected before stays so.
    assert_eq!(before.twice(3).await, Ok(6));
}

#[actix::test]
async fn a_peer_that_dies_is_noticed_and_its_successor_is_met_over_tls() {
    let authority = Authority::new();
    let [here, there] = ["driver", "worker"].map(unique);
    let driver = named(&authority, &here).start().await.unwrap();
    let worker = named(&authority, &there);
    let first = worker.clone().start().await.unwrap();
    first.serve(Store).await.unwrap();
    let store = driver.proxy::<Store>(&there).await.unwrap();
    assert_eq!(store.twice(1).await, Ok(2));
    first.shutdown().await.unwrap();
    until("the loss is noticed", || {
        store.channel().is_none_or(|it| it.closed().is_some())
    })
    .await;
    let second = worker.start().await.unwrap();
    second.serve(Store).await.unwrap();
    let back = timeout(Duration::from_secs(20), store.ready())
        .await
        .unwrap();
    back.unwrap();
    assert_eq!(store.twice(2).await, Ok(4));
}

#[actix::test]
async fn an_agent_does_not_start_with_a_file_that_cannot_be_used_and_names_it() {
    let authority = Authority::new();
    let issued = authority.issue("a", "URI:slimerpc:a");
    let missing = authority.at("missing");
    let agent = over_tcp(&unique("a"));
    for (builder, setting) in [
        (
            agent.clone().tls(&missing, &issued.key, authority.ca()),
            "SLIME_RPC_TLS_CERT",
        ),
        (
            agent.clone().tls(&issued.cert, &missing, authority.ca()),
            "SLIME_RPC_TLS_KEY",
        ),
        (
            agent.tls(&issued.cert, &issued.key, &missing),
            "SLIME_RPC_TLS_CA",
        ),
    ] {
        let error = builder.start().await.unwrap_err().to_string();
        assert!(
            error.contains(setting) && error.contains("missing"),
            "{error}"
        );
    }
}

/// Each peer would refuse it, and each at another time.
#[actix::test]
async fn an_agent_does_not_start_with_a_certificate_that_does_not_name_it() {
    let authority = Authority::new();
    let issued = authority.issue("other", "URI:slimerpc:other,DNS:right");
    let start = |alias: &str| with(over_tcp(alias), &authority, &issued).start();
    let error = start("right").await.unwrap_err();
    let told = error.to_string();
    assert!(
        matches!(&error, AgentError::Setting { name, .. } if name == "SLIME_RPC_TLS_CERT"),
        "{error:?}"
    );
    for part in ["other.crt", "slimerpc:other", "URI:slimerpc:right"] {
        assert!(told.contains(part), "{told}");
    }
    start("other").await.unwrap();
    // It meets nobody over TCP.
    let near = PeerAgent::builder().alias("right").device("shm0");
    with(near, &authority, &issued).start().await.unwrap();
}
