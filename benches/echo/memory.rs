//! What connections take that nobody uses, at either end: memory that is registered, and memory
//! that is resident, what is used of the registered included.

use std::time::Instant;

use crate::connections::Connections;
use crate::row::{Row, Unit};
use crate::suite::Suite;
use crate::support::Result;
use crate::support::footprint::Footprint;
use crate::worker::{Agents, Echo, Worker};

/// Does not fit the slots that a connection begins with.
const LARGE: usize = 16 << 10;
/// Calls of that size after the first.
const LATER: usize = 20;

pub(crate) fn run(suite: &Suite) -> Result<()> {
    suite.report.expect(3);
    at_the_service(suite)?;
    at_the_caller(suite)
}

/// Many agents connect to one service.
fn at_the_service(suite: &Suite) -> Result<()> {
    let count = suite.args.connections as usize;
    suite.report.step("callers");
    let settings = Agents::of(suite);
    let mut working = Worker::new(settings.clone()).start()?;
    // The first connection brings what all of them share.
    let first = Connections::make(suite, &settings, 1, working.alias())?;
    first.check(suite)?;
    let (before, open) = (working.account()?.footprint, working.descriptors()?);
    let connections = Connections::make(suite, &settings, count, working.alias())?;
    connections.check(suite)?;
    let after = working.account()?.footprint;
    rows(suite, "the service's end", after.each(before, count));
    let opened = working.descriptors()?.saturating_sub(open) as f64;
    let what = "a connection at the service's end, descriptors";
    let row = Row::new(what, opened / count as f64, Unit::EachAgent);
    suite.report.row(&row.at_most(3.0));
    growth(suite, &connections)?;
    connections.end(suite)?;
    first.end(suite)
}

/// The first message of each connection that does not fit its slots, for which they grow, against
/// later ones of the same size.
fn growth(suite: &Suite, connections: &Connections) -> Result<()> {
    suite.report.step("growth");
    let message = [7; LARGE];
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for proxy in connections.proxies() {
        let timed = |_| {
            let began = Instant::now();
            let echoed = proxy.raw(&message).wait();
            let took = began.elapsed().as_secs_f64() * 1e6;
            match echoed?.len() {
                LARGE => Ok(took),
                len => Err(format!("{len} bytes come back").into()),
            }
        };
        let took = (0..LATER + 1).map(timed).collect::<Result<Vec<_>>>()?;
        first.push(took[0]);
        later.push(median(took[1..].to_vec()));
    }
    let (first, later) = (median(first), median(later));
    let what = "growth: a first call of 16 KiB less a later one, p50";
    let row = Row::new(what, first - later, Unit::Micros);
    suite.report.row(&row.at_most(200.0));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One agent connects to a service of each of many.
fn at_the_caller(suite: &Suite) -> Result<()> {
    let count = suite.args.connections as usize;
    suite.report.step("services");
    let settings = Agents::of(suite);
    let working = Worker::new(settings.clone()).agents(count + 1).start()?;
    let name = format!("caller-{}", suite.number());
    let agent = suite.runtime.block_on(settings.named(&name).start())?;
    let mut proxies = Vec::with_capacity(count + 1);
    let mut before = None;
    for alias in working.aliases() {
        let proxy = suite.runtime.block_on(agent.proxy::<Echo>(alias))?;
        if proxy.add(40, 2).wait()? != 42 {
            return Err("a connection adds wrongly".into());
        }
        proxies.push(proxy);
        // The first connection brings what all of them share.
        if before.is_none() {
            before = Some(Footprint::of_this_process()?);
        }
    }
    let after = Footprint::of_this_process()?;
    let each = before.map(|before| after.each(before, count));
    drop(proxies);
    suite.runtime.block_on(agent.shutdown())?;
    if let Some(each) = each {
        rows(suite, "the caller's end", each);
    }
    Ok(())
}

fn rows(suite: &Suite, end: &str, each: Footprint) {
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let row = |what: &str, bytes| {
        let what = format!("a connection at {end}, {what}");
        Row::new(what, kib(bytes), Unit::Kibibytes)
    };
    // Of a region of shared memory one page says whether it is still there; peers cannot write it.
    let registered = row("registered", each.registered - each.validity);
    suite.report.row(&registered.at_most(64.0));
    suite
        .report
        .row(&row("resident", each.resident).at_most(16.0));
}
