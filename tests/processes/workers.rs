//! The example as a user runs it: a worker and a driver in two processes that find each other
//! through NanoCtrl.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use slimerpc_actors::{PeerAgent, PeerEvent, Ran, RpcError, Timeouts, Watch, service};
use support::{NanoCtrlServer, program, wait_until, within};
use tokio::time::timeout;

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const PRINTED: &str = "add(1, 2) = 3\nmul(3.14, 2) = 6.28\necho(\"hello\") = \"echo: hello\"\n\
                       batch = [0, 11, 22, 33, 44]\nok\n";

/// One role of the example, killed when dropped.
pub(crate) struct Role(Child);

impl Role {
    fn start(server: &NanoCtrlServer, words: &[&str]) -> Self {
        Self::start_at(&server.url(), words)
    }

    fn start_at(url: &str, words: &[&str]) -> Self {
        Self::start_in(&[], url, words)
    }

    /// `within` is put before the command.
    pub(crate) fn start_in(within: &[&str], url: &str, words: &[&str]) -> Self {
        let calc = program("examples/calc");
        Self::run(
            &[within, &[calc.to_str().unwrap(), "--ctrl", url], words].concat(),
            &[],
        )
    }

    /// Both roles in one process.
    pub(crate) fn alone(within: &[&str]) -> Self {
        let calc = program("examples/calc");
        Self::run(&[within, &[calc.to_str().unwrap()]].concat(), &[])
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// A process of this test binary that does what the test of this name does when it is told to.
    pub(crate) fn helper(within: &[&str], module: &str, test: &str, url: &str) -> Self {
        let exe = std::env::current_exe().unwrap();
        let (_, module) = module.split_once("::").unwrap();
        let test = format!("{module}::{test}");
        let words = [exe.to_str().unwrap(), "--exact", &test, "--nocapture"];
        Self::run(&[within, &words].concat(), &[(HELPER, url)])
    }

    fn run(words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// A worker that serves.
    fn worker(server: &NanoCtrlServer, words: &[&str]) -> Self {
        Self::worker_at(&server.url(), words)
    }

    fn worker_at(url: &str, words: &[&str]) -> Self {
        Self::worker_in(&[], url, words)
    }

    pub(crate) fn worker_in(within: &[&str], url: &str, words: &[&str]) -> Self {
        let mut worker = Self::start_in(within, url, &[&["--role", "worker"], words].concat());
        let mut line = String::new();
        let mut output = BufReader::new(worker.0.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(line.contains("serves CalcService"), "{line:?}");
        worker
    }

    fn driver(server: &NanoCtrlServer, words: &[&str]) -> Self {
        Self::start(server, &[&["--role", "driver"], words].concat())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for its end: exit code, standard output, standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String, String) {
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "still running after {SOON:?}");
            sleep(Duration::from_millis(2));
        };
        let (mut out, mut err) = (String::new(), String::new());
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        (status.code(), out, err)
    }

    /// Processor time used so far.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum();
        Duration::from_secs(1) * ticks as u32 / rustix::param::clock_ticks_per_second() as u32
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_driver_calls_a_worker_and_both_leave_redis_clean() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = NanoCtrlServer::start();
        let worker = Role::worker(&server, &[]);
        for _ in 0..2 {
            let (code, out, err) = Role::driver(&server, &[]).end();
            assert_eq!((code, out.as_str(), err.as_str()), (Some(0), PRINTED, ""));
        }
        worker.signal(signal);
        assert_eq!(worker.end().0, Some(0));
        let left: Vec<String> = server.redis.keys();
        assert!(
            left.iter().all(|key| key.starts_with("nano_meta:")),
            "{left:?}"
        );
    }
}

