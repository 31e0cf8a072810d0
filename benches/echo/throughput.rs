//! Calls of 64 bytes a second from one thread, against what the fabric carries, and against calls
//! in flight.
//!
//! Slots are of 4 KiB here: those of 32 KiB, the default, lie at the same place of every page
//! group, and a processor's nearest cache holds few of such lines.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slimerpc_actors::{Proxy, Reply, RpcError};

use crate::SMALL;
use crate::in_turns::{Rate, Slice, in_turns};
use crate::pong::Fabric;
use crate::row::{Row, Unit};
use crate::slices;
use crate::suite::Suite;
use crate::support::Result;
use crate::support::record::{Record, rounded};
use crate::worker::{Agents, Echo, Pair, Worker, service_name};

const INFLIGHT: [usize; 7] = [1, 2, 4, 8, 16, 32, MOST];
const MOST: usize = 64;
const SLOT: usize = 4 << 10;
const SERVICES: usize = 10;
/// Calls between two looks at the clock.
const UNWATCHED: usize = 16;
const REQUEST: [u8; SMALL] = [7; SMALL];

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let mut fabric = Fabric::start(&suite.args.device, SMALL)?;
    let settings = Agents::of(suite).polling().slots(MOST, SLOT);
    let pair = Pair::start(suite, &settings)?;
    // More threads than cores must not poll for long.
    let sleepy = Agents::of(suite).slots(MOST, SLOT);
    let worker = Worker::new(sleepy.clone()).services(SERVICES);
    let many = Pair::with(suite, &sleepy, worker)?;
    let echoes = proxies(suite, &many)?;
    let echo = &pair.echo;
    let inside = slices::runtime()?;

    let mut slices: Vec<(&str, Slice<'_, Rate>)> = vec![
        (
            "messages",
            Box::new(move |seconds| fabric.rate(seconds).map(Rate)),
        ),
        (
            "in a runtime",
            Box::new(|seconds| Ok(inside.block_on(awaited(echo, seconds))?)),
        ),
        (
            "in place",
            Box::new(|seconds| {
                waited(MOST, seconds, || echo.in_place(&REQUEST).lent()).map_err(Into::into)
            }),
        ),
        (
            "10 services",
            Box::new(|seconds| {
                let mut turns = echoes.iter().cycle();
                let call = || turns.next().unwrap_or(echo).raw(&REQUEST);
                Ok(waited(SERVICES * MOST, seconds, call)?)
            }),
        ),
    ];
    for inflight in INFLIGHT {
        let slice = move |seconds| Ok(waited(inflight, seconds, || echo.raw(&REQUEST))?);
        slices.push(("calls in flight", Box::new(slice)));
    }
    let rates = in_turns(suite, slices)?;
    report(suite, &rates);
    many.end(suite)?;
    pair.end(suite)
}

fn proxies(suite: &Suite, many: &Pair) -> Result<Vec<Proxy<Echo>>> {
    let mut proxies = vec![many.echo.clone()];
    for number in 1..SERVICES {
        let name = service_name(number);
        let proxy = many.agent.proxy_named(many.working.alias(), &name);
        proxies.push(suite.runtime.block_on(proxy)?);
    }
    Ok(proxies)
}

fn report(suite: &Suite, rates: &[Rate]) {
    let [messages, inside, in_place, services, series @ ..] = rates else {
        return;
    };
    let report = &suite.report;
    for (inflight, rate) in INFLIGHT.iter().zip(series) {
        report.record(Record {
            what: "raw call".to_owned(),
            size: Some(SMALL),
            inflight: Some(*inflight),
            calls_per_s: Some(rounded(rate.0)),
            ..Record::default()
        });
    }
    report.record(Record {
        what: "fabric".to_owned(),
        size: Some(SMALL),
        calls_per_s: Some(rounded(messages.0)),
        ..Record::default()
    });
    report.row(&Row::new(
        "messages of the fabric, one way",
        messages.0,
        Unit::PerSecond,
    ));
    for (inflight, rate) in INFLIGHT.iter().zip(series) {
        let what = format!("raw calls, {inflight} in flight");
        let row = Row::new(what, rate.0, Unit::PerSecond).against("messages", messages.0);
        report.row(&if *inflight == MOST { wanted(row) } else { row });
    }
    for (what, rate) in [
        ("raw calls, 64 in flight, inside a runtime", inside),
        ("raw calls, 64 in flight, in place, lent", in_place),
    ] {
        let row = Row::new(what, rate.0, Unit::PerSecond).against("messages", messages.0);
        report.row(&wanted(row));
    }
    let what = "raw calls, 10 services, 64 in flight of each";
    let row = Row::new(what, services.0, Unit::PerSecond);
    report.row(&row.against("the dream,", 10e6).at_least(10e6));
}

fn wanted(row: Row) -> Row {
    row.at_least_times(0.5).at_least(1e6)
}

/// From a thread that blocks.
fn waited<T>(
    inflight: usize,
    seconds: f64,
    mut call: impl FnMut() -> Reply<T>,
) -> std::result::Result<Rate, RpcError> {
    let mut replies = VecDeque::with_capacity(inflight);
    let (limit, started) = (Duration::from_secs_f64(seconds), Instant::now());
    let mut calls = 0_u64;
    while started.elapsed() < limit {
        for _ in 0..UNWATCHED {
            while replies.len() < inflight {
                replies.push_back(call());
            }
            if let Some(reply) = replies.pop_front() {
                reply.wait()?;
                calls += 1;
            }
        }
    }
    let rate = Rate(calls as f64 / started.elapsed().as_secs_f64());
    for reply in replies {
        reply.wait()?;
    }
    Ok(rate)
}

/// From a task.
async fn awaited(echo: &Proxy<Echo>, seconds: f64) -> std::result::Result<Rate, RpcError> {
    let mut replies = VecDeque::with_capacity(MOST);
    let (limit, started) = (Duration::from_secs_f64(seconds), Instant::now());
    let mut calls = 0_u64;
    while started.elapsed() < limit {
        for _ in 0..UNWATCHED {
            while replies.len() < MOST {
                replies.push_back(echo.raw(&REQUEST));
            }
            if let Some(reply) = replies.pop_front() {
                reply.await?;
                calls += 1;
            }
        }
    }
    let rate = Rate(calls as f64 / started.elapsed().as_secs_f64());
    for reply in replies {
        reply.await?;
    }
    Ok(rate)
}
