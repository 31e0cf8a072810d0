//! Messages that are executed as they are written, where a fabric can do that.

use super::pair::{Devices, LEN, PairEnd, Shape, pattern};
use crate::fabric::{Access, Operation, Payload, QueuePairState, RemoteSlice, RetryPolicy};

pub(super) fn a_message_written_now_follows_those_posted_and_completes_at_the_peer(
    devices: &Devices,
) {
    const MESSAGES: u32 = 100;
    let shape = Shape {
        sends: 16,
        receives: 128,
        ..Shape::default()
    };
    let (mut a, mut b) = devices.pair_of(shape);
    b.receives(0..=u64::from(MESSAGES));
    let message = |number| Operation::WriteWithImm(number);
    a.send(0, message(0), Payload::Inline(b"first"), b.remote(0));
    a.succeed(1);
    for number in 1..=MESSAGES {
        let bytes = pattern(number as usize, 7 * number as usize);
        a.fill(0, &bytes);
        let remote = b.remote(number as usize * 1024);
        if !a.qp.write_now(number, &bytes, remote) {
            a.send(1, message(number), a.local(0, bytes.len()), remote);
            a.succeed(1);
        }
    }
    a.stays_silent();
    let arrivals = b.succeed(MESSAGES as usize + 1);
    for (number, arrival) in arrivals.iter().enumerate().skip(1) {
        let imm = Some(number as u32);
        assert_eq!((arrival.wr_id, arrival.imm), (number as u64, imm));
        assert_eq!(arrival.byte_len as usize, 7 * number);
        let expected = pattern(number, 7 * number);
        assert_eq!(b.bytes(number * 1024, 7 * number), expected);
    }
}

pub(super) fn what_cannot_be_written_now_is_not_written_at_all(devices: &Devices) {
    let mut fresh = PairEnd::new(&devices.a, Shape::default());
    let (mut a, mut b) = devices.pair_of(Shape {
        retry: RetryPolicy {
            rnr_retry: 7,
            // 82 ms, in which what waits for a receive has not noticed one.
            min_rnr_timer: 26,
            ..RetryPolicy::default()
        },
        ..Shape::default()
    });
    let (here, read_only) = (b.remote(0), devices.b.register(64, Access::REMOTE_READ));
    let read_only = read_only.expect("a region");
    assert!(!fresh.qp.write_now(1, b"x", here), "it is not connected");
    assert!(!a.qp.write_now(1, b"x", here), "there is no receive");
    b.receives([1]);
    a.send(1, Operation::WriteWithImm(1), Payload::Inline(b"y"), here);
    assert_eq!(b.succeed(1)[0].imm, Some(1));
    a.succeed(1);
    a.send(2, Operation::WriteWithImm(2), Payload::Inline(b"y"), here);
    b.receives([2, 3]);
    let is_written = a.qp.write_now(3, &[], here);
    assert_eq!(b.succeed(1)[0].imm, Some(2), "it was posted first");
    if is_written {
        b.succeed(1);
    }
    a.succeed(1);
    let refused = [
        RemoteSlice {
            rkey: !here.rkey,
            ..here
        },
        RemoteSlice {
            rkey: read_only.rkey(),
            addr: read_only.addr(),
        },
        b.remote(LEN - 1),
        RemoteSlice {
            addr: here.addr.wrapping_sub(1),
            ..here
        },
        RemoteSlice {
            addr: u64::MAX,
            ..here
        },
    ];
    for remote in refused {
        assert!(!a.qp.write_now(4, b"xy", remote), "{remote:?}");
    }
    assert_eq!(a.qp.state(), QueuePairState::Rts, "it is no error");
    assert_eq!(b.bytes(0, 2), *b"y\0");
    a.qp.to_error().expect("any state to ERR");
    assert!(!a.qp.write_now(5, b"x", here), "it is in error");
    a.stays_silent();
}
