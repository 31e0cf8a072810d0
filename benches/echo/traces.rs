//! What it costs a call that somebody listens for spans: the same call with a subscriber that takes
//! those of one call in a thousand, and without.

use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt, registry};

use crate::SMALL;
use crate::in_turns::{Slice, in_turns};
use crate::row::{Row, Unit};
use crate::slices;
use crate::suite::Suite;
use crate::support::record::{Record, rounded};
use crate::support::{Figures, Result};
use crate::worker::{Agents, Pair};

const NAMES: [&str; 3] = ["nobody listens", "one in 1,000", "every call"];

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let settings = Agents::of(suite).polling();
    let pairs = [None, Some(1_000), Some(1)].map(|one_in| {
        Pair::start(suite, &settings.clone().listening(one_in)).map(|pair| (pair, one_in))
    });
    let pairs = pairs.into_iter().collect::<Result<Vec<_>>>()?;
    let request = [7; SMALL];
    let slices = pairs.iter().map(|(pair, one_in)| {
        let call = slices::raw(&pair.echo, &request);
        match one_in {
            None => call,
            Some(one_in) => listening(*one_in, call),
        }
    });
    let figures = in_turns(suite, NAMES.into_iter().zip(slices).collect())?;
    for (name, figures) in NAMES.iter().zip(&figures) {
        suite.report.record(Record {
            what: (*name).to_owned(),
            size: Some(SMALL),
            p50_us: Some(rounded(figures.p50)),
            p99_us: Some(rounded(figures.p99)),
            ..Record::default()
        });
    }
    let row = |of: usize| {
        let row = Row::new(
            &format!("raw call, 64 B, spans of {}", NAMES[of]),
            figures[of].p50,
            Unit::Micros,
        );
        row.against(NAMES[0], figures[0].p50)
    };
    suite.report.row(&row(1).at_most_times(1.05));
    suite.report.row(&row(2));
    pairs.into_iter().try_for_each(|(pair, _)| pair.end(suite))
}

/// Takes the spans of one call in so many, and writes them nowhere.
pub(crate) fn subscriber(one_in: u32) -> impl tracing::Subscriber + Send + Sync {
    let chosen = dynamic_filter_fn(move |metadata, context| {
        let target = metadata.target();
        let is_within = || context.lookup_current().is_some();
        target == "slimerpc::call::continued"
            || target == "slimerpc::call" && (is_within() || fastrand::u32(..one_in) == 0)
    });
    let spans = fmt::layer()
        .with_writer(std::io::sink)
        .with_span_events(FmtSpan::CLOSE);
    registry().with(spans.with_filter(chosen.with_max_level_hint(tracing::Level::DEBUG)))
}

/// Measures `call` while this thread's subscriber listens.
fn listening<'a>(one_in: u32, mut call: Slice<'a, Figures>) -> Slice<'a, Figures> {
    Box::new(move |seconds| {
        let measured = tracing::subscriber::with_default(subscriber(one_in), || call(seconds));
        // It is gone: what is measured next finds that nobody listens.
        tracing::callsite::rebuild_interest_cache();
        measured
    })
}
