//! ractor's cluster over a unix socket.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, call, pg};
use ractor_cluster::{
    BoxRead, BoxWrite, ClusterBidiStream, NodeServer, NodeServerMessage, RactorClusterMessage,
};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::{Peer, runtime};
use crate::child::{self, Child};
use crate::measure::{self, Echo, Job, Window};
use crate::socket;
use crate::support;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "ractor-cluster",
    bytes: "bytes as they are, in a protobuf frame; encoded and decoded at each end, in and out of the kernel each way; tokio",
    serve: Some(serve),
    measure,
};

const GROUP: &str = "echo";
/// Until the actor is found.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(RactorClusterMessage)]
enum Message {
    #[rpc]
    Echo(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

struct Echoing;

impl Actor for Echoing {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        Message::Echo(bytes, reply): Message,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(reply.send(bytes)?)
    }
}

struct Unix(UnixStream);

impl ClusterBidiStream for Unix {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (from, to) = self.0.into_split();
        (Box::new(from), Box::new(to))
    }

    fn peer_label(&self) -> Option<String> {
        None
    }

    fn local_label(&self) -> Option<String> {
        None
    }
}

/// A node that speaks with one other over `stream`. It listens on a port of its own, too, which
/// nobody uses.
async fn join(name: &str, stream: UnixStream, is_server: bool) -> support::Result<()> {
    let (cookie, host) = ("slimerpc-bench".to_owned(), "localhost".to_owned());
    let node = NodeServer::new(0, cookie, name.to_owned(), host, None, None)
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(1 << 30);
    let (node, _) = Actor::spawn(None, node, ()).await?;
    let opened = NodeServerMessage::ConnectionOpenedExternal {
        stream: Box::new(Unix(stream)),
        is_server,
    };
    Ok(node
        .cast(opened)
        .map_err(|error| format!("the node ended: {error}"))?)
}

struct Caller {
    runtime: Runtime,
    echo: ActorRef<Message>,
}

impl Caller {
    async fn call(echo: &ActorRef<Message>, request: &[u8]) -> support::Result<Vec<u8>> {
        let reply: Result<_, ractor::RactorErr<Message>> =
            call!(echo, Message::Echo, request.to_vec());
        reply.map_err(|error| format!("{error}").into())
    }
}

impl Echo for Caller {
    fn echo(&mut self, request: &[u8]) -> support::Result<impl AsRef<[u8]>> {
        self.runtime.block_on(Self::call(&self.echo, request))
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> support::Result<()> {
        let call = || async { Self::call(&self.echo, request).await.map(drop) };
        self.runtime.block_on(window.fill(call))
    }
}

fn serve(at: &str) -> support::Result<()> {
    runtime()?.block_on(async {
        let (echo, ended) = Actor::spawn(None, Echoing, ()).await?;
        pg::join(GROUP.to_owned(), vec![echo.get_cell()]);
        let listener = socket::tokio::listen(at)?;
        child::ready();
        join("service", listener.accept().await?.0, true).await?;
        Ok(ended.await?)
    })
}

async fn find(at: &str) -> support::Result<ActorRef<Message>> {
    join("caller", socket::tokio::connect(at)?, false).await?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let members = pg::get_members(&GROUP.to_owned());
        if let Some(echo) = members.into_iter().next() {
            return Ok(echo.into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the actor is not found".into())
}

fn measure(job: &Job, report: &mut Report) -> support::Result<()> {
    let name = socket::name(PEER.name);
    let mut child = Child::serving(PEER.name, &name, job.limit())?;
    child.line()?;
    let runtime = runtime()?;
    let echo = runtime.block_on(find(&name))?;
    measure::all(job, &mut Caller { runtime, echo }, report)
}
