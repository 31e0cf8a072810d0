//! Which fabric a connection uses, and what an agent opens for those that it does not use.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::StreamExt;
use slimerpc::channel::LossCause;
use slimerpc::fabric::faults::{Fault, Faults, Plan};
use slimerpc::fabric::{self, CompletionStatus};
use slimerpc_actors::{
    AgentError, AgentEvent, LinkType, Mismatch, PeerAgent, PeerEvent, Rights, RpcError, Timeouts,
    service,
};
use support::alone::is_alone;
use support::within;

struct Double;

#[service]
impl Double {
    #[method]
    fn of(&mut self, number: u64) -> u64 {
        2 * number
    }
}

async fn agent(alias: &str, fabrics: &str) -> PeerAgent {
    let builder = PeerAgent::builder().alias(alias).fabrics(fabrics);
    builder.start().await.unwrap()
}

/// The kind of link over which `caller` calls `worker`.
async fn link(caller: &PeerAgent, worker: &str) -> LinkType {
    let double = caller.proxy::<Double>(worker).await.unwrap();
    assert_eq!(double.of(4).await, Ok(8));
    double.channel().unwrap().link().unwrap()
}

/// Whether this process waits for peers over TCP.
fn listens() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")));
    names.flatten().any(|name| name.trim() == "slimerpc-tcp")
}

#[actix::test]
async fn callers_choose_and_no_port_is_opened_before_one_is_used() {
    let this = "callers_choose_and_no_port_is_opened_before_one_is_used";
    if !is_alone(module_path!(), this) {
        return;
    }
    let worker = agent("any", "shm,rdma,tcp").await;
    worker.serve(Double).await.unwrap();
    let buffer = worker.allocate(8, Rights::Read).unwrap();
    buffer.write(0, b"contents").unwrap();
    let near = agent("near", "shm,tcp").await;
    assert_eq!(link(&near, "any").await, LinkType::Shm);
    near.attach(&buffer.handle()).await.unwrap();
    assert!(!listens());

    for fabrics in ["tcp,shm", "tcp"] {
        let far = agent("far", fabrics).await;
        assert_eq!(link(&far, "any").await, LinkType::Tcp);
        assert!(listens());
        let mut bytes = [0; 8];
        let remote = far.attach(&buffer.handle()).await.unwrap();
        remote.read_at(0, &mut bytes).await.unwrap();
        assert_eq!(&bytes, b"contents");
        far.shutdown().await.unwrap();
    }
}

