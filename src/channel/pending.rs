//! Calls that have been made.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::answer::AnswerView;
use super::call_figures::{Begun, Outcome};
use super::client::ClientState;
use super::completion_watcher::CompletionWatcher;
use super::core::caller::{CallId, CallState};
use super::core::slot::ReplyMeta;
use super::lend::SlotToken;
use super::{Answer, CallError, ClientChannel, Parker, ReplyBytes};

/// A call that was made. Dropping it ends the call; its slot stays taken until the answer comes
/// (SLOT-1).
#[derive(Debug)]
pub struct PendingCall {
    pub(super) channel: Arc<ClientChannel>,
    pub(super) id: CallId,
    /// Number of its slot, once it is known to have one.
    pub(super) slot: Option<u16>,
    deadline: Option<(Instant, Duration)>,
    pub(super) done: bool,
    begun: Begun,
}

/// The state of a call, with what was taken of its answer.
enum Look<A> {
    Undecided,
    Answered(A),
    Ended(CallState),
}

/// Payloads up to this size in bytes are copied under the lock: that is shorter than to take it
/// again.
const SMALL: usize = 128;

impl PendingCall {
    #[inline]
    pub(super) fn new(
        channel: &Arc<ClientChannel>,
        id: CallId,
        slot: Option<u16>,
        deadline: Option<(Instant, Duration)>,
        begun: Begun,
    ) -> Self {
        Self {
            channel: channel.clone(),
            id,
            slot,
            deadline,
            done: false,
            begun,
        }
    }

    /// Sets the deadline, counted from now.
    pub fn set_timeout(&mut self, after: Duration) {
        // A deadline beyond the end of time is none.
        let at = Instant::now().checked_add(after);
        self.allow(at.map(|at| (at, after)));
    }

    /// Sets the deadline `at`. `after` is the time that was allowed in all, some of which has
    /// passed.
    pub fn set_deadline(&mut self, at: Instant, after: Duration) {
        self.allow(Some((at, after)));
    }

    fn allow(&mut self, deadline: Option<(Instant, Duration)>) {
        self.deadline = deadline;
        if self.slot.is_none() {
            let at = deadline.map(|(at, _)| at);
            self.channel.lock().caller.set_deadline(self.id, at);
        }
    }

    /// The time that was allowed, if a deadline was set.
    pub fn timeout(&self) -> Option<Duration> {
        self.deadline.map(|(_, after)| after)
    }

