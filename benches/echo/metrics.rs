//! What counting calls costs them: the same call between agents that count and between agents that
//! do not.

use crate::SMALL;
use crate::in_turns::{in_turns, record};
use crate::row::{Row, Unit};
use crate::slices;
use crate::suite::Suite;
use crate::support::Result;
use crate::worker::{Agents, Pair};

const NAMES: [&str; 2] = ["not counted", "counted"];

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let settings = Agents::of(suite).polling();
    let plain = Pair::start(suite, &settings)?;
    let counting = Pair::start(suite, &settings.counting())?;
    let request = [7; SMALL];
    let slices = [&plain, &counting].map(|pair| slices::raw(&pair.echo, &request));
    let figures = in_turns(suite, NAMES.into_iter().zip(slices).collect())?;
    record(suite, SMALL, NAMES.into_iter().zip(&figures));
    let row = Row::new("raw call, 64 B, counted", figures[1].p50, Unit::Micros);
    let row = row.against("not counted", figures[0].p50);
    suite.report.row(&row.at_most_times(1.15));
    plain.end(suite)?;
    counting.end(suite)
}
