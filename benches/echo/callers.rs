//! A service and more and more callers that do nothing: what each costs it, and what a call of
//! another takes beside them. `callers.svg` is drawn from this.

use std::thread;
use std::time::{Duration, Instant};

use crate::SMALL;
use crate::connections::Connections;
use crate::in_turns::in_turns;
use crate::slices;
use crate::suite::Suite;
use crate::support::Result;
use crate::support::record::{Record, rounded};
use crate::worker::{Agents, Pair, Worker};

/// The most is given with `--agents`.
const COUNTS: [usize; 5] = [1, 10, 100, 300, 600];
/// What is left to do after connecting is done.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let most = suite.args.agents as usize;
    let counts = COUNTS.into_iter().filter(|count| *count < most);
    let counts: Vec<_> = counts.chain([most]).collect();
    suite.report.expect(counts.len() as u64);
    suite.report.say(&format!(
        "\ncallers that do nothing, of one service\n{:>8} {:>12} {:>9} {:>12} {:>11} {:>12} {:>8}",
        "callers", "connect each", "p50", "service CPU", "registered", "resident", "open"
    ));
    counts
        .into_iter()
        .try_for_each(|count| beside(suite, count))
}

fn beside(suite: &Suite, count: usize) -> Result<()> {
    suite.report.step(&format!("{count} callers"));
    let settings = Agents::of(suite);
    let mut pair = Pair::with(
        suite,
        &settings.clone().polling(),
        Worker::new(settings.clone().polling()),
    )?;
    pair.echo.add(40, 2).wait()?;
    let (alone, open_alone) = (pair.working.account()?, pair.working.descriptors()?);
    let others = Connections::in_groups(suite, &settings, count, pair.working.alias())?;
    let connecting: Duration = others.iter().map(|made| made.connecting).sum();
    thread::sleep(SETTLE);
    let (full, open_full) = (pair.working.account()?, pair.working.descriptors()?);
    let each = full.footprint.each(alone.footprint, count);

    // A part of the suite's: it is waited for once for each number.
    let idle = Duration::from_secs_f64(suite.args.idle / 5.0);
    let began = Instant::now();
    thread::sleep(idle);
    let later = pair.working.account()?;
    let cpu = later.cpu_percent(&full, began.elapsed().as_secs_f64());

    let request = [7; SMALL];
    let figures = in_turns(suite, vec![("call", slices::raw(&pair.echo, &request))])?;
    let p50 = figures[0].p50;
    let connecting = connecting.as_secs_f64() * 1e3 / count as f64;
    let [registered, resident] =
        [each.registered - each.validity, each.resident].map(|bytes| bytes as f64 / 1024.0);
    let open_each = open_full.saturating_sub(open_alone) as f64 / count as f64;
    suite.report.say(&format!(
        "{count:>8} {connecting:>9.2} ms {p50:>6.2} us {cpu:>10.2} % {registered:>7.0} KiB {resident:>8.1} KiB {open_each:>8.2}"
    ));
    suite.report.record(Record {
        what: "raw call".to_owned(),
        size: Some(SMALL),
        callers: Some(count),
        p50_us: Some(rounded(p50)),
        p99_us: Some(rounded(figures[0].p99)),
        connect_ms: Some(rounded(connecting)),
        service_cpu_percent: Some(rounded(cpu)),
        registered_kib: Some(rounded(registered)),
        resident_kib: Some(rounded(resident)),
        descriptors: Some(rounded(open_each)),
        ..Record::default()
    });
    others.into_iter().try_for_each(|some| some.end(suite))?;
    pair.end(suite)
}
