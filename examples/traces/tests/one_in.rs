//! Of calls outside of any span, only some have spans. (Alone in its process: that is a setting of
//! the whole process.)
#![allow(clippy::unwrap_used)]

use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporterBuilder, SdkTracerProvider};
use slimerpc_actors::{PeerAgent, Proxy, service, trace_one_in};
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, info_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

const CALLS: usize = 1_000;

#[derive(Default)]
struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }
}

#[actix::test]
async fn calls_outside_of_any_span_are_chosen_by_chance_and_those_within_one_have_theirs() {
    let ended = InMemorySpanExporterBuilder::new().build();
    let provider = SdkTracerProvider::builder();
    let provider = provider.with_simple_exporter(ended.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let wanted = Targets::new()
        .with_target("slimerpc::call", LevelFilter::DEBUG)
        .with_target("one_in", LevelFilter::INFO);
    registry().with(layer.with_filter(wanted)).init();

    let worker = PeerAgent::builder().alias("worker").start().await.unwrap();
    worker.serve(Calc).await.unwrap();
    let driver = PeerAgent::builder().alias("driver").start().await.unwrap();
    let calc: Proxy<Calc> = driver.proxy("worker").await.unwrap();
    let call = async |times: usize| {
        for _ in 0..times {
            assert_eq!(calc.add(1, 2).await, Ok(3));
        }
    };

    trace_one_in(4);
    call(CALLS).await;
    // The last handlers may end a little later.
    let calls = || {
        let all = ended.get_finished_spans().unwrap();
        let calls = all.iter().filter(|it| it.span_kind == SpanKind::Client);
        calls.count()
    };
    // Of 1,000, one in 4: beyond these once in 10^12 runs.
    assert!((150..350).contains(&calls()), "{}", calls());

    trace_one_in(u32::MAX);
    ended.reset();
    call(100).await;
    assert_eq!(calls(), 0);
    ended.reset();
    call(10).instrument(info_span!("step")).await;
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
    let within = ended.get_finished_spans().unwrap();
    let named = within.iter().filter(|it| it.name == "Calc/add");
    assert_eq!(named.count(), 20, "at both ends");
    let trace = within[0].span_context.trace_id();
    assert!(within.iter().all(|it| it.span_context.trace_id() == trace));
}
