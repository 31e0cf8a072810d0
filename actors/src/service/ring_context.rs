//! An actix context whose messages come from the rings of its callers.
//!
//! The rings belong to the context and not to the service's state. When an instance ends and
//! another takes its place, waiting requests therefore stay where they are, in order, with their
//! bytes and credits (RING-1, SLOT-2): the handler reports [`Readiness::Waiting`], and [`Rings`]
//! takes no request until it is ready again. Only the running handler ends with its instance,
//! because it borrows the state.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::dev::{
    AsyncContextParts, ContextFut, ContextParts, Envelope, Mailbox as ActorMailbox, ToEnvelope,
};
use actix::fut::ActorFuture;
use actix::{
    Actor, ActorContext, ActorState, Addr, Arbiter, AsyncContext, Handler, Message, SpawnHandle,
};
use slimerpc::channel::{CallFigures, Delivery, LossCause, RequestId};
use slimerpc::wire::Fault;
use tokio::sync::oneshot;

use crate::client::reply::SPIN_BEFORE_YIELD;
use crate::service::instance::Instance;
use crate::service::instance::InstanceCommand;
use crate::service::mailboxes::SharedMailboxes;
use crate::service::panics::catch;
use crate::supervision::current_handler::InstanceId;
use crate::supervision::current_handler::{serial, take_exit_request};
use crate::supervision::lifecycle::guarded;
use crate::{Dispatch, EndCause, Finished, Request};

/// Requests handled in a row before the arbiter's other tasks get a turn.
const BATCH_BUDGET: usize = 64;
/// Empty polls before yielding to the arbiter's other tasks: some microseconds, compared with a
/// fraction of one that their turn takes when there is nothing to do.
const SPINS: usize = 128;
/// Empty polls before yielding while a handler awaits one of those tasks.
const SPINS_AWAITING: usize = 16;
/// How long a service that is to end accepts what had arrived before.
const DRAIN_GRACE: Duration = Duration::from_millis(100);

/// Handles the requests from the rings.
pub(crate) trait RequestHandler: Unpin + 'static {
    /// Returns whether it takes requests.
    fn readiness(&self) -> Readiness;

    /// Handles a request, or begins to.
    fn handle(&mut self, request: Request) -> Dispatch<'static>;

    /// Called when the instance has to end: a handler panicked, of which its caller has been told
    /// (PANIC-1), or requested the exit.
    fn ended(&mut self, cause: EndCause) {
        let _ = cause;
    }

    /// Carries out a command. No handler is running.
    fn apply(&mut self, order: InstanceCommand);

    /// Returns whether no handler runs outside of the ring. If one does, the task is woken when it
    /// ends.
    fn is_idle(&self, task: &TaskContext<'_>) -> bool {
        let _ = task;
        true
    }

    /// Called when a request that was handed over is no longer wanted.
    fn cancelled(&mut self, request: RequestId) {
        let _ = request;
    }

    /// Called when a caller is gone.
    fn lost(&mut self, peer: String, cause: LossCause) {
        let _ = (peer, cause);
    }
}

/// Whether a handler takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// Not at the moment: requests wait.
    Waiting,
    /// Never again: requests are answered with that.
    Down,
}

/// The context of a service instance. Its completion queues are polled on the arbiter that owns the
/// actor, so that no thread hop lies between the wire and the handler. It handles ordinary actix
/// messages, too.
pub(crate) struct RingContext<A: Actor<Context = Self>> {
    parts: ContextParts<A>,
}

impl<A: Actor<Context = Self>> RingContext<A> {
    /// Starts `actor` on the current arbiter with `rings` as its message source.
    pub(crate) fn start(actor: A, rings: Rings) -> Addr<A>
    where
        Rings: ActorFuture<A, Output = ()>,
    {
        let mailbox = ActorMailbox::default();
        let mut context = Self {
            parts: ContextParts::new(mailbox.sender_producer()),
        };
        let address = context.parts.address();
        context.parts.spawn(rings);
        actix::spawn(ContextFut::new(context, actor, mailbox));
        address
    }
}

impl<A: Actor<Context = Self>> ActorContext for RingContext<A> {
    fn stop(&mut self) {
        self.parts.stop();
    }
    fn terminate(&mut self) {
        self.parts.terminate();
    }
    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl<A: Actor<Context = Self>> AsyncContext<A> for RingContext<A> {
    fn spawn<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) -> SpawnHandle {
        self.parts.spawn(future)
    }
    fn wait<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) {
        self.parts.wait(future);
    }
    fn waiting(&self) -> bool {
        self.parts.waiting()
    }
    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }
    fn address(&self) -> Addr<A> {
        self.parts.address()
    }
}

