//! Both sides sleep between two messages, as nobody calls for a while: what being woken takes,
//! against a socket.

use std::thread;
use std::time::Duration;

use crate::in_turns::{Slice, in_turns};
use crate::row::{Row, Unit};
use crate::slices;
use crate::socket::Socket;
use crate::suite::Suite;
use crate::support::{Figures, Result};
use crate::worker::{Agents, Pair};
use crate::{LEAST, SMALL};

/// Between two messages.
const PAUSE: Duration = Duration::from_micros(200);

/// Until whoever waits for the next message sleeps.
pub(crate) fn pause() {
    thread::sleep(PAUSE);
}

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let mut socket = Socket::start()?;
    let pair = Pair::start(suite, &Agents::of(suite).busy_poll(Duration::ZERO))?;
    let (echo, request) = (&pair.echo, [7; SMALL]);
    let inside = slices::runtime()?;
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        (
            "unix socket",
            Box::new(move |seconds| socket.measure(seconds, pause)),
        ),
        (
            "raw call",
            Box::new(|seconds| {
                let call = || echo.raw(&request).wait().map(drop);
                Ok(Figures::measure_between(seconds, LEAST, pause, call)?)
            }),
        ),
        (
            "raw call in a runtime",
            Box::new(|seconds| {
                let call = || inside.block_on(echo.raw(&request)).map(drop);
                Ok(Figures::measure_between(seconds, LEAST, pause, call)?)
            }),
        ),
    ];
    if let [socket, raw, inside] = in_turns(suite, slices)?.as_slice() {
        for (what, figures) in [
            ("raw call, 64 B, both asleep", raw),
            ("raw call, 64 B, both asleep, in a runtime", inside),
        ] {
            let row = Row::new(what, figures.p50, Unit::Micros);
            let row = row.against("unix socket", socket.p50);
            suite.report.row(&row.at_most_times(1.5));
        }
    }
    pair.end(suite)
}
