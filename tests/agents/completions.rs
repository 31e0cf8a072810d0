//! CALL-1, INPUT-1: how calls end when a completion queue never runs dry, or brings a failure
//! together with an answer.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use slimerpc::channel::{
    BufferPool, CallError, ClientChannel, Delivery, Dialer, Geometry, LossCause, Mailbox,
    MemoryLimits, ServiceInfo, WaitPolicy,
};
use slimerpc::fabric::shm::ShmDevice;
use slimerpc::fabric::{
    Access, Completion, CompletionQueue, CompletionStatus, Device, DeviceLimits, FabricError,
    MemoryRegion, Poller, PortAttributes, QueuePair, QueuePairInit, RetryPolicy,
};

#[derive(Debug, Clone, Copy, Default)]
enum Trouble {
    #[default]
    None,
    /// The queue never runs dry.
    Flood,
    /// Before what arrives a work request fails.
    Failure,
}

/// A device whose completion queues have trouble once that is set.
#[derive(Debug)]
struct Troubled {
    device: Arc<dyn Device>,
    trouble: Arc<Mutex<Trouble>>,
}

#[derive(Debug)]
struct TroubledPoller {
    poller: Box<dyn Poller>,
    trouble: Arc<Mutex<Trouble>>,
}

impl Poller for TroubledPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        match *self.trouble.lock().unwrap() {
            Trouble::None => self.poller.poll(out),
            Trouble::Flood => {
                // Of nobody, so that there is always room for more.
                out.fill(Completion {
                    wr_id: u64::MAX,
                    ..Completion::EMPTY
                });
                Ok(out.len())
            }
            Trouble::Failure => {
                let count = self.poller.poll(&mut out[1..])?;
                if count == 0 {
                    return Ok(0);
                }
                out[0] = Completion {
                    status: CompletionStatus::RetryExceeded,
                    ..out[1]
                };
                Ok(1 + count)
            }
        }
    }
}

impl Device for Troubled {
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

    fn create_completion_queue(
        &self,
        depth: u32,
    ) -> Result<(Arc<dyn CompletionQueue>, Box<dyn Poller>), FabricError> {
        let (queue, poller) = self.device.create_completion_queue(depth)?;
        let trouble = self.trouble.clone();
        Ok((queue, Box::new(TroubledPoller { poller, trouble })))
    }

    fn create_queue_pair(&self, init: &QueuePairInit) -> Result<Box<dyn QueuePair>, FabricError> {
        self.device.create_queue_pair(init)
    }
}

fn memory(device: Arc<dyn Device>) -> Arc<BufferPool> {
    let limits = MemoryLimits {
        payload: 4096,
        total: 4096,
        idle: 0,
    };
    BufferPool::new(device, limits)
}

/// A caller and the one it calls, before any trouble.
struct Ends {
    channel: Arc<ClientChannel>,
    mailbox: Mailbox,
    trouble: Arc<Mutex<Trouble>>,
    _runtime: tokio::runtime::Runtime,
}

fn connect() -> Ends {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let geometry = Geometry::new(4, 256).unwrap();
    let retry = RetryPolicy::default();
    let device: Arc<dyn Device> = ShmDevice::open().unwrap();
    let trouble = Arc::<Mutex<Trouble>>::default();
    let troubled = Arc::new(Troubled {
        device: device.clone(),
        trouble: trouble.clone(),
    });
    let service_info = ServiceInfo {
        name: "test".to_owned(),
        stream_patience: Duration::ZERO,
        figures: None,
    };
    let mut mailbox = Mailbox::new(memory(device), geometry.into(), retry, service_info).unwrap();
    let dialer = Dialer::new(&memory(troubled), geometry, retry).unwrap();
    let endpoint = mailbox.accept("driver", 1, &dialer.endpoint()).unwrap();
    let patience = WaitPolicy {
        busy_poll: Duration::ZERO,
        runtime: runtime.handle().clone(),
    };
    Ends {
        channel: dialer.connect("worker", &endpoint, patience).unwrap(),
        mailbox,
        trouble,
        _runtime: runtime,
    }
}

#[test]
fn call_1_calls_end_in_a_flood() {
    let ends = connect();
    let mut call = ends.channel.call(0, None, |_| Ok(0)).unwrap();
    assert!(call.poll(None).map(|answer| answer.is_ok()).is_pending());
    *ends.trouble.lock().unwrap() = Trouble::Flood;
    let Poll::Ready(Err(error)) = call.poll(None) else {
        panic!("the call goes on")
    };
    let cause = LossCause::Flood;
    assert_eq!(error, CallError::Closed { cause, sent: true });
    assert_eq!(ends.channel.closed(), Some(LossCause::Flood));
}

#[test]
fn call_1_an_answer_that_comes_together_with_a_failure_is_an_answer() {
    let mut ends = connect();
    let call = || ends.channel.call(0, None, |_| Ok(0)).unwrap();
    let (mut answered, mut other) = (call(), call());
    let (mut deliveries, until) = (VecDeque::new(), Instant::now() + Duration::from_secs(10));
    while deliveries.len() < 2 {
        assert!(Instant::now() < until);
        ends.mailbox.poll(&mut deliveries).unwrap();
    }
    let Some(Delivery::Request(request)) = deliveries.pop_front() else {
        panic!("a request came first")
    };
    request.reply(|_| Ok(0));
    *ends.trouble.lock().unwrap() = Trouble::Failure;
    loop {
        assert!(Instant::now() < until);
        if let Poll::Ready(answer) = answered.poll(None) {
            assert!(answer.is_ok(), "{:?}", answer.unwrap_err());
            break;
        }
    }
    let cause = LossCause::Completion(CompletionStatus::RetryExceeded);
    assert_eq!(ends.channel.closed(), Some(cause.clone()));
    let Poll::Ready(Err(error)) = other.poll(None) else {
        panic!("the other call goes on")
    };
    assert_eq!(error, CallError::Closed { cause, sent: true });
}
