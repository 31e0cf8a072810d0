//! The future of an answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use slimerpc::channel::{Answer, CallError, LocalCall, Parker, PendingCall, ReplyBytes};
use slimerpc::wire::{DecodeError, Fault, PayloadCodec};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use crate::blocking::would_block_a_runtime;
use crate::reconnect::Later;
use crate::{Ran, RpcError};

/// Looks in a row before other tasks get a turn.
const SPINS: usize = 64;
/// The same before a look at the clock, where there are no others. A look takes less than 30 ns.
const SPINS_IN_PLACE: usize = 256;

/// Busy polling beyond this may be what keeps the other side from running: it gives way, where cores are fewer than pollers.
pub(crate) const ALONE: Duration = Duration::from_micros(20);

/// The answer to a call that has been made already: the request was posted when the call was made, not when
/// this is first polled. Dropping it cancels the call.
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
pub struct Reply<T>(State<T>);

/// How to decode the result, and with which codec.
pub(crate) type Decoder<T> = (
    PayloadCodec,
    fn(PayloadCodec, Answer<'_>) -> Result<T, DecodeError>,
);

enum State<T> {
    Pending(Waiting, Decoder<T>),
    /// Its peer is not there.
    Later(Box<Later<AnyCall>>, &'static &'static str, Decoder<T>),
    Failed(RpcError),
    Done,
}

struct Waiting {
    call: AnyCall,
    /// Name of the method.
    method: &'static &'static str,
    /// When busy polling began.
    since: Option<Instant>,
    /// Wakes us at the deadline; made when we first go to sleep.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A call to wherever.
pub(crate) enum AnyCall {
    Remote(PendingCall),
    Local(LocalCall),
}

impl AnyCall {
    fn poll(&mut self, waker: Option<&Waker>) -> Poll<Result<Answer<'_>, CallError>> {
        match self {
            Self::Remote(call) => call.poll(waker),
            Self::Local(call) => call.poll(waker),
        }
    }

    fn set_timeout(&mut self, after: Duration) {
        match self {
            Self::Remote(call) => call.set_timeout(after),
            Self::Local(call) => call.set_timeout(after),
        }
    }

    /// The call is allowed `after`, which ends then.
    fn set_deadline(&mut self, at: Instant, after: Duration) {
        match self {
            Self::Remote(call) => call.set_deadline(at, after),
            Self::Local(call) => call.set_timeout(at.saturating_duration_since(Instant::now())),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Remote(call) => call.timeout(),
            Self::Local(call) => call.timeout(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Remote(call) => call.deadline(),
            Self::Local(call) => call.deadline(),
        }
    }

    /// Whether polling would surely be in vain, unless somebody else has polled.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Remote(call) => call.channel().is_quiet(),
            Self::Local(_) => false,
        }
    }

    /// How long to poll before sleeping.
    fn patience(&self) -> Duration {
        match self {
            Self::Remote(call) => call.channel().patience(),
            // The instance runs on another thread of this process, which wakes us.
            Self::Local(_) => Duration::ZERO,
        }
    }

    /// Makes sure that somebody wakes who goes to sleep.
    fn sleep(&self) {
        if let Self::Remote(call) = self {
            call.sleep();
        }
    }

    /// Sleeps until the waker of `parker` is woken or the deadline has passed; may return for nothing.
    fn park(&self, parker: &Parker) {
        match self {
            Self::Remote(call) => call.park(parker),
            Self::Local(call) => parker.park(call.deadline()),
        }
    }

    /// Ends the call unanswered.
    fn take_back(self) -> Ran {
        match self {
            Self::Remote(call) => match call.take_back() {
                true => Ran::Unknown,
                false => Ran::No,
            },
            Self::Local(_) => Ran::Unknown,
        }
    }

    fn runtime(&self) -> Handle {
        match self {
            Self::Remote(call) => call.channel().runtime().clone(),
            Self::Local(call) => call.runtime().clone(),
        }
    }

    fn peer(&self) -> &str {
        match self {
            Self::Remote(call) => call.channel().peer(),
            Self::Local(call) => &call.service().peer,
        }
    }
}

impl<T> Reply<T> {
    pub(crate) fn new(call: AnyCall, method: &'static &'static str, decode: Decoder<T>) -> Self {
        Self(State::Pending(Waiting::new(call, method), decode))
    }

