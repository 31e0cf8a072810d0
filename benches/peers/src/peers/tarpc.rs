//! tarpc over a unix socket, or over TCP where ours uses it, with its bincode transport.

use futures_util::StreamExt as _;
use serde_bytes::ByteBuf;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::{Framed, LengthDelimitedCodec};
use tarpc::{client, context, serde_transport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use super::{Peer, runtime};
use crate::child::{self, Child};
use crate::measure::{self, Echo, Job, Window};
use crate::socket;
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "tarpc",
    bytes: "bincode, bytes as a block; encoded, framed and decoded at each end, in and out of the kernel each way; tokio",
    serve: Some(serve),
    measure,
};

#[tarpc::service]
trait Bytes {
    async fn echo(bytes: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Echoing;

impl Bytes for Echoing {
    async fn echo(self, _: context::Context, bytes: ByteBuf) -> ByteBuf {
        bytes
    }
}

/// Frames of any length that the bench may want.
fn framed<S: AsyncRead + AsyncWrite>(stream: S) -> Framed<S, LengthDelimitedCodec> {
    LengthDelimitedCodec::builder()
        .max_frame_length(1 << 30)
        .new_framed(stream)
}

struct Caller {
    runtime: Runtime,
    client: BytesClient,
}

impl Caller {
    async fn call(client: &BytesClient, request: &[u8]) -> Result<ByteBuf> {
        let bytes = ByteBuf::from(request);
        Ok(client.echo(context::current(), bytes).await?)
    }
}

impl Echo for Caller {
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        let call = Self::call(&self.client, request);
        self.runtime.block_on(call).map(ByteBuf::into_vec)
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()> {
        let call = || async { Self::call(&self.client, request).await.map(drop) };
        self.runtime.block_on(window.fill(call))
    }
}

fn serve(at: &str) -> Result<()> {
    runtime()?.block_on(async {
        if let Some(at) = socket::tokio::tcp(at) {
            let listener = socket::tokio::listen_tcp(at).await?;
            child::ready();
            answer(socket::tokio::accept_tcp(&listener).await?).await;
        } else {
            let listener = socket::tokio::listen(at)?;
            child::ready();
            answer(listener.accept().await?.0).await;
        }
        Ok(())
    })
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let transport = serde_transport::new(framed(stream), Bincode::default());
    let requests = BaseChannel::with_defaults(transport).execute(Echoing.serve());
    requests
        .for_each(|request| async {
            tokio::spawn(request);
        })
        .await;
}

/// Inside a runtime.
fn client(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> BytesClient {
    let transport = serde_transport::new(framed(stream), Bincode::default());
    BytesClient::new(client::Config::default(), transport).spawn()
}

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let at = socket::address(PEER.name, &job.device)?;
    let mut child = Child::serving(PEER.name, &at, job.limit())?;
    child.line()?;
    let runtime = runtime()?;
    let client = runtime.block_on(async {
        Ok::<_, std::io::Error>(match socket::tokio::tcp(&at) {
            Some(at) => client(socket::tokio::connect_tcp(at).await?),
            None => client(socket::tokio::connect(&at)?),
        })
    })?;
    measure::all(job, &mut Caller { runtime, client }, report)
}
