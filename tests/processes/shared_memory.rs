//! The shm fabric between two processes: memory of one is written by the other, and death is
//! noticed.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use slimerpc::channel::QueuePairInfo;
use slimerpc::fabric::shm::ShmDevice;
use slimerpc::fabric::{
    Access, Completion, CompletionStatus, MemoryRegion, Payload, Poller, QueuePair, QueuePairState,
    RecvRequest, RemoteSlice,
};
use support::{alone::test_process, verbs};

const SOON: Duration = Duration::from_secs(60);
const LEN: usize = 1 << 20;
/// The message at which the other process forks.
const FORK: &[u8] = b"fork";

/// What the two processes tell each other, over a pipe.
#[derive(Serialize, Deserialize)]
struct Told {
    qp: QueuePairInfo,
    others: Vec<QueuePairInfo>,
    addr: u64,
    rkey: u32,
}

struct End {
    qp: Box<dyn QueuePair>,
    /// Idle ones to the same device of the other process.
    others: Vec<Box<dyn QueuePair>>,
    poller: Box<dyn Poller>,
    region: Arc<dyn MemoryRegion>,
}

impl End {
    fn new() -> Self {
        let device = ShmDevice::open().unwrap();
        let (cq, poller) = device.create_completion_queue(64).unwrap();
        let mut qp = verbs::queue_pair(&*device, &cq, 16, 64);
        for wr_id in 0..16 {
            qp.post_recv(RecvRequest { wr_id }).unwrap();
        }
        let other = |_| verbs::queue_pair(&*device, &cq, 1, 1);
        let others = (0..3).map(other).collect();
        let region = device.register(LEN, Access::ALL).unwrap();
        Self {
            qp,
            others,
            poller,
            region,
        }
    }

    fn told(&self) -> Told {
        Told {
            qp: self.qp.address().into(),
            others: self.others.iter().map(|qp| qp.address().into()).collect(),
            addr: self.region.addr(),
            rkey: self.region.rkey(),
        }
    }

    fn connect(&mut self, peer: &Told) {
        let ours = [&mut self.qp].into_iter().chain(&mut self.others);
        for (qp, theirs) in ours.zip([&peer.qp].into_iter().chain(&peer.others)) {
            qp.to_rtr(&(*theirs).into()).unwrap();
            qp.to_rts().unwrap();
        }
    }

    fn write(&mut self, peer: &Told, offset: usize, bytes: &[u8], imm: u32) {
        let remote = RemoteSlice {
            addr: peer.addr + offset as u64,
            rkey: peer.rkey,
        };
        verbs::write_with_imm(&mut *self.qp, Payload::Inline(bytes), remote, imm);
    }

    fn completions(&mut self, count: usize) -> Vec<Completion> {
        verbs::completions(&mut *self.poller, count)
    }