impl<A: Actor<Context = Self>> AsyncContextParts<A> for RingContext<A> {
    fn parts(&mut self) -> &mut ContextParts<A> {
        &mut self.parts
    }
}

impl<A: Actor<Context = Self> + Handler<M>, M> ToEnvelope<A, M> for RingContext<A>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, reply: Option<tokio::sync::oneshot::Sender<M::Result>>) -> Envelope<A> {
        Envelope::new(message, reply)
    }
}

/// Whether the rings are to come to an end, and who waits for that.
#[derive(Default)]
pub(crate) struct RingDrain(RefCell<Stage>);

#[derive(Default)]
enum Stage {
    #[default]
    Open,
    /// Requests that have arrived are still taken.
    Asked(oneshot::Sender<()>),
    /// No more requests are taken; those that were are being answered.
    Draining(oneshot::Sender<()>),
    /// All requests are answered.
    Ended,
}

impl RingDrain {
    /// Has the rings answer what has arrived and take no more. The receiver reports when that is
    /// done.
    pub(crate) fn begin(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut stage = self.0.borrow_mut();
        match &mut *stage {
            Stage::Open => *stage = Stage::Asked(tell),
            // An earlier caller has given up waiting.
            Stage::Draining(waiting) => *waiting = tell,
            Stage::Asked(_) | Stage::Ended => {}
        }
        told
    }

    fn takes_requests(&self) -> bool {
        matches!(*self.0.borrow(), Stage::Open | Stage::Asked(_))
    }
}

/// An async handler that has begun.
struct RunningHandler {
    request: RequestId,
    future: Pin<Box<dyn Future<Output = Finished>>>,
}

/// The rings of a service instance, as a future of its context.
pub(crate) struct Rings {
    instance: InstanceId,
    mailboxes: SharedMailboxes,
    ending: Rc<RingDrain>,
    busy_poll: Duration,
    /// Requests that wait for the running serial handler, and deliveries behind them that were not
    /// looked at.
    queue: VecDeque<Delivery>,
    running: Option<RunningHandler>,
    /// When polls began to find nothing.
    idle_since: Option<Instant>,
    /// Where sleeps and looks for arrivals are counted, if calls are.
    figures: Option<Arc<CallFigures>>,
    /// How often arrivals were looked for since the figures were told.
    polls: usize,
    /// Whether the figures are to be told of the end of a sleep.
    is_asleep: bool,
}

impl Rings {
    /// Makes the rings of an instance; nothing has arrived yet.
    pub(crate) fn new(
        instance: InstanceId,
        mailboxes: SharedMailboxes,
        ending: Rc<RingDrain>,
        busy_poll: Duration,
        figures: Option<Arc<CallFigures>>,
    ) -> Self {
        Self {
            instance,
            ending,
            mailboxes,
            busy_poll,
            queue: VecDeque::new(),
            running: None,
            idle_since: None,
            figures,
            polls: 0,
            is_asleep: false,
        }
    }

    /// Collects what has arrived. Returns whether anything had.
    #[inline]
    fn collect<H: RequestHandler>(&mut self, handler: &mut H) -> bool {
        let known = self.queue.len();
        self.polls += 1;
        let any = self.mailboxes.borrow_mut().poll(&mut self.queue);
        self.look_at(known, handler);
        any
    }

    /// Handles what has arrived behind the requests that were `known`.
    #[inline]
    fn look_at<H: RequestHandler>(&mut self, known: usize, handler: &mut H) {
        // One look at the clock for all of them, and none for a request that is handled at once.
        let mut now = None;
        let is_at_once = self.queue.len() == 1 && self.running.is_none();
        let mut is_plain = true;
        for delivery in self.queue.range_mut(known..) {
            match delivery {
                Delivery::Request(_) if is_at_once => {}
                Delivery::Request(request) => {
                    request.begin_to_wait(|| *now.get_or_insert_with(Instant::now));
                }
                Delivery::Cancel(_) | Delivery::Lost { .. } => is_plain = false,
            }
        }
        if !is_plain || !self.ending.takes_requests() {
            self.sort_out(known, handler);
        }
    }

