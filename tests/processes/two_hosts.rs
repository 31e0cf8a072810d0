//! Two hosts, each a network namespace, joined by a cable: nothing but TCP is between them.
//! NanoCtrl and Redis are on the first.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use slimerpc_actors::{LinkType, PeerAgent, PeerEvent, Timeouts, service};
use support::{program, wait_until};

use crate::workers::{PRINTED, Role, SOON, said};

/// Addresses of the two.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
const CABLE: &str = "cable";
/// Longer than redialling the control plane may take after an outage.
const PATIENCE: Duration = Duration::from_secs(60);

/// The hosts; they are gone when this is dropped.
struct Hosts {
    names: [String; 2],
    servers: Vec<Child>,
}

fn ip(words: &[&str]) -> Result<(), String> {
    let ended = Command::new("ip").args(words).output();
    let ended = ended.map_err(|error| format!("ip: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(format!("ip {}: {said}", words.join(" ")))
}

impl Hosts {
    /// `None`, after saying so, where namespaces cannot be made.
    fn start(test: &str) -> Option<Self> {
        let id = std::process::id();
        let hosts = Self {
            names: ["a", "b"].map(|name| format!("slime-{test}-{id}-{name}")),
            servers: Vec::new(),
        };
        for name in &hosts.names {
            if let Err(why) = ip(&["netns", "add", name]) {
                eprintln!("SKIPPED: this may not make a network namespace: {why}");
                return None;
            }
        }
        Some(hosts.wired())
    }

    fn wired(mut self) -> Self {
        let [a, b] = &self.names;
        let link = ["link", "add", CABLE, "netns", a, "type", "veth"];
        let peer = ["peer", "name", CABLE, "netns", b];
        ip(&[&link[..], &peer].concat()).unwrap();
        for (name, address) in self.names.iter().zip(ADDRESSES) {
            let address = format!("{address}/24");
            ip(&["-n", name, "address", "add", &address, "dev", CABLE]).unwrap();
            ip(&["-n", name, "link", "set", "lo", "up"]).unwrap();
            ip(&["-n", name, "link", "set", CABLE, "up"]).unwrap();
        }
        let host = ADDRESSES[0].to_string();
        let mut redis = self.on(0, "redis-server");
        redis.args(["--bind", &host, "--port", "6379", "--protected-mode", "no"]);
        redis.args(["--save", "", "--appendonly", "no"]);
        let mut nanoctrl = self.on(0, program("nanoctrl").to_str().unwrap());
        nanoctrl.args(["server", "--host", &host, "--port", "3000"]);
        nanoctrl.args(["--redis-url", &format!("redis://{host}:6379")]);
        self.serve(redis);
        wait_until("Redis answers", || {
            let mut ping = self.on(0, "redis-cli");
            ping.args(["-h", &host, "ping"]);
            ping.output().unwrap().status.success()
        });
        self.serve(nanoctrl);
        self
    }

    /// The words that run a command on a host.
    fn within(&self, host: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.names[host]]
    }

    /// A command on a host, which ends with this thread.
    fn on(&self, host: usize, program: &str) -> Command {
        let [first, words @ ..] = self.within(host);
        let mut command = Command::new(first);
        command.args(words);
        command.args(["setpriv", "--pdeathsig", "KILL", program]);
        command
    }

    fn serve(&mut self, mut server: Command) {
        server.stdin(Stdio::null()).stdout(Stdio::null());
        let server = server.stderr(Stdio::null()).spawn().unwrap();
        self.servers.push(server);
    }

    fn url() -> String {
        format!("http://{}:3000", ADDRESSES[0])
    }

    fn cable(&self, state: &str) {
        ip(&["-n", &self.names[1], "link", "set", CABLE, state]).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        for name in &self.names {
            // Those that were not made cannot be deleted.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

#[test]
fn a_driver_calls_a_worker_on_another_host_over_tcp() {
    let Some(hosts) = Hosts::start("calc") else {
        return;
    };
    let _worker = Role::worker_in(&hosts.within(0), &Hosts::url(), &[]);
    let driver = ["--role", "driver"];
    let driver = Role::start_in(&hosts.within(1), &Hosts::url(), &driver);
    let (code, out, err) = driver.end();
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), PRINTED, ""));
}

struct Bytes;

#[service]
impl Bytes {
    #[method]
    fn reversed(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.reverse();
        bytes
    }
}

fn agent(alias: &str) -> slimerpc_actors::Builder {
    let patient = Timeouts::default().connect_timeout(SOON);
    let builder = PeerAgent::builder().nanoctrl(Hosts::url()).alias(alias);
    builder.timeouts(patient)
}

/// Not a test of its own.
#[actix::test]
async fn helper_that_serves() {
    if std::env::var_os(crate::workers::HELPER).is_none() {
        return;
    }
    let worker = agent("bytes").start().await.unwrap();
    worker.serve(Bytes).await.unwrap();
    println!("says: served");
    std::future::pending().await
}

/// Not a test of its own: says what it sees of the worker, and calls it whenever it can.
#[actix::test]
async fn helper_that_calls() {
    if std::env::var_os(crate::workers::HELPER).is_none() {
        return;
    }
    let driver = agent("driver").start().await.unwrap();
    let worker = driver.proxy::<Bytes>("bytes").await.unwrap();
    assert_eq!(worker.channel().unwrap().link(), Some(LinkType::Tcp));
    let mut events = worker.watch().await.unwrap();
    let large: Vec<u8> = (0..8 << 20).map(|at: usize| (at * 31) as u8).collect();
    loop {
        let echoed = worker.reversed(large.clone()).await.unwrap();
        assert!(echoed.iter().eq(large.iter().rev()));
        println!("says: called");
        loop {
            match events.next().await.unwrap() {
                PeerEvent::Lost { .. } => println!("says: lost"),
                PeerEvent::Reconnected { .. } => break,
                _ => {}
            }
        }
    }
}

#[test]
fn a_cable_that_is_pulled_is_noticed_and_calls_go_on_once_it_is_back() {
    let Some(hosts) = Hosts::start("cable") else {
        return;
    };
    let helper =
        |host, test| Role::helper(&hosts.within(host), module_path!(), test, &Hosts::url());
    let mut worker = helper(0, "helper_that_serves");
    assert_eq!(said(&mut worker).recv_timeout(SOON).unwrap(), "served");
    let mut driver = helper(1, "helper_that_calls");
    let driver = (said(&mut driver), driver);
    assert_eq!(driver.0.recv_timeout(SOON).as_deref(), Ok("called"));
    hosts.cable("down");
    assert_eq!(driver.0.recv_timeout(SOON).as_deref(), Ok("lost"));
    hosts.cable("up");
    assert_eq!(driver.0.recv_timeout(PATIENCE).as_deref(), Ok("called"));
}
