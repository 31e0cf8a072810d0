//! The reply to a call.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use slimerpc::channel::{AnswerView, CallError, CallSpan, Parker, PendingCall, ReplyBytes};
use slimerpc::wire::{DecodeError, Fault, PayloadCodec};
use tokio::time::Sleep;

use crate::client::blocking::would_block_a_runtime;
use crate::client::reconnect::Later;
use crate::observe::trace;
use crate::{Outcome, Ran, RpcError};

/// Empty polls before yielding to other tasks.
const SPINS: usize = 64;
/// Empty polls before a look at the clock, where there are no other tasks. A poll takes less than
/// 30 ns.
const SPINS_IN_PLACE: usize = 256;

/// After this time without an answer, a busy poller yields the core on every poll: where cores are
/// fewer than pollers, it may be what keeps the other side from running.
pub(crate) const SPIN_BEFORE_YIELD: Duration = Duration::from_micros(20);

/// The reply to a call that has been sent already: the request was posted when the method was
/// called, not when this is first polled. Dropping it cancels the call.
///
/// ```no_run
/// # use slimerpc_actors::{Caller, Reply, RpcError};
/// # use std::time::Duration;
/// # async fn example(first: Reply<i64>, second: Reply<i64>) -> Result<(), RpcError> {
/// let sum = first.timeout(Duration::from_secs(1)).await? + second.await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a call is cancelled when its reply is dropped"]
pub struct Reply<T> {
    state: ReplyState<T>,
    /// When busy polling began.
    since: Option<Instant>,
    /// Wakes the task at the deadline; made when it first sleeps.
    timer: Option<Pin<Box<Sleep>>>,
}

/// How to decode the result.
pub(crate) enum Decoder<T> {
    /// From the bytes where they lie, with this codec.
    View(
        PayloadCodec,
        fn(PayloadCodec, AnswerView<'_>) -> Result<T, DecodeError>,
    ),
    /// Keeps the bytes where they lie.
    Kept(fn(ReplyBytes) -> T),
}

impl<T> Clone for Decoder<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Decoder<T> {}

/// Kept small, because a plain call is moved often.
enum ReplyState<T> {
    Called(PendingCall, &'static &'static str, Decoder<T>),
    RareReply(Box<RareReply<T>>),
    Done,
}

enum RareReply<T> {
    /// The peer is away.
    Later(Box<Later<Reply<T>>>),
    Failed(RpcError),
    /// Somebody wants to know how the call ends.
    Traced(Reply<T>, CallSpan),
}

impl<T> From<RareReply<T>> for Reply<T> {
    fn from(rare: RareReply<T>) -> Self {
        ReplyState::RareReply(Box::new(rare)).into()
    }
}

impl<T> From<ReplyState<T>> for Reply<T> {
    #[inline]
    fn from(state: ReplyState<T>) -> Self {
        Self {
            state,
            since: None,
            timer: None,
        }
    }
}

impl<T> Reply<T> {
    /// Makes the reply to a call over a channel.
    #[inline]
    pub(crate) fn called(
        call: PendingCall,
        method: &'static &'static str,
        decode: Decoder<T>,
    ) -> Self {
        ReplyState::Called(call, method, decode).into()
    }

    /// Makes the reply to a call that is sent once its peer is back.
    pub(crate) fn later(call: Box<Later<Self>>) -> Self {
        RareReply::Later(call).into()
    }

    /// Makes the reply to a call that could not be sent.
    #[cold]
    pub(crate) fn failed(error: RpcError) -> Self {
        RareReply::Failed(error).into()
    }

    /// Tells `span` how the call ends.
    pub(crate) fn traced(self, span: CallSpan) -> Self {
        RareReply::Traced(self, span).into()
    }

    /// Sets the deadline of the call, counted from now. It then ends with [`RpcError::Timeout`],
    /// and the service is told that nobody waits any more. A deadline that travels with the request
    /// is set by [`Proxy::with_timeout`](crate::Proxy::with_timeout).
    pub fn timeout(mut self, after: Duration) -> Self {
        self.set_timeout(after);
        self
    }

    /// Returns whether the answer is still to come.
    pub(crate) fn is_undecided(&self) -> bool {
        match &self.state {
            ReplyState::Called(..) => true,
            ReplyState::RareReply(rare) => match &**rare {
                RareReply::Later(_) => true,
                RareReply::Failed(_) => false,
                RareReply::Traced(reply, _) => reply.is_undecided(),
            },
            ReplyState::Done => false,
        }
    }

    /// How the call has failed, if it could not be made.
    pub(crate) fn failure(&self) -> Option<Outcome> {
        match &self.state {
            ReplyState::RareReply(rare) => match &**rare {
                RareReply::Failed(error) => Some(trace::outcome(error)),
                RareReply::Later(_) | RareReply::Traced(..) => None,
            },
            ReplyState::Called(..) | ReplyState::Done => None,
        }
    }

