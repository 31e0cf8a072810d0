//! What connections cost that have rested since they had nothing to do, and what their next call
//! takes.

use std::thread;
use std::time::{Duration, Instant};

use crate::connections::Connections;
use crate::row::{Row, Unit};
use crate::suite::Suite;
use crate::support::Result;
use crate::worker::{Agents, Worker};

const IDLE: Duration = Duration::from_secs(1);
/// They rest by then, and so do their heartbeats.
const RESTED: Duration = Duration::from_secs(5);

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let count = suite.args.connections as usize;
    let report = &suite.report;
    report.expect(2);
    report.step("resting");
    let settings = Agents::of(suite).idle_after(IDLE);
    let mut working = Worker::new(settings.clone()).start()?;
    // The first connection brings what all of them share.
    let first = Connections::make(suite, &settings, 1, working.alias())?;
    first.check(suite)?;
    thread::sleep(RESTED);
    let (before, open_before) = (working.account()?, working.descriptors()?);
    let connections = Connections::in_groups(suite, &settings, count, working.alias())?;
    thread::sleep(RESTED);
    let (resting, open) = (working.account()?, working.descriptors()?);
    let began = Instant::now();
    thread::sleep(Duration::from_secs_f64(suite.args.idle));
    let later = working.account()?;
    let cpu = later.cpu_percent(&resting, began.elapsed().as_secs_f64());

    let each = resting.footprint.each(before.footprint, count);
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let what = |what: &str| format!("a connection that rests, at the service, {what}");
    let registered = kib(each.registered - each.validity);
    report.row(&Row::new(what("registered"), registered, Unit::Kibibytes).at_most(64.0));
    report.row(&Row::new(what("resident"), kib(each.resident), Unit::Kibibytes).at_most(16.0));
    let descriptors = open.saturating_sub(open_before) as f64 / count as f64;
    report.row(&Row::new(what("descriptors"), descriptors, Unit::EachAgent).none());
    let row = Row::new(
        format!("processor, service with {count} connections that rest"),
        cpu,
        Unit::Percent,
    );
    report.row(&row.under(0.5));

    report.step("called again");
    let mut took = Vec::with_capacity(count);
    for proxy in connections.iter().flat_map(Connections::proxies) {
        let began = Instant::now();
        if proxy.add(40, 2).wait()? != 42 {
            return Err("a connection adds wrongly".into());
        }
        took.push(began.elapsed());
    }
    took.sort();
    for (name, at) in [("p50", count / 2), ("p99", count * 99 / 100)] {
        let micros = took[at.min(count - 1)].as_secs_f64() * 1e6;
        let what = format!("first call after a rest, {name}");
        report.row(&Row::new(what, micros, Unit::Micros));
    }
    connections
        .into_iter()
        .try_for_each(|some| some.end(suite))?;
    first.end(suite)
}
