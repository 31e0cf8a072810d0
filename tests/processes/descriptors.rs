//! The file descriptors that two processes hold because of each other, over every kind of channel.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Stdio, id};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use slimerpc_actors::{
    OwnBuffer, PeerAgent, Proxy, RdmaBuffer, RemoteBuffer, Rights, Share, Stream, service,
};
use support::alone::test_process;
use support::{NanoCtrlServer, until};

/// Most services at each end.
const SERVICES: usize = 4;
const LEN: usize = 4096;
const URL: &str = "SLIME_TEST_URL";

struct Shelf(RdmaBuffer);

impl Share for Shelf {
    type Shared = ();

    fn share(&self) -> Arc<()> {
        Arc::new(())
    }
}

#[service]
impl Shelf {
    #[method]
    fn buffer(&mut self) -> RdmaBuffer {
        self.0.clone()
    }

    #[method(parallel)]
    fn add(_shared: &(), a: i64, b: i64) -> i64 {
        a + b
    }

    #[method(stream)]
    fn count(&mut self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to)
    }

    #[method]
    fn large(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// One agent of a process, with services and buffers for its peer, and what it uses of the peer's.
struct End {
    agent: PeerAgent,
    _offered: Vec<OwnBuffer>,
    used: Vec<(Proxy<Shelf>, RemoteBuffer)>,
}

impl End {
    async fn start(alias: &str) -> Self {
        let url = env::var(URL).unwrap();
        let builder = PeerAgent::builder().nanoctrl(url).alias(alias);
        let agent = builder.start().await.unwrap();
        let mut offered = Vec::new();
        for number in 0..SERVICES {
            let buffer = agent.allocate(LEN, Rights::ReadWrite).unwrap();
            let shelf = Shelf(buffer.handle());
            let served = agent.serve(shelf).named(format!("shelf{number}"));
            served.workers(2).await.unwrap();
            offered.push(buffer);
        }
        Self {
            agent,
            _offered: offered,
            used: Vec::new(),
        }
    }

    /// Uses so many services of the peer, each in every way.
    async fn reach(&mut self, peer: &str, services: usize) {
        for number in self.used.len()..services {
            let name = format!("shelf{number}");
            let shelf: Proxy<Shelf> = self.agent.proxy_named(peer, &name).await.unwrap();
            assert_eq!(shelf.add(1, 2).await.unwrap(), 3);
            let items: Vec<_> = shelf.count(3).collect().await;
            assert_eq!(items.len(), 3);
            let bytes = vec![7; 1 << 20];
            assert_eq!(shelf.large(bytes.clone()).await.unwrap(), bytes);
            let buffer = shelf.buffer().await.unwrap();
            let remote = self.agent.attach(&buffer).await.unwrap();
            remote.write_at(0, &[1]).await.unwrap();
            assert_eq!(remote.read(0, 1).await.unwrap()[..], [1]);
            self.used.push((shelf, remote));
        }
    }
}

/// Another process. The worker's does what the driver's does, when it is told to.
struct Worker(Child, Lines<BufReader<ChildStdout>>);

impl Worker {
    fn start(test: &str) -> Self {
        Self::with(test, &[])
    }

    /// Starts it with these variables.
    fn with(test: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = test_process(module_path!(), test)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut worker = Self(child, output.lines());
        worker.is_ready();
        worker
    }

    fn is_ready(&mut self) {
        let mut lines = self.1.by_ref().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("ready")));
    }

    fn reach(&mut self, services: usize) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{services}").unwrap();
        self.is_ready();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "the other process of the test below"]
fn the_worker() {
    if env::var_os(URL).is_none() {
        return;
    }
    actix::System::new().block_on(async {
        let mut end = End::start("worker").await;
        println!("\nready");
        for line in std::io::stdin().lines() {
            end.reach("driver", line.unwrap().parse().unwrap()).await;
            println!("\nready");
        }
    });
}

struct Plain;

#[service]
impl Plain {
    #[method]
    fn sum(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }
}

#[test]
#[ignore = "the other processes of the last test"]
fn the_caller() {
    let Some(url) = env::var_os(URL) else {
        return;
    };
    actix::System::new().block_on(async {
        let builder = PeerAgent::builder().nanoctrl(url.into_string().unwrap());
        let agent = builder.start().await.unwrap();
        let plain: Proxy<Plain> = agent.proxy("driver").await.unwrap();
        assert_eq!(plain.sum(1, 2).await.unwrap(), 3);
        println!("\nready");
        std::io::read_to_string(std::io::stdin()).unwrap();
    });
}

/// The open descriptors of a process by kind.
type Descriptors = BTreeMap<String, i64>;

fn descriptors(process: u32) -> Descriptors {
    let mut by_kind = Descriptors::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
        // One may be closed meanwhile.
        let Ok(target) = fs::read_link(entry.unwrap().path()) else {
            continue;
        };
        let kind = target.to_string_lossy().into_owned();
        let local = |inode| is_local_socket(process, inode);
        let kind = match kind.strip_prefix("socket:[") {
            Some(inode) if local(inode.trim_end_matches(']')) => "local socket".to_owned(),
            Some(_) => continue, // of the control plane
            None if kind.starts_with("pipe:") => continue, // of the test
            None if kind.starts_with('/') && !kind.starts_with("/memfd:") => continue,
            None => kind,
        };
        *by_kind.entry(kind).or_default() += 1;
    }
    by_kind
}