#[test]
fn options_reach_the_agents() {
    let server = NanoCtrlServer::start();
    let options = [
        "--scope",
        "job 7",
        "--device",
        "shm0",
        "--slot-size",
        "4096",
        "--max-inflight",
        "2",
    ];
    let _worker = Role::worker(&server, &[&options[..], &["--alias", "w"]].concat());
    let driver = [
        &options[..],
        &["--alias", "d", "--peer", "w", "--qp-num", "1"],
    ]
    .concat();
    let (code, out, err) = Role::driver(&server, &driver).end();
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), PRINTED, ""));

    let others = [
        "--scope",
        "job 7",
        "--alias",
        "e",
        "--peer",
        "w",
        "--slot-size",
        "8192",
        "--max-inflight",
        "2",
    ];
    let (code, _, err) = Role::driver(&server, &others).end();
    assert_eq!(code, Some(1));
    assert!(err.contains("4096") && err.contains("8192"), "{err}");
}

/// A busy machine may delay us, not each time.
#[actix::test]
async fn call_1_a_killed_worker_fails_the_call_within_a_second() {
    let mut times = Vec::new();
    while times.iter().all(|time| *time >= Duration::from_secs(1)) {
        assert!(times.len() < 5, "{times:?}");
        times.push(time_from_kill_to_failure().await);
    }
}

async fn time_from_kill_to_failure() -> Duration {
    let server = NanoCtrlServer::start();
    let worker = Role::worker(&server, &["--slow", "60000"]);
    let agent = PeerAgent::builder().nanoctrl(server.url()).alias("other");
    let agent = agent.start().await.unwrap();
    let calc = agent.proxy::<CalcService>("worker:0").await.unwrap();
    let driver = Role::driver(&server, &[]);
    // The worker serves one call at a time, so others wait once the driver's is under way: its
    // handler takes a minute.
    let others_wait = Duration::from_millis(500);
    while calc.mul(1.0, 1.0).timeout(others_wait).await.is_ok() {}
    worker.signal(Signal::KILL);
    let killed = Instant::now();
    let (code, out, err) = driver.end();
    let time = killed.elapsed();
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("lost `worker:0`"), "{err}");
    drop(worker);
    time
}

#[test]
fn a_killed_worker_is_followed_at_once_by_another_of_its_name() {
    let server = NanoCtrlServer::start();
    let alive = Role::worker(&server, &[]);
    let (code, _, err) = Role::start(&server, &["--role", "worker"]).end();
    assert_eq!(code, Some(1));
    assert!(err.contains("`worker:0` is taken"), "{err}");
    alive.signal(Signal::KILL);
    alive.end();

    let next = Role::worker(&server, &[]);
    let (code, out, err) = Role::driver(&server, &[]).end();
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), PRINTED, ""));
    next.signal(Signal::TERM);
    assert_eq!(next.end().0, Some(0));
}

#[test]
fn a_killed_worker_leaves_nothing_on_the_host() {
    let sockets = || {
        let list = fs::read_to_string("/proc/net/unix").unwrap();
        list.lines()
            .filter(|line| line.contains("@slimerpc-shm-"))
            .count()
    };
    let memory = || fs::read_dir("/dev/shm").unwrap().count();
    let server = NanoCtrlServer::start();
    let before = memory();
    let worker = Role::worker(&server, &[]);
    let driver = Role::driver(&server, &[]);
    assert_eq!(driver.end().0, Some(0));
    let with_worker = sockets();
    worker.signal(Signal::KILL);
    worker.end();
    assert_eq!(memory(), before);
    // Other tests of this file open and close devices, too; this one has gone at least.
    wait_until("its socket is gone", || sockets() < with_worker);
}

#[test]
fn an_idle_worker_uses_no_processor() {
    let server = NanoCtrlServer::start();
    let worker = Role::worker(&server, &[]);
    assert_eq!(Role::driver(&server, &[]).end().0, Some(0));
    // It polls for a bounded time before it sleeps, and the driver has only just left.
    wait_until("it uses at most 40 ms in 2 s", || {
        let before = worker.cpu();
        sleep(Duration::from_secs(2));
        worker.cpu() - before <= Duration::from_millis(40)
    });
}

/// What a caller may know of the example's service.
struct CalcService;

#[service]
impl CalcService {
    #[method]
    fn mul(&mut self, a: f64, b: f64) -> f64 {
        a * b
    }
}

