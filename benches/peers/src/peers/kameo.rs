//! kameo's remote actors: libp2p over TCP on the loopback, as its own bootstrap has it, but without
//! looking for neighbours.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kameo::actor::{ActorRef, RemoteActorRef, Spawn as _};
use kameo::message::{Context, Message};
use kameo::remote::{self, messaging};
use kameo::{Actor, RemoteActor, Reply, remote_message};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, noise, tcp, yamux};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::{Peer, runtime};
use crate::child::Child;
use crate::measure::{self, Echo, Job, Window};
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "kameo-remote",
    bytes: "MessagePack, bytes as a block, a libp2p stream a call; encrypted, in and out of the kernel each way; tokio",
    serve: Some(serve),
    measure,
};

const NAME: &str = "echo";
/// Until the actor is found.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than any message of the bench.
const LARGEST: u64 = 1 << 30;

#[derive(Actor, RemoteActor)]
struct Echoing;

#[derive(Serialize, Deserialize, Reply)]
struct Bytes(#[serde(with = "serde_bytes")] Vec<u8>);

#[remote_message]
impl Message<Bytes> for Echoing {
    type Reply = Bytes;

    async fn handle(&mut self, bytes: Bytes, _: &mut Context<Self, Bytes>) -> Bytes {
        bytes
    }
}

/// Inside a runtime.
fn swarm() -> Result<Swarm<remote::Behaviour>> {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_behaviour(|key| {
            let config = messaging::Config::default()
                .with_max_concurrent_streams(4096)
                .with_request_size_maximum(LARGEST)
                .with_response_size_maximum(LARGEST);
            remote::Behaviour::new(key.public().to_peer_id(), config)
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE * 10))
        .build();
    swarm.behaviour().try_init_global()?;
    Ok(swarm)
}

struct Caller {
    runtime: Runtime,
    echo: RemoteActorRef<Echoing>,
}

impl Caller {
    async fn call(echo: &RemoteActorRef<Echoing>, request: &[u8]) -> Result<Vec<u8>> {
        let Bytes(reply) = echo.ask(&Bytes(request.to_vec())).await?;
        Ok(reply)
    }
}

impl Echo for Caller {
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        self.runtime.block_on(Self::call(&self.echo, request))
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()> {
        let call = || async { Self::call(&self.echo, request).await.map(drop) };
        self.runtime.block_on(window.fill(call))
    }
}

fn serve(_: &str) -> Result<()> {
    runtime()?.block_on(async {
        let mut swarm = swarm()?;
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
        let echo: ActorRef<Echoing> = Echoing::spawn(Echoing);
        // What registers needs a swarm that is polled.
        tokio::spawn(async move { echo.register(NAME).await });
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                println!("{}", address.with(Protocol::P2p(*swarm.local_peer_id())));
            }
        }
    })
}

async fn find(mut at: Multiaddr) -> Result<RemoteActorRef<Echoing>> {
    let Some(Protocol::P2p(service)) = at.pop() else {
        return Err("an address without the peer's identity".into());
    };
    let mut swarm = swarm()?;
    // Its registry asks those whose addresses it was told.
    swarm.add_peer_address(service, at.clone());
    swarm.dial(at.with(Protocol::P2p(service)))?;
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let began = Instant::now();
    loop {
        match RemoteActorRef::lookup(NAME).await {
            Ok(Some(echo)) => return Ok(echo),
            Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
            Ok(None) if began.elapsed() > PATIENCE => return Err("the actor is not found".into()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let mut child = Child::serving(PEER.name, "loopback", job.limit())?;
    let at = child.line()?.parse()?;
    let runtime = runtime()?;
    let echo = runtime.block_on(find(at))?;
    measure::all(job, &mut Caller { runtime, echo }, report)
}
