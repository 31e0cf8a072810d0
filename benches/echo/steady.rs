//! What calls cost that is not time, once they run and while both sides poll: allocations, context
//! switches, system calls, and waits for locks, on either side.
//!
//! A figure is of whole processes, including the heartbeats and the mail of their agents. Those
//! come with time and not with calls; so there are many calls, and less than one in a thousand of
//! them counts as none.

use std::time::{Duration, Instant};

use slimerpc_actors::Proxy;
use tokio::runtime::Runtime;

use crate::SMALL;
use crate::account::Account;
use crate::missing::Missing;
use crate::row::{Row, Unit};
use crate::slices;
use crate::strace::{Strace, SystemCalls};
use crate::suite::Suite;
use crate::support::Result;
use crate::worker::{Agents, Echo, Pair};

const CALLS: u32 = 1_000_000;
/// Fewer where they take longer.
const AT_MOST: Duration = Duration::from_secs(10);
/// While `strace` looks, which makes each system call slow.
const TRACED: u32 = 100_000;
/// Made in a row; and before anything is counted.
const BATCH: u32 = 10_000;
const REQUEST: [u8; SMALL] = [7; SMALL];

/// How a call is made and waited for.
#[derive(Clone, Copy)]
enum CallStyle {
    /// In place at the service, lent at the caller, which blocks.
    InPlace,
    /// The same from a task.
    Inside,
    /// With a `Vec` at either end.
    Vecs,
}

impl CallStyle {
    fn name(self) -> &'static str {
        match self {
            Self::InPlace => "in place",
            Self::Inside => "in place, in a runtime",
            Self::Vecs => "a Vec at each end",
        }
    }

    fn call(self, echo: &Proxy<Echo>, inside: &Runtime, times: u32) -> Result<()> {
        match self {
            Self::InPlace => {
                for _ in 0..times {
                    echo.in_place(&REQUEST).lent().wait()?;
                }
            }
            Self::Inside => inside.block_on(async {
                for _ in 0..times {
                    echo.in_place(&REQUEST).lent().await?;
                }
                Ok::<_, slimerpc_actors::RpcError>(())
            })?,
            Self::Vecs => {
                for _ in 0..times {
                    echo.raw(&REQUEST).wait()?;
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let mut pair = Pair::start(suite, &Agents::of(suite).polling())?;
    let inside = slices::runtime()?;
    suite.report.expect(5);
    for way in [CallStyle::InPlace, CallStyle::Inside, CallStyle::Vecs] {
        suite.report.step(way.name());
        allocations(suite, &mut pair, &inside, way)?;
    }
    for way in [CallStyle::InPlace, CallStyle::Inside] {
        suite.report.step("system calls");
        let counted = system_calls(&pair, &inside, way);
        let missing = match counted {
            Ok(sides) => {
                system_call_rows(suite, way, &sides);
                continue;
            }
            Err(error) => error.downcast::<Missing>()?,
        };
        let what = format!("system calls, {}", way.name());
        suite.report.skip(&what, &missing.to_string());
    }
    pair.end(suite)
}

fn allocations(suite: &Suite, pair: &mut Pair, inside: &Runtime, way: CallStyle) -> Result<()> {
    way.call(&pair.echo, inside, BATCH)?;
    let before = [Account::of_this_process()?, pair.working.account()?];
    let (began, mut calls) = (Instant::now(), 0);
    while calls < CALLS && began.elapsed() < AT_MOST {
        way.call(&pair.echo, inside, BATCH)?;
        calls += BATCH;
    }
    let after = [Account::of_this_process()?, pair.working.account()?];
    for (side, (before, after)) in ["caller", "service"].iter().zip(before.iter().zip(&after)) {
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / f64::from(calls);
        let allocations = each(after.allocations, before.allocations);
        let what = format!("allocations of the {side}, {}", way.name());
        let row = Row::new(what, allocations, Unit::EachCall);
        if matches!(way, CallStyle::Vecs) {
            suite.report.row(&row);
            continue;
        }
        suite.report.row(&row.none());
        let switches = each(after.voluntary, before.voluntary);
        let what = format!("times the {side} slept, {}", way.name());
        suite.report.row(&Row::new(what, switches, Unit::EachCall));
        let preempted = each(after.involuntary, before.involuntary);
        let what = format!("times the {side} was preempted, {}", way.name());
        suite.report.row(&Row::new(what, preempted, Unit::EachCall));
    }
    Ok(())
}

/// Of the caller and of the service.
fn system_calls(pair: &Pair, inside: &Runtime, way: CallStyle) -> Result<[SystemCalls; 2]> {
    let service = Strace::attach(pair.working.peer.id())?;
    let caller = Strace::attach(std::process::id())?;
    let called = way.call(&pair.echo, inside, TRACED);
    let counted = [caller.detach()?, service.detach()?];
    called?;
    Ok(counted)
}

fn system_call_rows(suite: &Suite, way: CallStyle, sides: &[SystemCalls; 2]) {
    for (side, calls) in ["caller", "service"].iter().zip(sides) {
        let each = |count: u64| count as f64 / f64::from(TRACED);
        let what = format!("system calls of the {side}, {}", way.name());
        let row = Row::new(what, each(calls.all), Unit::EachCall);
        let is_blocking_caller = *side == "caller" && matches!(way, CallStyle::InPlace);
        suite.report.row(&if is_blocking_caller {
            row.none()
        } else {
            row.under(0.2)
        });
        let what = format!("futex calls of the {side}, {}", way.name());
        let row = Row::new(what, each(calls.futex), Unit::EachCall);
        suite.report.row(&row.none());
    }
}
