//! Metrics as Prometheus text, over HTTP.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use slimerpc::settings;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::names::Series;
use crate::observe::Labels;
use crate::{AgentError, Figures};

/// Scrapes at the same time; others wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a connection may take to ask.
const ASKING: Duration = Duration::from_secs(1);
/// How long a connection may take in all.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// A page is served again to those who ask within this time: whoever reaches the port could
/// otherwise keep the agent's supervisor, on whose thread it is made, from its work.
const KEPT: Duration = Duration::from_millis(250);
/// Pause after a connection could not be accepted, as when no descriptor is left.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Listens for scrapes.
pub(crate) struct Exporter {
    listener: TcpListener,
    address: SocketAddr,
}

/// The metrics of one agent, with a recorder of their own: the program's is left alone.
struct Page<R> {
    recorder: PrometheusRecorder,
    series: RefCell<Series>,
    /// The page that was made last, and when.
    kept: RefCell<Option<(Instant, Bytes)>>,
    read: R,
}

impl Exporter {
    /// Listens at `address`, like `127.0.0.1:9464`.
    pub(crate) fn bind(address: &str) -> Result<Self, AgentError> {
        let refuse = |allowed: String| AgentError::Setting {
            name: "metrics_address".into(),
            value: address.to_owned(),
            allowed,
        };
        let parsed = settings::metrics_address(address)?;
        let bind = || -> io::Result<Self> {
            let listener = TcpListener::bind(parsed)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bind().map_err(|error| {
            let what = format!("it cannot be listened at: {error}; choose another, or port 0");
            refuse(what)
        })
    }

    /// The address, with the port that the system chose if it was 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers scrapes on the current thread, until it is dropped.
    pub(crate) async fn serve(self, agent: Labels, read: impl Fn() -> Option<Figures> + 'static) {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "metrics cannot be served"),
        };
        let page = Rc::new(Page {
            recorder: PrometheusBuilder::new().build_recorder(),
            series: RefCell::new(Series::new(agent)),
            kept: RefCell::default(),
            read,
        });
        let limit = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        let mut is_told = false;
        loop {
            let Ok(permit) = limit.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    is_told = false;
                    let page = page.clone();
                    actix::spawn(async move {
                        let _permit = permit;
                        let _ = timeout(TIME_LIMIT, page.answer(stream)).await;
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(%error, "a scrape of metrics cannot be accepted");
                    }
                    sleep(AFTER_ERROR).await;
                }
            }
        }
    }
}

impl<R: Fn() -> Option<Figures>> Page<R> {
    async fn answer(&self, stream: TcpStream) {
        let service = service_fn(async |request| Ok::<_, Infallible>(self.respond(&request)));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ASKING)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a scrape of metrics failed");
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        if request.uri().path() != "/metrics" {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = Full::from("metrics are at /metrics\n");
        } else if request.method() != Method::GET {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            let headers = response.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        } else if let Some(text) = self.text() {
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            *response.body_mut() = Full::from(text);
        } else {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            *response.body_mut() = Full::from("the agent leaves\n");
        }
        response
    }

    /// The page; `None` if there are no more figures.
    fn text(&self) -> Option<Bytes> {
        let mut kept = self.kept.borrow_mut();
        if let Some((_, text)) = kept.as_ref().filter(|(made, _)| made.elapsed() < KEPT) {
            return Some(text.clone());
        }
        let figures = (self.read)()?;
        let mut series = self.series.borrow_mut();
        metrics::with_local_recorder(&self.recorder, || series.record(&figures));
        let text = Bytes::from(self.recorder.handle().render());
        *kept = Some((Instant::now(), text.clone()));
        Some(text)
    }
}
