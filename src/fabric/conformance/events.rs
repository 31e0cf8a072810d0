//! Sleeping on a completion queue.

use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::pair::{A_WHILE, Devices, End, SOON};
use crate::fabric::{CompletionQueue, Opcode, Operation, Payload, RemoteSlice};

const NOWHERE: RemoteSlice = RemoteSlice { addr: 0, rkey: 0 };

/// Whether the queue's descriptor becomes readable within `time`.
fn readable(cq: &dyn CompletionQueue, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).expect("a short time");
    let fd = cq.event_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).expect("poll") > 0
}

fn doorbell(end: &mut End, imm: u32) {
    end.post(
        0,
        Operation::WriteWithImm(imm),
        Payload::Inline(&[]),
        NOWHERE,
        imm.is_multiple_of(16),
    );
}

pub(super) fn entries_before_arming_raise_no_event(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    b.receives([1, 2]);
    a.send(1, Operation::WriteWithImm(1), Payload::Inline(&[]), NOWHERE);
    a.succeed(1);
    b.cq.arm().expect("arm");
    assert!(!readable(&*b.cq, A_WHILE), "the entry was there before");
    b.succeed(1);
    a.send(2, Operation::WriteWithImm(2), Payload::Inline(&[]), NOWHERE);
    assert!(readable(&*b.cq, SOON), "still armed");
    b.succeed(1);
}

pub(super) fn one_arming_gives_one_event(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    b.receives(0..8);
    b.cq.clear_events();
    doorbell(&mut a, 1);
    b.succeed(1);
    assert!(!readable(&*b.cq, A_WHILE), "not armed");
    b.cq.arm().expect("arm");
    doorbell(&mut a, 2);
    assert!(readable(&*b.cq, SOON));
    assert!(readable(&*b.cq, SOON), "until it is cleared");
    b.cq.clear_events();
    doorbell(&mut a, 3);
    b.succeed(2);
    assert!(!readable(&*b.cq, A_WHILE), "not armed again");
}

pub(super) fn a_send_completion_raises_an_event(devices: &Devices) {
    let (mut a, b) = devices.pair();
    a.cq.arm().expect("arm");
    assert!(!readable(&*a.cq, A_WHILE));
    a.send(1, Operation::Write, Payload::Inline(b"x"), b.remote(0));
    assert!(readable(&*a.cq, SOON));
    a.succeed(1);
}

pub(super) fn an_error_raises_an_event(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    a.receives([1]);
    b.receives([1]);
    for end in [&a, &b] {
        end.cq.arm().expect("arm");
    }
    let bad = RemoteSlice {
        rkey: !b.region.rkey(),
        ..b.remote(0)
    };
    a.send(2, Operation::Write, Payload::Inline(b"x"), bad);
    for end in [&a, &b] {
        assert!(readable(&*end.cq, SOON));
    }
    assert!(!b.outcomes(1)[0].1.is_success());
}

/// Both sides sleep before each message. A lost event would leave them asleep.
pub(super) fn sleepers_miss_nothing(devices: &Devices) {
    const ROUNDS: u32 = 1000;
    fn wait(end: &mut End) {
        loop {
            if let Some(completion) = end.take(1).first() {
                assert!(completion.status.is_success(), "{completion:?}");
                if completion.opcode == Opcode::RecvWriteWithImm {
                    end.receives([0]);
                    return;
                }
                continue;
            }
            end.cq.arm().expect("arm");
            if let Some(completion) = end.take(1).first() {
                assert!(completion.status.is_success(), "{completion:?}");
                if completion.opcode == Opcode::RecvWriteWithImm {
                    end.receives([0]);
                    return;
                }
                continue;
            }
            assert!(readable(&*end.cq, SOON), "the event was lost");
            end.cq.clear_events();
        }
    }
    let (mut a, mut b) = devices.pair();
    a.receives([0; 4]);
    b.receives([0; 4]);
    thread::scope(|scope| {
        scope.spawn(move || {
            for round in 0..ROUNDS {
                doorbell(&mut a, round);
                wait(&mut a);
            }
            a
        });
        scope.spawn(move || {
            for round in 0..ROUNDS {
                wait(&mut b);
                doorbell(&mut b, round);
            }
            // Stays until the peer has had the last one.
            thread::sleep(A_WHILE);
            b
        });
    });
}
