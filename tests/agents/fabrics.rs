//! Which fabric a connection uses, and what an agent opens for those that it does not use.
#![allow(clippy::unwrap_used)]

use slimerpc_actors::{AgentError, LinkType, Mismatch, PeerAgent, Rights, service};
use support::alone::is_alone;

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