    pub(crate) fn set_timeout(&mut self, after: Duration) {
        match &mut self.state {
            ReplyState::Called(call, ..) => call.set_timeout(after),
            ReplyState::RareReply(rare) => match &mut **rare {
                RareReply::Later(call) => call.set_timeout(after),
                RareReply::Failed(_) => {}
                RareReply::Traced(reply, _) => reply.set_timeout(after),
            },
            ReplyState::Done => {}
        }
        self.timer = None;
    }

    /// Sets the deadline `at`; `after` is the time that was allowed in all.
    fn set_deadline(&mut self, at: Instant, after: Duration) {
        match &mut self.state {
            ReplyState::Called(call, ..) => call.set_deadline(at, after),
            _ => self.set_timeout(at.saturating_duration_since(Instant::now())),
        }
    }

    /// Blocks the thread until the answer is there. The thread must have no runtime, or be one that
    /// a runtime keeps for blocking work (`spawn_blocking`, `web::block`, `block_in_place`).
    ///
    /// # Errors
    /// The errors of the call; [`RpcError::WouldBlock`] on a thread that runs async code. The call
    /// was sent already, so it is then cancelled, and runs only if it has begun: [`RpcError::ran`]
    /// tells. [`Proxy::blocking`](crate::Proxy::blocking) refuses such calls before anything is
    /// sent.
    pub fn wait(mut self) -> Result<T, RpcError> {
        if self.is_undecided() && would_block_a_runtime() {
            return Err(self.take_back());
        }
        // Most answers come while the thread polls for them.
        if let Some(Poll::Ready(result)) = self.busy_poll(None, BusyPoll::InPlace) {
            return result.map_err(|error| *error);
        }
        Parker::with(|parker, waker| {
            loop {
                let polled = self.poll_with(&mut Context::from_waker(waker), BusyPoll::InPlace);
                if let Poll::Ready(result) = polled {
                    return result;
                }
                self.park(parker);
            }
        })
    }

    /// Waits until something may have happened.
    fn park(&mut self, parker: &Parker) {
        match &mut self.state {
            ReplyState::Called(call, ..) => call.park(parker),
            ReplyState::RareReply(rare) => match &mut **rare {
                RareReply::Traced(reply, _) => reply.park(parker),
                RareReply::Later(_) | RareReply::Failed(_) => parker.park(None),
            },
            ReplyState::Done => {}
        }
    }

    /// Cancels a call that cannot be waited for.
    #[cold]
    fn take_back(self) -> RpcError {
        let ran = match self.state {
            ReplyState::Called(call, ..) => match call.take_back() {
                true => Ran::Unknown,
                false => Ran::No,
            },
            ReplyState::RareReply(rare) => match *rare {
                // It may have been sent just now, as its connection was opened again.
                RareReply::Later(later) if !later.withdraw() => Ran::Unknown,
                RareReply::Later(_) | RareReply::Failed(_) => Ran::No,
                RareReply::Traced(reply, _) => return reply.take_back(),
            },
            ReplyState::Done => Ran::No,
        };
        RpcError::WouldBlock { ran }
    }

    /// Blocks the thread until the answer is there or `after` has passed.
    ///
    /// # Errors
    /// The errors of [`wait`](Self::wait), and [`RpcError::Timeout`].
    pub fn wait_timeout(self, after: Duration) -> Result<T, RpcError> {
        self.timeout(after).wait()
    }

    fn poll_with(
        &mut self,
        context: &mut Context<'_>,
        busy: BusyPoll,
    ) -> Poll<Result<T, RpcError>> {
        if let ReplyState::RareReply(_) = &self.state {
            return self.poll_rare(context, busy);
        }
        let polled = match self.busy_poll(Some(context.waker()), busy) {
            Some(polled) => polled,
            None => {
                let polled = self.look(Some(context.waker()));
                if polled.is_pending() && busy == BusyPoll::Yielding {
                    self.sleep(context);
                }
                polled
            }
        };
        polled.map_err(|error| *error)
    }

    /// Polls for the answer. Returns `None` after as long as callers poll before they sleep, and
    /// `Pending` if other tasks need the thread; `waker` was woken then.
    #[inline]
    fn busy_poll(&mut self, waker: Option<&Waker>, busy: BusyPoll) -> Option<Poll<Concluded<T>>> {
        // Poll once in any case: another poller of the channel may have received this answer.
        match self.look(None) {
            Poll::Pending => self.busy_poll_on(waker, busy),
            ready => Some(ready),
        }
    }

