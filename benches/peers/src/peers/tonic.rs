//! tonic, which is gRPC over HTTP/2, on a unix socket, or on TCP where ours uses it. What protoc
//! would generate is written out, with bytes as messages.

use std::convert::Infallible;
use std::future::{Ready, ready};

use bytes::{Buf, BufMut as _, Bytes};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{self, UnaryService};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

use super::{Peer, runtime};
use crate::child::{self, Child};
use crate::measure::{self, Echo, Job, Window};
use crate::socket;
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "tonic",
    bytes: "no codec; copied into a gRPC frame and shared from there, in and out of the kernel each way; tokio",
    serve: Some(serve),
    measure,
};

const PATH: &str = "/slimerpc.Bytes/Echo";

/// Messages are bytes as they are.
#[derive(Default, Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, to: &mut EncodeBuf<'_>) -> std::result::Result<(), Status> {
        to.reserve(bytes.len());
        to.put(bytes);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> std::result::Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[derive(Clone)]
struct Echoing;

impl UnaryService<Bytes> for Echoing {
    type Response = Bytes;
    type Future = Ready<std::result::Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echoing {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let grpc = server::Grpc::new(Plain).max_decoding_message_size(usize::MAX);
            Ok({ grpc }.unary(Self, request).await)
        })
    }
}

struct Caller {
    runtime: Runtime,
    channel: Channel,
}

impl Caller {
    async fn call(channel: &Channel, request: &[u8]) -> Result<Bytes> {
        let grpc = client::Grpc::new(channel.clone());
        let mut grpc = grpc.max_decoding_message_size(usize::MAX);
        grpc.ready().await?;
        let request = Request::new(Bytes::copy_from_slice(request));
        let path = PathAndQuery::from_static(PATH);
        Ok(grpc.unary(request, path, Plain).await?.into_inner())
    }
}

impl Echo for Caller {
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        self.runtime.block_on(Self::call(&self.channel, request))
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()> {
        let call = || async { Self::call(&self.channel, request).await.map(drop) };
        self.runtime.block_on(window.fill(call))
    }
}

fn serve(at: &str) -> Result<()> {
    runtime()?.block_on(async {
        if let Some(at) = socket::tokio::tcp(at) {
            let listener = socket::tokio::listen_tcp(at).await?;
            child::ready();
            let incoming = stream::unfold(listener, |listener| async {
                let stream = socket::tokio::accept_tcp(&listener).await;
                Some((stream, listener))
            });
            let incoming = std::pin::pin!(incoming);
            let served = Server::builder().serve_with_incoming(Echoing, incoming);
            return Ok(served.await?);
        }
        let listener = socket::tokio::listen(at)?;
        child::ready();
        let incoming = stream::unfold(listener, |listener| async {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((stream, listener))
        });
        let incoming = std::pin::pin!(incoming);
        Ok(Server::builder()
            .serve_with_incoming(Echoing, incoming)
            .await?)
    })
}

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let at = socket::address(PEER.name, &job.device)?;
    let mut child = Child::serving(PEER.name, &at, job.limit())?;
    child.line()?;
    let runtime = runtime()?;
    let channel = runtime.block_on(async {
        // An authority is required, and means nothing.
        let endpoint = Endpoint::from_static("http://localhost");
        if let Some(at) = socket::tokio::tcp(&at) {
            let connect = tower::service_fn(move |_: Uri| async move {
                socket::tokio::connect_tcp(at).await.map(TokioIo::new)
            });
            return endpoint.connect_with_connector(connect).await;
        }
        let connect = tower::service_fn(move |_: Uri| {
            let stream = socket::tokio::connect(&at);
            async { stream.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connect).await
    })?;
    measure::all(job, &mut Caller { runtime, channel }, report)
}
