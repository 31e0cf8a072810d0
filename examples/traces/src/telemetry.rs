//! Sends this process' spans to a collector.

use opentelemetry::trace::{Link, SpanKind, TraceId, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SamplingResult, SdkTracerProvider, ShouldSample};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::Result;

/// Samples part of what begins in this process. A handler that continues no trace was called from
/// what is not sampled.
#[derive(Debug, Clone)]
struct Begun(Sampler);

impl ShouldSample for Begun {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = match kind {
            SpanKind::Server => &Sampler::AlwaysOff,
            _ => &self.0,
        };
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

/// Sends spans of the process `name` to the collector at `endpoint` from now on, of a part of all
/// steps. What this returns is to be shut down in the end: it sends the last ones.
pub(crate) fn start(name: &str, endpoint: &str, part: f64) -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()?;
    let resource = Resource::builder().with_service_name(name.to_owned());
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        // Spans within others follow those, in other processes too: a trace is whole or not there.
        .with_sampler(Sampler::ParentBased(Box::new(Begun(
            Sampler::TraceIdRatioBased(part),
        ))))
        .with_batch_exporter(exporter)
        .build();
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("traces"));
    let wanted = Targets::new()
        .with_target("slimerpc::call", LevelFilter::DEBUG)
        .with_target("traces", LevelFilter::INFO);
    let registry = tracing_subscriber::registry().with(spans.with_filter(wanted));
    registry.try_init()?;
    Ok(provider)
}

/// Sends the spans that have not been sent. An error says that the collector did not get all.
pub(crate) async fn end(spans: SdkTracerProvider) -> Result<()> {
    // It waits for the collector, which may be served by this thread.
    let sent =
        tokio::task::spawn_blocking(move || spans.force_flush().and_then(|()| spans.shutdown()));
    Ok(sent.await??)
}
