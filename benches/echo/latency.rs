//! 64 bytes there and back while both sides poll: from what the machine can do at all up to typed
//! calls.

use crate::cache_line::CacheLine;
use crate::in_turns::{Slice, in_turns};
use crate::pong::Fabric;
use crate::row::{Row, Unit};
use crate::slices;
use crate::suite::Suite;
use crate::support::record::{Record, rounded};
use crate::support::{Figures, Result};
use crate::worker::{Agents, Pair};
use crate::{LEAST, SMALL};

const NAMES: [&str; 6] = [
    "fabric",
    "raw call",
    "raw call, in place",
    "raw call in a runtime",
    "add(i64, i64)",
    "cache line",
];

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let mut fabric = Fabric::start(&suite.args.device, SMALL)?;
    let pair = Pair::start(suite, &Agents::of(suite).polling())?;
    let (echo, request) = (&pair.echo, [7; SMALL]);
    let inside = slices::runtime()?;
    let mut slices: Vec<Slice<'_, Figures>> = vec![
        Box::new(move |seconds| fabric.measure(SMALL, seconds)),
        slices::raw(echo, &request),
        Box::new(|seconds| {
            let call = || echo.in_place(&request).lent().wait().map(drop);
            Ok(Figures::measure(seconds, LEAST, call)?)
        }),
        slices::raw_inside(&inside, echo, &request),
        Box::new(|seconds| {
            let call = || echo.add(40, 2).wait().map(drop);
            Ok(Figures::measure(seconds, LEAST, call)?)
        }),
    ];
    if suite.args.is_shared_memory() {
        let mut line = CacheLine::start()?;
        slices.push(Box::new(move |seconds| line.measure(seconds)));
    }
    let figures = in_turns(suite, NAMES.into_iter().zip(slices).collect())?;
    for (name, Figures { p50, p99, .. }) in NAMES.iter().zip(&figures) {
        suite.report.record(Record {
            what: (*name).to_owned(),
            size: Some(SMALL),
            p50_us: Some(rounded(*p50)),
            p99_us: Some(rounded(*p99)),
            ..Record::default()
        });
    }
    rows(suite, &figures);
    pair.end(suite)
}

fn rows(suite: &Suite, figures: &[Figures]) {
    let [fabric, raw, in_place, inside, add, floor @ ..] = figures else {
        return;
    };
    let report = &suite.report;
    let ping_pong = Row::new("fabric ping-pong, 64 B", fabric.p50, Unit::Micros);
    match floor {
        [floor] => report.row(
            &ping_pong
                .against("cache line", floor.p50)
                .at_most_times(3.0),
        ),
        _ => {
            report.skip(
                "cache line",
                "it is the floor of shared memory, not of this device",
            );
            report.row(&ping_pong);
        }
    }
    for (what, figures) in [
        ("raw call, 64 B", raw),
        ("raw call, 64 B, in place, reply lent", in_place),
        ("raw call, 64 B, inside a runtime", inside),
    ] {
        let row = Row::new(what, figures.p50, Unit::Micros);
        report.row(&row.against("ping-pong", fabric.p50).at_most_times(1.5));
    }
    let row = Row::new("typed add(i64, i64)", add.p50, Unit::Micros);
    report.row(
        &row.against("ping-pong", fabric.p50)
            .at_most_times_and(2.0, 1.0),
    );
    let row = Row::new("p99 of raw calls, 64 B", raw.p99, Unit::Micros);
    report.row(&row.against("their p50", raw.p50).at_most_times(5.0));
}
