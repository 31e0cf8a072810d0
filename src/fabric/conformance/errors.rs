//! Everything that puts a queue pair in error, and what follows.

use std::thread;
use std::time::Duration;

use super::pair::{Devices, LEN, PairEnd, Shape};
use crate::fabric::{
    Access, CompletionStatus, Operation, Payload, QueuePairState, RemoteSlice, RetryPolicy, Sge,
};

const NOWHERE: RemoteSlice = RemoteSlice { addr: 0, rkey: 0 };

pub(super) fn a_bad_remote_key_puts_both_ends_in_error(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    a.receives([10, 11]);
    b.receives([20, 21, 22]);
    a.send(
        1,
        Operation::WriteWithImm(4),
        Payload::Inline(b"fine"),
        b.remote(0),
    );
    let bad = RemoteSlice {
        rkey: b.region.rkey() ^ 0x5a5a_5a00,
        ..b.remote(0)
    };
    a.send(2, Operation::WriteWithImm(5), Payload::Inline(b"bad"), bad);
    a.send(
        3,
        Operation::WriteWithImm(6),
        Payload::Inline(b"late"),
        b.remote(0),
    );
    let mut ours = a.outcomes(5);
    ours.sort_by_key(|(wr_id, _)| *wr_id);
    assert_eq!(
        ours,
        [
            (1, CompletionStatus::Success),
            (2, CompletionStatus::RemoteAccess),
            (3, CompletionStatus::Flushed),
            (10, CompletionStatus::Flushed),
            (11, CompletionStatus::Flushed),
        ]
    );
    let theirs = b.outcomes(3);
    let delivered = "what came before the error is delivered";
    assert_eq!(theirs[0], (20, CompletionStatus::Success), "{delivered}");
    // The refused message may or may not have consumed a receive.
    let refused = [CompletionStatus::RemoteAccess, CompletionStatus::Flushed];
    assert!(
        theirs[1].0 == 21 && refused.contains(&theirs[1].1),
        "{theirs:?}"
    );
    assert_eq!(theirs[2], (22, CompletionStatus::Flushed));
    assert_eq!(b.bytes(0, 4), *b"fine");
    a.goes_to_error();
    b.goes_to_error();
}

pub(super) fn every_remote_refusal_is_a_remote_access_error(devices: &Devices) {
    let write =
        |offset: i64, length: usize, access: Access| (Operation::Write, offset, length, access);
    let read =
        |offset: i64, length: usize, access: Access| (Operation::Read, offset, length, access);
    let end = LEN as i64;
    let cases = [
        write(end - 3, 4, Access::ALL),
        write(end, 1, Access::ALL),
        write(-1, 1, Access::ALL),
        write(-1, 8, Access::ALL),
        read(end - 3, 4, Access::ALL),
        read(i64::MIN, 1, Access::ALL),
        write(0, 4, Access::LOCAL_WRITE | Access::REMOTE_READ),
        read(0, 4, Access::LOCAL_WRITE | Access::REMOTE_WRITE),
    ];
    for (operation, offset, length, access) in cases {
        let (mut a, b) = devices.pair();
        let region = devices.b.register(LEN, access).expect("a region");
        let remote = RemoteSlice {
            addr: region.addr().wrapping_add_signed(offset),
            rkey: region.rkey(),
        };
        a.send(1, operation, a.local(0, length), remote);
        let outcome = a.outcomes(1);
        assert_eq!(
            outcome,
            [(1, CompletionStatus::RemoteAccess)],
            "{operation:?} of {length} bytes at {offset} with {access:?}"
        );
        a.goes_to_error();
        b.goes_to_error();
    }
}

pub(super) fn deregistered_memory_is_refused(devices: &Devices) {
    let (mut a, b) = devices.pair();
    let region = devices.b.register(4096, Access::ALL).expect("a region");
    let remote = RemoteSlice {
        addr: region.addr(),
        rkey: region.rkey(),
    };
    a.send(1, Operation::Write, Payload::Inline(b"now"), remote);
    a.succeed(1);
    drop(region);
    a.send(2, Operation::Write, Payload::Inline(b"late"), remote);
    assert_eq!(a.outcomes(1), [(2, CompletionStatus::RemoteAccess)]);
    b.goes_to_error();
}

pub(super) fn bad_local_memory_is_a_local_protection_error(devices: &Devices) {
    let spoil: [fn(&mut Sge); 3] = [
        |sge| sge.lkey ^= 0x5a5a_5a00,
        |sge| sge.addr += LEN as u64 - 63,
        |sge| sge.addr -= 1,
    ];
    for spoil in spoil {
        let (mut a, b) = devices.pair();
        let mut sge = Sge {
            addr: a.region.addr(),
            length: 64,
            lkey: a.region.lkey(),
        };
        spoil(&mut sge);
        let local = Payload::Region(sge);
        a.send(1, Operation::Write, local, b.remote(0));
        refused_locally(&mut a, 1);
        a.goes_to_error();
    }
    let (mut a, b) = devices.pair();
    let region = devices
        .a
        .register(64, Access::LOCAL_READ)
        .expect("a region");
    let local = Payload::Region(Sge {
        addr: region.addr(),
        length: 64,
        lkey: region.lkey(),
    });
    a.send(1, Operation::Write, local, b.remote(0));
    a.succeed(1);
    a.send(2, Operation::Read, local, b.remote(0));
    refused_locally(&mut a, 2);
}

/// What the specification calls a local protection error, soft-RoCE calls a local queue pair
/// operation error.
fn refused_locally(end: &mut PairEnd, wr_id: u64) {
    const LOCAL_OPERATION: CompletionStatus = CompletionStatus::Other(2);
    let outcome = end.outcomes(1)[0];
    let refused = [CompletionStatus::LocalProtection, LOCAL_OPERATION];
    assert!(
        outcome.0 == wr_id && refused.contains(&outcome.1),
        "{outcome:?}"
    );
}

