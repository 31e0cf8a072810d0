//! Two hosts, each a network namespace, joined by a cable: nothing but TCP is between them.
//! NanoCtrl and Redis are on the first.
#![allow(clippy::unwrap_used)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use slimerpc_actors::{LinkType, PeerAgent, PeerEvent, Timeouts, service};
use support::{program, wait_until};

use crate::workers::{PRINTED, Role, SOON, said};

/// Addresses of the two.
const V4: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)),
];
const V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)),
];
const CABLE: &str = "cable";
/// Longer than redialling the control plane may take after an outage.
const PATIENCE: Duration = Duration::from_secs(60);

/// The hosts; they are gone when this is dropped.
struct Hosts {
    names: [String; 2],
    addresses: [IpAddr; 2],
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
        Self::at(V4, test)
    }

    fn at(addresses: [IpAddr; 2], test: &str) -> Option<Self> {
        let id = std::process::id();
        let hosts = Self {
            addresses,
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
        for (name, address) in self.names.iter().zip(self.addresses) {
            let (net, more) = match address {
                IpAddr::V4(_) => (format!("{address}/24"), &[][..]),
                // Nobody else has it.
                IpAddr::V6(_) => (format!("{address}/64"), &["nodad"][..]),
            };
            let words = ["-n", name, "address", "add", &net, "dev", CABLE];
            ip(&[&words[..], more].concat()).unwrap();
            ip(&["-n", name, "link", "set", "lo", "up"]).unwrap();
            ip(&["-n", name, "link", "set", CABLE, "up"]).unwrap();
        }
        let host = self.addresses[0].to_string();
        let mut redis = self.on(0, "redis-server");
        redis.args(["--bind", &host, "--port", "6379", "--protected-mode", "no"]);
        redis.args(["--save", "", "--appendonly", "no"]);
        let mut nanoctrl = self.on(0, program("nanoctrl").to_str().unwrap());
        nanoctrl.args(["server", "--host", &host, "--port", "3000"]);
        nanoctrl.args(["--redis-url", &format!("redis://{}:6379", self.host())]);
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

    /// The first host, as URLs name it.
    fn host(&self) -> String {
        match self.addresses[0] {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    }

    fn url(&self) -> String {
        format!("http://{}:3000", self.host())
    }

    /// Waits until a driver on the second host has called a worker on the first, 8 MiB each way.
    /// What is in `before` comes before the command of each.
    fn call(&self, before: [&[&str]; 2]) {
        let helper = |host: usize, test| {
            let within = [&self.within(host)[..], before[host]].concat();
            Role::helper(&within, module_path!(), test, &self.url())
        };
        let mut worker = helper(0, "helper_that_serves");
        assert_eq!(said(&mut worker).recv_timeout(SOON).unwrap(), "served");
        let mut driver = helper(1, "helper_that_calls");
        let told = said(&mut driver).recv_timeout(SOON);
        assert_eq!(told.as_deref(), Ok("called"));
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
    let _worker = Role::worker_in(&hosts.within(0), &hosts.url(), &[]);
    let driver = ["--role", "driver"];
    let driver = Role::start_in(&hosts.within(1), &hosts.url(), &driver);
    let (code, out, err) = driver.end();
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), PRINTED, ""));
}

/// The addresses that [`forward`] is told.
const FORWARDED: &str = "SLIME_TEST_FORWARDED";

/// Carries on to `private` what comes to `public`, as a router does for a container.
fn forward(public: &str, private: String) {
    let listener = TcpListener::bind(public).unwrap();
    let carry = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            // Either end may go at any time.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    };
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(&private).unwrap());
            carry(near.try_clone().unwrap(), far.try_clone().unwrap());
            carry(far, near);
        }
    });
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
    if let Ok(forwarded) = std::env::var(FORWARDED) {
        let (public, private) = forwarded.split_once(' ').unwrap();
        forward(public, private.to_owned());
    }
    let url = std::env::var(crate::workers::HELPER).unwrap();
    let builder = PeerAgent::builder().nanoctrl(url).alias(alias);
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
    let peer = loop {
        let peer = driver.peers().await.unwrap().pop();
        if let Some(peer) = peer.filter(|peer| peer.link.is_some()) {
            break peer;
        }
        // Heartbeats arrive a moment after the proxy is connected.
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(
        peer.why,
        "another network namespace of this host; no rdma here"
    );
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
    let helper = |host, test| Role::helper(&hosts.within(host), module_path!(), test, &hosts.url());
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

#[test]
fn small_packets_carry_all_that_large_ones_do() {
    let Some(hosts) = Hosts::start("mtu") else {
        return;
    };
    for name in &hosts.names {
        ip(&["-n", name, "link", "set", CABLE, "mtu", "576"]).unwrap();
    }
    hosts.call([&[], &[]]);
}

#[test]
fn hosts_that_have_ipv6_only_talk_like_others() {
    let Some(hosts) = Hosts::at(V6, "six") else {
        return;
    };
    hosts.call([&[], &[]]);
}

/// No time of one host is compared with one of the other.
#[test]
fn hosts_whose_clocks_differ_by_hours_talk_like_others() {
    if Command::new("faketime").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no faketime; tests/packages faketime installs it");
        return;
    }
    // How long something takes is the same everywhere.
    let faked = ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f"];
    for (name, hours) in [("late", "-7h"), ("early", "+7h")] {
        let Some(hosts) = Hosts::start(name) else {
            return;
        };
        let before = [&faked[..], &[hours]].concat();
        let now = |before: &[&str]| {
            let words = [before, &["date", "+%s"]].concat();
            let ended = Command::new(words[0]).args(&words[1..]).output();
            let said = ended.unwrap().stdout;
            let seconds = String::from_utf8(said).unwrap().trim().parse::<i64>();
            seconds.expect("Debian's package faketime")
        };
        assert!((now(&before) - now(&[])).abs() > 6 * 3600);
        hosts.call([&[], &before]);
    }
}

/// Each agent listens on an address that only its own host knows.
#[test]
fn agents_behind_nat_meet_at_the_addresses_that_they_advertise() {
    let Some(hosts) = Hosts::start("nat") else {
        return;
    };
    let behind = [0, 1].map(|host| {
        let (public, private) = (hosts.addresses[host], format!("10.88.0.{}", host + 1));
        let net = format!("{private}/32");
        ip(&[
            "-n",
            &hosts.names[host],
            "address",
            "add",
            &net,
            "dev",
            "lo",
        ])
        .unwrap();
        [
            "env".to_owned(),
            format!("SLIME_RPC_TCP_BIND={private}:7000"),
            format!("SLIME_RPC_TCP_ADVERTISE={public}"),
            format!("{FORWARDED}={public}:7000 {private}:7000"),
        ]
    });
    let words = behind
        .each_ref()
        .map(|it| it.each_ref().map(|word| &**word));
    hosts.call([&words[0], &words[1]]);
}