    #[inline(never)]
    fn busy_poll_on(
        &mut self,
        waker: Option<&Waker>,
        busy: BusyPoll,
    ) -> Option<Poll<Concluded<T>>> {
        let patience = match &self.state {
            ReplyState::Called(call, ..) => call.channel().busy_poll(),
            _ => return None,
        };
        if patience.is_zero() {
            return None;
        }
        let spins = match busy {
            BusyPoll::InPlace => SPINS_IN_PLACE,
            BusyPoll::Yielding => SPINS,
        };
        loop {
            for _ in 0..spins {
                if !self.is_quiet()
                    && let ready @ Poll::Ready(_) = self.look(None)
                {
                    return Some(ready);
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            let since = *self.since.get_or_insert(now);
            if now.duration_since(since) >= patience {
                return None;
            }
            if now.duration_since(since) >= SPIN_BEFORE_YIELD {
                std::thread::yield_now();
            }
            match (busy, waker) {
                (BusyPoll::Yielding, Some(waker)) => {
                    waker.wake_by_ref();
                    return Some(Poll::Pending);
                }
                // Another poller may have received the answer.
                _ => match self.look(None) {
                    Poll::Pending => {}
                    ready => return Some(ready),
                },
            }
        }
    }

    /// Returns whether a poll would find nothing, unless another poller has received the answer.
    #[inline]
    fn is_quiet(&self) -> bool {
        matches!(&self.state, ReplyState::Called(call, ..) if call.channel().is_quiet())
    }

    /// Polls for the answer once.
    #[inline]
    fn look(&mut self, waker: Option<&Waker>) -> Poll<Concluded<T>> {
        let ReplyState::Called(call, method, decode) = &mut self.state else {
            return self.not_called();
        };
        let concluded = match *decode {
            Decoder::View(codec, decode) => {
                let read = |answer: AnswerView<'_>| complete(answer, codec, decode);
                ready!(call.poll_answer(waker, read)).unwrap_or_else(|lost| Err(lost.into()))
            }
            Decoder::Kept(kept) => {
                let kept = ready!(call.poll_kept(waker, check)).map(|bytes| bytes.map(kept));
                kept.unwrap_or_else(|lost| Err(lost.into()))
            }
        };
        let named = |error: Box<DecodedReply>| {
            Box::new(error.named(call.channel().peer(), method, call.timeout()))
        };
        let concluded = concluded.map_err(named);
        self.state = ReplyState::Done;
        Poll::Ready(concluded)
    }

    #[cold]
    fn not_called(&self) -> Poll<Concluded<T>> {
        match &self.state {
            ReplyState::Done => panic!("a reply is polled after it was ready"),
            ReplyState::Called(..) | ReplyState::RareReply(_) => Poll::Pending,
        }
    }

    #[cold]
    fn poll_rare(
        &mut self,
        context: &mut Context<'_>,
        busy: BusyPoll,
    ) -> Poll<Result<T, RpcError>> {
        let ReplyState::RareReply(rare) = &mut self.state else {
            return self.poll_with(context, busy);
        };
        let result = match &mut **rare {
            RareReply::Failed(error) => Err(error.clone()),
            RareReply::Traced(reply, span) => {
                let result = ready!(reply.poll_with(context, busy));
                span.ends(result.as_ref().err().map_or(Outcome::Ok, trace::outcome));
                result
            }
            RareReply::Later(later) => match ready!(later.poll(context)) {
                Ok(mut made) => {
                    if let Some((at, after)) = later.deadline() {
                        made.set_deadline(at, after);
                    }
                    *self = made;
                    return self.poll_with(context, busy);
                }
                Err(error) => Err(error),
            },
        };
        self.state = ReplyState::Done;
        Poll::Ready(result)
    }

    /// Makes sure that the answer and the deadline wake the task.
    fn sleep(&mut self, context: &mut Context<'_>) {
        let (deadline, runtime) = match &mut self.state {
            ReplyState::Called(call, ..) => {
                call.sleep();
                (call.deadline(), call.channel().runtime())
            }
            ReplyState::RareReply(_) | ReplyState::Done => return,
        };
        let Some(deadline) = deadline else { return };
        let timer = self.timer.get_or_insert_with(|| {
            let _guard = runtime.enter();
            Box::pin(tokio::time::sleep_until(deadline.into()))
        });
        if timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }
}

/// What to do between two polls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BusyPoll {
    /// Yield to the runtime's other tasks.
    Yielding,
    /// Stay: the thread has nothing else to do.
    InPlace,
}

/// The result of a call. A failure is large, and would be moved with every result.
type Concluded<T> = Result<T, Box<RpcError>>;

enum DecodedReply {
    Call(CallError),
    Fault(Fault),
    Decode(DecodeError),
}

impl DecodedReply {
    #[cold]
    fn named(self, peer: &str, method: &str, timeout: Option<Duration>) -> RpcError {
        match self {
            Self::Call(error) => RpcError::from_call(error, peer, method),
            Self::Fault(Fault::Expired) => RpcError::Timeout {
                peer: peer.to_owned(),
                method: method.to_owned(),
                after: timeout.unwrap_or_default(),
                ran: Ran::No,
            },
            Self::Fault(fault) => RpcError::from_fault(fault, peer, method),
            Self::Decode(error) => RpcError::bad_reply(&error, peer, method),
        }
    }
}

impl From<CallError> for Box<DecodedReply> {
    #[cold]
    fn from(error: CallError) -> Self {
        Self::new(DecodedReply::Call(error))
    }
}

/// Decodes an answer where its bytes lie, without holding a lock.
#[inline]
fn complete<T>(
    answer: AnswerView<'_>,
    codec: PayloadCodec,
    decode: fn(PayloadCodec, AnswerView<'_>) -> Result<T, DecodeError>,
) -> Result<T, Box<DecodedReply>> {
    check(answer)?;
    decode(codec, answer).map_err(|error| Box::new(DecodedReply::Decode(error)))
}

/// Whether the call has a result.
#[inline]
fn check(answer: AnswerView<'_>) -> Result<(), Box<DecodedReply>> {
    match answer.fault() {
        Ok(None) => Ok(()),
        Ok(Some(fault)) => Err(Box::new(DecodedReply::Fault(fault))),
        Err(error) => Err(Box::new(DecodedReply::Decode(error))),
    }
}

impl Reply<Vec<u8>> {
    /// The bytes of a reply, in the ring where they arrived, instead of a copy. They hold a credit
    /// until they are dropped.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Reply, RpcError};
    /// # async fn example(reply: Reply<Vec<u8>>) -> Result<(), RpcError> {
    /// let sum: u64 = reply.lent().await?.iter().map(|&byte| u64::from(byte)).sum();
    /// # Ok(())
    /// # }
    /// ```
    pub fn lent(self) -> Reply<ReplyBytes> {
        match self.state {
            ReplyState::Called(call, method, _) => {
                Reply::called(call, method, Decoder::Kept(|bytes| bytes))
            }
            ReplyState::RareReply(rare) => match *rare {
                RareReply::Later(call) => Reply::later(call.map(Self::lent)),
                RareReply::Failed(error) => Reply::failed(error),
                RareReply::Traced(reply, span) => reply.lent().traced(span),
            },
            ReplyState::Done => ReplyState::Done.into(),
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, RpcError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(context, BusyPoll::Yielding)
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            ReplyState::Called(..) => "Reply(pending)",
            ReplyState::RareReply(rare) => match **rare {
                RareReply::Later(..) => "Reply(later)",
                RareReply::Failed(_) => "Reply(failed)",
                RareReply::Traced(ref reply, _) => return reply.fmt(f),
            },
            ReplyState::Done => "Reply(done)",
        })
    }
}

/// Waits for all replies under one deadline; results come in the order of the replies.
///
/// # Errors
/// The first failure; the other calls are cancelled then.
///
/// ```no_run
/// # use slimerpc_actors::{Reply, RpcError, wait_all};
/// # use std::time::Duration;
/// # async fn example(replies: Vec<Reply<i64>>) -> Result<(), RpcError> {
/// let sums: Vec<i64> = wait_all(replies, Duration::from_secs(1)).await?;
/// # Ok(())
/// # }
/// ```
pub async fn wait_all<T>(
    replies: impl IntoIterator<Item = Reply<T>>,
    timeout: impl Into<Option<Duration>>,
) -> Result<Vec<T>, RpcError> {
    try_join_all(under_one_deadline(replies, timeout)).await
}

/// Waits for all replies under one deadline, whether or not others fail; results come in the order
/// of the replies.
///
/// ```no_run
/// # use slimerpc_actors::{Reply, wait_all_settled};
/// # use std::time::Duration;
/// # async fn example(replies: Vec<Reply<i64>>) {
/// let results = wait_all_settled(replies, Duration::from_secs(1)).await;
/// let answered = results.iter().filter(|result| result.is_ok()).count();
/// println!("{answered} of {} answered", results.len());
/// # }
/// ```
pub async fn wait_all_settled<T>(
    replies: impl IntoIterator<Item = Reply<T>>,
    timeout: impl Into<Option<Duration>>,
) -> Vec<Result<T, RpcError>> {
    join_all(under_one_deadline(replies, timeout)).await
}

fn under_one_deadline<T>(
    replies: impl IntoIterator<Item = Reply<T>>,
    timeout: impl Into<Option<Duration>>,
) -> Vec<Reply<T>> {
    let mut replies: Vec<_> = replies.into_iter().collect();
    if let Some(after) = timeout.into() {
        for reply in &mut replies {
            reply.set_timeout(after);
        }
    }
    replies
}
