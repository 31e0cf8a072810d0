//! An actor behind rings.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Arbiter, ArbiterHandle, Handler, Message, Recipient, ResponseFuture};
use slimerpc::channel::{BufferPool, ConnectError, Delivery, LossCause, Mailbox};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::EndCause;
use crate::service::mailboxes::{Mailboxes, SharedMailboxes};
use crate::service::ring_context::{RequestHandler, RingContext, RingDrain, Rings};
use crate::supervision::current_handler::InstanceId;

/// Between two looks whether answers have arrived.
const LOOK: Duration = Duration::from_millis(1);

/// Carried out when no handler runs: a sync one is waited for, an async one is dropped where it
/// awaits.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum InstanceCommand {
    /// End; another will take your place.
    Retire {
        /// Why.
        cause: EndCause,
        /// Whom to tell when that is done.
        tell: oneshot::Sender<()>,
    },
    /// Take the place of the one before.
    Start {
        /// Of starts, counted from 0.
        number: u64,
        /// Why the one before ended, or was not started.
        cause: EndCause,
        /// Whom to tell whether it has worked.
        tell: oneshot::Sender<Result<(), EndCause>>,
    },
    /// End; none will take your place. Requests that wait, and those to come, are answered with
    /// that.
    GiveUp,
    /// End, and the connections and the arbiter with you.
    End,
}

/// An actor that has the requests of callers handled by `H`.
pub(crate) struct Instance<H> {
    pub(crate) handler: H,
    /// Those that have not been carried out.
    pub(crate) orders: VecDeque<InstanceCommand>,
    mailboxes: SharedMailboxes,
    ending: Rc<RingDrain>,
}

impl<H: RequestHandler> Instance<H> {
    /// Starts one on the current arbiter, without callers. What is sent to `deliveries` comes to
    /// `mailboxes`.
    pub(crate) fn start(
        handler: H,
        id: InstanceId,
        mailboxes: Mailboxes,
        busy_poll: Duration,
        deliveries: UnboundedSender<Delivery>,
    ) -> Address {
        let mailboxes = Rc::new(RefCell::new(mailboxes));
        let ending = Rc::new(RingDrain::default());
        let rings = Rings::new(id, mailboxes.clone(), ending.clone(), busy_poll);
        let instance = Self {
            handler,
            orders: VecDeque::new(),
            mailboxes,
            ending,
        };
        let address = RingContext::start(instance, rings);
        Address {
            deliveries,
            mailboxes: address.clone().recipient(),
            flush: address.clone().recipient(),
            drain: address.clone().recipient(),
            orders: address.recipient(),
            arbiter: Arbiter::current(),
        }
    }
}

impl<H: RequestHandler> Actor for Instance<H> {
    type Context = RingContext<Self>;
}

/// The address of an instance, without its type.
#[derive(Clone)]
pub(crate) struct Address {
    /// For requests that do not come by a ring.
    pub(crate) deliveries: UnboundedSender<Delivery>,
    mailboxes: Recipient<WithMailboxes>,
    flush: Recipient<Flush>,
    drain: Recipient<Drain>,
    orders: Recipient<InstanceCommand>,
    arbiter: ArbiterHandle,
}

impl Address {
    /// Does something with the mailbox on the device of `memory`, on the instance's arbiter. `None`
    /// if the instance has ended.
    pub(crate) async fn mailbox<T: Send + 'static>(
        &self,
        memory: &Arc<BufferPool>,
        work: impl FnOnce(&mut Mailbox) -> Result<T, ConnectError> + Send + 'static,
    ) -> Option<Result<T, ConnectError>> {
        let memory = memory.clone();
        let (tell, told) = oneshot::channel();
        let work = move |mailboxes: &mut Mailboxes| {
            let _ = tell.send(mailboxes.on(&memory).and_then(work));
        };
        self.mailboxes
            .send(WithMailboxes(Box::new(work)))
            .await
            .ok()?;
        told.await.ok()
    }

    /// Closes the channels of a peer that has left.
    pub(crate) fn dismiss(&self, peer: &str, life: Option<u64>, cause: &LossCause) {
        let (peer, cause) = (peer.to_owned(), cause.clone());
        let work = move |mailboxes: &mut Mailboxes| mailboxes.dismiss(&peer, life, &cause);
        self.mailboxes.do_send(WithMailboxes(Box::new(work)));
    }

    /// Waits until the answers that have been given have arrived, but no longer than `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        if timeout(limit, self.flush.send(Flush)).await.is_err() {
            tracing::warn!("the last answers may not have arrived");
        }
    }

    /// Has the instance answer what it has and take nothing more.
    pub(crate) async fn drain(&self) {
        // An error says that it has ended already.
        let _ = self.drain.send(Drain).await;
    }

    /// Has the instance end, for another to take its place. Told when that is done; an error says
    /// that the service has ended.
    pub(crate) fn retire(&self, cause: EndCause) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.orders.do_send(InstanceCommand::Retire { cause, tell });
        told
    }

    /// Has another one take the place of the one that ended. Told what came of it; an error says
    /// that the service has ended.
    pub(crate) fn start(
        &self,
        number: u64,
        cause: EndCause,
    ) -> oneshot::Receiver<Result<(), EndCause>> {
        let (tell, told) = oneshot::channel();
        self.orders.do_send(InstanceCommand::Start {
            number,
            cause,
            tell,
        });
        told
    }

    /// Has the instance end, and requests be answered with that.
    pub(crate) fn give_up(&self) {
        self.orders.do_send(InstanceCommand::GiveUp);
    }

    /// Ends the instance and its arbiter; not before a sync handler that runs has returned, but
    /// without waiting for it.
    pub(crate) fn end(self) {
        if self.orders.connected() {
            self.orders.do_send(InstanceCommand::End);
        } else {
            self.arbiter.stop();
        }
    }
}

/// Work on the instance's mailboxes, done between two of its requests: letting callers in and
/// dismissing them.
#[derive(Message)]
#[rtype(result = "()")]
struct WithMailboxes(Box<dyn FnOnce(&mut Mailboxes) + Send>);

impl<H: RequestHandler> Handler<WithMailboxes> for Instance<H> {
    type Result = ();

    fn handle(&mut self, work: WithMailboxes, _: &mut RingContext<Self>) {
        work.0(&mut self.mailboxes.borrow_mut());
    }
}

/// Answered when the answers that have been given have arrived.
#[derive(Message)]
#[rtype(result = "()")]
struct Flush;

impl<H: RequestHandler> Handler<Flush> for Instance<H> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Flush, _: &mut RingContext<Self>) -> Self::Result {
        let mailboxes = self.mailboxes.clone();
        Box::pin(async move {
            while !mailboxes.borrow().flush() {
                sleep(LOOK).await;
            }
        })
    }
}

/// Has the instance answer what it has and take nothing more; answered when that is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Drain;

impl<H: RequestHandler> Handler<Drain> for Instance<H> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut RingContext<Self>) -> Self::Result {
        let ended = self.ending.begin();
        Box::pin(async move {
            // An error says that it has ended already.
            let _ = ended.await;
        })
    }
}

impl<H: RequestHandler> Handler<InstanceCommand> for Instance<H> {
    type Result = ();

    fn handle(&mut self, order: InstanceCommand, _: &mut RingContext<Self>) {
        self.orders.push_back(order);
    }
}