    /// Until every queue pair is in ERR.
    fn time_to_error(&self) -> Duration {
        let began = Instant::now();
        for qp in [&self.qp].into_iter().chain(&self.others) {
            while qp.state() != QueuePairState::Error {
                assert!(began.elapsed() < SOON, "still in {}", qp.state());
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        began.elapsed()
    }
}

/// The other process: this test binary, told by the environment to be that.
struct Other(Child, BufReader<std::process::ChildStdout>);

impl Other {
    fn start() -> Self {
        let mut child = test_process(module_path!(), "the_other_process")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self(child, output)
    }

    fn exchange(&mut self, ours: &Told) -> Told {
        let line = serde_json::to_string(ours).unwrap();
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
        // The test harness of the other one talks, too.
        let mut lines = (&mut self.1).lines();
        let json = lines.find_map(|line| {
            line.unwrap()
                .split_once('{')
                .map(|(_, json)| format!("{{{json}"))
        });
        serde_json::from_str(&json.unwrap()).unwrap()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The peer of the tests below. Echoes messages and stays until it is killed.
#[test]
#[ignore = "the other process of the tests below"]
fn the_other_process() {
    let mut end = End::new();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let peer: Told = serde_json::from_str(&line).unwrap();
    end.connect(&peer);
    println!("{}", serde_json::to_string(&end.told()).unwrap());
    loop {
        for completion in end.completions(1) {
            if let (CompletionStatus::Success, Some(imm)) = (completion.status, completion.imm) {
                let mut bytes = vec![0; completion.byte_len as usize];
                end.region.copy_out(imm as usize, &mut bytes).unwrap();
                if bytes == FORK {
                    bytes = fork().to_string().into_bytes();
                }
                bytes.reverse();
                end.write(&peer, imm as usize, &bytes, imm);
            }
        }
    }
}

/// Forks a process that never becomes another program, and so keeps all that this one has open;
/// gives its number.
fn fork() -> i32 {
    // SAFETY: between fork and its end the child calls `pause` alone, which is safe after a fork of
    // a process with threads.
    unsafe {
        match libc::fork() {
            0 => loop {
                libc::pause();
            },
            child => child,
        }
    }
}

fn connected() -> (End, Other, Told) {
    let (mut end, mut other) = (End::new(), Other::start());
    let theirs = other.exchange(&end.told());
    end.connect(&theirs);
    (end, other, theirs)
}

#[test]
fn two_processes_write_into_each_other() {
    let (mut end, _other, theirs) = connected();
    for (offset, bytes) in [(0, &b"hello"[..]), (4096, b"x"), (LEN - 7, b"the end")] {
        end.write(&theirs, offset, bytes, offset as u32);
        let completions = end.completions(2);
        assert!(
            completions.iter().all(|c| c.status.is_success()),
            "{completions:?}"
        );
        let mut echoed = vec![0; bytes.len()];
        end.region.copy_out(offset, &mut echoed).unwrap();
        echoed.reverse();
        assert_eq!(echoed, bytes);
    }
    let after_the_end = (LEN, b"x");
    end.write(&theirs, after_the_end.0, after_the_end.1, 0);
    let refused = end.completions(1);
    assert_eq!(refused[0].status, CompletionStatus::RemoteAccess);
}

/// The kernel tells of a process that is gone, however it went. A busy machine may delay us, not
/// each time.
#[test]
fn a_killed_process_puts_its_queue_pairs_in_error_within_100_ms() {
    let times: Vec<Duration> = (0..5)
        .map(|_| {
            let (mut end, mut other, theirs) = connected();
            end.write(&theirs, 0, b"alive?", 0);
            end.completions(2);
            other.0.kill().unwrap();
            let time = end.time_to_error();
            // What was posted is flushed, and an awaited queue is woken for it.
            let flushed = end.completions(14);
            assert!(
                flushed
                    .iter()
                    .all(|c| c.status == CompletionStatus::Flushed)
            );
            time
        })
        .collect();
    assert!(
        times.iter().any(|time| *time < Duration::from_millis(100)),
        "{times:?}"
    );
}

/// Whoever makes a message in its memory does not die with it.
#[test]
fn the_memory_of_a_killed_process_can_be_written_as_long_as_it_is_held() {
    let (mut end, mut other, theirs) = connected();
    end.write(&theirs, 0, b"hello", 0);
    end.completions(2);
    let ring = RemoteSlice {
        addr: theirs.addr,
        rkey: theirs.rkey,
    };
    let placed = end.qp.place(ring, LEN).unwrap();
    placed.copy_in(0, b"before").unwrap();
    other.0.kill().unwrap();
    other.0.wait().unwrap();
    end.time_to_error();
    drop(end);
    // Pages that neither process has touched, too.
    placed.copy_in(0, &vec![7; LEN]).unwrap();
    let mut last = [0];
    placed.copy_out(LEN - 1, &mut last).unwrap();
    assert_eq!(last, [7]);
}

/// The one that it has forked has its sockets open for as long as it likes.
#[test]
fn a_killed_process_is_gone_although_one_that_it_has_forked_lives_on() {
    let (mut end, mut other, theirs) = connected();
    end.write(&theirs, 0, FORK, 0);
    let completions = end.completions(2);
    let length = completions.iter().find_map(|c| c.imm.map(|_| c.byte_len));
    let mut number = vec![0; length.unwrap() as usize];
    end.region.copy_out(0, &mut number).unwrap();
    number.reverse();
    let forked: i32 = String::from_utf8(number).unwrap().parse().unwrap();
    let forked = Pid::from_raw(forked).unwrap();
    other.0.kill().unwrap();
    other.0.wait().unwrap();
    let began = Instant::now();
    while end.qp.state() != QueuePairState::Error && began.elapsed() < SOON / 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let state = end.qp.state();
    kill_process(forked, Signal::KILL).unwrap();
    assert_eq!(state, QueuePairState::Error, "after {:?}", began.elapsed());
}
