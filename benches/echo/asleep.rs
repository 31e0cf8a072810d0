//! Both sides sleep between two messages: what being woken takes, against a socket, which always works like that.

use std::time::Duration;

use crate::SMALL;
use crate::in_turns::{Slice, in_turns};
use crate::row::{Row, Unit};
use crate::slices;
use crate::socket::Socket;
use crate::suite::Suite;
use crate::support::{Figures, Result};
use crate::worker::{Agents, Pair};

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let mut socket = Socket::start()?;
    let pair = Pair::start(suite, &Agents::of(suite)?.busy_poll(Duration::ZERO))?;
    let (echo, request) = (&pair.echo, [7; SMALL]);
    let inside = slices::runtime()?;
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        (
            "unix socket",
            Box::new(move |seconds| socket.measure(seconds)),
        ),
        ("raw call", slices::raw(echo, &request)),
        (
            "raw call in a runtime",
            slices::raw_inside(&inside, echo, &request),
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
