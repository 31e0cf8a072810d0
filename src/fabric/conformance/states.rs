//! States of a queue pair.

use super::pair::{Devices, PairEnd, Shape};
use crate::fabric::{
    FabricError, Operation, Payload, QueuePairInit, QueuePairState, RecvRequest, RemoteSlice,
    RetryPolicy, SendRequest,
};

const EMPTY: SendRequest<'static> = SendRequest {
    wr_id: 1,
    operation: Operation::WriteWithImm(0),
    local: Payload::Inline(&[]),
    remote: RemoteSlice { addr: 0, rkey: 0 },
    signalled: true,
    solicited: true,
};

fn refused_in(state: QueuePairState, result: Result<(), FabricError>) {
    match result {
        Err(FabricError::InvalidState { state: found, .. }) => assert_eq!(found, state),
        other => panic!("not possible in {state}, but: {other:?}"),
    }
}

pub(super) fn a_queue_pair_goes_through_its_states_in_order(devices: &Devices) {
    let (cq, _) = devices
        .a
        .create_completion_queue(8)
        .expect("a completion queue");
    let init = QueuePairInit {
        send_cq: cq.clone(),
        recv_cq: cq,
        max_send_wr: 4,
        max_recv_wr: 4,
        max_inline: 0,
        retry: RetryPolicy::default(),
    };
    let mut qp = devices.a.create_queue_pair(&init).expect("a queue pair");
    let peer = PairEnd::new(&devices.b, Shape::default());
    let remote = peer.qp.address();

    assert_eq!(qp.state(), QueuePairState::Reset);
    refused_in(QueuePairState::Reset, qp.to_rtr(&remote));
    refused_in(QueuePairState::Reset, qp.to_rts());
    qp.to_init().expect("RESET to INIT");
    assert_eq!(qp.state(), QueuePairState::Init);
    refused_in(QueuePairState::Init, qp.to_init());
    refused_in(QueuePairState::Init, qp.to_rts());
    qp.to_rtr(&remote).expect("INIT to RTR");
    assert_eq!(qp.state(), QueuePairState::Rtr);
    refused_in(QueuePairState::Rtr, qp.to_rtr(&remote));
    qp.to_rts().expect("RTR to RTS");
    assert_eq!(qp.state(), QueuePairState::Rts);
    refused_in(QueuePairState::Rts, qp.to_rts());
    qp.to_error().expect("any state to ERR");
    assert_eq!(qp.state(), QueuePairState::Error);
    qp.to_error().expect("ERR to ERR");
    refused_in(QueuePairState::Error, qp.to_rts());

    let address = peer.qp.address();
    assert!(address.psn < 1 << 24 && address.qp_num < 1 << 24 && (1..=5).contains(&address.mtu));
}

pub(super) fn nothing_is_posted_too_early(devices: &Devices) {
    let (mut a, b) = (
        PairEnd::new(&devices.a, Shape::default()),
        PairEnd::new(&devices.b, Shape::default()),
    );
    refused_in(QueuePairState::Init, a.qp.post_send(&EMPTY));
    a.qp.to_rtr(&b.qp.address()).expect("INIT to RTR");
    refused_in(QueuePairState::Rtr, a.qp.post_send(&EMPTY));

    let cq = a.cq.clone();
    let init = QueuePairInit {
        send_cq: cq.clone(),
        recv_cq: cq,
        max_send_wr: 4,
        max_recv_wr: 4,
        max_inline: 0,
        retry: RetryPolicy::default(),
    };
    let mut fresh = devices.a.create_queue_pair(&init).expect("a queue pair");
    refused_in(
        QueuePairState::Reset,
        fresh.post_recv(RecvRequest { wr_id: 1 }),
    );
    refused_in(QueuePairState::Reset, fresh.post_send(&EMPTY));
}

pub(super) fn a_reset_queue_pair_keeps_its_address_and_meets_another_peer(devices: &Devices) {
    let (mut a, mut first) = devices.pair();
    a.receives([1, 2]);
    first.send(
        3,
        Operation::WriteWithImm(30),
        Payload::Inline(&[]),
        RemoteSlice::default(),
    );
    assert_eq!(a.succeed(1)[0].imm, Some(30));
    let before = a.qp.address();

    a.qp.to_reset().expect("any state to RESET");
    assert_eq!(a.qp.state(), QueuePairState::Reset);
    assert_eq!(a.qp.address(), before);
    drop(first);
    a.take(16); // what was posted before may come or not
    a.qp.to_init().expect("RESET to INIT");
    a.receives([4]);
    let mut second = PairEnd::new(&devices.b, Shape::default());
    second.receives([5]);
    a.connect(&second);
    second.connect(&a);
    for (end, imm) in [(&mut second, 40), (&mut a, 50)] {
        end.send(
            6,
            Operation::WriteWithImm(imm),
            Payload::Inline(&[]),
            RemoteSlice::default(),
        );
    }
    let mut arrived: Vec<_> = a
        .succeed(2)
        .iter()
        .filter_map(|c| c.imm.map(|imm| (c.wr_id, imm)))
        .collect();
    arrived.extend(
        second
            .succeed(2)
            .iter()
            .filter_map(|c| c.imm.map(|imm| (c.wr_id, imm))),
    );
    assert_eq!(arrived, [(4, 40), (5, 50)]);
}