pub(super) fn posts_in_error_are_accepted_and_flushed(devices: &Devices) {
    let (mut a, b) = devices.pair();
    a.qp.to_error().expect("any state to ERR");
    a.post(1, Operation::Write, a.local(0, 64), b.remote(0), true);
    a.post(2, Operation::Write, a.local(0, 64), b.remote(0), false);
    a.receives([3]);
    let mut outcomes = a.outcomes(3);
    outcomes.sort_by_key(|(wr_id, _)| *wr_id);
    assert_eq!(
        outcomes,
        [1, 2, 3].map(|wr_id| (wr_id, CompletionStatus::Flushed))
    );
    a.stays_silent();
}

pub(super) fn going_to_error_flushes_what_is_posted(devices: &Devices) {
    let (mut a, b) = devices.pair();
    a.receives([7, 8, 9]);
    a.qp.to_error().expect("any state to ERR");
    assert_eq!(
        a.outcomes(3),
        [7, 8, 9].map(|wr_id| (wr_id, CompletionStatus::Flushed))
    );
    a.stays_silent();
    drop(b);
}

pub(super) fn without_a_receive_a_message_waits(devices: &Devices) {
    let (mut a, mut b) = devices.pair_of(Shape {
        retry: RetryPolicy {
            rnr_retry: 7,
            ..RetryPolicy::default()
        },
        ..Shape::default()
    });
    a.send(
        1,
        Operation::WriteWithImm(1),
        Payload::Inline(b"one"),
        b.remote(0),
    );
    a.send(
        2,
        Operation::WriteWithImm(2),
        Payload::Inline(b"two"),
        b.remote(3),
    );
    b.stays_silent();
    b.receives([5]);
    assert_eq!(b.succeed(1)[0].imm, Some(1));
    b.receives([6]);
    let second = b.succeed(1)[0];
    assert_eq!((second.imm, second.wr_id), (Some(2), 6));
    assert_eq!(b.bytes(0, 6), *b"onetwo");
    a.succeed(2);
}

pub(super) fn without_any_receive_a_message_fails(devices: &Devices) {
    let (mut a, b) = devices.pair_of(Shape {
        retry: RetryPolicy {
            rnr_retry: 1,
            ..RetryPolicy::default()
        },
        ..Shape::default()
    });
    a.send(1, Operation::WriteWithImm(1), Payload::Inline(&[]), NOWHERE);
    a.send(2, Operation::Write, Payload::Inline(b"late"), b.remote(0));
    assert_eq!(
        a.outcomes(2),
        [
            (1, CompletionStatus::RnrRetryExceeded),
            (2, CompletionStatus::Flushed)
        ]
    );
    assert_eq!(a.qp.state(), QueuePairState::Error);
}

pub(super) fn a_peer_that_is_gone_is_noticed(devices: &Devices) {
    let (mut a, mut b) = devices.pair_of(brief());
    b.receives([1]);
    a.send(
        1,
        Operation::WriteWithImm(1),
        Payload::Inline(b"last"),
        b.remote(0),
    );
    a.succeed(1);
    b.succeed(1);
    let remote = b.remote(0);
    drop(b);
    // Time for a fabric that notices by itself; one that does not fails the next send.
    thread::sleep(Duration::from_millis(100));
    a.send(2, Operation::Write, Payload::Inline(b"lost"), remote);
    let [(2, status)] = a.outcomes(1)[..] else {
        panic!("one send, one completion")
    };
    assert!(!status.is_success());
    a.goes_to_error();
}

/// Nothing is written to the memory of an end that has gone, nor read from it, even if it is still
/// registered and nobody has noticed the end yet.
pub(super) fn memory_is_not_reached_through_a_queue_pair_that_is_gone(devices: &Devices) {
    for round in 0..20 {
        let (mut a, mut b) = devices.pair_of(brief());
        let remote = b.remote(0);
        a.send(1, Operation::Write, Payload::Inline(b"once"), remote);
        a.succeed(1);
        b.qp = PairEnd::new(&devices.b, brief()).qp;
        let (operation, local) = match round % 2 {
            0 => (Operation::Write, Payload::Inline(&b"late"[..])),
            _ => (Operation::Read, a.local(100, 4)),
        };
        a.send(2, operation, local, remote);
        let [(2, status)] = a.outcomes(1)[..] else {
            panic!("one request, one completion")
        };
        assert!(!status.is_success(), "{operation:?} in round {round}");
        let mut bytes = [0; 4];
        b.region.copy_out(0, &mut bytes).expect("in range");
        assert_eq!(&bytes, b"once");
        a.goes_to_error();
    }
}

pub(super) fn a_queue_pair_that_never_was_is_noticed(devices: &Devices) {
    let (mut a, b) = (
        PairEnd::new(&devices.a, brief()),
        PairEnd::new(&devices.b, brief()),
    );
    let mut ghost = b.qp.address();
    ghost.qp_num ^= 0x40_0000;
    a.qp.to_rtr(&ghost).expect("nobody looks yet");
    // A fabric that notices by itself may have done so already.
    if a.qp.to_rts().is_ok() {
        a.send(1, Operation::Write, Payload::Inline(b"lost"), b.remote(0));
        let [(1, status)] = a.outcomes(1)[..] else {
            panic!("one send, one completion")
        };
        assert!(!status.is_success());
    }
    a.goes_to_error();
}

/// Gives up soon.
fn brief() -> Shape {
    Shape {
        retry: RetryPolicy {
            timeout: 12,
            retry_cnt: 1,
            ..RetryPolicy::default()
        },
        ..Shape::default()
    }
}
