//! What it costs a call that somebody listens for spans: the same call with a subscriber that takes
//! those of one call in a thousand, and without.

use std::sync::OnceLock;

use slimerpc_actors::trace_one_in;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, registry};

use crate::SMALL;
use crate::in_turns::{Slice, in_turns, record};
use crate::row::{Row, Unit};
use crate::slices;
use crate::suite::Suite;
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
    record(suite, SMALL, NAMES.into_iter().zip(&figures));
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

/// Listens for the spans of one call in so many from now on, and writes them nowhere; for none, if
/// it is 0.
pub(crate) fn listen(one_in: u32) -> Result<()> {
    static LEVEL: OnceLock<Handle<LevelFilter, Registry>> = OnceLock::new();
    let level = LEVEL.get_or_init(|| {
        let (level, handle) = reload::Layer::new(LevelFilter::OFF);
        let spans = fmt::layer()
            .with_writer(std::io::sink)
            .with_span_events(FmtSpan::CLOSE);
        registry().with(spans.with_filter(level)).init();
        handle
    });
    trace_one_in(one_in);
    level.reload(match one_in {
        0 => LevelFilter::OFF,
        _ => LevelFilter::DEBUG,
    })?;
    Ok(())
}

/// Measures `call` while somebody listens.
fn listening<'a>(one_in: u32, mut call: Slice<'a, Figures>) -> Slice<'a, Figures> {
    Box::new(move |seconds| {
        listen(one_in)?;
        let measured = call(seconds);
        listen(0)?;
        measured
    })
}
