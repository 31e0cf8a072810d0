//! Sleeping on a completion queue.

use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::pair::{A_WHILE, Devices, PairEnd, SOON, Shape};
use crate::fabric::{
    Completion, CompletionQueue, Opcode, Operation, Payload, QueuePairInit, RemoteSlice,
    RetryPolicy,
};

const NOWHERE: RemoteSlice = RemoteSlice { addr: 0, rkey: 0 };

/// Polls after an event by which a queue is no longer armed.
const STILL_ARMED: usize = 2000;

/// Whether the queue's descriptor becomes readable within `time`.
fn readable(cq: &dyn CompletionQueue, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).expect("a short time");
    let fd = cq.event_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).expect("poll") > 0
}

fn doorbell(end: &mut PairEnd, imm: u32) {
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
    for _ in 0..STILL_ARMED {
        assert!(b.take(1).is_empty());
    }
    b.cq.clear_events();
    doorbell(&mut a, 4);
    assert!(!readable(&*b.cq, A_WHILE), "not armed again");
    b.succeed(1);
    assert!(!readable(&*b.cq, A_WHILE), "nor since");
    b.cq.arm_solicited().expect("arm");
    doorbell(&mut a, 5);
    assert!(readable(&*b.cq, SOON), "it is solicited");
    b.succeed(1);
}

pub(super) fn a_send_completion_raises_an_event(devices: &Devices) {
    let (mut a, b) = devices.pair();
    a.cq.clear_events();
    a.send(0, Operation::Write, Payload::Inline(b"x"), b.remote(0));
    a.succeed(1);
    assert!(!readable(&*a.cq, A_WHILE), "not armed");
    a.cq.arm().expect("arm");
    assert!(!readable(&*a.cq, A_WHILE));
    a.send(1, Operation::Write, Payload::Inline(b"x"), b.remote(0));
    assert!(readable(&*a.cq, SOON));
    a.succeed(1);
}

pub(super) fn an_error_raises_an_event(devices: &Devices) {
    let armings: [fn(&dyn CompletionQueue) -> _; 2] = [
        <dyn CompletionQueue>::arm,
        <dyn CompletionQueue>::arm_solicited,
    ];
    for arm in armings {
        let (mut a, mut b) = devices.pair();
        a.receives([1]);
        b.receives([1]);
        for end in [&a, &b] {
            arm(&*end.cq).expect("arm");
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
}

/// Both sides sleep before each message. A lost event would leave them asleep.
pub(super) fn sleepers_miss_nothing(devices: &Devices) {
    const ROUNDS: u32 = 1000;
    /// Whether a message is there.
    fn look(end: &mut PairEnd) -> bool {
        let Some(completion) = end.take(1).first().copied() else {
            return false;
        };
        assert!(completion.status.is_success(), "{completion:?}");
        if completion.opcode != Opcode::RecvWriteWithImm {
            return look(end);
        }
        end.receives([0]);
        true
    }
    fn wait(end: &mut PairEnd) {
        while !look(end) {
            end.cq.arm().expect("arm");
            if look(end) {
                return;
            }
            assert!(readable(&*end.cq, SOON), "the event was lost");
            end.cq.clear_events();
        }
    }
    let (mut a, mut b) = devices.pair();
    a.receives([0; 4]);
    b.receives([0; 4]);
    // Both stay until the other has had the last one.
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                doorbell(&mut a, round);
                wait(&mut a);
            }
        });
        scope.spawn(|| {
            for round in 0..ROUNDS {
                wait(&mut b);
                doorbell(&mut b, round);
            }
        });
    });
}

/// Each queue gets its own completions and is woken for those, in error, too.
pub(super) fn sends_and_receives_may_have_queues_of_their_own(devices: &Devices) {
    let (mut a, mut b) = (
        PairEnd::new(&devices.a, Shape::default()),
        PairEnd::new(&devices.b, Shape::default()),
    );
    let (receive_cq, mut receives) = devices
        .a
        .create_completion_queue(64)
        .expect("a completion queue");
    a.qp = devices
        .a
        .create_queue_pair(&QueuePairInit {
            send_cq: a.cq.clone(),
            recv_cq: receive_cq.clone(),
            max_send_wr: 16,
            max_recv_wr: 16,
            max_inline: 16,
            retry: RetryPolicy::default(),
        })
        .expect("a queue pair");
    a.qp.to_init().expect("RESET to INIT");
    a.connect(&b);
    b.connect(&a);
    a.receives([1, 2]);
    receive_cq.arm().expect("arm");
    a.cq.arm().expect("arm");
    b.send(9, Operation::WriteWithImm(5), Payload::Inline(&[]), NOWHERE);
    // A sleeper may be woken for what is no completion, and sleeps again.
    let mut next = |what: &str| {
        let mut received = [Completion::EMPTY; 4];
        loop {
            assert!(readable(&*receive_cq, SOON), "{what}");
            receive_cq.clear_events();
            match receives.poll(&mut received).expect("poll") {
                0 => receive_cq.arm().expect("arm"),
                count => {
                    assert_eq!(count, 1);
                    return received[0];
                }
            }
        }
    };
    let received = next("woken for what is received");
    assert_eq!((received.wr_id, received.imm), (1, Some(5)));
    assert!(!readable(&*a.cq, A_WHILE), "nothing for the queue of sends");

    receive_cq.arm().expect("arm");
    a.qp.to_error().expect("any state to ERR");
    let flushed = next("woken for what is flushed");
    assert_eq!(flushed.wr_id, 2);
    assert!(!flushed.status.is_success());
}