    /// The reply to a call that is made once its peer is there.
    pub(crate) fn later(
        call: Box<Later<AnyCall>>,
        method: &'static &'static str,
        decode: Decoder<T>,
    ) -> Self {
        Self(State::Later(call, method, decode))
    }

    /// The reply to a call that could not be made.
    pub(crate) fn failed(error: RpcError) -> Self {
        Self(State::Failed(error))
    }

    /// Gives the call this long from now; then it ends with [`RpcError::Timeout`], and the service is told that nobody
    /// waits any more. To have the deadline travel with the request, see [`Proxy::with_timeout`](crate::Proxy::with_timeout).
    pub fn timeout(mut self, after: Duration) -> Self {
        self.set_timeout(after);
        self
    }

    /// Whether an answer has yet to come.
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(self.0, State::Pending(..) | State::Later(..))
    }

    pub(crate) fn set_timeout(&mut self, after: Duration) {
        match &mut self.0 {
            State::Pending(waiting, _) => {
                waiting.call.set_timeout(after);
                waiting.timer = None;
            }
            State::Later(call, ..) => call.set_timeout(after),
            State::Failed(_) | State::Done => {}
        }
    }

    /// Blocks the thread until the answer is there: a thread without a runtime, or one that a runtime keeps for what blocks
    /// (`spawn_blocking`, `web::block`, `block_in_place`).
    ///
    /// # Errors
    /// As the future's; [`RpcError::WouldBlock`] on a thread that runs async code. A call is sent as it is made, so it is
    /// cancelled then, and runs only if it has begun: [`RpcError::ran`] says what is known. Whoever is to be refused before
    /// anything is sent calls through [`Proxy::blocking`](crate::Proxy::blocking).
    pub fn wait(mut self) -> Result<T, RpcError> {
        if self.is_undecided() && would_block_a_runtime() {
            let ran = match std::mem::replace(&mut self.0, State::Done) {
                State::Pending(waiting, _) => waiting.call.take_back(),
                // It has not been made.
                _ => Ran::No,
            };
            return Err(RpcError::WouldBlock { ran });
        }
        Parker::with(|parker, waker| {
            let mut context = Context::from_waker(waker);
            loop {
                let polled = Pin::new(&mut self).poll_with(&mut context, BusyPoll::InPlace);
                if let Poll::Ready(result) = polled {
                    return result;
                }
                match &self.0 {
                    State::Pending(waiting, _) => waiting.call.park(parker),
                    _ => parker.park(None),
                }
            }
        })
    }

    /// Blocks the thread until the answer is there or `after` has passed.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); [`RpcError::Timeout`].
    pub fn wait_timeout(self, after: Duration) -> Result<T, RpcError> {
        self.timeout(after).wait()
    }

    fn poll_with(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        busy: BusyPoll,
    ) -> Poll<Result<T, RpcError>> {
        if let State::Later(later, method, decode) = &mut self.0 {
            let (method, decode) = (*method, *decode);
            self.0 = match ready!(later.poll(context)) {
                Ok(call) => State::Pending(Waiting::made_later(call, method, later), decode),
                Err(error) => State::Failed(error),
            };
        }
        let polled = match &mut self.0 {
            State::Later(..) => unreachable!("it has been made, or has failed"),
            State::Pending(waiting, decode) => waiting.poll(context, busy, *decode),
            State::Failed(error) => Poll::Ready(Err(error.clone())),
            State::Done => panic!("a reply is polled after it was ready"),
        };
        if polled.is_ready() {
            self.0 = State::Done;
        }
        polled
    }
}

/// What to do between two busy polls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BusyPoll {
    /// Let the runtime's other tasks have a turn.
    Yielding,
    /// Stay: the thread has nothing else to do.
    InPlace,
}

impl Waiting {
    fn new(call: AnyCall, method: &'static &'static str) -> Self {
        Self {
            call,
            method,
            since: None,
            timer: None,
        }
    }

