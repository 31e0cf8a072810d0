//! A collector of OTLP over HTTP in this process, for those who have none at hand.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use tokio::net::TcpListener;

use crate::Result;

/// Most bytes of a request.
const LIMIT: usize = 16 << 20;

/// Everything that was received.
#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

impl Collector {
    /// Receives spans from now on, at the address that this returns.
    pub(crate) async fn start(&self) -> Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let collector = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let collector = collector.clone();
                let service = service_fn(move |request| collector.clone().receive(request));
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(served);
            }
        });
        Ok(address)
    }

    async fn receive(
        self,
        request: Request<Incoming>,
    ) -> std::result::Result<Response<Empty<Bytes>>, Infallible> {
        let mut response = Response::new(Empty::new());
        let body = Limited::new(request.into_body(), LIMIT).collect().await;
        let spans = body.map(|body| ExportTraceServiceRequest::decode(body.to_bytes()));
        match spans {
            Ok(Ok(spans)) => {
                let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend(spans.resource_spans);
            }
            Ok(Err(_)) | Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        Ok(response)
    }

    /// Takes what was received.
    pub(crate) fn take(&self) -> Vec<ResourceSpans> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
