//! Serves one request at a time, with borrowed state.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use slimerpc::channel::Delivery;
use slimerpc::wire::Fault;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::service::dispatch::dispatch;
use crate::supervision::current_handler::InstanceId;
use crate::{AgentError, Dispatch, Request, ServedBy, supervision::current_handler};

/// The requests for a service that is served now and then. They wait in the rings of their callers.
pub(crate) struct OneShotServer {
    instance: InstanceId,
    arrived: UnboundedReceiver<Delivery>,
    queue: VecDeque<Request>,
}

impl OneShotServer {
    pub(crate) fn new(instance: InstanceId, arrived: UnboundedReceiver<Delivery>) -> Self {
        Self {
            instance,
            arrived,
            queue: VecDeque::new(),
        }
    }

    /// Waits for a request and handles it. Dropped while it waits, it has taken no request; dropped
    /// while a handler awaits, it drops that handler.
    pub(crate) async fn serve<S, A>(&mut self, state: &mut A) -> Result<(), AgentError>
    where
        S: ServedBy<A> + ?Sized,
        A: 'static,
    {
        let request = self.next().await.ok_or(AgentError::ShutDown)?;
        let (instance, id) = (self.instance, request.id());
        let state = Rc::new(RefCell::new(state));
        let begin = || dispatch::<S, A, &mut A>(&state, request);
        let Dispatch::Running(mut handler) = current_handler::once(instance, begin) else {
            return Ok(());
        };
        poll_fn(|context| {
            while let Poll::Ready(Some(delivery)) = self.arrived.poll_recv(context) {
                if matches!(delivery, Delivery::Cancel(cancelled) if cancelled == id) {
                    return Poll::Ready(());
                }
                self.take(delivery);
            }
            let polled = current_handler::once(instance, || handler.as_mut().poll(context));
            polled.map(drop)
        })
        .await;
        Ok(())
    }

    /// Waits for the next request that is still wanted; `None` when there will be none.
    async fn next(&mut self) -> Option<Request> {
        loop {
            while let Ok(delivery) = self.arrived.try_recv() {
                self.take(delivery);
            }
            match self.queue.pop_front() {
                Some(request) if request.is_expired() => request.fail(Fault::Expired),
                Some(request) => return Some(request),
                None => {
                    let delivery = self.arrived.recv().await?;
                    self.take(delivery);
                }
            }
        }
    }

    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Request(request) => self.queue.push_back(request),
            Delivery::Cancel(cancelled) => {
                self.queue.retain(|request| request.id() != cancelled);
            }
            Delivery::Lost { .. } => self.queue.retain(Request::is_connected),
        }
    }
}
