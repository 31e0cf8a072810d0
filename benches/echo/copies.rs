//! Large echoes in place against plain copies of as many bytes there and back.
//!
//! In place the caller's bytes come into being in registered memory, and the reply is read where it arrives. What is left
//! is the WRITE there, the handler's own copy, and the WRITE back. Beyond a slot it is: into registered memory, READ by the
//! service, the handler's copy, into registered memory, READ by the caller.

use slimerpc_actors::Proxy;

use crate::LEAST;
use crate::in_turns::{Slice, in_turns};
use crate::row::{Row, Unit};
use crate::slices;
use crate::suite::Suite;
use crate::support::{Figures, Result, pretty};
use crate::worker::{Agents, Echo, Pair};

const SIZES: [usize; 2] = [1 << 20, 16 << 20];

pub(crate) fn run(suite: &Suite) -> Result<()> {
    for size in SIZES {
        if size > suite.args.largest() {
            suite.report.skip(
                &format!("echo of {}", pretty(size)),
                "it is beyond --largest",
            );
            continue;
        }
        echoes(suite, size)?;
    }
    Ok(())
}

fn echoes(suite: &Suite, size: usize) -> Result<()> {
    let agents = Agents::of(suite)?.polling();
    let slots = Pair::start(suite, &agents.clone().slots(2, size))?;
    let beyond = Pair::start(suite, &agents)?;
    let bytes = vec![b'x'; size];
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        ("memcpy", slices::memcpy(size)),
        (
            "in place",
            Box::new(|seconds| Figures::measure(seconds, LEAST, || in_place(&slots.echo, size))),
        ),
        (
            "beyond slots",
            Box::new(|seconds| {
                let call = || beyond.echo.raw(&bytes).lent().wait().map(drop);
                Ok(Figures::measure(seconds, LEAST, call)?)
            }),
        ),
    ];
    let figures = in_turns(suite, slices)?;
    if let [memcpy, in_place, beyond] = figures.as_slice() {
        let row = |what: &str, figures: &Figures| {
            let what = format!("echo of {}, {what}", pretty(size));
            Row::new(what, figures.p50, Unit::Micros).against("memcpy each way", memcpy.p50)
        };
        suite
            .report
            .row(&row("in place", in_place).at_most_times(1.3));
        suite.report.row(&row("beyond slots, lent", beyond));
    }
    beyond.end(suite)?;
    slots.end(suite)
}

/// One echo, the beginning of which is looked at.
fn in_place(echo: &Proxy<Echo>, size: usize) -> Result<()> {
    let write = |room: &mut [u8]| {
        room[0] = b'a';
        size
    };
    let reply = echo.in_place_with(write).lent().wait()?;
    match &*reply {
        [b'a', ..] if reply.len() == size => Ok(()),
        _ => Err(format!("{} of {size} bytes came back", reply.len()).into()),
    }
}