    /// A call whose deadline, if it has one, was set before it was made.
    fn made_later(call: AnyCall, method: &'static &'static str, later: &Later<AnyCall>) -> Self {
        let mut made = Self::new(call, method);
        if let Some((at, after)) = later.deadline() {
            made.call.set_deadline(at, after);
        }
        made
    }

    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        busy: BusyPoll,
        decode: Decoder<T>,
    ) -> Poll<Result<T, RpcError>> {
        let patience = self.call.patience();
        let spins = match busy {
            BusyPoll::InPlace if !patience.is_zero() => SPINS_IN_PLACE,
            _ => SPINS,
        };
        loop {
            for spin in 0..spins {
                // Once in any case, as whoever polled before may have taken in this answer, too.
                if (spin == 0 || !self.call.is_quiet())
                    && let ready @ Poll::Ready(_) = self.poll_call(None, decode)
                {
                    return ready;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            let since = *self.since.get_or_insert(now);
            if now.duration_since(since) >= patience {
                break;
            }
            if now.duration_since(since) >= ALONE {
                std::thread::yield_now();
            }
            if busy == BusyPoll::Yielding {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let polled = self.poll_call(Some(context.waker()), decode);
        if polled.is_pending() && busy == BusyPoll::Yielding {
            self.sleep(context);
        }
        polled
    }

    fn poll_call<T>(
        &mut self,
        waker: Option<&Waker>,
        decode: Decoder<T>,
    ) -> Poll<Result<T, RpcError>> {
        let polled = self.call.poll(waker).map(|answer| conclude(answer, decode));
        polled.map(|result| result.map_err(|error| self.named(error)))
    }

    /// Makes sure that we are woken by the answer and by the deadline.
    fn sleep(&mut self, context: &mut Context<'_>) {
        self.call.sleep();
        let Some(deadline) = self.call.deadline() else {
            return;
        };
        let runtime = self.call.runtime();
        let timer = self.timer.get_or_insert_with(|| {
            let _guard = runtime.enter();
            Box::pin(tokio::time::sleep_until(deadline.into()))
        });
        if timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }

    fn named(&self, error: Conclusion) -> RpcError {
        match error {
            Conclusion::Call(error) => RpcError::from_call(error, self.call.peer(), self.method),
            Conclusion::Fault(Fault::Expired) => RpcError::Timeout {
                peer: self.call.peer().to_owned(),
                method: (*self.method).to_owned(),
                after: self.call.timeout().unwrap_or_default(),
                ran: Ran::No,
            },
            Conclusion::Fault(fault) => RpcError::from_fault(fault, self.call.peer(), self.method),
            Conclusion::Decode(error) => RpcError::bad_reply(&error, self.call.peer(), self.method),
        }
    }
}

enum Conclusion {
    Call(CallError),
    Fault(Fault),
    Decode(DecodeError),
}

/// Decodes an answer from the ring, outside of every lock.
fn conclude<T>(answer: Result<Answer<'_>, CallError>, decode: Decoder<T>) -> Result<T, Conclusion> {
    let answer = answer.map_err(Conclusion::Call)?;
    if let Some(fault) = answer.fault().map_err(Conclusion::Decode)? {
        return Err(Conclusion::Fault(fault));
    }
    let (codec, decode) = decode;
    decode(codec, answer).map_err(Conclusion::Decode)
}

impl Reply<Vec<u8>> {
    /// The reply's bytes where they stand in the ring, instead of a copy. They take up a credit until they are dropped.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Reply, RpcError};
    /// # async fn example(reply: Reply<Vec<u8>>) -> Result<(), RpcError> {
    /// let sum: u64 = reply.lent().await?.iter().map(|&byte| u64::from(byte)).sum();
    /// # Ok(())
    /// # }
    /// ```
    pub fn lent(self) -> Reply<ReplyBytes> {
        Reply(match self.0 {
            State::Pending(waiting, (codec, _)) => {
                State::Pending(waiting, (codec, |_, answer| Ok(answer.keep())))
            }
            State::Later(call, method, (codec, _)) => {
                State::Later(call, method, (codec, |_, answer| Ok(answer.keep())))
            }
            State::Failed(error) => State::Failed(error),
            State::Done => State::Done,
        })
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, RpcError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(context, BusyPoll::Yielding)
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            State::Pending(..) => "Reply(pending)",
            State::Later(..) => "Reply(later)",
            State::Failed(_) => "Reply(failed)",
            State::Done => "Reply(done)",
        })
    }
}

/// Waits for all replies under one deadline; results come in the order of the replies.
///
/// # Errors
/// The failure that comes first; the other calls are cancelled then.
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

/// Waits for all replies under one deadline, whatever becomes of each; results come in the order of the replies.
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
