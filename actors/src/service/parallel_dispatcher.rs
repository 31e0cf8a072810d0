//! The front of a service: where requests arrive that its state must not keep waiting.
//!
//! ```text
//!   proxies' serial calls  ───────────────▶  serial instance, on its arbiter
//!                                              ▲ the others
//!   proxies' parallel calls, DLSlime peers ─▶  front, on an arbiter of its own
//!                                              ▼ parallel methods
//!                                            pool of threads
//! ```
//!
//! A native caller has a channel to each, so that its serial calls have no thread hop and its
//! parallel ones neither wait for a credit nor for a handler that keeps the serial instance's
//! arbiter busy. A DLSlime peer has but one connection, which ends at the front. Handlers answer
//! from their own threads.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Context;

use slimerpc::channel::{Delivery, LossCause, RequestId};
use tokio::sync::mpsc::UnboundedSender;

use crate::service::instance::InstanceCommand;
use crate::service::pool::Pool;
use crate::service::ring_context::{Readiness, RequestHandler};
use crate::{Dispatch, Request, ServedBy};

/// See the [module](self).
pub(crate) struct ParallelDispatcher<S: ServedBy<A> + ?Sized, A: 'static> {
    /// To whoever has the state. Callers have but so many credits, so this does not grow without
    /// bound.
    serial: UnboundedSender<Delivery>,
    /// Without one, parallel methods take their turn with the others.
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
    fn handle(&mut self, request: Request) -> Dispatch<'static> {
        let method = request.method() as usize;
        match &mut self.pool {
            Some(pool) if S::PARALLEL.get(method) == Some(&true) => {
                pool.run(request, move |shared, request| {
                    S::dispatch_parallel(shared, method, request)
                });
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
