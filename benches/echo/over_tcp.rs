//! Calls over TCP, whatever `--device` says, beside the sockets that they are made of.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use slimerpc::fabric;
use slimerpc_actors::PeerEvent;

use crate::in_turns::{Slice, in_turns};
use crate::row::{Row, Unit};
use crate::suite::Suite;
use crate::support::{Figures, Result};
use crate::tcp_stream::{TcpPair, Waiting};
use crate::worker::{Agents, Pair};
use crate::{LEAST, SMALL, asleep, copies, idle, slices};

const LARGE: usize = 16 << 20;
/// Processes that are killed, and how long they live.
const DEATHS: usize = 5;
const SETTLE: Duration = Duration::from_millis(500);

pub(crate) fn run(suite: &Suite) -> Result<()> {
    let agents = Agents::of(suite).over(fabric::TCP);
    polling(suite, &agents)?;
    sleeping(suite, &agents)?;
    large(suite, &agents)?;
    #[cfg(feature = "tls")]
    encrypted(suite, &agents)?;
    #[cfg(not(feature = "tls"))]
    suite
        .report
        .skip("echo of 16 MiB, mutual TLS", "it needs --features tls");
    deaths(suite, &agents)?;
    idle::measure(suite, agents, Err("there is none"))
}

fn polling(suite: &Suite, agents: &Agents) -> Result<()> {
    let mut socket = TcpPair::start(SMALL)?;
    let pair = Pair::start(suite, &agents.clone().polling())?;
    let request = [7; SMALL];
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        (
            "socket, spinning",
            Box::new(|seconds| socket.measure(seconds, Waiting::Spins, || ())),
        ),
        ("raw call", slices::raw(&pair.echo, &request)),
    ];
    if let [socket, raw] = in_turns(suite, slices)?.as_slice() {
        let row = Row::new("raw call, 64 B", raw.p50, Unit::Micros);
        let row = row.against("socket, spinning", socket.p50);
        suite.report.row(&row.at_most_times(1.25));
    }
    pair.end(suite)
}

fn sleeping(suite: &Suite, agents: &Agents) -> Result<()> {
    let mut socket = TcpPair::start(SMALL)?;
    let pair = Pair::start(suite, &agents.clone().busy_poll(Duration::ZERO))?;
    let (echo, request) = (&pair.echo, [7; SMALL]);
    let inside = slices::runtime()?;
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        (
            "socket, blocking",
            Box::new(|seconds| socket.measure(seconds, Waiting::Blocks, asleep::pause)),
        ),
        (
            "raw call",
            Box::new(|seconds| {
                let call = || echo.raw(&request).wait().map(drop);
                Ok(Figures::measure_between(
                    seconds,
                    LEAST,
                    asleep::pause,
                    call,
                )?)
            }),
        ),
        (
            "raw call in a runtime",
            Box::new(|seconds| {
                let call = || inside.block_on(echo.raw(&request)).map(drop);
                Ok(Figures::measure_between(
                    seconds,
                    LEAST,
                    asleep::pause,
                    call,
                )?)
            }),
        ),
    ];
    if let [socket, raw, inside] = in_turns(suite, slices)?.as_slice() {
        for (what, figures) in [
            ("raw call, 64 B, both asleep", raw),
            ("raw call, 64 B, both asleep, in a runtime", inside),
        ] {
            let row = Row::new(what, figures.p50, Unit::Micros);
            let row = row.against("socket, blocking", socket.p50);
            suite.report.row(&row.at_most_times(1.5));
        }
    }
    pair.end(suite)
}

fn large(suite: &Suite, agents: &Agents) -> Result<()> {
    let mut socket = TcpPair::start(LARGE)?;
    let agents = agents.clone().polling();
    let slots = Pair::start(suite, &agents.clone().slots(2, LARGE))?;
    let beyond = Pair::start(suite, &agents)?;
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        (
            "stream, there and back",
            Box::new(|seconds| socket.measure(seconds, Waiting::Blocks, || ())),
        ),
        ("in place", copies::untouched(&slots.echo, LARGE)),
        ("beyond slots", copies::untouched(&beyond.echo, LARGE)),
    ];
    if let [stream, in_place, beyond] = in_turns(suite, slices)?.as_slice() {
        for (what, figures) in [
            ("echo of 16 MiB, in place", in_place),
            ("echo of 16 MiB, in place, beyond slots", beyond),
        ] {
            let row = Row::new(what, figures.p50, Unit::Micros);
            let row = row.against("stream each way", stream.p50);
            suite.report.row(&row.at_most_times(1.3));
        }
    }
    beyond.end(suite)?;
    slots.end(suite)
}