    /// The deadline, if one was set.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|(at, _)| at)
    }

    /// The channel that the call was made on.
    pub fn channel(&self) -> &Arc<ClientChannel> {
        &self.channel
    }

    /// Handles what has arrived, and returns the result of the call if it has ended. If it has not
    /// and a `waker` is given, the task that next polls the channel wakes it; see
    /// [`sleep`](Self::sleep).
    pub fn poll(&mut self, waker: Option<&Waker>) -> Poll<Result<Answer<'_>, CallError>> {
        match self.look(waker, lend) {
            Look::Undecided => Poll::Pending,
            Look::Answered((reply, replied)) => {
                self.answered(reply);
                Poll::Ready(Answer::read(&self.channel, self.id, replied, reply))
            }
            Look::Ended(state) => Poll::Ready(Err(self.failure(state))),
        }
    }

    /// Polls as [`poll`](Self::poll) does, and lets `read` read the answer where its bytes lie, or
    /// a copy of them if they are few. The credit is back when this returns. Cheaper, because no
    /// answer is handed around.
    #[inline]
    pub fn poll_answer<T>(
        &mut self,
        waker: Option<&Waker>,
        read: impl FnOnce(AnswerView<'_>) -> T,
    ) -> Poll<Result<T, CallError>> {
        let mut small = [0; SMALL];
        let take = |channel: &ClientChannel, core: &mut ClientState, slot, reply| {
            let is_copied = core.copy_answer(channel, slot, reply, &mut small);
            (reply, (!is_copied).then(|| core.caller.lend_reply(slot)))
        };
        match self.look(waker, take) {
            Look::Undecided => Poll::Pending,
            Look::Answered((reply, replied)) => {
                self.answered(reply);
                let channel = &self.channel;
                Poll::Ready(match replied {
                    Some(replied) => Answer::read_with(channel, self.id, replied, reply, read),
                    None => {
                        let payload = &small[..reply.payload().len()];
                        Ok(read(AnswerView::new(payload, reply, channel.profile())))
                    }
                })
            }
            Look::Ended(state) => Poll::Ready(Err(self.failure(state))),
        }
    }

    /// As [`poll`](Self::poll), and keeps the payload where it is, if `check` finds nothing wrong
    /// with the answer.
    #[inline]
    pub fn poll_kept<E>(
        &mut self,
        waker: Option<&Waker>,
        check: impl FnOnce(AnswerView<'_>) -> Result<(), E>,
    ) -> Poll<Result<Result<ReplyBytes, E>, CallError>> {
        match self.look(waker, lend) {
            Look::Undecided => Poll::Pending,
            Look::Answered((reply, replied)) => {
                self.answered(reply);
                Poll::Ready(ReplyBytes::read(
                    &self.channel,
                    self.id,
                    replied,
                    reply,
                    check,
                ))
            }
            Look::Ended(state) => Poll::Ready(Err(self.failure(state))),
        }
    }

    /// Handles what has arrived, and returns the state of the call. `take` takes the answer out of
    /// its slot while the lock is held.
    #[inline]
    fn look<A>(
        &mut self,
        waker: Option<&Waker>,
        take: impl FnOnce(&ClientChannel, &mut ClientState, u16, ReplyMeta) -> A,
    ) -> Look<A> {
        let channel = &*self.channel;
        // Dropped after the lock: it may hold the last reference to a task with other calls of the
        // channel.
        let mut _before = None;
        let mut core = channel.lock();
        let mut answer = core.caller.answer_of(self.id, &mut self.slot);
        if answer.is_none() {
            core.progress(channel);
            answer = core.caller.answer_of(self.id, &mut self.slot);
        }
        let looked = match answer {
            Some((slot, reply)) => Look::Answered(take(channel, &mut core, slot, reply)),
            None => {
                let (id, slot, deadline) = (self.id, self.slot, self.deadline());
                let caller = &mut core.caller;
                let ended = caller.look(id, slot, deadline, Instant::now, waker, &mut _before);
                ended.map_or(Look::Undecided, Look::Ended)
            }
        };
        channel.wake(core);
        looked
    }

    #[inline]
    fn answered(&mut self, reply: ReplyMeta) {
        self.done = true;
        if self.begun.is_counted() {
            self.count_answer(reply);
        }
    }

    #[cold]
    fn count_answer(&mut self, reply: ReplyMeta) {
        if let Some(figures) = self.channel.figures.get() {
            let outcome = match reply.is_exception {
                false => Outcome::Ok,
                true => Outcome::Error,
            };
            figures.end(std::mem::take(&mut self.begun), outcome);
            // Empty if it did not travel through the ring: that is counted as it is read.
            figures.count_received(reply.payload().len(), true);
        }
    }

    /// The call, unless it could not be made.
    #[inline]
    pub(super) fn unless_failed(mut self, made: Result<(), CallError>) -> Result<Self, CallError> {
        match made {
            Ok(()) => Ok(self),
            Err(error) => {
                match error {
                    // It may be made again; who gives up counts that.
                    CallError::Closed { .. } => {
                        self.channel.forget(std::mem::take(&mut self.begun))
                    }
                    _ => self.count(Outcome::Error),
                }
                Err(error)
            }
        }
    }

    /// Counts the end of the call, if it is counted and its end was not.
    #[inline]
    pub(super) fn count(&mut self, outcome: Outcome) {
        if self.begun.is_counted() {
            self.channel
                .count_end(std::mem::take(&mut self.begun), outcome);
        }
    }

    /// Why the call has failed.
    #[cold]
    fn failure(&mut self, state: CallState) -> CallError {
        let core = self.channel.lock();
        let (id, slot, after) = (self.id, self.slot, self.timeout());
        let error = core.caller.failure(id, slot, state, after);
        drop(core);
        self.count(match error {
            CallError::Timeout { .. } => Outcome::Timeout,
            _ => Outcome::Lost,
        });
        self.end();
        error
    }

    /// Call this before sleeping, after [`poll`](Self::poll) returned `Pending` with a waker: makes
    /// sure that something watches the completion queue.
    pub fn sleep(&mut self) {
        self.count_sleep();
        CompletionWatcher::ensure(&self.channel);
    }

    /// Sleeps on a thread outside of every runtime, until the waker of `parker` is woken or the
    /// deadline has passed; may return early for no reason. If nothing else watches the completion
    /// queue, the thread does.
    pub fn park(&mut self, parker: &Parker) {
        self.count_sleep();
        CompletionWatcher::park(&self.channel, parker, self.deadline());
    }

    /// Counts that its waiter sleeps, if the call is counted: once, however often that is woken for
    /// something else.
    fn count_sleep(&mut self) {
        if self.begun.is_counted() && self.begun.falls_asleep() {
            self.channel.count_sleep();
        }
    }

    /// Ends the call. Returns whether its request had been sent by then, so that its handler may
    /// run nevertheless.
    pub fn take_back(mut self) -> bool {
        self.end()
    }

    /// Returns whether the request had been sent.
    fn end(&mut self) -> bool {
        if std::mem::replace(&mut self.done, true) {
            return true;
        }
        let mut core = self.channel.lock();
        let ended = core.caller.end(self.id, self.slot);
        if let Some(slot) = ended.cancel {
            core.cancel(&self.channel, slot);
        }
        let outcome = match core.caller.closed() {
            None => Outcome::Cancelled,
            Some(_) => Outcome::Lost,
        };
        self.channel.wake(core);
        self.count(outcome);
        ended.was_sent
    }
}

/// Takes the answer in `slot`, to be read where its bytes lie.
#[inline]
fn lend(
    _: &ClientChannel,
    core: &mut ClientState,
    slot: u16,
    reply: ReplyMeta,
) -> (ReplyMeta, SlotToken) {
    (reply, core.caller.lend_reply(slot))
}

impl Drop for PendingCall {
    #[inline]
    fn drop(&mut self) {
        if !self.done {
            self.end();
        }
    }
}

/// A call whose result nobody waits for. Dropping it before the transport has taken it takes it
/// back.
#[derive(Debug)]
pub struct OneWayCall(PendingCall);

impl OneWayCall {
    pub(super) fn new(call: PendingCall) -> Self {
        Self(call)
    }

    /// Ready once the transport has taken the request. Until then `waker` is woken when it does.
    pub fn poll_taken(&mut self, waker: &Waker) -> Poll<()> {
        let call = &mut self.0;
        if call.done {
            return Poll::Ready(());
        }
        let channel = &*call.channel;
        let mut core = channel.lock();
        core.progress(channel);
        call.done = !core.caller.is_waiting(call.id);
        let mut _before = None;
        if !call.done {
            _before = core.caller.register(call.id, None, Some(waker));
        }
        channel.wake(core);
        match call.done {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// The channel that the call was made on.
    pub fn channel(&self) -> &Arc<ClientChannel> {
        &self.0.channel
    }

    /// Leaves the call to the channel, even while it waits for a credit.
    pub(super) fn detach(mut self) {
        self.0.done = true;
    }
}

impl Drop for OneWayCall {
    fn drop(&mut self) {
        let call = &mut self.0;
        // A request that was sent is finished by the next poll of the channel; one that waits is
        // taken back.
        call.done |= !call.channel.lock().caller.is_waiting(call.id);
    }
}
