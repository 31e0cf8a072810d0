//! A caller and its mailbox in one thread, over shared memory: for tests of the code around the
//! state machines.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::{
    BufferPool, CallFigures, ClientChannel, Delivery, Dialer, Geometry, Inbound, Mailbox,
    MemoryLimits, PendingCall, ServiceInfo, WaitPolicy,
};
use crate::fabric::{Device, RetryPolicy, shm::ShmDevice};

/// Longer than any step takes unless it hangs.
pub(super) const LONG: Duration = Duration::from_secs(30);
/// Alias of the caller.
pub(super) const DRIVER: &str = "driver";
/// Alias of the called agent.
pub(super) const WORKER: &str = "worker";

/// A caller and its mailbox in one thread.
pub(super) struct Loopback {
    pub(super) channel: Arc<ClientChannel>,
    pub(super) mailbox: Mailbox,
    /// The agent's runtime, which watches the queue for sleepers.
    pub(super) runtime: Runtime,
    /// The mailbox's memory for payloads beyond a slot.
    pub(super) memory: Arc<BufferPool>,
    /// Deliveries that have arrived and were not taken yet.
    deliveries: VecDeque<Delivery>,
    device: Arc<dyn Device>,
    geometry: Geometry,
}

impl Loopback {
    /// Connects a first incarnation of the caller, with so many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self::of(Geometry::new(slots, 256).unwrap())
    }

    /// Connects a first incarnation of the caller, with rings of this shape.
    pub(super) fn of(geometry: Geometry) -> Self {
        let [caller, called] = [(); 2].map(|()| ShmDevice::open().unwrap());
        Self::connected(runtime(), caller, called, geometry, None)
    }

    /// Connects a caller on one device with a mailbox on another.
    pub(super) fn on(caller: Arc<dyn Device>, called: Arc<dyn Device>, slots: usize) -> Self {
        Self::in_runtime(runtime(), caller, called, slots)
    }

    /// Connects a caller on one device with a mailbox on another, with rings of this shape.
    pub(super) fn shaped(
        caller: Arc<dyn Device>,
        called: Arc<dyn Device>,
        geometry: Geometry,
    ) -> Self {
        Self::connected(runtime(), caller, called, geometry, None)
    }

    /// As [`new`](Self::new), with both ends counting in these figures.
    pub(super) fn counted(slots: usize, figures: &Arc<CallFigures>) -> Self {
        let device = || ShmDevice::open().unwrap();
        let geometry = Geometry::new(slots, 256).unwrap();
        let counted = Some(figures.clone());
        let ends = Self::connected(runtime(), device(), device(), geometry, counted);
        ends.channel.count_in(figures.clone());
        ends
    }

    /// Connects as [`on`](Self::on) does; the caller's agent runs in `runtime`.
    pub(super) fn in_runtime(
        runtime: Runtime,
        caller: Arc<dyn Device>,
        called: Arc<dyn Device>,
        slots: usize,
    ) -> Self {
        let geometry = Geometry::new(slots, 256).unwrap();
        Self::connected(runtime, caller, called, geometry, None)
    }

    fn connected(
        runtime: Runtime,
        caller: Arc<dyn Device>,
        called: Arc<dyn Device>,
        geometry: Geometry,
        figures: Option<Arc<CallFigures>>,
    ) -> Self {
        let service_info = ServiceInfo {
            name: "test".to_owned(),
            stream_patience: LONG,
            figures,
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

    /// Connects another channel of this incarnation of the caller.
    pub(super) fn dial(&mut self, life: u64) -> Arc<ClientChannel> {
        let (device, runtime) = (&self.device, &self.runtime);
        let channel = connect(&mut self.mailbox, device, self.geometry, runtime, life);
        self.serve(&channel);
        channel
    }

    /// Answers a call over `channel`. From then on, messages are written in place.
    pub(super) fn serve(&mut self, channel: &Arc<ClientChannel>) {
        let mut call = channel.call(0, None, |_| Ok(0)).unwrap();
        self.request().reply(|_| Ok(0));
        let until = Instant::now() + LONG;
        while call.poll(None).map(|answer| answer.is_ok()) != Poll::Ready(true) {
            assert!(Instant::now() < until, "no answer arrives");
        }
    }

    /// Makes a call without arguments.
    pub(super) fn call(&self) -> PendingCall {
        self.channel.call(0, None, |_| Ok(0)).unwrap()
    }

    /// Answers a request, and waits until the answer has arrived; nobody has polled for it.
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

    /// Polls the mailbox; no request arrives.
    pub(super) fn poll_in_vain(&mut self) {
        self.mailbox.poll(&mut self.deliveries).unwrap();
        assert_eq!(self.deliveries.len(), 0, "nothing is delivered");
    }

    /// Waits for the next request.
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

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
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

/// A policy that sleeps at once.
pub(super) fn wait_policy(runtime: &Runtime) -> WaitPolicy {
    WaitPolicy {
        busy_poll: Duration::ZERO,
        runtime: runtime.handle().clone(),
    }
}

/// Memory for payloads beyond a slot, none of which stays registered without a user.
pub(super) fn memory(device: &Arc<dyn Device>) -> Arc<BufferPool> {
    let limits = MemoryLimits {
        payload: 1 << 20,
        total: 4 << 20,
        idle: 0,
    };
    BufferPool::new(device.clone(), limits)
}
