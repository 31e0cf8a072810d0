//! What polling before sleeping gains and costs: calls with pauses between them, under several
//! budgets (`busy_poll`, of both agents). A pause within the budget is polled through, and what
//! then is fast has kept a core busy for nothing.

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;

use crate::account::Account;
use crate::suite::Suite;
use crate::support::record::{Record, rounded};
use crate::support::{Figures, Result};
use crate::worker::{Agents, Pair};
use crate::{LEAST, SMALL};

const BUDGETS_US: [u64; 5] = [0, 10, 50, 200, 1000];
const PAUSES_US: [u64; 3] = [10, 100, 1000];

pub(crate) fn run(suite: &Suite) -> Result<()> {
    suite
        .report
        .expect((BUDGETS_US.len() * PAUSES_US.len()) as u64);
    suite.report.say(&format!(
        "\npolling, raw calls of {SMALL} B\n{:>9} {:>10} {:>8} {:>8}   {:>10} {:>11}",
        "pause, us", "budget, us", "p50, us", "p99, us", "caller CPU", "service CPU"
    ));
    // A sleep of 10 us is to take little more.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let measured = BUDGETS_US
        .iter()
        .try_for_each(|budget| each(suite, *budget));
    set_current_timer_slack(None)?;
    measured
}

fn each(suite: &Suite, budget: u64) -> Result<()> {
    let settings = Agents::of(suite).busy_poll(Duration::from_micros(budget));
    let mut pair = Pair::start(suite, &settings)?;
    for pause in PAUSES_US {
        suite
            .report
            .step(&format!("budget {budget} us, pause {pause} us"));
        calls(suite, &mut pair, budget, pause)?;
    }
    pair.end(suite)
}

fn calls(suite: &Suite, pair: &mut Pair, budget: u64, pause: u64) -> Result<()> {
    let (echo, request) = (&pair.echo, [7; SMALL]);
    let sleep = || thread::sleep(Duration::from_micros(pause));
    let before = (Account::of_this_process()?, pair.working.account()?);
    let began = Instant::now();
    let figures = Figures::measure_between(suite.args.seconds, LEAST, sleep, || {
        echo.raw(&request).wait().map(drop)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let caller = Account::of_this_process()?.cpu_percent(&before.0, seconds);
    let service = pair.working.account()?.cpu_percent(&before.1, seconds);
    let Figures { p50, p99, .. } = figures;
    suite.report.say(&format!(
        "{pause:>9} {budget:>10} {p50:>8.2} {p99:>8.2}   {caller:>8.1} % {service:>9.1} %"
    ));
    suite.report.record(Record {
        what: "raw call".to_owned(),
        size: Some(SMALL),
        pause_us: Some(pause),
        busy_poll_us: Some(budget),
        p50_us: Some(rounded(p50)),
        p99_us: Some(rounded(p99)),
        caller_cpu_percent: Some(rounded(caller)),
        service_cpu_percent: Some(rounded(service)),
        ..Record::default()
    });
    Ok(())
}
