//! The front of a service: it receives the requests that must not wait for the service's state.
//!
//! ```text
//!   proxies' serial calls  ───────────────▶  serial instance, on its arbiter
//!                                              ▲ the others
//!   proxies' parallel calls, DLSlime peers ─▶  front, on an arbiter of its own
//!                                              ▼ parallel methods
//!                                            pool of threads
//! ```
//!
//! A native caller has a channel to each, so that its serial calls need no thread hop, and its
//! parallel ones wait neither for a credit nor for a handler that keeps the serial instance's
//! arbiter busy. A DLSlime peer has one connection only, which ends at the front. Handlers answer
//! from their own threads.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use slimerpc::channel::{Delivery, LossCause, RequestId};
use tokio::sync::mpsc::UnboundedSender;

use crate::service::dispatch::dispatch_parallel;
use crate::service::instance::InstanceCommand;
use crate::service::pool::Pool;
use crate::service::ring_context::{Readiness, RequestHandler};
use crate::{Dispatch, Request, ServedBy};

/// The front of a service with parallel methods, or of one that is served one request at a time.
pub(crate) struct ParallelDispatcher<S: ServedBy<A> + ?Sized, A: 'static> {
    /// The queue of the instance. The callers' credits bound its length.
    serial: UnboundedSender<Delivery>,
    /// Without a pool, parallel methods take their turn with the serial ones.
    pool: Option<Pool<Arc<S::Shared>>>,
    /// Whether the service was given up.
    is_down: bool,
    service: PhantomData<fn(&S, A)>,
}

impl<S: ServedBy<A> + ?Sized, A: 'static> ParallelDispatcher<S, A> {
    pub(crate) fn new(
        serial: UnboundedSender<Delivery>,
        pool: Option<Pool<Arc<S::Shared>>>,
    ) -> Self {
        Self {
            serial,
            pool,
            is_down: false,
            service: PhantomData,
        }
    }

    fn forward(&self, delivery: Delivery) {
        // A request that nobody takes any more answers as it is dropped.
        let _ = self.serial.send(delivery);
    }
}

impl<S: ServedBy<A> + ?Sized, A: 'static> RequestHandler for ParallelDispatcher<S, A> {
    fn handle(&mut self, mut request: Request) -> Dispatch<'static> {
        // For a thread of the pool, or for the service.
        request.begin_to_wait(Instant::now);
        let method = request.method() as usize;
        match &mut self.pool {
            Some(pool) if S::PARALLEL.get(method) == Some(&true) => {
                pool.run(request, dispatch_parallel::<S, A>);
            }
            _ => self.forward(Delivery::Request(request)),
        }
        Dispatch::Done
    }

    fn readiness(&self) -> Readiness {
        if self.is_down {
            Readiness::Down
        } else {
            Readiness::Ready
        }
    }

    fn apply(&mut self, command: InstanceCommand) {
        self.is_down |= matches!(command, InstanceCommand::GiveUp | InstanceCommand::End);
    }

    fn cancelled(&mut self, request: RequestId) {
        if let Some(pool) = &mut self.pool {
            pool.cancel(request);
        }
        self.forward(Delivery::Cancel(request));
    }

    fn is_idle(&self, task: &Context<'_>) -> bool {
        self.pool.as_ref().is_none_or(|pool| pool.is_idle(task))
    }

    fn lost(&mut self, peer: String, cause: LossCause) {
        self.forward(Delivery::Lost { peer, cause });
    }
}
