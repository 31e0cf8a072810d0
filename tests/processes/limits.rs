//! What becomes of an agent where the operating system does not let its process have more: an error
//! that names the limit, and the process lives. Each test runs once more, in a process with the
//! limit.
#![allow(clippy::unwrap_used)]

use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use slimerpc::control::{Control, NanoCtrl, Registration};
use slimerpc::fabric::{self, FabricError, SystemLimit};
use slimerpc_actors::{AgentError, Builder, Limits, PeerAgent, Proxy, Rights, Timeouts, service};
use support::{ResourceUsage, until};
use tokio::time::timeout;

const IS_CHILD: &str = "SLIME_TEST_LIMITED";
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    #[method(parallel)]
    fn mul(_shared: &(), a: i64, b: i64) -> i64 {
        a * b
    }
}

impl slimerpc_actors::Share for Calc {
    type Shared = ();

    fn share(&self) -> std::sync::Arc<()> {
        std::sync::Arc::new(())
    }
}

/// This test in a process of its own, started by `with` and what follows it.
fn again(test: &str, with: &[&str]) -> Command {
    let mut command = Command::new(with[0]);
    command.args(&with[1..]).arg(env::current_exe().unwrap());
    let test = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    command.args([&*test, "--exact", "--nocapture"]);
    command.env(IS_CHILD, "1");
    command
}

/// Runs the test in a process of its own, and is `true` here, where that has been done.
fn is_done_elsewhere(test: &str, with: &[&str]) -> bool {
    if env::var_os(IS_CHILD).is_some() {
        return false;
    }
    let Output {
        status,
        stdout,
        stderr,
    } = again(test, with).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{status}\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}\n{err}");
    true
}

fn agent(role: &str) -> Builder {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PeerAgent::builder()
        .alias(format!("limits:{role}:{number}"))
        .timeouts(Timeouts::default().connect_timeout(Duration::from_secs(5)))
}

/// An agent, its service, and another that calls it.
async fn pair(with: impl Fn(Builder) -> Builder) -> Result<(PeerAgent, PeerAgent), Box<dyn Error>> {
    let worker = with(agent("worker")).start().await?;
    worker.serve(Calc).await?;
    let driver = with(agent("driver")).start().await?;
    let calc: Proxy<Calc> = driver.proxy(worker.alias()).await?;
    assert_eq!(calc.add(1, 2).await?, 3);
    assert_eq!(calc.mul(2, 3).await?, 6);
    Ok((worker, driver))
}

/// Something could not be, and why comes first.
fn names(error: &dyn fmt::Display, limit: &str) {
    let text = error.to_string();
    assert!(text.contains(limit), "{text}");
}

#[test]
fn a_limit_of_file_sizes_is_named_instead_of_ending_the_process() {
    const LIMIT: &str = "--fsize=16384";
    if is_done_elsewhere(
        "a_limit_of_file_sizes_is_named_instead_of_ending_the_process",
        &["prlimit", LIMIT],
    ) {
        return;
    }
    actix::System::new().block_on(async {
        let error = pair(|builder| builder).await.unwrap_err();
        names(&error, "ulimit -f");
        names(&error, "16384 bytes");
        // What is small enough works all the same.
        let small =
            |builder: Builder| builder.limits(Limits::default().slot_size(1024).max_inflight(4));
        let (worker, driver) = pair(small).await.unwrap();
        // A payload beyond a slot takes memory of its own.
        let calc: Proxy<Calc> = driver.proxy(worker.alias()).await.unwrap();
        assert_eq!(calc.add(1, 2).await.unwrap(), 3);
        let buffer = driver.allocate(1 << 20, Rights::Read);
        names(&buffer.unwrap_err(), "ulimit -f");
        assert_eq!(calc.add(1, 2).await.unwrap(), 3);
    });
}

