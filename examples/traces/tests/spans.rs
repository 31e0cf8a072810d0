//! Spans of calls as OpenTelemetry records them: at both ends, and in one trace whatever lies
//! between.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use opentelemetry::trace::{Link, TraceState};
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceId, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, InMemorySpanExporterBuilder, Sampler, SamplingDecision, SamplingResult,
    SdkTracerProvider, ShouldSample, SpanData,
};
use slimerpc_actors::{PeerAgent, Proxy, RpcError, Share, service};
use tokio::sync::Notify;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, info_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

/// Longer than anything takes unless it hangs.
const LONG: Duration = Duration::from_secs(20);
/// The name of a span that is not sampled, and so nothing within it is.
const UNSAMPLED: &str = "unsampled";

/// Samples what has no parent, unless it is called [`UNSAMPLED`].
#[derive(Debug, Clone)]
struct ByName;

impl ShouldSample for ByName {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        name: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        SamplingResult {
            decision: match name {
                UNSAMPLED => SamplingDecision::Drop,
                _ => SamplingDecision::RecordAndSample,
            },
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

/// The spans of this process that have ended.
static ENDED: LazyLock<InMemorySpanExporter> = LazyLock::new(|| {
    let exporter = InMemorySpanExporterBuilder::new().build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(ByName)))
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let wanted = Targets::new()
        .with_target("slimerpc::call", LevelFilter::DEBUG)
        .with_target("spans", LevelFilter::INFO);
    registry().with(layer.with_filter(wanted)).init();
    // It exports as long as it is there.
    std::mem::forget(provider);
    exporter
});

#[derive(Default)]
struct Inner;

#[service]
impl Inner {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        info_span!("thinking").in_scope(|| a + b)
    }
}

struct Outer {
    inner: Proxy<Inner>,
    seen: Arc<AtomicU64>,
    waits: Arc<Notify>,
}

impl Share for Outer {
    type Shared = AtomicU64;
    fn share(&self) -> Arc<AtomicU64> {
        self.seen.clone()
    }
}

#[service]
impl Outer {
    #[method]
    async fn nested(&mut self, n: i64) -> Result<i64, RpcError> {
        self.inner.add(n, 1).await
    }

    #[method(oneway)]
    fn note(&mut self, n: u64) {
        self.seen.store(n, Ordering::Relaxed);
    }

    #[method(stream)]
    fn count(&mut self, to: u32) -> impl Stream<Item = u32> {
        stream::iter(0..to)
    }

    #[method(raw)]
    fn reversed(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().rev().copied().collect()
    }

    #[method(parallel)]
    async fn seen(seen: &AtomicU64) -> u64 {
        info_span!("looking").in_scope(|| seen.load(Ordering::Relaxed))
    }

    #[method]
    fn refuses(&mut self) -> Result<(), String> {
        Err("not today".to_owned())
    }

    #[method]
    fn panics(&mut self) {
        panic!("on purpose");
    }

    #[method]
    async fn waits(&mut self) {
        self.waits.notify_one();
        std::future::pending().await
    }
}

/// Three agents of a scope of their own.
struct Job {
    driver: PeerAgent,
    outer: PeerAgent,
    inner: PeerAgent,
    waits: Arc<Notify>,
}

impl Job {
    async fn start(scope: &str) -> Self {
        LazyLock::force(&ENDED);
        let agent = async |alias: &str| {
            let builder = PeerAgent::builder().scope(scope).alias(alias);
            builder.start().await.unwrap()
        };
        let [driver, outer, inner] = [
            agent("driver").await,
            agent("outer").await,
            agent("inner").await,
        ];
        inner.serve(Inner).await.unwrap();
        let waits = Arc::<Notify>::default();
        let state = Outer {
            inner: outer.proxy("inner").await.unwrap(),
            seen: Arc::default(),
            waits: waits.clone(),
        };
        outer.serve(state).await.unwrap();
        Self {
            driver,
            outer,
            inner,
            waits,
        }
    }

    async fn proxy(&self) -> Proxy<Outer> {
        self.driver.proxy("outer").await.unwrap()
    }
}