#[actix::test]
async fn a_killed_worker_is_not_found_while_it_is_still_registered() {
    let server = NanoCtrlServer::start();
    let agent = PeerAgent::builder().nanoctrl(server.url()).alias("seeker");
    let agent = agent.start().await.unwrap();
    let worker = Role::worker(&server, &[]);
    let found = agent.discover::<CalcService>().await.unwrap();
    assert_eq!(found.len(), 1);
    let calc = agent.proxy_any::<CalcService>().await.unwrap();
    assert_eq!(calc.mul(2.0, 3.5).await, Ok(7.0));
    worker.signal(Signal::KILL);
    worker.end();
    assert!(
        server
            .redis
            .keys()
            .iter()
            .any(|key| key.starts_with("service:"))
    );
    assert_eq!(agent.discover::<CalcService>().await.unwrap(), []);

    // The next life of that name is, and it alone.
    let next = Role::worker(&server, &[]);
    let again = agent.discover::<CalcService>().await.unwrap();
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].incarnation(), found[0].incarnation());
    next.signal(Signal::TERM);
    assert_eq!(next.end().0, Some(0));
    assert_eq!(agent.discover::<CalcService>().await.unwrap(), []);
}

struct Parrot;

#[service]
impl Parrot {
    #[method]
    fn echo(&mut self, text: String) -> String {
        text
    }
}

#[actix::test]
async fn an_idle_pair_asks_redis_a_few_times_a_second_at_most() {
    let server = NanoCtrlServer::start();
    let agent = |alias: &str| {
        PeerAgent::builder()
            .nanoctrl(server.url())
            .alias(alias)
            .start()
    };
    let (worker, driver) = (agent("w").await.unwrap(), agent("d").await.unwrap());
    worker.serve(Parrot).await.unwrap();
    let parrot = driver.proxy::<Parrot>("w").await.unwrap();
    assert_eq!(parrot.echo("hi".into()).await.unwrap(), "hi");
    let few = async {
        loop {
            let before = server.redis.requests();
            actix::clock::sleep(Duration::from_secs(4)).await;
            let requests = server.redis.requests() - before;
            println!("{requests} requests in 4 s");
            // At first there is what belongs to connecting.
            if requests <= 4 * 3 {
                return;
            }
        }
    };
    within("it asks at most 3 times a second", few).await;
    assert_eq!(parrot.echo("still".into()).await.unwrap(), "still");
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

/// Serves until it is killed.
struct Forker;

#[service]
impl Forker {
    /// Forks a process that never becomes another program, and so keeps all that this one has open;
    /// gives its number.
    #[method]
    fn fork(&mut self) -> i32 {
        // SAFETY: between fork and its end the child calls `pause` alone, which is safe after a
        // fork of a process with threads.
        unsafe {
            match libc::fork() {
                0 => loop {
                    libc::pause();
                },
                child => child,
            }
        }
    }
}

/// Tells a process of this test binary where its NanoCtrl is.
pub(crate) const HELPER: &str = "SLIME_TEST_HELPER";

fn helper(within: &[&str], test: &str, server: &NanoCtrlServer) -> Role {
    Role::helper(within, module_path!(), test, &server.url())
}

/// Not a test of its own.
#[actix::test]
async fn helper_that_forks() {
    let Ok(url) = std::env::var(HELPER) else {
        return;
    };
    let worker = PeerAgent::builder().nanoctrl(url).alias("forker");
    let worker = worker.start().await.unwrap();
    worker.serve(Forker).await.unwrap();
    println!("says: served");
    std::future::pending().await
}

/// Not a test of its own: follows a worker through its death.
#[actix::test]
async fn helper_that_calls_who_forks() {
    let Ok(url) = std::env::var(HELPER) else {
        return;
    };
    let driver = PeerAgent::builder().nanoctrl(url).alias("driver");
    let driver = driver.start().await.unwrap();
    let forker = driver.proxy::<Forker>("forker").await.unwrap();
    let mut events = driver.watch("forker").await.unwrap();
    let known = events.next().await;
    assert!(
        matches!(known, Some(PeerEvent::Connected { .. })),
        "{known:?}"
    );
    println!("says: {}", forker.fork().await.unwrap());
    while let Some(event) = events.next().await {
        match event {
            PeerEvent::Lost { .. } => println!("says: lost"),
            PeerEvent::Reconnected { .. } => break,
            _ => {}
        }
    }
    loop {
        if let Ok(forked) = forker.fork().await {
            println!("says: {forked}");
            std::future::pending().await
        }
        actix::clock::sleep(Duration::from_millis(20)).await;
    }
}

/// The lines that a helper says, as they come.
pub(crate) fn said(role: &mut Role) -> std::sync::mpsc::Receiver<String> {
    let output = BufReader::new(role.0.stdout.take().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if let Some((_, said)) = line.split_once("says: ") {
                let _ = tell.send(said.to_owned());
            }
        }
    });
    told
}

