//! Large echoes in place against plain copies of as many bytes there and back.
//!
//! In place the caller's bytes come into being in the service's ring, and the reply is read where
//! it arrives. What is left is one copy: the handler's own into the caller's ring, or the WRITE
//! there of the request that is the reply. On a device it is the WRITE each way, too. Beyond a slot
//! it is: into registered memory, READ by the service, READ by the caller.

use slimerpc_actors::{Proxy, Reply};

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
    let agents = Agents::of(suite).polling();
    let slots = Pair::start(suite, &agents.clone().slots(2, size))?;
    let beyond = Pair::start(suite, &agents)?;
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        ("memcpy", slices::memcpy(size)),
        ("in place", untouched(&slots.echo, size)),
        ("beyond slots", untouched(&beyond.echo, size)),
        (
            "copied",
            Box::new(|seconds| {
                let echo = || check(slots.echo.in_place_with(|room| fill(room, size)), size);
                Figures::measure(seconds, LEAST, echo)
            }),
        ),
    ];
    let figures = in_turns(suite, slices)?;
    if let [memcpy, in_place, beyond, copied] = figures.as_slice() {
        let row = |what: &str, figures: &Figures| {
            let what = format!("echo of {}, {what}", pretty(size));
            Row::new(what, figures.p50, Unit::Micros).against("memcpy each way", memcpy.p50)
        };
        suite
            .report
            .row(&row("in place", in_place).at_most_times(1.3));
        suite.report.row(&row("in place, beyond slots", beyond));
        suite.report.row(&row("copied by the handler", copied));
    }
    beyond.end(suite)?;
    slots.end(suite)
}

/// Echoes of so many bytes, which are read where they arrive.
pub(crate) fn untouched(echo: &Proxy<Echo>, size: usize) -> Slice<'_, Figures> {
    Box::new(move |seconds| {
        let echo = || check(echo.untouched_with(|room| fill(room, size)), size);
        Figures::measure(seconds, LEAST, echo)
    })
}

/// Writes a request, as far as there is room.
fn fill(room: &mut [u8], size: usize) -> usize {
    if let Some(first) = room.first_mut() {
        *first = b'a';
    }
    size
}

/// One echo, the beginning of which is looked at.
fn check(reply: Reply<Vec<u8>>, size: usize) -> Result<()> {
    let reply = reply.lent().wait()?;
    match &*reply {
        [b'a', ..] if reply.len() == size => Ok(()),
        _ => Err(format!("{} of {size} bytes came back", reply.len()).into()),
    }
}
