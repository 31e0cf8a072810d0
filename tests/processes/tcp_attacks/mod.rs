//! The port of an agent is attacked while others call it: by strangers, and by peers that have the
//! right keys. Three processes: the victim, its callers, and the attacker.
//!
//! `SLIME_TEST_ATTACK_SECONDS` says for how long, at least; `SLIME_TEST_ATTACK_SEED` what by.
#![allow(clippy::unwrap_used)]

mod attacker;
mod attacks;
mod callers;
mod victim;
mod wire;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use support::alone::test_process;
use tempfile::TempDir;

/// What a process of this test is told: its role, where it meets the others, and what follows.
const ROLE: &str = "SLIME_TEST_ATTACK_ROLE";
const DIR: &str = "XDG_RUNTIME_DIR";
const SECONDS: &str = "SLIME_TEST_ATTACK_SECONDS";
const SEED: &str = "SLIME_TEST_ATTACK_SEED";

/// Descriptors that the attacks may take at a time: of strangers, of queue pairs that are given
/// out, and of connections that have ended a moment ago.
const DESCRIPTORS: usize = 1500;
/// KiB that the victim may grow by during all attacks: some peers at a time have as many READs
/// outstanding as a queue pair may have, some 25 MiB each, and the allocator keeps part of that.
const MEMORY: usize = 256 << 10;
/// Share of a core that the victim may take when nobody attacks it.
const AT_REST: f64 = 0.2;
/// How long the victim may take to come to rest.
const SOON: Duration = Duration::from_secs(30);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process has of the system.
#[derive(Debug, Clone, Copy)]
struct Usage {
    descriptors: usize,
    kib: usize,
    cpu: Duration,
}

impl Process {
    /// This program in another role, and what it says.
    fn start(role: &str, dir: &Path, seed: u64, seconds: u64) -> (Self, Receiver<String>) {
        let mut command = test_process(module_path!(), "helper_in_a_role");
        command.env(ROLE, role).env(DIR, dir);
        command.env(SEED, seed.to_string());
        command.env(SECONDS, seconds.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once("says: ") {
                    let _ = tell.send(said.to_owned());
                }
            }
        });
        (Self(child), told)
    }

    fn usage(&self) -> Usage {
        let proc = PathBuf::from(format!("/proc/{}", self.0.id()));
        let statm = fs::read_to_string(proc.join("statm")).unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        let stat = fs::read_to_string(proc.join("stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        let second = rustix::param::clock_ticks_per_second();
        Usage {
            descriptors: fs::read_dir(proc.join("fd")).unwrap().count(),
            kib: pages * rustix::param::page_size() / 1024,
            cpu: Duration::from_millis(ticks * 1000 / second),
        }
    }

    /// What it has while nothing happens, as soon as it has no more than before.
    fn at_rest(&self, descriptors: usize) -> Usage {
        let end = Instant::now() + SOON;
        loop {
            let (before, began) = (self.usage(), Instant::now());
            std::thread::sleep(Duration::from_secs(2));
            let after = self.usage();
            let share = (after.cpu - before.cpu).as_secs_f64() / began.elapsed().as_secs_f64();
            if after.descriptors <= descriptors && share < AT_REST {
                return after;
            }
            assert!(
                Instant::now() < end,
                "not at rest: {after:?}, {share:.2} of a core, {descriptors} descriptors before"
            );
        }
    }

    fn succeeds(&mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

/// Not a test of its own.
#[test]
fn helper_in_a_role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let seed = number(SEED).unwrap();
    let until = Instant::now() + Duration::from_secs(number(SECONDS).unwrap());
    match &*role {
        "victim" => victim::run(&dir),
        "callers" => callers::run(seed, until),
        _ => attacker::run(&dir, seed, until),
    }
}

/// INPUT-1: every honest call is answered right, the victim stays as large as it is and has nothing
/// to do once they are gone, what breaks the protocol is counted, and its log stays short.
#[test]
fn input_1_an_agent_whose_port_is_attacked_serves_its_callers() {
    let seconds = number(SECONDS).unwrap_or(10);
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("{SEED}={seed} {SECONDS}={seconds}");
    let dir = TempDir::new().unwrap();
    let (victim, said) = Process::start("victim", dir.path(), seed, seconds);
    assert_eq!(said.recv_timeout(SOON).unwrap(), "served");
    let before = victim.at_rest(usize::MAX);
    let began = Instant::now();
    let (mut attacker, list) = Process::start("attacker", dir.path(), seed, seconds);
    let (mut callers, account) = Process::start("callers", dir.path(), seed, seconds);
    let mut most = before;
    while attacker.0.try_wait().unwrap().is_none() || callers.0.try_wait().unwrap().is_none() {
        let now = victim.usage();
        most.descriptors = most.descriptors.max(now.descriptors);
        most.kib = most.kib.max(now.kib);
        assert!(
            most.descriptors < before.descriptors + DESCRIPTORS && most.kib < before.kib + MEMORY,
            "{before:?} became {now:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    attacker.succeeds();
    callers.succeeds();
    let took = began.elapsed();
    // Of the threads and runtimes that it has started meanwhile.
    let after = victim.at_rest(before.descriptors + 20);

    let mut tried: Vec<String> = list.iter().collect();
    let least: u64 = tried.pop().unwrap().parse().unwrap();
    println!("{}", tried.join("\n"));
    for line in account {
        println!("{line}");
    }
    let health = attacker::health(dir.path());
    println!(
        "{before:?}\nat most {most:?}\nat rest {after:?}\n{health:?}, at least {least} violations, {took:.0?}"
    );
    assert_eq!(tried.len(), attacks::ATTACKS.len());
    assert!(health.violations >= least, "{health:?}");
    assert!(health.is_unchanged, "memory that nobody may write");
    // One in ten seconds of each kind, and what an agent says of its peers.
    let lines = 20 + took.as_secs() / 2;
    assert!(health.lines < lines, "{health:?} of {lines}");
}
