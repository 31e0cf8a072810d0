//! What it costs a call that somebody listens for spans: the same call with a subscriber that takes
//! those of one call in a thousand, and without.

use std::sync::atomic::{AtomicU32, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
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
            format!("raw call, 64 B, spans of {}", NAMES[of]),
            figures[of].p50,
            Unit::Micros,
        );
        row.against(NAMES[0], figures[0].p50)
    };
    suite.report.row(&row(1).at_most_times(1.05));
    suite.report.row(&row(2));
    pairs.into_iter().try_for_each(|(pair, _)| pair.end(suite))
}

/// Takes the spans of one call in so many, and what is within them: none if it is 0.
struct OneIn(&'static AtomicU32);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for OneIn {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        metadata.target() == "slimerpc::call::continued"
            || fastrand::u32(..self.0.load(Ordering::Relaxed).max(1)) == 0
            || context.lookup_current().is_some()
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.target().starts_with("slimerpc::call") {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.0.load(Ordering::Relaxed) {
            0 => LevelFilter::OFF,
            _ => LevelFilter::DEBUG,
        })
    }
}

/// Listens for the spans of one call in so many from now on, and writes them nowhere.
pub(crate) fn listen(one_in: u32) {
    static ONE_IN: AtomicU32 = AtomicU32::new(0);
    ONE_IN.store(one_in, Ordering::Relaxed);
    let spans = fmt::layer()
        .with_writer(std::io::sink)
        .with_span_events(FmtSpan::CLOSE);
    // An error means that it is there already.
    let _ = registry()
        .with(spans.with_filter(OneIn(&ONE_IN)))
        .try_init();
    tracing::callsite::rebuild_interest_cache();
}

/// Measures `call` while somebody listens.
fn listening<'a>(one_in: u32, mut call: Slice<'a, Figures>) -> Slice<'a, Figures> {
    Box::new(move |seconds| {
        listen(one_in);
        let measured = call(seconds);
        listen(0);
        measured
    })
}