/// The trace of what `calls` does within a span, once it has this many lines.
async fn trace_of<T>(lines: usize, calls: impl Future<Output = T>) -> (String, T) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let root = format!("root {}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let span = info_span!("root", otel.name = root);
    let result = calls.instrument(span).await;
    let until = Instant::now() + LONG;
    loop {
        let ended = ENDED.get_finished_spans().unwrap();
        let told = ended.iter().find(|span| span.name == root).map(|root| {
            let mut told = String::new();
            draw(&mut told, &ended, root.span_context.span_id(), 0);
            told
        });
        let told = told.unwrap_or_default();
        if told.lines().count() >= lines {
            return (told, result);
        }
        assert!(
            Instant::now() < until,
            "{lines} lines are too many:\n{told}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Draws what began within the span `parent`.
fn draw(told: &mut String, ended: &[SpanData], parent: SpanId, depth: usize) {
    let mut below: Vec<_> = ended
        .iter()
        .filter(|it| it.parent_span_id == parent)
        .collect();
    below.sort_by_key(|it| it.start_time);
    for span in below {
        let kind = match span.span_kind {
            SpanKind::Client => "call ",
            SpanKind::Server => "handler ",
            _ => "",
        };
        let failed = match span.status {
            Status::Error { .. } => " (failed)",
            _ => "",
        };
        let outcome = attribute(span, "outcome").unwrap_or_default();
        let indent = "  ".repeat(depth);
        writeln!(told, "{indent}{kind}{} {outcome}{failed}", span.name).unwrap();
        draw(told, ended, span.span_context.span_id(), depth + 1);
    }
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|it| it.key.as_str() == key);
    found.map(|it| it.value.to_string())
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).collect()
}

#[actix::test]
async fn nested_calls_are_one_trace_with_a_span_at_each_end() {
    let job = Job::start("nested").await;
    let outer = job.proxy().await;
    let (told, sum) = trace_of(5, async { outer.nested(41).await }).await;
    assert_eq!(sum, Ok(42));
    let expected = [
        "call Outer/nested ok",
        "  handler Outer/nested ok",
        "    call Inner/add ok",
        "      handler Inner/add ok",
        "        thinking",
    ];
    assert_eq!(lines(&told), expected);

    let ended = ENDED.get_finished_spans().unwrap();
    let of = |kind, peer: &str| {
        let is_it = |span: &&SpanData| {
            span.span_kind == kind
                && attribute(span, "peer").as_deref() == Some(peer)
                && attribute(span, "rpc.method").as_deref() == Some("nested")
        };
        ended.iter().find(is_it).unwrap()
    };
    for span in [
        of(SpanKind::Client, "outer"),
        of(SpanKind::Server, "driver"),
    ] {
        assert_eq!(attribute(span, "rpc.system").as_deref(), Some("slimerpc"));
        assert_eq!(attribute(span, "rpc.service").as_deref(), Some("Outer"));
    }
    assert!(of(SpanKind::Server, "driver").parent_span_is_remote);
}

#[actix::test]
async fn every_way_to_call_has_its_spans() {
    let job = Job::start("ways").await;
    let outer = job.proxy().await;
    let call = async {
        outer.note(7).await.unwrap();
        drop(outer.note(7));
        let items = outer.count(3).map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(items.await, [0, 1, 2]);
        assert_eq!(outer.reversed(b"abc").await.unwrap(), b"cba");
        let large = vec![5; 1 << 20];
        assert_eq!(outer.reversed(&large).await.unwrap(), large);
        assert_eq!(outer.seen().await.unwrap(), 7);
        let blocking = outer.blocking();
        let parent = tracing::Span::current();
        let wait = move || parent.in_scope(|| blocking.seen().wait());
        assert_eq!(tokio::task::spawn_blocking(wait).await.unwrap(), Ok(7));
    };
    let (told, ()) = trace_of(16, call).await;
    let expected = [
        "call Outer/note told",
        "  handler Outer/note ok",
        "call Outer/note told",
        "  handler Outer/note ok",
        "call Outer/count ok",
        "  handler Outer/count ok",
        "call Outer/reversed ok",
        "  handler Outer/reversed ok",
        "call Outer/reversed ok",
        "  handler Outer/reversed ok",
        "call Outer/seen ok",
        "  handler Outer/seen ok",
        "    looking",
        "call Outer/seen ok",
        "  handler Outer/seen ok",
        "    looking",
    ];
    assert_eq!(lines(&told), expected);
}

#[actix::test]
async fn calls_that_wait_for_a_credit_belong_to_their_trace() {
    let job = Job::start("credits").await;
    let outer = job.proxy().await;
    let slots = outer.channel().unwrap().geometry().slots();
    let all = || (0..2 * slots).map(|_| outer.reversed(b"ab"));
    let call = async { futures_util::future::join_all(all()).await };
    let (told, results) = trace_of(4 * slots, call).await;
    assert!(results.iter().all(Result::is_ok));
    let pair = ["call Outer/reversed ok", "  handler Outer/reversed ok"];
    assert_eq!(lines(&told), pair.repeat(2 * slots));
}

#[actix::test]
async fn spans_tell_how_calls_ended_otherwise() {
    let job = Job::start("ends").await;
    let outer = job.proxy().await;
    let call = async {
        outer.refuses().await.unwrap_err();
        outer.panics().await.unwrap_err();
        let late = outer.waits().timeout(Duration::from_millis(20)).await;
        assert!(matches!(late, Err(RpcError::Timeout { .. })), "{late:?}");
        job.waits.notified().await;
        let dropped = outer.waits();
        job.waits.notified().await;
        drop(dropped);
        // A stream that nobody reads to its end.
        let mut items = outer.count(u32::MAX);
        items.next().await.unwrap().unwrap();
        drop(items);
        let lost = outer.waits();
        job.waits.notified().await;
        job.outer.shutdown().await.unwrap();
        let lost = lost.await;
        assert!(matches!(lost, Err(RpcError::PeerLost { .. })), "{lost:?}");
    };
    let (told, ()) = trace_of(12, call).await;
    let expected = [
        "call Outer/refuses error (failed)",
        "  handler Outer/refuses error (failed)",
        "call Outer/panics error (failed)",
        "  handler Outer/panics error (failed)",
        "call Outer/waits timeout (failed)",
        "  handler Outer/waits cancelled (failed)",
        "call Outer/waits cancelled (failed)",
        "  handler Outer/waits cancelled (failed)",
        "call Outer/count cancelled (failed)",
        "  handler Outer/count cancelled (failed)",
        "call Outer/waits lost (failed)",
        "  handler Outer/waits cancelled (failed)",
    ];
    assert_eq!(lines(&told), expected);
}

#[actix::test]
async fn a_call_that_is_not_sampled_tells_the_service_nothing() {
    let job = Job::start("unsampled").await;
    let inner: Proxy<Inner> = job.driver.proxy("inner").await.unwrap();
    let span = info_span!("root", otel.name = UNSAMPLED);
    let sum = async { inner.add(20, 3).await }.instrument(span).await;
    assert_eq!(sum, Ok(23));
    job.inner.shutdown().await.unwrap();
    let ended = ENDED.get_finished_spans().unwrap();
    // The service samples for itself: its handler is the root of a trace.
    let is_it = |span: &&SpanData| {
        span.parent_span_id == SpanId::INVALID
            && span.name == "Inner/add"
            && attribute(span, "peer").as_deref() == Some("driver")
    };
    let handlers: Vec<_> = ended.iter().filter(is_it).collect();
    assert_eq!(handlers.len(), 1);
    assert_eq!(handlers[0].span_kind, SpanKind::Server);
}

#[actix::test]
async fn a_stream_that_could_not_be_opened_says_why_although_nobody_looks() {
    let job = Job::start("unopened").await;
    let outer = job.proxy().await;
    job.outer.shutdown().await.unwrap();
    let until = Instant::now() + LONG;
    while outer.channel().is_some_and(|it| it.closed().is_none()) {
        assert!(Instant::now() < until, "it is not lost");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (told, ()) = trace_of(1, async { drop(outer.count(3)) }).await;
    assert_eq!(lines(&told), ["call Outer/count lost (failed)"]);
}