    #[cold]
    fn sort_out<H: RequestHandler>(&mut self, known: usize, handler: &mut H) {
        let takes_requests = self.ending.takes_requests();
        for delivery in self.queue.split_off(known) {
            match delivery {
                // Dropped, the request answers that the service is down.
                Delivery::Request(request) if !takes_requests => drop(request),
                Delivery::Request(_) => self.queue.push_back(delivery),
                Delivery::Cancel(cancelled) => {
                    self.keep_requests(|request| request.id() != cancelled);
                    if let Some(running) =
                        self.running.take_if(|running| running.request == cancelled)
                    {
                        end(running);
                        settle(handler, false);
                    }
                    handler.cancelled(cancelled);
                }
                Delivery::Lost { peer, cause } => {
                    tracing::info!(%peer, %cause, "caller lost");
                    self.keep_requests(Request::is_connected);
                    handler.lost(peer, cause);
                }
            }
        }
    }

    fn keep_requests(&mut self, is_kept: impl Fn(&Request) -> bool) {
        self.queue
            .retain(|waiting| matches!(waiting, Delivery::Request(request) if is_kept(request)));
    }

    /// Carries out the commands that have come.
    fn apply<H: RequestHandler>(
        &mut self,
        instance: &mut Instance<H>,
        context: &mut RingContext<Instance<H>>,
    ) {
        while let Some(order) = instance.orders.pop_front() {
            let is_end = matches!(order, InstanceCommand::End);
            if is_end {
                // Close the channels first, so that callers learn that the service is lost, not
                // that their requests were dropped.
                self.mailboxes.borrow_mut().close();
            }
            if let Some(running) = self.running.take() {
                // The handler borrows the state, so it ends before its instance. Requests in
                // `queue` wait for the next one.
                end(running);
                // The instance has ended already, whatever its handler may have requested.
                take_exit_request();
            }
            instance.handler.apply(order);
            if is_end {
                self.queue.clear();
                context.stop();
                Arbiter::current().stop();
            }
        }
    }

    /// Runs handlers, one at a time, until none can go on or none is `left` (SERIAL-1). Returns
    /// whether any ran.
    fn run<H: RequestHandler>(
        &mut self,
        handler: &mut H,
        task: &mut TaskContext<'_>,
        left: &mut usize,
    ) -> bool {
        let mut ran = false;
        while *left > 0 {
            if let Some(running) = &mut self.running {
                // Panics of handlers are caught where they are reported to the caller. Whatever
                // else panics in the service's code ends here.
                let polled = serial(self.instance, || {
                    catch(|| running.future.as_mut().poll(task))
                        .unwrap_or_else(|panic| Poll::Ready(panic.finish()))
                });
                let Poll::Ready(finished) = polled else {
                    return ran;
                };
                if let Some(running) = self.running.take() {
                    end(running);
                }
                ran = true;
                settle(handler, finished == Finished::Panicked);
            }
            match handler.readiness() {
                Readiness::Ready => {}
                Readiness::Waiting => return ran,
                Readiness::Down => {
                    ran |= !self.queue.is_empty();
                    // Dropped, each request answers that the service is down.
                    self.queue.clear();
                    return ran;
                }
            }
            let Some(Delivery::Request(request)) = self.queue.pop_front() else {
                return ran;
            };
            *left -= 1;
            ran = true;
            if request.is_expired() {
                request.fail(Fault::Expired);
                continue;
            }
            let id = request.id();
            match serial(self.instance, || handler.handle(request)) {
                Dispatch::Done => settle(handler, false),
                Dispatch::Panicked => settle(handler, true),
                Dispatch::Running(future) => {
                    self.running = Some(RunningHandler {
                        request: id,
                        future,
                    });
                }
            }
        }
        ran
    }

    /// Continues to end the rings, if that was asked for.
    fn drain<H: RequestHandler>(&mut self, handler: &mut H, task: &TaskContext<'_>) {
        let stage = std::mem::take(&mut *self.ending.0.borrow_mut());
        let stage = match stage {
            Stage::Asked(tell) => {
                // Bounded, because a caller may write as fast as this reads.
                let until = Instant::now() + DRAIN_GRACE;
                while self.collect(handler) && Instant::now() < until {}
                Stage::Draining(tell)
            }
            other => other,
        };
        let is_over = || {
            let mailboxes = self.mailboxes.borrow();
            let is_flushed = mailboxes.flush();
            let is_idle = self.queue.is_empty() && self.running.is_none();
            is_idle && handler.is_idle(task) && mailboxes.is_idle() && is_flushed
        };
        *self.ending.0.borrow_mut() = match stage {
            Stage::Draining(tell) if is_over() => {
                let _ = tell.send(());
                Stage::Ended
            }
            other => other,
        };
    }

