//! What is completed, and how much may be posted.

use std::ops::Range;

use super::pair::{Devices, PairEnd, Shape, connect, poll};
use crate::fabric::{
    CompletionStatus, FabricError, Operation, Payload, RecvRequest, RemoteSlice, RetryPolicy,
    SendRequest,
};

const NOWHERE: RemoteSlice = RemoteSlice { addr: 0, rkey: 0 };

pub(super) fn unsignalled_sends_complete_silently(devices: &Devices) {
    let (mut a, b) = devices.pair();
    for number in 0..9_u8 {
        a.post(
            number.into(),
            Operation::Write,
            Payload::Inline(&[number]),
            b.remote(number.into()),
            false,
        );
    }
    a.stays_silent();
    a.send(9, Operation::Write, Payload::Inline(&[9]), b.remote(9));
    let done = a.succeed(1);
    assert_eq!(done[0].wr_id, 9);
    assert_eq!(
        b.bytes(0, 10),
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        "executed before the signalled one"
    );
    a.stays_silent();
}

pub(super) fn a_full_send_queue_says_so_and_has_room_after_polling(devices: &Devices) {
    let shape = Shape {
        sends: 16,
        ..Shape::default()
    };
    let (mut a, b) = devices.pair_of(shape);
    let request = SendRequest {
        wr_id: 3,
        operation: Operation::Write,
        local: Payload::Inline(&[1]),
        remote: b.remote(0),
        signalled: true,
        solicited: true,
    };
    // Without a message on its way the end would have nothing to wait for.
    let mut posted = 0;
    let full = loop {
        match a.qp.post_send(&request) {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
        assert!(posted <= 64, "a queue of 16 takes {posted} and more");
    };
    assert!(posted >= 16, "a queue of 16 takes {posted} only");
    assert!(
        matches!(full, FabricError::QueueFull { queue: "send", .. }),
        "{full:?}"
    );
    a.succeed(posted);
    a.qp.post_send(&request).expect("there is room again");
    a.succeed(1);
}

pub(super) fn a_full_receive_queue_says_so(devices: &Devices) {
    let shape = Shape {
        receives: 16,
        ..Shape::default()
    };
    let (mut a, mut b) = devices.pair_of(shape);
    let mut posted = 0;
    let full = loop {
        match b.qp.post_recv(RecvRequest { wr_id: posted }) {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
        assert!(posted <= 64, "a queue of 16 takes {posted} and more");
    };
    assert!(posted >= 16, "a queue of 16 takes {posted} only");
    assert!(
        matches!(
            full,
            FabricError::QueueFull {
                queue: "receive",
                ..
            }
        ),
        "{full:?}"
    );
    a.send(1, Operation::WriteWithImm(1), Payload::Inline(&[]), NOWHERE);
    b.succeed(1);
    b.receives([posted]);
}

pub(super) fn one_completion_queue_serves_many_queue_pairs(devices: &Devices) {
    const PAIRS: usize = 10;
    const MESSAGES: u64 = 20;
    let shape = Shape::default();
    let (cq, mut poller) = devices
        .a
        .create_completion_queue(PAIRS as u32 * (shape.sends + shape.receives))
        .expect("a completion queue");
    let mut servers: Vec<_> = (0..PAIRS)
        .map(|_| PairEnd::queue_pair(&devices.a, shape, &cq).0)
        .collect();
    let mut clients: Vec<PairEnd> = (0..PAIRS)
        .map(|_| PairEnd::new(&devices.b, shape))
        .collect();
    for (server, client) in servers.iter_mut().zip(&mut clients) {
        for wr_id in 0..MESSAGES {
            server.post_recv(RecvRequest { wr_id }).expect("post_recv");
        }
        connect(&mut **server, &*client.qp);
        connect(&mut *client.qp, &**server);
    }
    for message in 0..MESSAGES {
        for (index, client) in clients.iter_mut().enumerate() {
            let imm = (index as u32) << 16 | message as u32;
            client.send(
                message,
                Operation::WriteWithImm(imm),
                Payload::Inline(&[]),
                NOWHERE,
            );
        }
    }
    let mut next = [0; PAIRS];
    for completion in poll(&mut *poller, PAIRS * MESSAGES as usize) {
        let imm = completion.imm.expect("receives carry it");
        let (index, message) = ((imm >> 16) as usize, u64::from(imm & 0xffff));
        assert_eq!(completion.qp_num, servers[index].number());
        assert_eq!(completion.wr_id, message);
        assert_eq!(next[index], message, "in order for each queue pair");
        next[index] += 1;
    }
    assert_eq!(next, [MESSAGES; PAIRS]);
}

/// The receives of a queue pair are its own: no peer can use up those of another, whatever it sends
/// and however long nobody polls.
pub(super) fn who_uses_up_its_receives_stops_nobody_else(devices: &Devices) {
    let shape = Shape {
        receives: 16,
        retry: RetryPolicy {
            rnr_retry: 7,
            ..RetryPolicy::default()
        },
        ..Shape::default()
    };
    let (cq, mut poller) = devices
        .b
        .create_completion_queue(2 * (shape.sends + shape.receives))
        .expect("a completion queue");
    let mut servers = [(); 2].map(|()| PairEnd::queue_pair(&devices.b, shape, &cq).0);
    let mut clients = [(); 2].map(|()| PairEnd::new(&devices.a, shape));
    for (server, client) in servers.iter_mut().zip(&mut clients) {
        server
            .post_recvs(RecvRequest { wr_id: 7 }, shape.receives)
            .expect("post_recvs");
        connect(&mut **server, &*client.qp);
        connect(&mut *client.qp, &**server);
    }
    let [greedy, other] = &mut clients;
    // More than both have together.
    for imm in 0..40 {
        let message = Operation::WriteWithImm(imm);
        greedy.send(imm.into(), message, Payload::Inline(&[]), NOWHERE);
    }
    let message = Operation::WriteWithImm(100);
    other.send(100, message, Payload::Inline(&[]), NOWHERE);
    let came = poll(&mut *poller, 17);
    let imms_at = |server: usize| {
        let at_it = came
            .iter()
            .filter(|it| it.qp_num == servers[server].number());
        at_it.map(|it| it.imm).collect::<Vec<_>>()
    };
    assert_eq!(imms_at(0), (0..16).map(Some).collect::<Vec<_>>());
    assert_eq!(imms_at(1), [Some(100)]);
    other.succeed(1);
    // What waited is not lost.
    for (receives, imms) in [(16, 16..32), (8, 32..40)] {
        servers[0]
            .post_recvs(RecvRequest { wr_id: 8 }, receives)
            .expect("post_recvs");
        let came = poll(&mut *poller, receives as usize);
        let came: Vec<_> = came.iter().map(|it| it.imm).collect();
        assert_eq!(came, imms.map(Some).collect::<Vec<_>>());
    }
    greedy.succeed(40);
}

pub(super) fn what_came_before_an_error_is_no_failure(devices: &Devices) {
    let (mut a, mut b) = devices.pair();
    b.receives(0..8);
    for number in 0..4 {
        let message = Operation::WriteWithImm(number);
        a.send(number.into(), message, Payload::Inline(&[]), NOWHERE);
    }
    a.succeed(4);
    b.qp.to_error().expect("any state to ERR");
    let status = |wr_id| match wr_id {
        0..4 => CompletionStatus::Success,
        _ => CompletionStatus::Flushed,
    };
    let expected = (0..8).map(|wr_id| (wr_id, status(wr_id)));
    assert_eq!(b.outcomes(8), expected.collect::<Vec<_>>());
    b.stays_silent();
}

pub(super) fn many_receives_are_posted_at_once(devices: &Devices) {
    let shape = Shape {
        receives: 16,
        ..Shape::default()
    };
    let (mut a, mut b) = devices.pair_of(shape);
    for (wr_id, count) in [(7, 10), (8, 0), (9, 6)] {
        b.qp.post_recvs(RecvRequest { wr_id }, count)
            .expect("post_recvs");
    }
    let full = b.qp.post_recvs(RecvRequest { wr_id: 10 }, 1);
    assert!(
        matches!(
            full,
            Err(FabricError::QueueFull {
                queue: "receive",
                ..
            })
        ),
        "{full:?}"
    );
    for number in 0..16 {
        let message = Operation::WriteWithImm(number);
        a.send(number.into(), message, Payload::Inline(&[]), NOWHERE);
    }
    a.succeed(16);
    let completions = b.succeed(16);
    let came: Vec<_> = completions.iter().map(|c| (c.wr_id, c.imm)).collect();
    let expected = (0..16).map(|imm| (if imm < 10 { 7 } else { 9 }, Some(imm)));
    assert_eq!(came, expected.collect::<Vec<_>>());
    b.qp.post_recvs(RecvRequest { wr_id: 11 }, 16)
        .expect("there is room again");
    b.qp.to_error().expect("any state to ERR");
    assert_eq!(b.outcomes(16), [(11, CompletionStatus::Flushed); 16]);
}

pub(super) fn many_sends_are_posted_at_once(devices: &Devices) {
    let shape = Shape {
        sends: 8,
        ..Shape::default()
    };
    let (mut a, mut b) = devices.pair_of(shape);
    b.receives(0..24);
    let (here, long) = (b.remote(0), [0; 65]);
    a.fill(0, b"from a region");
    let (inline, region) = (Payload::Inline(b"inline"), a.local(0, 13));
    let send = |wr_id: u64, local| SendRequest {
        wr_id,
        operation: Operation::WriteWithImm(wr_id as u32),
        local,
        remote: RemoteSlice {
            addr: here.addr + 64 * wr_id,
            ..here
        },
        // So the last of each eight tells of all.
        signalled: wr_id % 8 == 7,
        solicited: true,
    };
    let local = |wr_id| if wr_id % 2 == 0 { inline } else { region };
    let sends = |wr_ids: Range<u64>| wr_ids.map(|wr_id| send(wr_id, local(wr_id)));
    a.qp.post_sends(&[]).expect("nothing to post");
    a.qp.post_sends(&sends(0..8).collect::<Vec<_>>())
        .expect("post_sends");
    assert_eq!(a.succeed(1)[0].wr_id, 7);

    let refused = a.qp.post_sends(&sends(8..20).collect::<Vec<_>>());
    let is_full = matches!(refused, Err(FabricError::QueueFull { queue: "send", .. }));
    assert!(is_full, "{refused:?}");
    assert_eq!(a.succeed(1)[0].wr_id, 15, "those before it are posted");

    let too_long = send(18, Payload::Inline(&long));
    let middle: Vec<_> = sends(16..18)
        .chain([too_long])
        .chain(sends(19..21))
        .collect();
    let refused = a.qp.post_sends(&middle);
    assert!(
        matches!(refused, Err(FabricError::Limit { .. })),
        "{refused:?}"
    );
    a.qp.post_sends(&sends(18..24).collect::<Vec<_>>())
        .expect("none behind it has a place");
    assert_eq!(a.succeed(1)[0].wr_id, 23);

    let imms: Vec<_> = b.succeed(24).iter().map(|it| it.imm).collect();
    assert_eq!(imms, (0..24).map(Some).collect::<Vec<_>>());
    for number in 0..24 {
        let expected: &[u8] = if number % 2 == 0 {
            b"inline"
        } else {
            b"from a region"
        };
        assert_eq!(b.bytes(64 * number, expected.len()), expected);
    }

    a.qp.to_error().expect("any state to ERR");
    a.qp.post_sends(&sends(24..28).collect::<Vec<_>>())
        .expect("ERR accepts sends");
    let flushed = (24..28).map(|wr_id| (wr_id, CompletionStatus::Flushed));
    assert_eq!(a.outcomes(4), flushed.collect::<Vec<_>>());
    b.stays_silent();
}
