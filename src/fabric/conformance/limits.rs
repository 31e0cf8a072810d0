//! What a device refuses before anything happens.

use std::fmt::Debug;
use std::sync::Arc;

use super::pair::{Devices, Shape};
use crate::fabric::{
    Access, CompletionQueue, Device, FabricError, Operation, Payload, QueuePairInit, RetryPolicy,
    SendRequest,
};

fn is_limit<T: Debug>(result: Result<T, FabricError>) {
    let error = result.expect_err("beyond a limit");
    assert!(matches!(error, FabricError::Limit { .. }), "{error:?}");
}

fn init(cq: &Arc<dyn CompletionQueue>) -> QueuePairInit {
    QueuePairInit {
        send_cq: cq.clone(),
        recv_cq: cq.clone(),
        max_send_wr: 4,
        max_recv_wr: 4,
        max_inline: 0,
        retry: RetryPolicy::default(),
    }
}

pub(super) fn nonsense_is_refused(devices: &Devices) {
    let device: &dyn Device = &*devices.a;
    let limits = device.limits();
    is_limit(device.register(0, Access::ALL));
    is_limit(device.create_completion_queue(0));
    is_limit(device.create_completion_queue(limits.max_cqe + 1));
    let (cq, _) = device
        .create_completion_queue(8)
        .expect("a completion queue");
    let good = init(&cq);
    let policy = good.retry;
    for bad in [
        QueuePairInit {
            max_send_wr: 0,
            ..good.clone()
        },
        QueuePairInit {
            max_recv_wr: 0,
            ..good.clone()
        },
        QueuePairInit {
            max_send_wr: limits.max_qp_wr + 1,
            ..good.clone()
        },
        QueuePairInit {
            max_recv_wr: limits.max_qp_wr + 1,
            ..good.clone()
        },
        QueuePairInit {
            max_inline: limits.max_inline + 1,
            ..good.clone()
        },
        // Six bits do not fit in five; the original asks for this one.
        QueuePairInit {
            retry: RetryPolicy {
                min_rnr_timer: 0x20,
                ..policy
            },
            ..good.clone()
        },
        QueuePairInit {
            retry: RetryPolicy {
                rnr_retry: 8,
                ..policy
            },
            ..good.clone()
        },
        QueuePairInit {
            retry: RetryPolicy {
                timeout: 0,
                ..policy
            },
            ..good.clone()
        },
        QueuePairInit {
            retry: RetryPolicy {
                timeout: 32,
                ..policy
            },
            ..good.clone()
        },
        QueuePairInit {
            retry: RetryPolicy {
                retry_cnt: 7,
                ..policy
            },
            ..good.clone()
        },
    ] {
        is_limit(device.create_queue_pair(&bad));
    }
    if !Arc::ptr_eq(&devices.a, &devices.b) {
        let (foreign, _) = devices
            .b
            .create_completion_queue(8)
            .expect("a completion queue");
        let error = device
            .create_queue_pair(&init(&foreign))
            .expect_err("foreign");
        assert!(matches!(error, FabricError::Foreign { .. }), "{error:?}");
    }
}

pub(super) fn an_inline_read_is_refused(devices: &Devices) {
    let (mut a, b) = devices.pair_of(Shape {
        inline: 64,
        ..Shape::default()
    });
    let request = SendRequest {
        wr_id: 1,
        operation: Operation::Read,
        local: Payload::Inline(&[0; 8]),
        remote: b.remote(0),
        signalled: true,
        solicited: true,
    };
    is_limit(a.qp.post_send(&request));
    let request = SendRequest {
        operation: Operation::Write,
        local: Payload::Inline(&[0; 1025]),
        ..request
    };
    is_limit(a.qp.post_send(&request));
    a.stays_silent();
}