/// Kills a worker that has forked, and starts another; `within` is where the driver runs. What is
/// proved where: the end of the process, or that another life has its alias.
fn outlived_by_what_it_forked(within: &[&str]) {
    let server = NanoCtrlServer::start();
    let mut worker = helper(&[], "helper_that_forks", &server);
    assert_eq!(said(&mut worker).recv_timeout(SOON).unwrap(), "served");
    let mut driver = helper(within, "helper_that_calls_who_forks", &server);
    let driver = (said(&mut driver), driver);
    let first: i32 = driver.0.recv_timeout(SOON).unwrap().parse().unwrap();
    worker.signal(Signal::KILL);
    worker.0.wait().unwrap();

    let next = helper(&[], "helper_that_forks", &server);
    let lost = driver.0.recv_timeout(SOON);
    let second = driver.0.recv_timeout(SOON);
    for forked in [Ok(first.to_string()), second.clone()]
        .into_iter()
        .flatten()
    {
        let forked = Pid::from_raw(forked.parse().unwrap()).unwrap();
        kill_process(forked, Signal::KILL).unwrap();
    }
    assert_eq!(lost.as_deref(), Ok("lost"));
    assert!(second.is_ok(), "{second:?}");
    drop(next);
}

#[test]
fn a_killed_worker_is_lost_although_what_it_forked_lives_on() {
    outlived_by_what_it_forked(&[]);
}

/// Nothing can be known of the worker's process there.
#[test]
fn a_killed_worker_is_replaced_in_the_eyes_of_another_container_although_what_it_forked_lives_on() {
    let within = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let can = Command::new(within[0])
        .args(&within[1..])
        .arg("true")
        .output();
    if !can.is_ok_and(|ended| ended.status.success()) {
        eprintln!("SKIPPED: this may not make a namespace of processes");
        return;
    }
    outlived_by_what_it_forked(&within);
}

/// Kills that a test goes through.
const ROUNDS: u32 = 8;
/// Far less than the connect timeout, for who looks at once.
const AT_ONCE: Duration = Duration::from_secs(15);

async fn patient(server: &NanoCtrlServer, alias: &str) -> PeerAgent {
    let builder = PeerAgent::builder().nanoctrl(server.url()).alias(alias);
    builder
        .timeouts(Timeouts::default().connect_timeout(3 * SOON))
        .start()
        .await
        .unwrap()
}

/// Starts a worker after a while, as a supervisor does, and says when it served.
async fn restart(server: &NanoCtrlServer, after: Duration) -> (Role, Instant) {
    let url = server.url();
    let started = tokio::task::spawn_blocking(move || {
        sleep(after);
        (Role::worker_at(&url, &[]), Instant::now())
    });
    started.await.unwrap()
}

/// The next event that says that the peer is there, and in which life.
async fn there(events: &mut Watch) -> u64 {
    loop {
        match timeout(SOON, events.next()).await.unwrap().unwrap() {
            PeerEvent::Connected { incarnation } | PeerEvent::Reconnected { incarnation } => {
                return incarnation;
            }
            _ => {}
        }
    }
}