fn is_local_socket(process: u32, inode: &str) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{process}/net/unix")).unwrap();
    let mut sockets = sockets.lines();
    sockets.any(|line| line.split_whitespace().nth(6) == Some(inode))
}

/// What a process holds when that has not changed for a while.
async fn settled(process: u32) -> Descriptors {
    let (mut last, mut same) = (descriptors(process), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = descriptors(process);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

fn more_than(before: &Descriptors, now: &Descriptors) -> Descriptors {
    let more = now.iter().map(|(kind, count)| {
        let before = before.get(kind).copied().unwrap_or(0);
        (kind.clone(), count - before)
    });
    more.filter(|(_, more)| *more != 0).collect()
}

/// How many descriptors of a kind there may be at an end because of so many services at each end.
/// Memory and links take no more for more of them.
fn allowed(kind: &str, services: i64) -> i64 {
    /// For calls, and for one-sided memory.
    const DEVICES: i64 = 2;
    match kind {
        // Regions and queues of each device, whoever the peers are.
        _ if kind.starts_with("/memfd:") => 2 * DEVICES,
        // All devices of two processes share one link. Both ends may dial it at once.
        "local socket" => 2,
        "anon_inode:[pidfd]" => 1,
        // One for the heartbeats of all peers; two for each direction of one-sided memory; and four
        // for each service at either end, whose channels are serial and parallel. Each is a
        // completion queue of this end, or one of the peer's.
        "anon_inode:[eventfd]" => 1 + 2 * 2 + 2 * 4 * services,
        _ => 0,
    }
}

/// Runs a test once more, alone and with a NanoCtrl of its own. Returns whether that is this run.
fn is_alone(test: &str) -> bool {
    if env::var_os(URL).is_some() {
        return true;
    }
    let server = NanoCtrlServer::start();
    let mut command = test_process(module_path!(), test);
    let output = command.env(URL, server.url()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}{log}");
    false
}

#[test]
fn two_processes_hold_few_descriptors_for_each_other() {
    if !is_alone("two_processes_hold_few_descriptors_for_each_other") {
        return;
    }
    actix::System::new().block_on(async {
        let mut driver = End::start("driver").await;
        let mut worker = Worker::start("the_worker");
        let processes = [id(), worker.0.id()];
        let before = [settled(processes[0]).await, settled(processes[1]).await];
        for services in [1, 2, SERVICES] {
            driver.reach("worker", services).await;
            worker.reach(services);
            for (process, before) in processes.into_iter().zip(&before) {
                let more = more_than(before, &settled(process).await);
                println!("{services} services: {more:?}");
                for (kind, count) in more {
                    let allowed = allowed(&kind, services as i64);
                    assert!(count <= allowed, "{count} of {kind}, not {allowed}");
                }
            }
        }
    });
}

/// How many processes may call one service, where it may have as many descriptors as is usual.
#[test]
fn a_service_takes_so_many_callers() {
    const CALLERS: i64 = 4;
    /// A socket, the process, and a bell for replies; with one more socket where both ends have
    /// dialled at once. Heartbeats take nothing.
    const OF_EACH: i64 = 3 + 1;
    const USUAL: i64 = 1024;
    if !is_alone("a_service_takes_so_many_callers") {
        return;
    }
    actix::System::new().block_on(async {
        let builder = PeerAgent::builder().nanoctrl(env::var(URL).unwrap());
        let driver = builder.alias("driver").start().await.unwrap();
        driver.serve(Plain).await.unwrap();
        // What the first needs is there for the others, too.
        let mut callers = vec![Worker::start("the_caller")];
        let before = settled(id()).await;
        let held = fs::read_dir("/proc/self/fd").unwrap().count() as i64;
        for number in 1..=CALLERS {
            callers.push(Worker::start("the_caller"));
            let more = more_than(&before, &settled(id()).await);
            println!("{number} more callers: {more:?}");
            let count: i64 = more.values().sum();
            assert!(count <= number * OF_EACH, "{more:?}");
        }
        let room = 1 + (USUAL - held) / OF_EACH;
        println!("{held} with one caller; {USUAL} are enough for {room}");
        assert!(room >= 240, "{before:?}");
    });
}

/// What a service holds for callers that rest, each in a process of its own: nothing.
#[test]
fn callers_that_rest_take_no_descriptors_of_their_service() {
    const CALLERS: usize = 3;
    if !is_alone("callers_that_rest_take_no_descriptors_of_their_service") {
        return;
    }
    actix::System::new().block_on(async {
        let builder = PeerAgent::builder().nanoctrl(env::var(URL).unwrap());
        let driver = builder.alias("driver").start().await.unwrap();
        driver.serve(Plain).await.unwrap();
        let awake = Worker::start("the_caller");
        drop(awake);
        let before = settled(id()).await;
        let soon = [("SLIME_RPC_IDLE_AFTER_MS", "1000")];
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| Worker::with("the_caller", &soon))
            .collect();
        let more = more_than(&before, &descriptors(id()));
        assert!(more.values().sum::<i64>() >= CALLERS as i64, "{more:?}");
        let rest = || {
            more_than(&before, &descriptors(id()))
                .values()
                .all(|more| *more <= 0)
        };
        until("the callers take nothing", rest).await;
        drop(callers);
    });
}