    /// Polls for arrivals for a bounded time, then arms the queue and sleeps.
    fn poll_rings<H: RequestHandler>(&mut self, handler: &mut H, task: &mut TaskContext<'_>) {
        self.drain(handler, task);
        let mut left = BATCH_BUDGET;
        let mut active = self.run(handler, task, &mut left);
        let mut spins = 0;
        // At least once, for deliveries that were taken from the queues but not looked at.
        while left > 0 {
            if self.collect(handler) {
                active = true;
                self.run(handler, task, &mut left);
                spins = 0;
            }
            if !self.spin(&mut spins) {
                break;
            }
        }
        if left == 0 {
            // A cancel must be noticed, however much there is to do.
            self.collect(handler);
            self.count_polls();
        }
        if active {
            self.idle_since = None;
            // Without busy polling, sleep at once if nothing is left to do.
            let may_sleep = self.busy_poll.is_zero() && self.ending.takes_requests();
            if left == 0 || !may_sleep {
                task.waker().wake_by_ref();
                return;
            }
        }
        self.count_polls();
        let idle = self.idle_since.get_or_insert_with(Instant::now).elapsed();
        if idle < self.busy_poll {
            if idle >= SPIN_BEFORE_YIELD {
                std::thread::yield_now();
            }
            task.waker().wake_by_ref();
            return;
        }
        loop {
            self.mailboxes.borrow_mut().arm();
            if self.collect(handler) {
                task.waker().wake_by_ref();
                return;
            }
            let known = self.queue.len();
            let raised = self
                .mailboxes
                .borrow_mut()
                .poll_raised(task, &mut self.queue);
            if raised.is_pending() {
                if let Some(figures) = &self.figures {
                    figures.count_sleep();
                    self.is_asleep = true;
                }
                return;
            }
            if self.queue.len() > known {
                self.look_at(known, handler);
                task.waker().wake_by_ref();
                return;
            }
        }
    }

    /// Busy-polls for arrivals. Returns false after as many empty polls as the arbiter's other
    /// tasks can wait.
    #[inline]
    fn spin(&mut self, spins: &mut usize) -> bool {
        let limit = match self.running {
            _ if self.busy_poll.is_zero() => 0,
            Some(_) => SPINS_AWAITING,
            None => SPINS,
        };
        let mailboxes = self.mailboxes.borrow();
        let before = *spins;
        let mut is_quiet = true;
        while is_quiet && *spins < limit {
            *spins += 1;
            is_quiet = mailboxes.is_quiet();
            if is_quiet {
                std::hint::spin_loop();
            }
        }
        self.polls += *spins - before;
        !is_quiet
    }

    /// Looks for what has woken the service, and counts how long that took until a handler begins
    /// with it, which it does next.
    #[cold]
    fn wake_up<H: RequestHandler>(&mut self, handler: &mut H) {
        self.is_asleep = false;
        let Some(figures) = self.figures.clone() else {
            return;
        };
        let woken = figures.wake();
        self.collect(handler);
        let is_ready = self.running.is_none() && handler.readiness() == Readiness::Ready;
        if is_ready && matches!(self.queue.front(), Some(Delivery::Request(_))) {
            figures.count_woken(woken);
        }
    }

    /// Tells the figures how often arrivals were looked for.
    #[cold]
    fn count_polls(&mut self) {
        if let Some(figures) = &self.figures {
            figures.count_polls(std::mem::take(&mut self.polls) as u64);
        }
    }
}

/// Handles the end of a handler: if it panicked, or requested the exit, the instance ends.
fn settle<H: RequestHandler>(handler: &mut H, panicked: bool) {
    let untold = || EndCause::Panicked {
        message: "a panic without a message".to_owned(),
    };
    if let Some(cause) = take_exit_request().or_else(|| panicked.then(untold)) {
        handler.ended(cause);
    }
}

/// Drops the handler of a request that is done, or that was cancelled where it awaits. The request
/// answers as it is dropped, which returns the caller's credit (SLOT-2).
fn end(running: RunningHandler) {
    guarded("dropping a handler", || drop(running));
}

impl<H: RequestHandler> ActorFuture<Instance<H>> for Rings {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        instance: &mut Instance<H>,
        context: &mut RingContext<Instance<H>>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let this = self.get_mut();
        this.apply(instance, context);
        if this.is_asleep {
            this.wake_up(&mut instance.handler);
        }
        this.poll_rings(&mut instance.handler, task);
        // It was to be handled at once, and was not.
        if let Some(Delivery::Request(request)) = this.queue.front_mut() {
            request.begin_to_wait(Instant::now);
        }
        Poll::Pending
    }
}
