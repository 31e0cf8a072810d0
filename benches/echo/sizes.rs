//! Latency against size: a raw ping-pong of WRITE_WITH_IMM on the fabric, a raw call (bytes), a
//! typed call (a `String` through bincode), and plain copies of as many bytes there and back.

use slimerpc_actors::Proxy;

use crate::LEAST;
use crate::in_turns::{Slice, in_turns};
use crate::pong::Fabric;
use crate::slices;
use crate::suite::Suite;
use crate::support::record::{Record, rounded};
use crate::support::{Figures, Result, pretty};
use crate::worker::{Agents, Echo, Pair};

const SIZES: [usize; 10] = [
    64,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
];
/// Sizes up to this one are measured between agents with many small slots, others with few large
/// ones.
const SMALL_SLOTS: usize = 64 << 10;
const NAMES: [&str; 4] = ["memcpy", "fabric", "raw call", "typed call"];

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let largest = suite.args.largest();
    let agents = Agents::of(suite).polling();
    let mut fabric = Fabric::start(&suite.args.device, largest)?;
    let small = Pair::start(suite, &agents.clone().slots(64, SMALL_SLOTS))?;
    let large = if largest > SMALL_SLOTS {
        Some(Pair::start(suite, &agents.slots(2, largest))?)
    } else {
        None
    };
    suite.report.say(
        "\nround trip, us   memcpy   |      fabric       |          raw call          |         typed call\n     \
            size       p50    |     p50       p99 |      p50       p99   ratio |      p50       p99   ratio",
    );
    for size in SIZES.into_iter().filter(|size| *size <= largest) {
        let pair = large.as_ref().filter(|_| size > SMALL_SLOTS);
        let echo = &pair.unwrap_or(&small).echo;
        let figures = measure(suite, &mut fabric, echo, size)?;
        show(suite, size, &figures);
    }
    for pair in [Some(small), large].into_iter().flatten() {
        pair.end(suite)?;
    }
    Ok(())
}

/// In the order of [`NAMES`].
fn measure(
    suite: &Suite,
    fabric: &mut Fabric,
    echo: &Proxy<Echo>,
    size: usize,
) -> Result<Vec<Figures>> {
    let request = vec![b'x'; size];
    let text = String::from_utf8(request.clone())?;
    let slices: [Slice<'_, Figures>; 4] = [
        slices::memcpy(size),
        Box::new(|seconds| fabric.measure(size, seconds)),
        slices::raw(echo, &request),
        Box::new(|seconds| {
            let call = || echo.typed(text.clone()).wait().map(drop);
            Ok(Figures::measure(seconds, LEAST, call)?)
        }),
    ];
    let what = pretty(size);
    in_turns(suite, slices.map(|slice| (what.as_str(), slice)).into())
}

fn show(suite: &Suite, size: usize, figures: &[Figures]) {
    let [memcpy, fabric, raw, typed] = figures else {
        return;
    };
    suite.report.say(&format!(
        "{:>9} {:>9.2}    | {:>8.2} {:>8.2} | {:>8.2} {:>9.2} {:>7.2} | {:>8.2} {:>9.2} {:>7.2}",
        pretty(size),
        memcpy.p50,
        fabric.p50,
        fabric.p99,
        raw.p50,
        raw.p99,
        raw.p50 / fabric.p50,
        typed.p50,
        typed.p99,
        typed.p50 / fabric.p50,
    ));
    for (name, Figures { p50, p99, .. }) in NAMES.iter().zip(figures) {
        suite.report.record(Record {
            what: (*name).to_owned(),
            size: Some(size),
            p50_us: Some(rounded(*p50)),
            p99_us: Some(rounded(*p99)),
            against: "fabric".to_owned(),
            ratio: Some(rounded(p50 / fabric.p50)),
            ..Record::default()
        });
    }
}