/// Drivers that a worker has no descriptors for, and how many there may be afterwards. They run out
/// at another point with each limit.
#[test]
fn a_limit_of_descriptors_is_named_and_those_who_are_connected_are_served() {
    const NAME: &str = "a_limit_of_descriptors_is_named_and_those_who_are_connected_are_served";
    if env::var_os(IS_CHILD).is_none() {
        for limit in (170..=200).step_by(3) {
            assert!(is_done_elsewhere(
                NAME,
                &["prlimit", &format!("--nofile={limit}:4096")]
            ));
        }
        return;
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap();
    actix::System::new().block_on(async {
        let worker = agent("worker").start().await.unwrap();
        worker.serve(Calc).await.unwrap();
        let mut drivers = Vec::new();
        let refused = loop {
            let connect = async {
                let driver = agent("driver").start().await?;
                let calc: Proxy<Calc> = driver.proxy(worker.alias()).await?;
                Ok::<_, AgentError>((driver, calc))
            };
            match timeout(LONG, connect).await.expect("it is told") {
                Ok(connected) => drivers.push(connected),
                Err(error) => break error,
            }
            assert!(drivers.len() < 100, "there is a limit");
        };
        names(
            &refused,
            &format!("may have {limit}; raise the limit (`ulimit -n`"),
        );
        names(&refused, "SLIME_RPC_RAISE_OPEN_FILES=1");
        assert!(!drivers.is_empty());
        for (_, calc) in &drivers {
            let sum = timeout(LONG, calc.add(1, 2)).await.unwrap();
            assert_eq!(sum.unwrap(), 3);
        }
        // With the limit raised there may be more.
        let more = agent("driver").limits(Limits::default().raise_open_files(true));
        let more = more.start().await.unwrap();
        let calc: Proxy<Calc> = more.proxy(worker.alias()).await.unwrap();
        assert_eq!(calc.mul(2, 3).await.unwrap(), 6);
    });
}

/// Whatever is missing, at whatever point: descriptors run out one earlier each time.
#[test]
fn an_agent_that_lacks_descriptors_to_start_says_so_wherever_they_run_out() {
    if is_done_elsewhere(
        "an_agent_that_lacks_descriptors_to_start_says_so_wherever_they_run_out",
        &["prlimit", "--nofile=300"],
    ) {
        return;
    }
    actix::System::new().block_on(async {
        let (worker, driver) = pair(|builder| builder).await.unwrap();
        driver.shutdown().await.unwrap();
        worker.shutdown().await.unwrap();
        // With the one that counts them.
        let others = ResourceUsage::settled().await.descriptors;
        let limit = getrlimit(Resource::Nofile).current.unwrap() as usize;
        let mut held: Vec<fs::File> = Vec::new();
        let (mut failed, mut named) = (0, 0);
        // Fewer and fewer are left, until there are none.
        loop {
            let tried = timeout(LONG, pair(|builder| builder)).await;
            match tried.expect("it is told") {
                Ok((worker, driver)) => {
                    assert_eq!(failed, 0, "what worked with fewer works with more");
                    driver.shutdown().await.unwrap();
                    worker.shutdown().await.unwrap();
                }
                Err(error) => {
                    // A connection that is made already is merely lost, for a reason that its other
                    // end logs.
                    let is_named = error.to_string().contains("ulimit -n");
                    let is_lost = error.to_string().contains("the connection failed");
                    assert!(is_named || is_lost, "{error}");
                    (failed, named) = (failed + 1, named + u32::from(is_named));
                }
            }
            until("what has ended has closed all of its descriptors", || {
                let open = fs::read_dir("/proc/self/fd");
                open.is_ok_and(|open| open.count() <= others + held.len())
            })
            .await;
            let more = if failed == 0 { 25 } else { 5 };
            if others + held.len() + more > limit {
                break;
            }
            held.extend((0..more).map(|_| fs::File::open("/dev/null").unwrap()));
        }
        assert!(named > 3, "{named} of {failed}");
        held.clear();
        pair(|builder| builder).await.unwrap();
    });
}

#[test]
fn a_limit_of_address_space_is_named() {
    if is_done_elsewhere("a_limit_of_address_space_is_named", &["env"]) {
        return;
    }
    actix::System::new().block_on(async {
        let (worker, driver) = pair(|builder| builder).await.unwrap();
        let status = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = status.split_whitespace().next().unwrap().parse().unwrap();
        let now = pages * rustix::param::page_size() as u64;
        let limit = Rlimit {
            current: Some(now + (256 << 20)),
            maximum: getrlimit(Resource::As).maximum,
        };
        setrlimit(Resource::As, limit).unwrap();
        let large = |builder: Builder| {
            builder.limits(Limits::default().slot_size(64 << 20).max_inflight(16))
        };
        // Rings begin small, and those that need not grow need no more.
        let others = timeout(LONG, pair(large)).await.expect("it is told");
        others.unwrap();
        let calc: Proxy<Calc> = driver.proxy(worker.alias()).await.unwrap();
        assert_eq!(calc.add(1, 2).await.unwrap(), 3);
        let buffer = driver.allocate(1 << 30, Rights::Read);
        names(&buffer.unwrap_err(), "ulimit -v");
        assert_eq!(calc.mul(2, 3).await.unwrap(), 6);
    });
}

/// Threads count for a user, and not for root: so somebody else has to be it.
#[test]
fn a_limit_of_threads_is_named() {
    const NAME: &str = "a_limit_of_threads_is_named";
    if env::var_os(IS_CHILD).is_none() {
        if !geteuid().is_root() {
            return;
        }
        for threads in 2..14 {
            let limit = format!("--nproc={threads}");
            let somebody = ["setpriv", "--reuid=54321", "--clear-groups"];
            let with = [&["prlimit", &*limit], &somebody[..]].concat();
            let output = again(NAME, &with).output().unwrap();
            let text = format!(
                "{threads}: {}\n{}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            // The test's own threads and runtimes have to be there first.
            let is_of_test = text.contains("failed to spawn thread") && !text.contains("started");
            assert!(output.status.success() || is_of_test, "{text}");
        }
        return;
    }
    actix::System::new().block_on(async {
        println!("started");
        let worker = agent("worker").start().await;
        let worker = match worker {
            Ok(worker) => worker,
            Err(error) => return names(&error, "ulimit -u"),
        };
        for n in 0..5 {
            let served = worker
                .serve(Calc)
                .named(format!("calc{n}"))
                .workers(4)
                .await;
            if let Err(error) = served {
                return names(&error, "ulimit -u");
            }
        }
        panic!("there is a limit");
    });
}

/// The limits of this process stay as they were, so that its children inherit no others.
#[test]
fn an_agent_raises_no_limit_unless_it_is_told_to() {
    if is_done_elsewhere(
        "an_agent_raises_no_limit_unless_it_is_told_to",
        &["prlimit", "--nofile=512:1024"],
    ) {
        return;
    }
    let limit_of_child = || {
        let shell = Command::new("sh").args(["-c", "ulimit -n"]).output();
        String::from_utf8(shell.unwrap().stdout).unwrap()
    };
    actix::System::new().block_on(async {
        let _pair = pair(|builder| builder).await.unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(512));
        assert_eq!(limit_of_child(), "512\n");
        let told = agent("worker")
            .limits(Limits::default().raise_open_files(true))
            .start()
            .await;
        told.unwrap();
        assert_eq!(limit_of_child(), "1024\n");
    });
}

/// A worker in another process, with its limits. It ends with this.
struct Worker(Child);

impl Worker {
    fn start(test: &str, nanoctrl: &str, with: &[&str]) -> Self {
        let mut command = again(test, with);
        command.env("SLIME_TEST_URL", nanoctrl);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Of a pipe: a file that this process writes its log to may be longer than the worker's
        // limit of files.
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            log.map_while(Result::ok)
                .for_each(|line| eprintln!("{line}"))
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let served = lines
            .map(Result::unwrap)
            .any(|line| line.contains("serving"));
        assert!(served, "the worker serves");
        Self(child)
    }

    /// Until who started it lets it go.
    fn serve() {
        let url = env::var("SLIME_TEST_URL").unwrap();
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init();
        actix::System::new().block_on(async {
            let worker = PeerAgent::builder().nanoctrl(url).alias("limited");
            let worker = worker.start().await.unwrap();
            worker.serve(Calc).await.unwrap();
            println!("serving");
            let _ = std::io::stdout().flush();
            let end =
                tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            end.await.unwrap().unwrap();
        });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a worker lacks is told to those who want to be connected with it; it goes on.
#[test]
fn a_worker_that_has_no_room_for_a_driver_tells_it_why() {
    const NAME: &str = "a_worker_that_has_no_room_for_a_driver_tells_it_why";
    if env::var_os(IS_CHILD).is_some() {
        return Worker::serve();
    }
    let nanoctrl = support::NanoCtrlServer::start();
    let url = nanoctrl.url();
    for (limit, named) in [
        ("--fsize=16384", "ulimit -f"),
        ("--nofile=100", "ulimit -n"),
    ] {
        let mut worker = Worker::start(NAME, &url, &["prlimit", limit]);
        actix::System::new().block_on(async {
            let mut drivers = Vec::new();
            let refused = loop {
                let driver = agent("driver").nanoctrl(&url).start().await.unwrap();
                match timeout(LONG, driver.proxy::<Calc>("limited"))
                    .await
                    .unwrap()
                {
                    Ok(calc) => drivers.push((driver, calc)),
                    Err(error) => break error,
                }
                assert!(drivers.len() < 30, "there is a limit");
            };
            assert!(matches!(refused, AgentError::Refused { .. }), "{refused:?}");
            names(
                &refused,
                "cannot be connected with, for a reason at its end",
            );
            names(&refused, named);
            for (_, calc) in &drivers {
                let sum = timeout(LONG, calc.add(1, 2)).await.unwrap();
                assert_eq!(sum.unwrap(), 3);
            }
        });
        assert!(worker.0.try_wait().unwrap().is_none(), "it lives");
    }
}

#[test]
fn a_device_under_a_limit_names_it_by_type() {
    if is_done_elsewhere("a_device_under_a_limit_names_it_by_type", &["env"]) {
        return;
    }
    let device = fabric::open("shm0", 1).unwrap();
    let limit = |resource, current| {
        let maximum = getrlimit(resource).maximum;
        let current = Some(current);
        setrlimit(resource, Rlimit { current, maximum }).unwrap();
    };
    limit(Resource::Fsize, 8192);
    let refused = device.register(8192, fabric::Access::ALL).unwrap_err();
    let FabricError::SystemLimit { limit: found, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*found, SystemLimit::FileSize { limit: 8192 });
    limit(Resource::Nofile, 3);
    let refused = device.create_completion_queue(16).unwrap_err();
    let FabricError::SystemLimit { limit: found, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(found, SystemLimit::OpenFiles { limit: 3, .. }));
    names(
        &refused,
        "no file descriptor is left, as this process may have 3",
    );
}

#[test]
fn an_agent_that_has_no_descriptor_left_for_nanoctrl_says_so() {
    const NAME: &str = "an_agent_that_has_no_descriptor_left_for_nanoctrl_says_so";
    if is_done_elsewhere(NAME, &["env"]) {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let agent = NanoCtrl::new("http://127.0.0.1:9", "").unwrap();
        let agent = agent.register_timeout(Duration::from_millis(200));
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = Some(3);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        let refused = agent.register(Registration::default()).await.unwrap_err();
        names(&refused, "ulimit -n");
    });
}

/// A log that may not grow any more is no reason to end.
#[test]
fn nanoctrl_serves_on_where_its_log_may_not_grow() {
    let redis = support::Redis::start();
    let port = support::free_port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new("prlimit");
    // One byte more than a line has, or less.
    command
        .arg("--fsize=64")
        .arg(env!("CARGO_BIN_EXE_nanoctrl"));
    command.args(["server", "--host", "127.0.0.1", "--port", &port]);
    command.args(["--redis-url", &redis.url()]);
    let server = command.stdout(fs::File::create(&log).unwrap()).spawn();
    let mut server = Worker(server.unwrap());
    let url = format!("http://127.0.0.1:{port}");
    actix::System::new().block_on(async {
        let agent = agent("driver").nanoctrl(url);
        timeout(LONG, agent.start()).await.unwrap().unwrap();
    });
    assert!(server.0.try_wait().unwrap().is_none(), "it lives");
    assert_eq!(fs::metadata(&log).unwrap().len(), 64);
}

/// Asks NanoCtrl over a connection that stays open, whether it is up.
fn ask(mut nanoctrl: &TcpStream) -> std::io::Result<()> {
    nanoctrl.set_read_timeout(Some(LONG))?;
    nanoctrl.write_all(b"GET / HTTP/1.1\r\nHost: nanoctrl\r\n\r\n")?;
    let mut answer = [0; 15];
    nanoctrl.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    while nanoctrl.read(&mut answer)? == answer.len() {}
    Ok(())
}

/// Clients beyond the limit wait until others leave, and are no news each time one is looked at.
#[test]
fn nanoctrl_serves_those_who_are_connected_where_it_has_no_descriptors_for_more() {
    const WAITING: usize = 200;
    let redis = support::Redis::start();
    let port = support::free_port();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new("prlimit");
    command
        .arg("--nofile=100")
        .arg(env!("CARGO_BIN_EXE_nanoctrl"));
    command.args(["server", "--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--redis-url", &redis.url()]);
    let server = command.stdout(fs::File::create(&log).unwrap()).spawn();
    let _server = Worker(server.unwrap());
    let until = Instant::now() + LONG;
    let connect = || TcpStream::connect(("127.0.0.1", port));
    let first = loop {
        match connect() {
            Ok(first) => break first,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    ask(&first).unwrap();
    let others: Vec<_> = (0..WAITING).map(|_| connect().unwrap()).collect();
    std::thread::sleep(Duration::from_secs(3));
    ask(&first).unwrap();
    let said = fs::read_to_string(&log).unwrap();
    let of_limit = said.lines().filter(|line| {
        let line = line.to_lowercase();
        line.contains("connection") || line.contains("open files")
    });
    let of_limit: Vec<_> = of_limit.collect();
    // One each 10 s, and time may pass on a busy machine.
    assert!((1..=2).contains(&of_limit.len()), "{of_limit:#?}");
    assert!(of_limit[0].contains("ulimit -n"), "{of_limit:#?}");
    drop(others);
    ask(&connect().unwrap()).unwrap();
}

/// Drivers that start and connect all at once, where the process has descriptors for some of them.
#[test]
fn of_many_at_once_each_is_connected_or_told_the_limit() {
    const NAME: &str = "of_many_at_once_each_is_connected_or_told_the_limit";
    const DRIVERS: usize = 150;
    let directory = tempfile::tempdir().unwrap();
    let meeting = format!("XDG_RUNTIME_DIR={}", directory.path().display());
    if is_done_elsewhere(NAME, &["env", &meeting, "prlimit", "--nofile=1200:4096"]) {
        return;
    }
    actix::System::new().block_on(async {
        let worker = agent("worker").host().start().await.unwrap();
        worker.serve(Calc).await.unwrap();
        let connect = || async {
            let driver = agent("driver").host().start().await?;
            let calc: Proxy<Calc> = driver.proxy(worker.alias()).await?;
            Ok::<_, AgentError>((driver, calc))
        };
        let mut before = Vec::new();
        for _ in 0..5 {
            before.push(connect().await);
        }
        let connecting = join_all((0..DRIVERS).map(|_| connect()));
        let tried = timeout(LONG, connecting).await.expect("each is told");
        let tried = before.into_iter().chain(tried);
        let (connected, refused): (Vec<_>, Vec<_>) = tried.partition(Result::is_ok);
        println!("{} connected, {} refused", connected.len(), refused.len());
        for refused in refused.iter().filter_map(|tried| tried.as_ref().err()) {
            names(refused, "ulimit -n");
        }
        assert!(connected.len() >= 5 && !refused.is_empty());
        drop(refused);
        for (_, calc) in connected.iter().flatten() {
            let sum = timeout(LONG, calc.add(1, 2)).await.unwrap();
            assert_eq!(sum.unwrap(), 3);
        }
    });
}
