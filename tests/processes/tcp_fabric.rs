//! The tcp fabric between two processes: messages, memory of a process that does nothing, and
//! death.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slimerpc::channel::QueuePairInfo;
use slimerpc::fabric::tcp::{TcpDevice, TcpOptions};
use slimerpc::fabric::{
    Access, Completion, CompletionStatus, Device, MemoryRegion, Opcode, Operation, Payload, Poller,
    QueuePair, QueuePairInit, QueuePairState, RecvRequest, RemoteSlice, RetryPolicy, SendRequest,
    Sge,
};
use support::alone::test_process;

const SOON: Duration = Duration::from_secs(60);
const IS_CHILD: &str = "SLIME_TEST_TCP_CHILD";
const LEN: usize = 8 << 20;
/// The message after which the other process does nothing more.
const REST: u32 = u32::MAX;

/// What the two processes tell each other, over a pipe.
#[derive(Serialize, Deserialize)]
struct Told {
    qp: QueuePairInfo,
    addr: u64,
    rkey: u32,
}

struct End {
    qp: Box<dyn QueuePair>,
    poller: Box<dyn Poller>,
    region: Arc<dyn MemoryRegion>,
}

impl End {
    fn new() -> Self {
        let device = TcpDevice::open(&TcpOptions::default()).unwrap();
        let (cq, poller) = device.create_completion_queue(64).unwrap();
        let mut qp = device
            .create_queue_pair(&QueuePairInit {
                send_cq: cq.clone(),
                recv_cq: cq,
                max_send_wr: 16,
                max_recv_wr: 16,
                max_inline: 64,
                retry: RetryPolicy::default(),
            })
            .unwrap();
        qp.to_init().unwrap();
        qp.post_recvs(RecvRequest { wr_id: 1 }, 16).unwrap();
        let region = device.register(LEN, Access::ALL).unwrap();
        Self { qp, poller, region }
    }

    fn told(&self) -> Told {
        Told {
            qp: self.qp.address().into(),
            addr: self.region.addr(),
            rkey: self.region.rkey(),
        }
    }

    fn connect(&mut self, peer: &Told) {
        self.qp.to_rtr(&peer.qp.into()).unwrap();
        self.qp.to_rts().unwrap();
    }

    /// All of our region to all of the peer's, or the other way round.
    fn send(&mut self, peer: &Told, operation: Operation, length: usize) {
        let request = SendRequest {
            wr_id: 99,
            operation,
            local: Payload::Region(Sge {
                addr: self.region.addr(),
                length: length as u32,
                lkey: self.region.lkey(),
            }),
            remote: RemoteSlice {
                addr: peer.addr,
                rkey: peer.rkey,
            },
            signalled: true,
            solicited: true,
        };
        self.qp.post_send(&request).unwrap();
    }

    fn completion(&mut self) -> Completion {
        let (mut one, end) = ([Completion::EMPTY], Instant::now() + SOON);
        while self.poller.poll(&mut one).unwrap() == 0 {
            assert!(Instant::now() < end, "no completion came");
            std::thread::yield_now();
        }
        one[0]
    }

    /// The next message; what was sent has completed.
    fn message(&mut self) -> u32 {
        loop {
            let completion = self.completion();
            assert_eq!(completion.status, CompletionStatus::Success);
            if completion.opcode == Opcode::RecvWriteWithImm {
                self.qp.post_recv(RecvRequest { wr_id: 1 }).unwrap();
                return completion.imm.unwrap();
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        self.region.copy_out(0, &mut bytes).unwrap();
        bytes
    }
}

struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connected() -> (End, Other, Told) {
    let mut child = test_process(module_path!(), "the_other_process")
        .env(IS_CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
    let other = Other(child);
    let mut end = End::new();
    let line = serde_json::to_string(&end.told()).unwrap();
    writeln!(input.unwrap(), "{line}").unwrap();
    // The test harness of the other one talks, too.
    let json = BufReader::new(output).lines().find_map(|line| {
        let line = line.unwrap();
        line.find('{').map(|at| line[at..].to_owned())
    });
    let theirs = serde_json::from_str(&json.unwrap()).unwrap();
    end.connect(&theirs);
    (end, other, theirs)
}

#[test]
fn the_other_process() {
    if std::env::var_os(IS_CHILD).is_none() {
        return;
    }
    let mut end = End::new();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let peer: Told = serde_json::from_str(&line).unwrap();
    end.connect(&peer);
    println!("{}", serde_json::to_string(&end.told()).unwrap());
    loop {
        let imm = end.message();
        if imm == REST {
            std::thread::sleep(10 * SOON);
        }
        let mut bytes = end.bytes();
        bytes.reverse();
        end.region.copy_in(0, &bytes).unwrap();
        end.send(&peer, Operation::WriteWithImm(imm), LEN);
    }
}

#[test]
fn two_processes_write_into_each_other() {
    let (mut end, _other, theirs) = connected();
    for round in 0..4 {
        let bytes: Vec<u8> = (0..LEN).map(|at| (at * 31 + round) as u8).collect();
        end.region.copy_in(0, &bytes).unwrap();
        end.send(&theirs, Operation::WriteWithImm(round as u32), LEN);
        assert_eq!(end.message(), round as u32);
        assert!(end.bytes().iter().eq(bytes.iter().rev()), "round {round}");
    }
}

/// One-sided reads and writes need nothing of the program that has the memory.
#[test]
fn memory_of_a_process_that_does_not_poll_is_read_and_written() {
    let (mut end, _other, theirs) = connected();
    end.send(&theirs, Operation::WriteWithImm(REST), 0);
    assert!(end.completion().status.is_success());
    for round in 0..4 {
        let bytes: Vec<u8> = (0..LEN).map(|at| (at * 17 + round) as u8).collect();
        end.region.copy_in(0, &bytes).unwrap();
        end.send(&theirs, Operation::Write, LEN);
        assert!(end.completion().status.is_success());
        end.region.copy_in(0, &vec![0; LEN]).unwrap();
        end.send(&theirs, Operation::Read, LEN);
        assert!(end.completion().status.is_success());
        assert!(end.bytes() == bytes, "round {round}");
    }
}

/// The kernel tells of a process that is gone. A busy machine may delay us, not each time.
#[test]
fn a_killed_process_puts_the_queue_pair_in_error_within_100_ms() {
    let times: Vec<Duration> = (0..5)
        .map(|_| {
            let (mut end, mut other, theirs) = connected();
            end.send(&theirs, Operation::Write, 1);
            assert!(end.completion().status.is_success());
            other.0.kill().unwrap();
            let began = Instant::now();
            while end.qp.state() != QueuePairState::Error {
                assert!(began.elapsed() < SOON, "still in {}", end.qp.state());
                std::thread::sleep(Duration::from_micros(200));
            }
            began.elapsed()
        })
        .collect();
    assert!(
        times.iter().any(|time| *time < Duration::from_millis(100)),
        "{times:?}"
    );
}
