//! Many agents connect to one worker, all at once: how long it takes, and whether each costs the
//! same however many there are.

use crate::connections::Connections;
use crate::row::{Row, Unit};
use crate::suite::Suite;
use crate::support::Result;
use crate::worker::{Agents, Worker};

const COUNTS: [usize; 2] = [10, 100];
/// How much more a connection may cost among many than among few, to be called the same.
const FLAT: f64 = 1.2;

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let most = suite.args.agents as usize;
    let counts: Vec<_> = COUNTS.into_iter().filter(|count| *count < most).collect();
    suite.report.expect(1 + counts.len() as u64);
    let mut first = None;
    for count in counts.into_iter().chain([most]) {
        suite.report.step(&format!("{count} agents"));
        let settings = Agents::of(suite);
        let working = Worker::new(settings.clone()).start()?;
        let connections = Connections::make(suite, &settings, count, working.alias())?;
        connections.check(suite)?;
        let (starting, connecting) = (connections.starting, connections.connecting);
        connections.end(suite)?;

        let each = connecting.as_secs_f64() * 1e3 / count as f64;
        let row = Row::new(
            format!("connecting {count} agents, each"),
            each,
            Unit::Millis,
        );
        suite.report.row(&match first {
            None => row,
            Some((few, each)) => row.against(format!("of {few}"), each).at_most_times(FLAT),
        });
        first.get_or_insert((count, each));
        if count == most {
            let what = format!("connecting {count} agents, in all");
            let row = Row::new(what, connecting.as_secs_f64(), Unit::Seconds);
            suite.report.row(&row.under(1.0));
            let what = format!("starting {count} agents before, in all");
            let row = Row::new(what, starting.as_secs_f64(), Unit::Seconds);
            suite.report.row(&row);
        }
    }
    Ok(())
}
