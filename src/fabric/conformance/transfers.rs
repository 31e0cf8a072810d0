//! Moving bytes.

use std::thread;

use super::pair::{Devices, LEN, PairEnd, pattern};
use crate::fabric::{Access, CompletionStatus, Opcode, Operation, Payload, RemoteSlice, Sge};

/// Lengths around the borders of packets and pages.
const LENGTHS: [usize; 9] = [1, 7, 64, 255, 4095, 4096, 4097, 65_536, 200_003];
const NOWHERE: RemoteSlice = RemoteSlice { addr: 0, rkey: 0 };

pub(super) fn writes_arrive_whole_and_touch_nothing_else(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        b.fill(0, &vec![0xee; length + 200]);
        let bytes = pattern(seed, length);
        a.fill(17, &bytes);
        a.send(
            seed as u64,
            Operation::Write,
            a.local(17, length),
            b.remote(100),
        );
        let done = a.succeed(1);
        assert_eq!(
            (done[0].wr_id, done[0].opcode),
            (seed as u64, Opcode::Write)
        );
        assert_eq!(b.bytes(100, length), bytes, "{length} bytes");
        assert_eq!(b.bytes(0, 100), [0xee; 100]);
        assert_eq!(b.bytes(100 + length, 100), [0xee; 100]);
    }
    b.stays_silent();
}

pub(super) fn reads_fetch_what_the_peer_has(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        a.fill(0, &vec![0xee; length + 200]);
        let bytes = pattern(seed, length);
        b.fill(3, &bytes);
        a.send(
            seed as u64,
            Operation::Read,
            a.local(100, length),
            b.remote(3),
        );
        let done = a.succeed(1);
        assert_eq!(done[0].opcode, Opcode::Read);
        assert_eq!(done[0].byte_len as usize, length);
        assert_eq!(a.bytes(100, length), bytes, "{length} bytes");
        assert_eq!(a.bytes(0, 100), [0xee; 100]);
        assert_eq!(a.bytes(100 + length, 100), [0xee; 100]);
    }
    b.stays_silent();
}

pub(super) fn immediates_arrive_in_order_with_their_data(devices: &Devices) {
    const MESSAGES: usize = 500;
    let (mut a, mut b) = devices.pair();
    b.receives(0..16);
    for number in 0..MESSAGES {
        // The receiver looks at the bytes of each before the sender may write them again.
        let length = 1 + number * 37 % 5000;
        let bytes = pattern(number, length);
        a.fill(0, &bytes);
        let imm = 0x8000_0000 | number as u32;
        a.send(
            number as u64,
            Operation::WriteWithImm(imm),
            a.local(0, length),
            b.remote(9),
        );
        let received = b.succeed(1)[0];
        assert_eq!(received.opcode, Opcode::RecvWriteWithImm);
        assert_eq!(received.wr_id, number as u64);
        assert_eq!(received.imm, Some(imm), "in host order");
        assert_eq!(received.byte_len as usize, length);
        assert_eq!(b.bytes(9, length), bytes);
        b.receives([number as u64 + 16]);
        let sent = a.succeed(1)[0];
        assert_eq!(
            (sent.wr_id, sent.opcode, sent.imm),
            (number as u64, Opcode::Write, None)
        );
    }
}

pub(super) fn zero_length_operations_need_no_memory(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    b.receives([5]);
    a.send(1, Operation::Write, a.local(0, 0), NOWHERE);
    a.send(2, Operation::Read, a.local(0, 0), NOWHERE);
    a.send(
        3,
        Operation::WriteWithImm(77),
        Payload::Inline(&[]),
        NOWHERE,
    );
    let sent: Vec<u64> = a.succeed(3).iter().map(|c| c.wr_id).collect();
    assert_eq!(sent, [1, 2, 3]);
    let received = b.succeed(1)[0];
    assert_eq!(
        (received.wr_id, received.imm, received.byte_len),
        (5, Some(77), 0)
    );
}

