//! What connections cost that nobody uses: processor time, commands to Redis, and a service's time
//! for others.

use std::thread;
use std::time::{Duration, Instant};

use crate::SMALL;
use crate::account::Account;
use crate::commands::Commands;
use crate::connections::Connections;
use crate::in_turns::in_turns;
use crate::resting;
use crate::row::{Row, Unit};
use crate::slices;
use crate::suite::Suite;
use crate::support::{NanoCtrl, Result};
use crate::worker::{Agents, Pair, Worker};

/// What is left to do after connecting is done.
const SETTLE: Duration = Duration::from_secs(2);
const SHARED: &str = "that Redis is not the suite's own, others may use it";

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let measured = match NanoCtrl::start() {
        Ok(nanoctrl) => {
            let settings = Agents::of(suite).control(&nanoctrl.url);
            let redis = nanoctrl.private_redis.as_deref().ok_or(SHARED);
            let measured = measure(suite, settings, redis);
            nanoctrl.stop();
            measured
        }
        // Agents that find each other through their host.
        Err(missing) => measure(suite, Agents::of(suite), Err(&missing.to_string())),
    };
    measured?;
    beside(suite)?;
    resting::run(suite)
}

/// `redis` serves these agents alone, or says why there is none that does.
pub(crate) fn measure(
    suite: &Suite,
    settings: Agents,
    redis: std::result::Result<&str, &str>,
) -> Result<()> {
    let count = suite.args.connections as usize;
    let report = &suite.report;
    report.expect(2);
    report.step("connecting");
    let mut working = Worker::new(settings.clone()).start()?;
    let connections = Connections::in_groups(suite, &settings, count, working.alias())?;
    thread::sleep(SETTLE);

    report.step("idle");
    let mut connected = redis.ok().map(Commands::of).transpose()?;
    let mut commands = || connected.as_mut().map(Commands::so_far).transpose();
    let before = (commands()?, working.account()?, Account::of_this_process()?);
    let began = Instant::now();
    thread::sleep(Duration::from_secs_f64(suite.args.idle));
    let seconds = began.elapsed().as_secs_f64();
    let after = (commands()?, working.account()?, Account::of_this_process()?);

    let what = format!("processor, service with {count} connections");
    let row = Row::new(what, after.1.cpu_percent(&before.1, seconds), Unit::Percent);
    report.row(&row.under(0.5));
    let what = format!("processor, its {count} callers together");
    let cpu = after.2.cpu_percent(&before.2, seconds);
    report.row(&Row::new(what, cpu, Unit::Percent));
    let what = "commands to Redis, an agent";
    match (before.0, after.0) {
        (Some(before), Some(after)) => {
            // The last question is one itself.
            let commands = after.saturating_sub(before + 1) as f64;
            let each = commands / seconds / (count + 1) as f64;
            report.row(&Row::new(what, each, Unit::PerSecond).at_most(2.0));
        }
        _ => report.skip(what, redis.err().unwrap_or_default()),
    }
    connections.into_iter().try_for_each(|some| some.end(suite))
}

/// Calls of one caller, beside others that are connected with the same service.
fn beside(suite: &Suite) -> Result<()> {
    let (settings, request) = (Agents::of(suite), [7; SMALL]);
    let count = suite.args.connections as usize;
    let start = || Pair::start(suite, &settings.clone().polling());
    let [alone, crowded] = [start()?, start()?];
    let others = Connections::in_groups(suite, &settings, count, crowded.working.alias())?;
    let slices = [("alone", &alone), ("beside others", &crowded)];
    let slices = slices.map(|(name, pair)| (name, slices::raw(&pair.echo, &request)));
    let figures = in_turns(suite, slices.into())?;
    let [alone_p50, crowded_p50] = [figures[0].p50, figures[1].p50];
    let what = format!("raw call, 64 B, beside {count} idle callers");
    let row = Row::new(what, crowded_p50, Unit::Micros);
    suite
        .report
        .row(&row.against("alone", alone_p50).at_most_times(1.1));
    others.into_iter().try_for_each(|some| some.end(suite))?;
    crowded.end(suite)?;
    alone.end(suite)
}