#[actix::test]
async fn all_who_wait_for_a_killed_worker_have_its_next_life_as_soon_as_that_serves() {
    let server = NanoCtrlServer::start();
    let old = patient(&server, "old").await;
    let mut worker = Role::worker(&server, &[]);
    let known = old.proxy::<CalcService>("worker:0").await.unwrap();
    assert_eq!(known.mul(2.0, 3.0).await, Ok(6.0));
    for round in 0..ROUNDS {
        let fresh = patient(&server, &format!("fresh:{round}")).await;
        worker.signal(Signal::KILL);
        worker.end();
        let wait = async |agent: &PeerAgent| {
            let called = async {
                let calc = agent.proxy::<CalcService>("worker:0").await.unwrap();
                assert_eq!(calc.mul(2.0, 3.0).await, Ok(6.0));
            };
            let connected = async { agent.connect_to("worker:0").await.unwrap() };
            let watched = async {
                let mut events = agent.watch("worker:0").await.unwrap();
                there(&mut events).await;
            };
            let found = async {
                let calc = agent.proxy_any::<CalcService>().await.unwrap();
                assert_eq!(calc.mul(2.0, 3.0).await, Ok(6.0));
            };
            tokio::join!(called, connected, watched, found);
            Instant::now()
        };
        let restarted = restart(&server, round * Duration::from_millis(50));
        let (first, second, (next, served)) = tokio::join!(wait(&old), wait(&fresh), restarted);
        let took = first.max(second).saturating_duration_since(served);
        assert!(took < AT_ONCE, "{took:?} after it served, in round {round}");
        worker = next;
        fresh.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn what_is_known_to_be_lost_is_not_said_to_be_connected_and_what_is_can_be_called() {
    let server = NanoCtrlServer::start();
    let agent = patient(&server, "driver").await;
    let mut worker = Role::worker(&server, &[]);
    let calc = agent.proxy::<CalcService>("worker:0").await.unwrap();
    for round in 0..ROUNDS {
        let life = there(&mut calc.watch().await.unwrap()).await;
        assert_eq!(calc.mul(2.0, 3.0).await, Ok(6.0), "in round {round}");
        worker.signal(Signal::KILL);
        let killed = Instant::now();
        let error = loop {
            match calc.mul(2.0, 3.0).await {
                Ok(_) => assert!(killed.elapsed() < SOON),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, RpcError::PeerLost { .. }), "{error:?}");
        let (mut of_proxy, mut of_agent) = (
            calc.watch().await.unwrap(),
            agent.watch("worker:0").await.unwrap(),
        );
        worker.end();
        let called = async {
            assert_ne!(there(&mut of_proxy).await, life, "in round {round}");
            assert_eq!(calc.mul(2.0, 3.0).await, Ok(6.0), "in round {round}");
        };
        let ready = async {
            assert_ne!(there(&mut of_agent).await, life, "in round {round}");
            calc.ready().await.unwrap();
            assert_eq!(calc.mul(2.0, 3.0).await, Ok(6.0), "in round {round}");
        };
        let (_, _, (next, _)) = tokio::join!(called, ready, restart(&server, Duration::ZERO));
        worker = next;
    }
}

#[actix::test]
async fn calls_that_may_wait_for_a_killed_worker_are_not_lost_on_the_way() {
    let server = NanoCtrlServer::start();
    let agent = patient(&server, "driver").await;
    let mut worker = Role::worker(&server, &[]);
    let calc = agent.proxy::<CalcService>("worker:0").await.unwrap();
    let calc = calc.with_reconnect_wait(3 * SOON);
    for round in 0..ROUNDS {
        worker.signal(Signal::KILL);
        let calls = async {
            let (mut answered, started) = (0, Instant::now());
            while answered < 20 {
                assert!(started.elapsed() < 2 * SOON);
                match calc.mul(2.0, 3.0).await {
                    Ok(product) => assert_eq!(product, 6.0),
                    // Of the dead life, before it is noticed.
                    Err(error) => {
                        assert_eq!(error.ran(), Ran::Unknown, "{error} in round {round}");
                        continue;
                    }
                }
                answered += 1;
            }
        };
        worker.end();
        let (_, (next, _)) = tokio::join!(calls, restart(&server, Duration::from_millis(100)));
        worker = next;
    }
}