/// What `agent` says of its only peer, once they are connected: the kind of link, and why.
async fn told(agent: &PeerAgent) -> (LinkType, String) {
    let connected = async {
        loop {
            let peers = agent.peers().await.unwrap();
            assert!(peers.len() <= 1, "{peers:?}");
            if let Some(link) = peers.first().and_then(|peer| peer.link) {
                return (link, peers[0].why.clone());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the peer is reached", connected).await
}

#[actix::test]
async fn an_agent_tells_which_fabric_it_uses_towards_each_peer_and_why() {
    let worker = agent("told", "shm,tcp").await;
    worker.serve(Double).await.unwrap();
    for (fabrics, link, why) in [
        (
            "shm,tcp",
            LinkType::Shm,
            "same host, user and network namespace",
        ),
        ("tcp,shm", LinkType::Tcp, "tcp comes first here"),
        ("tcp", LinkType::Tcp, "the only fabric here"),
    ] {
        let driver = agent("teller", fabrics).await;
        assert_eq!(driver.peers().await.unwrap(), []);
        let double = driver.proxy::<Double>("told").await.unwrap();
        assert_eq!(told(&driver).await, (link, why.to_owned()), "{fabrics}");
        if link == LinkType::Tcp && fabrics != "tcp" {
            let (theirs, why) = told(&worker).await;
            assert_eq!((theirs, &*why), (LinkType::Tcp, "the peer chose it"));
        }
        drop(double);
        driver.shutdown().await.unwrap();
        let ended = driver.peers().await;
        assert!(matches!(ended, Err(AgentError::ShutDown)), "{ended:?}");
        let gone = async {
            while !worker.peers().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("it is forgotten", gone).await;
    }
}

#[actix::test]
async fn a_fabric_that_is_not_listed_is_not_used() {
    let worker = agent("shm-only", "shm").await;
    worker.serve(Double).await.unwrap();
    let far = agent("tcp-only", "tcp").await;
    let refused = far.proxy::<Double>("shm-only").await.unwrap_err();
    assert!(
        matches!(
            &refused,
            AgentError::Refused { mismatch: Mismatch::Link { ours, theirs, .. }, .. }
                if (&**ours, &**theirs) == (&[LinkType::Tcp], &[LinkType::Shm])
        ),
        "{refused}"
    );
    let both = PeerAgent::builder().fabrics("tcp").device("shm0");
    let refused = both.start().await.unwrap_err().to_string();
    assert!(
        refused.contains("fabrics is tcp") && refused.contains("shm0 is of the fabric shm"),
        "{refused}"
    );
}

/// Agents behind an address where nobody listens. Either of two dials, by chance: that one is told
/// the address, and the other that nothing came.
#[actix::test]
async fn a_peer_whose_address_leads_nowhere_is_an_error_of_connecting() {
    // `tcp0` listens at 127.0.0.1.
    let astray = |alias: String| {
        let limit = Timeouts::default().connect_timeout(Duration::from_millis(500));
        let builder = PeerAgent::builder().alias(alias).fabrics("tcp");
        builder.tcp_advertise("127.0.0.2").timeouts(limit)
    };
    let mut is_told = false;
    for number in 0..20 {
        let worker = astray(format!("astray:{number}")).start().await.unwrap();
        worker.serve(Double).await.unwrap();
        let caller = astray(format!("caller:{number}")).start().await.unwrap();
        let refused = within("an error", caller.proxy::<Double>(worker.alias())).await;
        let error = refused.unwrap_err();
        let text = error.to_string();
        match error {
            AgentError::ConnectTimeout { .. } => assert!(text.contains(worker.alias()), "{text}"),
            _ => {
                assert!(
                    text.contains("127.0.0.2:") && text.contains("advertise"),
                    "{text}"
                );
                is_told = true;
                break;
            }
        }
    }
    assert!(is_told);
}

/// Nothing that is sent over shared memory arrives, though both ends connect.
#[actix::test]
async fn calls_go_on_over_the_next_fabric_where_connections_keep_failing() {
    let faults = Faults::new(
        Plan::new().with(Fault::SendFails(CompletionStatus::RetryExceeded).chance(1.0)),
    );
    let worker = agent("worker", "shm,tcp").await;
    worker.serve(Double).await.unwrap();
    let plan = faults.clone();
    let builder = PeerAgent::builder().alias("caller").fabrics("shm,tcp");
    let builder = builder.wrap_device(move |device| match device.name() {
        fabric::SHM => plan.wrap(device),
        _ => device,
    });
    let caller = builder.start().await.unwrap();
    let mut events = caller.events();
    let double = caller.proxy::<Double>("worker").await.unwrap();
    assert_eq!(double.channel().unwrap().link(), Some(LinkType::Shm));

    let mut failed = 0;
    let called = async {
        loop {
            match double.of(4).await {
                Ok(number) => return number,
                Err(RpcError::PeerLost { .. }) => failed += 1,
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(within("a call is answered", called).await, 8);
    assert!(failed >= 1);
    assert_eq!(double.channel().unwrap().link(), Some(LinkType::Tcp));
    let event = within("it is told", events.next()).await.unwrap();
    let expected = AgentEvent::FabricChanged {
        peer: "worker".to_owned(),
        from: LinkType::Shm,
        to: LinkType::Tcp,
        cause: LossCause::Completion(CompletionStatus::RetryExceeded),
    };
    assert_eq!(event, expected);

    // Other proxies and the watch of the peer use it from the beginning.
    let other = caller.proxy::<Double>("worker").await.unwrap();
    assert_eq!(other.of(5).await, Ok(10));
    assert_eq!(other.channel().unwrap().link(), Some(LinkType::Tcp));
    let mut watch = within("the peer is watched", caller.watch("worker"))
        .await
        .unwrap();
    let first = within("the peer is reached", watch.next()).await;
    assert!(
        matches!(first, Some(PeerEvent::Connected { .. })),
        "{first:?}"
    );
    let (link, why) = told(&caller).await;
    assert_eq!(link, LinkType::Tcp);
    assert!(why.contains("is avoided for 5 min"), "{why}");
}
