//! A caller and the mailbox that it calls, in one thread over shared memory: for tests of the
//! shells around the state machines.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::{
    BufferPool, ClientChannel, Delivery, Dialer, Geometry, Inbound, Mailbox, MemoryLimits,
    PendingCall, ServiceInfo, WaitPolicy,
};
use crate::fabric::{Device, RetryPolicy, shm::ShmDevice};

/// Nothing takes so long unless it hangs.
pub(super) const LONG: Duration = Duration::from_secs(10);
/// Alias of the caller.
pub(super) const DRIVER: &str = "driver";
/// Alias of the one that is called.
pub(super) const WORKER: &str = "worker";

/// See the [module](self).
pub(super) struct Loopback {
    pub(super) channel: Arc<ClientChannel>,
    pub(super) mailbox: Mailbox,
    /// The agent's: it watches for those who sleep.
    pub(super) runtime: Runtime,
    /// Of the mailbox, for payloads beyond a slot.
    pub(super) memory: Arc<BufferPool>,
    /// What has arrived and was not asked for yet.
    deliveries: VecDeque<Delivery>,
    device: Arc<dyn Device>,
    geometry: Geometry,
}

impl Loopback {
    /// A first life of the caller, with so many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self::on(
            ShmDevice::open().unwrap(),
            ShmDevice::open().unwrap(),
            slots,
        )
    }

    /// The caller on one device, the mailbox on another.
    pub(super) fn on(caller: Arc<dyn Device>, called: Arc<dyn Device>, slots: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self::in_runtime(runtime, caller, called, slots)
    }

    /// As [`on`](Self::on); the caller's agent runs in `runtime`.
    pub(super) fn in_runtime(
        runtime: Runtime,
        caller: Arc<dyn Device>,
        called: Arc<dyn Device>,
        slots: usize,
    ) -> Self {
        let geometry = Geometry::new(slots, 256).unwrap();
        let service_info = ServiceInfo {
            name: "test".to_owned(),
            stream_patience: LONG,
        };
        let retry = RetryPolicy::default();
        let memory = memory(&called);
        let mut mailbox =
            Mailbox::new(memory.clone(), geometry.into(), retry, service_info).unwrap();
        let channel = connect(&mut mailbox, &caller, geometry, &runtime, 1);
        let mut ends = Self {
            channel: channel.clone(),
            mailbox,
            runtime,
            memory,
            deliveries: VecDeque::new(),
            device: caller,
            geometry,
        };
        ends.serve(&channel);
        ends
    }

    /// Another channel of the caller, of this life of it.
    pub(super) fn dial(&mut self, life: u64) -> Arc<ClientChannel> {
        let (device, runtime) = (&self.device, &self.runtime);
        let channel = connect(&mut self.mailbox, device, self.geometry, runtime, life);
        self.serve(&channel);
        channel
    }

    /// A call over `channel` is answered. What is sent after the first arrives at once.
    pub(super) fn serve(&mut self, channel: &Arc<ClientChannel>) {
        let mut call = channel.call(0, None, |_| Ok(0)).unwrap();
        self.request().reply(|_| Ok(0));
        let until = Instant::now() + LONG;
        while call.poll(None).map(|answer| answer.is_ok()) != Poll::Ready(true) {
            assert!(Instant::now() < until, "no answer arrives");
        }
    }

    /// A call without arguments.
    pub(super) fn call(&self) -> PendingCall {
        self.channel.call(0, None, |_| Ok(0)).unwrap()
    }

    /// Answers a request, and waits until the answer has arrived. Nobody has looked at it.
    pub(super) fn answer(&self, request: Inbound, answer: &[u8]) {
        request.reply(|room| {
            room[..answer.len()].copy_from_slice(answer);
            Ok(answer.len())
        });
        let until = Instant::now() + LONG;
        while self.channel.is_quiet() {
            assert!(Instant::now() < until, "no answer arrives");
        }
    }

    /// The mailbox looks. No request arrives.
    pub(super) fn poll_in_vain(&mut self) {
        self.mailbox.poll(&mut self.deliveries).unwrap();
        assert_eq!(self.deliveries.len(), 0, "nothing is delivered");
    }

    /// The next request that arrives.
    pub(super) fn request(&mut self) -> Inbound {
        let until = Instant::now() + LONG;
        while self.deliveries.is_empty() {
            assert!(Instant::now() < until, "no request arrives");
            self.mailbox.poll(&mut self.deliveries).unwrap();
        }
        match self.deliveries.pop_front() {
            Some(Delivery::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }
}

fn connect(
    mailbox: &mut Mailbox,
    device: &Arc<dyn Device>,
    geometry: Geometry,
    runtime: &Runtime,
    life: u64,
) -> Arc<ClientChannel> {
    let dialer = Dialer::new(&memory(device), geometry, RetryPolicy::default()).unwrap();
    let endpoint = mailbox.accept(DRIVER, life, &dialer.endpoint()).unwrap();
    dialer
        .connect(WORKER, &endpoint, wait_policy(runtime))
        .unwrap()
}

/// Sleeps at once.
pub(super) fn wait_policy(runtime: &Runtime) -> WaitPolicy {
    WaitPolicy {
        busy_poll: Duration::ZERO,
        runtime: runtime.handle().clone(),
    }
}

/// Memory for payloads beyond a slot, none of which stays registered while nobody needs it.
pub(super) fn memory(device: &Arc<dyn Device>) -> Arc<BufferPool> {
    let limits = MemoryLimits {
        payload: 1 << 20,
        total: 4 << 20,
        idle: 0,
    };
    BufferPool::new(device.clone(), limits)
}
