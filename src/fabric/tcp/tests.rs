//! The fabric's specification on this implementation, and what only this one has to keep.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::address::TcpKey;
use super::frame::{HEADER, Header, Kind, MAX_MESSAGE};
use super::hello::{HELLO, Hello, Terms};
use super::{TcpDevice, TcpOptions};
use crate::fabric::conformance::CASES;
use crate::fabric::{
    Access, Completion, CompletionStatus, Device, FabricError, Gid, MemoryRegion, Poller,
    QueuePair, QueuePairAddress, QueuePairInit, QueuePairState, RecvRequest, RetryPolicy,
    TcpAddress,
};

const SOON: Duration = Duration::from_secs(20);

fn open() -> Arc<TcpDevice> {
    TcpDevice::open(&TcpOptions::default()).unwrap()
}

fn conform(a: &Arc<dyn Device>, b: &Arc<dyn Device>) {
    for case in CASES {
        println!("{}", case.name());
        case.run(a, b);
    }
}

#[test]
fn two_devices_conform() {
    let (a, b): (Arc<dyn Device>, Arc<dyn Device>) = (open(), open());
    conform(&a, &b);
}

#[test]
fn one_device_conforms_with_itself() {
    let a: Arc<dyn Device> = open();
    conform(&a, &a);
}

#[test]
fn devices_conform_over_ipv6() {
    let options = TcpOptions {
        bind: Ipv6Addr::LOCALHOST.into(),
        ..TcpOptions::default()
    };
    match TcpDevice::open(&options) {
        Ok(a) => {
            let b: Arc<dyn Device> = TcpDevice::open(&options).unwrap();
            let a: Arc<dyn Device> = a;
            conform(&a, &b);
        }
        Err(error) => println!("skipped, as this host has no IPv6: {error}"),
    }
}

#[cfg(feature = "faults")]
#[test]
fn devices_under_faults_conform() {
    use crate::fabric::faults::{Faults, Plan};
    /// A case that looks at a queue once, so what comes late is not there yet.
    const LOOKS_ONCE: &str = "events::sends_and_receives_may_have_queues_of_their_own";
    let none = Faults::new(Plan::new());
    conform(&none.wrap(open()), &none.wrap(open()));
    assert_eq!(none.stats().total(), 0);
    for seed in 0..2 {
        let faults = Faults::new(Plan::harmless(seed));
        let (a, b) = (faults.wrap(open()), faults.wrap(open()));
        for case in CASES.iter().filter(|case| case.name() != LOOKS_ONCE) {
            println!("seed {seed}: {}", case.name());
            case.run(&a, &b);
        }
        let stats = faults.stats();
        assert!(stats.delayed > 100 && stats.overtaken > 100, "{stats:?}");
    }
}