/// One end encrypts what the other decrypts at the same time, so it is the rate of one of them that
/// bounds a way.
#[cfg(feature = "tls")]
fn encrypted(suite: &Suite, agents: &Agents) -> Result<()> {
    use slimerpc::tls::TlsFiles;
    use support::certificates::Authority;

    let what = "16 MiB each way of an echo, mutual TLS";
    let authority = Authority::new();
    let issued = authority.issue("both", "URI:slimerpc:*");
    let files = TlsFiles {
        cert: issued.cert,
        key: issued.key,
        ca: authority.ca(),
    };
    let agents = agents.clone().polling().slots(2, LARGE).tls(files);
    let pair = Pair::start(suite, &agents)?;
    let slices: Vec<(&str, Slice<'_, Figures>)> = vec![
        ("openssl", Box::new(|seconds| openssl_speed(seconds, LARGE))),
        ("in place", copies::untouched(&pair.echo, LARGE)),
    ];
    if let [openssl, echo] = in_turns(suite, slices)?.as_slice() {
        let row = Row::new(what, echo.p50 / 2.0, Unit::Micros);
        let row = row.against("openssl, AES-128-GCM", openssl.p50);
        // At least 0.7 of its rate.
        suite.report.row(&row.at_most_times(1.43));
    }
    pair.end(suite)
}

/// What openssl takes to encrypt so many bytes, in blocks of the size of TLS' records.
#[cfg(feature = "tls")]
fn openssl_speed(seconds: f64, size: usize) -> Result<Figures> {
    let seconds = (seconds.ceil() as u64).to_string();
    let mut command = std::process::Command::new("openssl");
    command.args(["speed", "-elapsed", "-seconds", &seconds]);
    command.args(["-bytes", "16384", "-evp", "aes-128-gcm"]);
    let said = String::from_utf8(command.output()?.stdout)?;
    let kilobytes = said.lines().rev().find_map(|line| {
        let last = line.split_whitespace().last()?;
        last.strip_suffix('k')?.parse::<f64>().ok()
    });
    let rate = kilobytes.ok_or("openssl speed says no rate")? * 1e3;
    let took = size as f64 / rate * 1e6;
    Ok(Figures {
        p50: took,
        p99: took,
        longest: took,
    })
}

/// A process that serves is killed, and its callers are told.
fn deaths(suite: &Suite, agents: &Agents) -> Result<()> {
    suite.report.expect(DEATHS as u64);
    let mut longest = 0.0_f64;
    for _ in 0..DEATHS {
        suite.report.step("killed");
        let pair = Pair::start(suite, agents)?;
        let watched = async {
            let mut events = pair.echo.watch().await?;
            pair.echo.raw(&[7; SMALL]).await?;
            // Heartbeats have begun, too.
            tokio::time::sleep(SETTLE).await;
            let began = Instant::now();
            let process = Pid::from_raw(pair.working.peer.id() as i32).ok_or("no process")?;
            kill_process(process, Signal::KILL)?;
            loop {
                match events.next().await {
                    Some(PeerEvent::Lost { .. }) => return Result::Ok(began.elapsed()),
                    Some(_) => {}
                    None => return Err("it was not told".into()),
                }
            }
        };
        let took = suite.runtime.block_on(watched)?;
        longest = longest.max(took.as_secs_f64() * 1e3);
        pair.end(suite)?;
    }
    let what = format!("the peer's process is killed, told after, most of {DEATHS}");
    suite
        .report
        .row(&Row::new(what, longest, Unit::Millis).under(50.0));
    Ok(())
}
