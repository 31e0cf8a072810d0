//! CALL-1, INPUT-1: a call ends although the peer fills the completion queue as fast as it is read.
#![allow(clippy::unwrap_used)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use slimerpc::channel::{
    CallError, Dialer, Geometry, Hosted, LossCause, Mailbox, Memory, MemoryLimits, Patience,
};
use slimerpc::fabric::shm::ShmDevice;
use slimerpc::fabric::{
    Access, Completion, CompletionQueue, Device, DeviceLimits, FabricError, MemoryRegion,
    PortAttributes, QueuePair, QueuePairInit, RetryPolicy,
};

/// A device whose completion queues never run dry once `is_flooded` is set.
#[derive(Debug)]
struct Lowland {
    device: Arc<dyn Device>,
    is_flooded: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Stream {
    queue: Arc<dyn CompletionQueue>,
    is_flooded: Arc<AtomicBool>,
}

impl CompletionQueue for Stream {
    fn poll(&self, out: &mut [Completion]) -> Result<usize, FabricError> {
        if !self.is_flooded.load(Ordering::Relaxed) {
            return self.queue.poll(out);
        }
        // Of nobody, so that there is always room for more.
        out.fill(Completion {
            wr_id: u64::MAX,
            ..Completion::EMPTY
        });
        Ok(out.len())
    }

    fn arm(&self) -> Result<(), FabricError> {
        self.queue.arm()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.queue.event_fd()
    }

    fn clear_events(&self) {
        self.queue.clear_events();
    }
}

impl Device for Lowland {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn port(&self) -> PortAttributes {
        self.device.port()
    }

    fn limits(&self) -> DeviceLimits {
        self.device.limits()
    }

    fn register(&self, len: usize, access: Access) -> Result<Arc<dyn MemoryRegion>, FabricError> {
        self.device.register(len, access)
    }

    fn create_completion_queue(&self, depth: u32) -> Result<Arc<dyn CompletionQueue>, FabricError> {
        let queue = self.device.create_completion_queue(depth)?;
        let is_flooded = self.is_flooded.clone();
        Ok(Arc::new(Stream { queue, is_flooded }))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        let beneath = |queue: &Arc<dyn CompletionQueue>| {
            let stream: Arc<dyn std::any::Any + Send + Sync> = queue.clone();
            stream.downcast::<Stream>().unwrap().queue.clone()
        };
        self.device.create_queue_pair(&QueuePairInit {
            send_cq: beneath(&init.send_cq),
            recv_cq: beneath(&init.recv_cq),
            ..init.clone()
        })
    }
}

fn memory(device: Arc<dyn Device>) -> Arc<Memory> {
    let limits = MemoryLimits {
        payload: 4096,
        total: 4096,
        idle: 0,
    };
    Memory::new(device, limits)
}

#[test]
fn call_1_calls_end_in_a_flood() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let geometry = Geometry::new(4, 256).unwrap();
    let retry = RetryPolicy::default();
    let device: Arc<dyn Device> = ShmDevice::open().unwrap();
    let is_flooded = Arc::<AtomicBool>::default();
    let lowland = Arc::new(Lowland {
        device: device.clone(),
        is_flooded: is_flooded.clone(),
    });
    let hosted = Hosted {
        name: "test".to_owned(),
        stream_patience: Duration::ZERO,
    };
    let mut mailbox = Mailbox::new(memory(device), geometry.into(), retry, hosted).unwrap();
    let dialer = Dialer::new(&memory(lowland), geometry, retry).unwrap();
    let endpoint = mailbox.accept("driver", 1, &dialer.endpoint()).unwrap();
    let patience = Patience {
        busy_poll: Duration::ZERO,
        runtime: runtime.handle().clone(),
    };
    let channel = dialer.connect("worker", &endpoint, patience).unwrap();

    let mut call = channel.call(0, None, |_| Ok(0)).unwrap();
    assert!(call.poll(None).map(|answer| answer.is_ok()).is_pending());
    is_flooded.store(true, Ordering::Relaxed);
    let Poll::Ready(Err(error)) = call.poll(None) else {
        panic!("the call goes on")
    };
    let cause = LossCause::Flood;
    assert_eq!(error, CallError::Closed { cause, sent: true });
    assert_eq!(channel.closed(), Some(LossCause::Flood));
}
