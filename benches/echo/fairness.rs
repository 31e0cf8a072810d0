//! Several clients of one service, each a thread with an agent of its own: how much they get, and
//! how evenly, and how much beside many that do nothing.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use slimerpc_actors::{Proxy, RpcError};

use crate::SMALL;
use crate::connections::Connections;
use crate::in_turns::{Rate, Slice, in_turns};
use crate::row::{Row, Unit};
use crate::suite::Suite;
use crate::support::Result;
use crate::worker::{Agents, Echo, Worker};

const CLIENTS: usize = 8;
/// Calls that each has under way.
const INFLIGHT: usize = 16;
/// Times as long as one client. With more threads that poll than cores it takes the system seconds
/// to give each its part.
const LONGER: f64 = 5.0;
/// Clients that call beside many that do nothing.
const BUSY: usize = 16;

pub(crate) fn run(suite: &Suite) -> Result<()> {
    suite.report.expect(2);
    let settings = Agents::of(suite);
    let working = Worker::new(settings.clone()).start()?;
    let clients = Connections::make(suite, &settings, CLIENTS, working.alias())?;
    let rate = |counts: &[u64], seconds: f64| counts.iter().sum::<u64>() as f64 / seconds;
    let seconds = suite.args.seconds;

    suite.report.step("one client");
    let alone = rate(&calls(&clients.proxies()[..1], seconds)?, seconds);
    suite.report.step("8 clients");
    let seconds = seconds * LONGER;
    let counts = calls(clients.proxies(), seconds)?;
    let least = counts.iter().min().copied().unwrap_or(0);
    let all = rate(&counts, seconds);
    let row = Row::new(
        "calls of 8 clients, 16 in flight of each",
        all,
        Unit::PerSecond,
    );
    suite.report.row(&row.against("one client", alone));
    let fair = all * seconds / CLIENTS as f64;
    let row = Row::new(
        "smallest part of a client, of an eighth",
        least as f64 / fair,
        Unit::Share,
    );
    suite.report.row(&row.at_least(0.5));
    clients.end(suite)?;
    beside_idle(suite, &settings)
}

/// Clients of two services, one of which has many others that do nothing.
fn beside_idle(suite: &Suite, settings: &Agents) -> Result<()> {
    let count = suite.args.connections as usize;
    suite.report.step("connecting");
    let workers = [0; 2].map(|_| Worker::new(settings.clone()).start());
    let [quiet, crowded] = workers;
    let [quiet, crowded] = [quiet?, crowded?];
    let busy = |to: &str| Connections::make(suite, settings, BUSY, to);
    let [alone, beside] = [busy(quiet.alias())?, busy(crowded.alias())?];
    let idle = Connections::in_groups(suite, settings, count, crowded.alias())?;
    let slices = [("alone", &alone), ("beside others", &beside)];
    let slices = slices.map(|(name, clients)| -> (_, Slice<'_, Rate>) {
        let measure = move |seconds: f64| {
            let counts = calls(clients.proxies(), seconds * LONGER)?;
            Ok(Rate(counts.iter().sum::<u64>() as f64 / (seconds * LONGER)))
        };
        (name, Box::new(measure))
    });
    let rates = in_turns(suite, slices.into())?;
    let [Rate(alone_rate), Rate(beside_rate)] = [rates[0], rates[1]];
    let what = format!("calls of {BUSY} clients, beside {count} idle callers");
    let row = Row::new(what, beside_rate, Unit::PerSecond);
    suite
        .report
        .row(&row.against("alone", alone_rate).at_least_times(0.9));
    idle.into_iter().try_for_each(|some| some.end(suite))?;
    beside.end(suite)?;
    alone.end(suite)
}

/// What each of them gets answered in that time, all at once.
fn calls(clients: &[Proxy<Echo>], seconds: f64) -> Result<Vec<u64>> {
    let barrier = Barrier::new(clients.len());
    thread::scope(|scope| {
        let barrier = &barrier;
        let begin = |client| scope.spawn(move || one_client(client, barrier, seconds));
        let threads: Vec<_> = clients.iter().map(begin).collect();
        let mut counts = Vec::new();
        for thread in threads {
            counts.push(thread.join().map_err(|_| "a client panicked")??);
        }
        Ok(counts)
    })
}

fn one_client(
    client: &Proxy<Echo>,
    barrier: &Barrier,
    seconds: f64,
) -> std::result::Result<u64, RpcError> {
    let request = [7; SMALL];
    let mut replies = VecDeque::with_capacity(INFLIGHT);
    client.raw(&request).wait()?;
    barrier.wait();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut count = 0;
    while Instant::now() < until {
        while replies.len() < INFLIGHT {
            replies.push_back(client.raw(&request));
        }
        if let Some(reply) = replies.pop_front() {
            reply.wait()?;
            count += 1;
        }
    }
    Ok(count)
}