pub(super) fn inline_data_may_be_reused_at_once(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    b.receives(0..64);
    let mut buffer = [0; 64];
    for number in 0..60_u8 {
        buffer.fill(number);
        let at = b.remote(usize::from(number) * 64);
        let signalled = number % 16 == 0;
        a.post(
            number.into(),
            Operation::WriteWithImm(number.into()),
            Payload::Inline(&buffer),
            at,
            signalled,
        );
    }
    buffer.fill(0xff);
    b.succeed(60);
    for number in 0..60_u8 {
        assert_eq!(b.bytes(usize::from(number) * 64, 64), [number; 64]);
    }
    a.succeed(4);
}

pub(super) fn both_directions_work_at_the_same_time(devices: &Devices) {
    // The peer may write its next message while we look at this one, but not the one after that: it
    // needs our next one for it. So messages go to two places in turn. The next may also come
    // before our own is acknowledged.
    fn exchange(mut end: PairEnd, peer: RemoteSlice) {
        const ROUNDS: usize = 300;
        let half = LEN / 2;
        let length = |round| 1 + round * 4001 % 100_000;
        let place = |round| round % 2 * LEN / 4;
        let (mut sent, mut received) = (0, 0);
        for round in 0..ROUNDS {
            let remote = RemoteSlice {
                addr: peer.addr + place(round) as u64,
                ..peer
            };
            end.fill(half, &pattern(round, length(round)));
            let operation = Operation::WriteWithImm(round as u32);
            let local = end.local(half, length(round));
            end.send(1 << 40, operation, local, remote);
            while sent.min(received) <= round {
                let completion = end.succeed(1)[0];
                if completion.opcode != Opcode::RecvWriteWithImm {
                    sent += 1;
                    continue;
                }
                assert_eq!(completion.imm, Some(received as u32));
                let bytes = end.bytes(place(received), length(received));
                assert_eq!(bytes, pattern(received, length(received)));
                end.receives([0]);
                received += 1;
            }
        }
    }
    let (mut a, mut b) = devices.pair();
    a.receives([0; 4]);
    b.receives([0; 4]);
    let (to_a, to_b) = (a.remote(0), b.remote(0));
    thread::scope(|scope| {
        scope.spawn(move || exchange(a, to_b));
        scope.spawn(move || exchange(b, to_a));
    });
}

/// A sender that can write the peer's memory in place sends from there, and from nowhere else.
pub(super) fn what_is_made_in_place_arrives(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    let private = devices
        .b
        .register(LEN, Access::LOCAL_WRITE)
        .expect("a region");
    b.receives([1, 2, 3]);
    a.send(1, Operation::WriteWithImm(1), a.local(0, 100), b.remote(0));
    a.succeed(1);
    b.succeed(1);
    let placed = a.qp.place(b.remote(100), 1000);
    assert_eq!(placed.is_some(), a.qp.can_place());
    let Some(placed) = placed else {
        return;
    };
    let private = RemoteSlice {
        addr: private.addr(),
        rkey: private.rkey(),
    };
    for (remote, len) in [
        (private, 1),
        (b.remote(1), LEN),
        (b.remote(0), 0),
        (NOWHERE, 1),
    ] {
        assert!(a.qp.place(remote, len).is_none(), "{remote:?} {len}");
    }
    let bytes = pattern(3, 1000);
    placed.copy_in(0, &bytes).expect("inside the region");
    let local = |offset| {
        Payload::Region(Sge {
            addr: placed.addr() + offset,
            length: 900,
            lkey: placed.lkey(),
        })
    };
    a.send(2, Operation::WriteWithImm(2), local(50), b.remote(150));
    a.succeed(1);
    assert_eq!(b.succeed(1)[0].byte_len, 900);
    assert_eq!(b.bytes(150, 900), bytes[50..950]);
    a.send(3, Operation::Write, local(0), b.remote(101));
    assert_eq!(a.outcomes(1), [(3, CompletionStatus::LocalProtection)]);
    // It stays mapped as long as it is held.
    drop((a, b));
    let mut back = vec![0; 1000];
    placed.copy_out(0, &mut back).expect("inside the region");
    assert_eq!(back, bytes);
}
