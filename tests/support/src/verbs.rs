//! Ends of a fabric that a test drives by hand.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use slimerpc::fabric::{
    Completion, CompletionQueue, Device, Operation, Payload, Poller, QueuePair, QueuePairInit,
    RemoteSlice, RetryPolicy, SendRequest,
};

use crate::PATIENCE;

/// A queue pair in INIT that takes `depth` requests each way, and `inline` bytes in a send.
pub fn queue_pair(
    device: &dyn Device,
    queue: &Arc<dyn CompletionQueue>,
    depth: u32,
    inline: u32,
) -> Box<dyn QueuePair> {
    let init = QueuePairInit {
        send_cq: queue.clone(),
        recv_cq: queue.clone(),
        max_send_wr: depth,
        max_recv_wr: depth,
        max_inline: inline,
        retry: RetryPolicy::default(),
    };
    let mut qp = device.create_queue_pair(&init).unwrap();
    qp.to_init().unwrap();
    qp
}

/// Writes bytes into the peer's memory, under an immediate.
pub fn write_with_imm(qp: &mut dyn QueuePair, local: Payload<'_>, remote: RemoteSlice, imm: u32) {
    let request = SendRequest {
        wr_id: 0,
        operation: Operation::WriteWithImm(imm),
        local,
        remote,
        signalled: true,
        solicited: true,
    };
    qp.post_send(&request).unwrap();
}

/// The next completions, `count` or some more.
///
/// # Panics
/// They do not come for [`PATIENCE`].
pub fn completions(poller: &mut dyn Poller, count: usize) -> Vec<Completion> {
    let (mut all, began) = (Vec::new(), Instant::now());
    while all.len() < count {
        assert!(began.elapsed() < PATIENCE, "{all:?}");
        let mut batch = [Completion::EMPTY; 16];
        let polled = poller.poll(&mut batch).unwrap();
        all.extend_from_slice(&batch[..polled]);
        thread::yield_now();
    }
    all
}
