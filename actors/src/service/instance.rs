//! The actor of a service instance, behind the rings of its callers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Pause between two checks whether answers have arrived.
const LOOK: Duration = Duration::from_millis(1);

/// A command, carried out when no handler runs: a sync handler is waited for, an async one is
/// dropped where it awaits.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum InstanceCommand {
    /// End the instance; another will take its place.
    Retire {
        /// Why the instance ends.
        cause: EndCause,
        /// Notified when that is done.
        tell: oneshot::Sender<()>,
    },
    /// Start an instance in the place of the previous one.
    Start {
        /// Number of the start, from 0.
        number: u64,
        /// Why the previous instance ended, or was not started.
        cause: EndCause,
        /// Notified of the result.
        tell: oneshot::Sender<Result<(), EndCause>>,
    },
    /// End the instance; no other will take its place. Waiting and later requests are answered with
    /// that.
    GiveUp,
    /// End the instance, its connections and its arbiter.
    End,
}

/// An actor whose requests are handled by `H`.
pub(crate) struct Instance<H> {
    pub(crate) handler: H,
    /// The commands that have not been carried out.
    pub(crate) orders: VecDeque<InstanceCommand>,
    mailboxes: SharedMailboxes,
    ending: Rc<RingDrain>,
}

impl<H: RequestHandler> Instance<H> {
    /// Starts an instance on the current arbiter, without callers. What is sent to `deliveries`
    /// arrives in `mailboxes`.
    pub(crate) fn start(
        handler: H,
        id: InstanceId,
        mailboxes: Mailboxes,
        busy_poll: Duration,
        deliveries: UnboundedSender<Delivery>,
    ) -> Address {
        let figures = mailboxes.figures();
        let mailboxes = Rc::new(RefCell::new(mailboxes));
        let ending = Rc::new(RingDrain::default());
        let rings = Rings::new(id, mailboxes.clone(), ending.clone(), busy_poll, figures);
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
            callers: Arc::default(),
        }
    }
}

impl<H: RequestHandler> Actor for Instance<H> {
    type Context = RingContext<Self>;
}

/// The address of an instance, without its type.
#[derive(Clone)]
pub(crate) struct Address {
    /// The queue for requests that the service's front passes on.
    pub(crate) deliveries: UnboundedSender<Delivery>,
    mailboxes: Recipient<WithMailboxes>,
    flush: Recipient<Flush>,
    drain: Recipient<Drain>,
    orders: Recipient<InstanceCommand>,
    arbiter: ArbiterHandle,
    /// Number of callers, when that was asked last.
    callers: Arc<AtomicUsize>,
}

impl Address {
    /// Runs `work` with the mailbox on the device of `memory`, on the instance's arbiter. Returns
    /// `None` if the instance has ended.
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

    /// Makes sure that callers that are gone are noticed. An instance that is busy is left alone:
    /// it is asked again.
    pub(crate) fn probe(&self) {
        let work = WithMailboxes(Box::new(|mailboxes| mailboxes.probe()));
        let _ = self.mailboxes.try_send(work);
    }

    /// Asks for the number of callers, and returns the answer to the question before. An instance
    /// that is busy is left alone.
    pub(crate) fn callers(&self) -> usize {
        let callers = self.callers.clone();
        let count = move |mailboxes: &mut Mailboxes| {
            callers.store(mailboxes.callers(), Ordering::Relaxed);
        };
        let _ = self.mailboxes.try_send(WithMailboxes(Box::new(count)));
        self.callers.load(Ordering::Relaxed)
    }

    /// Waits until the answers that were given have arrived, at most for `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        if timeout(limit, self.flush.send(Flush)).await.is_err() {
            tracing::warn!("the last answers may not have arrived");
        }
    }

    /// Has the instance answer the requests that it has and take no more.
    pub(crate) async fn drain(&self) {
        // An error means that it has ended already.
        let _ = self.drain.send(Drain).await;
    }

    /// Ends the instance, for another to take its place. The receiver reports when that is done;
    /// its error means that the service has ended.
    pub(crate) fn retire(&self, cause: EndCause) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.orders.do_send(InstanceCommand::Retire { cause, tell });
        told
    }

    /// Starts another instance in the place of the one that ended. The receiver reports the result;
    /// its error means that the service has ended.
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

    /// Ends the instance; its requests are answered with that.
    pub(crate) fn give_up(&self) {
        self.orders.do_send(InstanceCommand::GiveUp);
    }

    /// Ends the instance and its arbiter. The arbiter ends after a running sync handler has
    /// returned; this does not wait for it.
    pub(crate) fn end(self) {
        if self.orders.connected() {
            self.orders.do_send(InstanceCommand::End);
        } else {
            self.arbiter.stop();
        }
    }
}

/// Work on the instance's mailboxes, done between two of its requests: accepting and dismissing
/// callers.
#[derive(Message)]
#[rtype(result = "()")]
struct WithMailboxes(Box<dyn FnOnce(&mut Mailboxes) + Send>);

impl<H: RequestHandler> Handler<WithMailboxes> for Instance<H> {
    type Result = ();

    fn handle(&mut self, work: WithMailboxes, _: &mut RingContext<Self>) {
        work.0(&mut self.mailboxes.borrow_mut());
    }
}

/// Answered when the answers that were given have arrived.
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

/// Has the instance answer the requests that it has and take no more; answered when that is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Drain;

impl<H: RequestHandler> Handler<Drain> for Instance<H> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut RingContext<Self>) -> Self::Result {
        let ended = self.ending.begin();
        Box::pin(async move {
            // An error means that it has ended already.
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
